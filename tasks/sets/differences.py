"""Comparing a database's objects with a set's, for integrity checks and restores in place.

Objects are compared by their definitions, as in recoveries (tasks/restore/compare.py), and by facts
that dumps lack: foreign keys whose triggers are disabled, INVALID indexes, keys to and from other
contexts, positions of sequences, settings of the database.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tasks.core import sql
from tasks.core.database import facts
from tasks.core.database.comparison import Difference, find_differences
from tasks.core.database.objects import TABLES, VIEWS, ForeignKey, InventoryItem
from tasks.core.database.settings import settings_of
from tasks.core.postgres.archive_toc import table_of
from tasks.core.postgres.connection import Connection, major_of
from tasks.core.sets.left_out import without_absent
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.shared_schema import comparable
from tasks.core.spelling import foreign_key_of
from tasks.core.sql.names import plain_name, unquoted
from tasks.database import catalog
from tasks.database.catalog import Members, key_of
from tasks.database.neighbours import Neighbours
from tasks.database.spelling import spelled_here


@dataclass(frozen=True)
class Comparison:
    """A comparison of a database as it is now with a set.

    With a `path` as search_path, texts of the set are parsed again, so that equivalent texts are
    equal. With `names` only these tables are compared. With `neighbours`, tables of other contexts
    are checked too.
    """

    connection: Connection
    manifest: Manifest
    members: Members
    inventory: list[InventoryItem]
    path: str | None = None
    names: Collection[str] | None = None
    neighbours: Neighbours | None = None
    own: set[str] = field(default_factory=set)
    # Tables of others that had rows, and that no login here may read.
    unseen: list[str] = field(default_factory=list)

    @property
    def is_same_major(self) -> bool:
        """Whether texts compare: other major versions spell the same object differently."""
        return self.manifest.versions.server_major == major_of(self.connection)

    @cached_property
    def differences(self) -> list[Difference]:
        """The differences of the context's objects from the set."""
        manifest, oids = self.manifest, {"oids": self.members.oids}
        off = {f"{table}.{name}": what for table, name, what in self.connection.execute(sql.in_place.KEYS_SWITCHED_OFF, oids)}
        were_off = {name: off.get(name, "off") for name in manifest.disabled_keys}
        then = comparable(manifest, without_absent(manifest.inventory, manifest.left_out), tablespaces=True)
        then += [*self._keys(manifest.outbound_keys), *self._inbound(manifest.inbound_keys)]
        # Objects that the set leaves out are no difference.
        present = self._with_undumped_facts(without_absent(self.inventory, manifest.left_out))
        now = self._known(then, comparable(manifest, present, tablespaces=True))
        then, now = _with_defaults(then, now), _with_defaults(now, then)
        self.own.update(item.name for item in [*then, *now] if item.kind in TABLES | VIEWS)
        then, now = (
            [_switched_off(item, keys) for item in items if self._is_compared(item)]
            for items, keys in ((then, were_off), (now, off))
        )
        if self.is_same_major and self.path is not None:
            then = spelled_here(self.connection, then, now, self.path)
        differences = find_differences(then, now, same_major=self.is_same_major)
        return [*differences, *self._sequences_behind(then), *(self._around() if self.names is None else ())]

    def _is_about(self, name: str) -> bool:
        return self.names is None or name in self.names

    def _is_compared(self, item: InventoryItem) -> bool:
        is_inbound = item.kind == "constraint" and item.parent not in self.own
        is_made = item.identity in {made.identity for made in self.manifest.made}
        return self._is_about(table_of(item)) or is_inbound or is_made

    def _with_undumped_facts(self, inventory: Iterable[InventoryItem]) -> list[InventoryItem]:
        connection, members = self.connection, self.members
        own = [relation.oid for relation in members.relations]
        keys = catalog.dicts(connection, sql.catalog.FOREIGN_KEYS, {"oids": members.oids})
        outbound = self._keys(key_of(key) for key in keys if key["table_oid"] in own)
        known = {(key.table, key.name) for key in self.manifest.inbound_keys}
        # New keys of other contexts are no difference.
        inbound = [key_of(key) for key in keys if key["table_oid"] not in own and (key["table"], key["name"]) in known]
        broken = [
            _with_fact(InventoryItem(kind="index", name=name, parent=parent, columns="", state=definition), facts.INVALID)
            for name, parent, definition in connection.execute(
                sql.in_place.BROKEN_INDEXES, {"oids": members.chosen_by_class["pg_class"]}
            )
        ]
        return [*inventory, *outbound, *self._inbound(inbound), *broken]

    def _keys(self, keys: Iterable[ForeignKey]) -> list[InventoryItem]:
        """Return keys to other contexts of the compared tables, as constraints of an inventory."""
        return [_constraint(key) for key in keys if self._is_about(plain_name(key.table))]

    def _inbound(self, keys: Iterable[ForeignKey]) -> list[InventoryItem]:
        """Return keys of existing tables of other contexts to the compared tables."""
        chosen = [key for key in keys if self._is_about(plain_name(key.references))]
        asked = {"names": [key.table for key in chosen]}
        existing = {row[0] for row in self.connection.execute(sql.in_place.TABLES_THERE, asked)}
        return [_constraint(key) for key in chosen if key.table in existing]

    def _known(self, then: Iterable[InventoryItem], now: list[InventoryItem]) -> list[InventoryItem]:
        """Return the live objects that the set can have.

        A set of some tables has no objects of other tables, and no foreign keys of these.
        """
        if self.manifest.only is None:
            return now
        tables = {plain_name(item.name) for item in self.manifest.inventory if item.kind in TABLES}
        known = {item.identity for item in [*then, *self.manifest.made]}
        return [item for item in now if item.identity in known or (table_of(item) in tables and not foreign_key_of(item.state))]

    def _sequences_behind(self, then: Iterable[InventoryItem]) -> Iterator[Difference]:
        """Yield sequences that would return values again that they returned before the set."""
        items = {plain_name(item.name): item for item in then if item.kind == "sequence"}
        live = {(sequence.namespace, sequence.name): sequence for sequence in catalog.read_sequences(self.connection, self.members)}
        for was in self.manifest.sequences:
            now, item = live.get((was.namespace, was.name)), items.get(f"{was.namespace}.{was.name}")
            if now is None or item is None:
                continue
            step = was.last_value - now.last_value
            if facts.is_descending(item):
                step = -step
            if step > 0 or (step == 0 and was.is_called and not now.is_called):
                yield Difference(item, item, facts.POSITION, str(was.last_value), str(now.last_value))

    def _around(self) -> Iterator[Difference]:
        """Yield differences in properties of the database, and in tables of other contexts."""
        yield from self._of_database()
        asked = {"names": self.manifest.referring_tables}
        for (table,) in self.connection.execute(sql.in_place.TABLES_THERE, asked).fetchall() if self.neighbours else ():
            is_empty = self.neighbours.is_empty(table) if self.neighbours else None
            if is_empty is None:
                self.unseen.append(table)
            if is_empty:
                item = InventoryItem(kind=facts.OTHERS_TABLE, name=table, parent="", columns="", state="")
                yield Difference(item, item, "rows", "some", "none")

    def _of_database(self) -> Iterator[Difference]:
        """Yield differences in settings of the database, and in versions of extensions."""
        database = catalog.read_database(self.connection)
        present = catalog.read_extensions(self.connection, self.members)
        then, now = (settings_of(properties, database.name) for properties in (self.manifest.database, database))
        versions = self.manifest.extension_versions
        then += [_extension(name, version) for name, version in versions.items() if name in present]
        now += [_extension(name, version) for name, version in present.items() if name in versions]
        yield from find_differences(_with_defaults(then, now), _with_defaults(now, then), same_major=True)


def _extension(name: str, version: str) -> InventoryItem:
    return InventoryItem(kind="extension", name=name, parent="", columns="", state=version)


def _with_defaults(items: list[InventoryItem], others: list[InventoryItem]) -> list[InventoryItem]:
    """Return the objects, and the other side's that have defaults, so that these are compared.

    Columns that only one side has are left out: they are facts of their table.
    """
    columns = facts.columns_of(items) & facts.columns_of(others)
    known = {item.identity for item in items}
    more = [item.model_copy(update={"state": ""}) for item in others if item.identity not in known and item.kind in facts.DEFAULTED]
    return [item for item in [*items, *more] if item.kind != "column" or (item.parent, item.name) in columns]


def _switched_off(item: InventoryItem, keys: Mapping[str, str]) -> InventoryItem:
    """Return an object; if it is a foreign key whose triggers are disabled, with that fact."""
    what = keys.get(f"{item.parent}.{item.name}") if item.kind == "constraint" else None
    return _with_fact(item, facts.NOT_ENFORCED, what) if what else item


def _with_fact(item: InventoryItem, fact: str, value: str = "") -> InventoryItem:
    """Return an object with another fact, before its comment."""
    definition, comment, text = item.state.partition(f" | {facts.COMMENT} ")
    return item.model_copy(update={"state": f"{definition} | {f'{fact} {value}'.rstrip()}{comment}{text}"})


def _constraint(key: ForeignKey) -> InventoryItem:
    definition = key.definition.removesuffix(" NOT VALID")
    state = f"{key.definition}{' | NOT VALID' if definition != key.definition else ''}"
    comment = f" | {facts.COMMENT} {key.comment}" if key.comment else ""
    return InventoryItem(kind="constraint", name=unquoted(key.name), parent=key.table, columns="", state=f"{state}{comment}")
