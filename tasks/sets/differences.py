"""The one comparison of a database's objects with a set's: for integrity checks, restores in place, and their verdicts.

Objects are compared by what they are, as recoveries do (tasks/restore/compare.py), with what no dump has: keys whose triggers are
off, indexes that are INVALID, keys to and from tables of other contexts, positions of sequences, settings of the database.
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
    """A set, and a database as it is now, in which texts that mean the same are read again under the `path` of its code, if any.

    It may be about one table, with its partitions: those `names`. Others' tables are looked at where `neighbours` says who may.
    """

    connection: Connection
    manifest: Manifest
    members: Members
    inventory: list[InventoryItem]
    path: str | None = None
    names: Collection[str] | None = None
    neighbours: Neighbours | None = None
    own: set[str] = field(default_factory=set)
    # Tables of others that had rows, and into which nobody here may look.
    unseen: list[str] = field(default_factory=list)

    @property
    def is_same_major(self) -> bool:
        """Whether texts compare: between major versions PostgreSQL spells the same object differently."""
        return self.manifest.versions.server_major == major_of(self.connection)

    @cached_property
    def differences(self) -> list[Difference]:
        """How the context's objects are not as in the set."""
        manifest, oids = self.manifest, {"oids": self.members.oids}
        off = {f"{table}.{name}": what for table, name, what in self.connection.execute(sql.in_place.KEYS_SWITCHED_OFF, oids)}
        were_off = {name: off.get(name, "off") for name in manifest.disabled_keys}
        then = comparable(manifest, without_absent(manifest.inventory, manifest.left_out))
        then += [*self._keys(manifest.outbound_keys), *self._inbound(manifest.inbound_keys)]
        # What is left out of the set is there on purpose.
        there = self._with_what_no_dump_has(without_absent(self.inventory, manifest.left_out))
        now = self._known(then, comparable(manifest, there))
        then, now = _with_defaults(then, now), _with_defaults(now, then)
        self.own.update(item.name for item in [*then, *now] if item.kind in TABLES | VIEWS)
        then, now = (
            [_switched_off(item, keys) for item in items if self._is_told(item)] for items, keys in ((then, were_off), (now, off))
        )
        if self.is_same_major and self.path is not None:
            then = spelled_here(self.connection, then, now, self.path)
        found = find_differences(then, now, same_major=self.is_same_major)
        return [*found, *self._sequences_behind(then), *(self._beyond() if self.names is None else ())]

    def _is_about(self, name: str) -> bool:
        return self.names is None or name in self.names

    def _is_told(self, item: InventoryItem) -> bool:
        is_inbound = item.kind == "constraint" and item.parent not in self.own
        return self._is_about(table_of(item)) or is_inbound or item.identity in {one.identity for one in self.manifest.made}

    def _with_what_no_dump_has(self, inventory: Iterable[InventoryItem]) -> list[InventoryItem]:
        connection, members = self.connection, self.members
        own = [one.oid for one in members.relations]
        keys = catalog.dicts(connection, sql.catalog.FOREIGN_KEYS, {"oids": members.oids})
        outbound = self._keys(key_of(key) for key in keys if key["table_oid"] in own)
        known = {(key.table, key.name) for key in self.manifest.inbound_keys}
        # Others come and go with their keys: of those the set says nothing.
        inbound = [key_of(key) for key in keys if key["table_oid"] not in own and (key["table"], key["name"]) in known]
        broken = [
            _with_fact(InventoryItem(kind="index", name=name, parent=parent, columns="", state=definition), facts.INVALID)
            for name, parent, definition in connection.execute(
                sql.in_place.BROKEN_INDEXES, {"oids": members.chosen_by_class["pg_class"]}
            )
        ]
        return [*inventory, *outbound, *self._inbound(inbound), *broken]

    def _keys(self, keys: Iterable[ForeignKey]) -> list[InventoryItem]:
        """Return keys to other contexts of the tables that are asked for, as an inventory tells constraints."""
        return [_constraint(key) for key in keys if self._is_about(plain_name(key.table))]

    def _inbound(self, keys: Iterable[ForeignKey]) -> list[InventoryItem]:
        """Return keys of other contexts' tables, that are there, to those that are asked for."""
        chosen = [key for key in keys if self._is_about(plain_name(key.references))]
        asked = {"names": [key.table for key in chosen]}
        there = {row[0] for row in self.connection.execute(sql.in_place.TABLES_THERE, asked)}
        return [_constraint(key) for key in chosen if key.table in there]

    def _known(self, then: Iterable[InventoryItem], now: list[InventoryItem]) -> list[InventoryItem]:
        """Return the live objects of which the set says something: one of some tables says nothing of others, nor of keys there."""
        if self.manifest.only is None:
            return now
        tables = {plain_name(item.name) for item in self.manifest.inventory if item.kind in TABLES}
        known = {item.identity for item in [*then, *self.manifest.made]}
        return [item for item in now if item.identity in known or (table_of(item) in tables and not foreign_key_of(item.state))]

    def _sequences_behind(self, then: Iterable[InventoryItem]) -> Iterator[Difference]:
        """Yield the sequences that would give values again that they had given when the set was taken."""
        items = {plain_name(item.name): item for item in then if item.kind == "sequence"}
        here = {(one.namespace, one.name): one for one in catalog.read_sequences(self.connection, self.members)}
        for was in self.manifest.sequences:
            now, item = here.get((was.namespace, was.name)), items.get(f"{was.namespace}.{was.name}")
            if now is None or item is None:
                continue
            step = was.last_value - now.last_value
            if facts.is_descending(item):
                step = -step
            if step > 0 or (step == 0 and was.is_called and not now.is_called):
                yield Difference(item, item, facts.POSITION, str(was.last_value), str(now.last_value))

    def _beyond(self) -> Iterator[Difference]:
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
        """Yield how settings of the database, and versions of extensions, are not what they were."""
        database = catalog.read_database(self.connection)
        there = catalog.read_extensions(self.connection, self.members)
        then, now = (settings_of(one, database.name) for one in (self.manifest.database, database))
        versions = self.manifest.extension_versions
        then += [_extension(name, version) for name, version in versions.items() if name in there]
        now += [_extension(name, version) for name, version in there.items() if name in versions]
        yield from find_differences(_with_defaults(then, now), _with_defaults(now, then), same_major=True)


def _extension(name: str, version: str) -> InventoryItem:
    return InventoryItem(kind="extension", name=name, parent="", columns="", state=version)


def _with_defaults(items: list[InventoryItem], others: list[InventoryItem]) -> list[InventoryItem]:
    """Return the objects with what they have the defaults of, where the other side has more, so that facts compare.

    Of a column that one side does not have, its table tells.
    """
    columns = facts.columns_of(items) & facts.columns_of(others)
    known = {item.identity for item in items}
    more = [item.model_copy(update={"state": ""}) for item in others if item.identity not in known and item.kind in facts.DEFAULTED]
    return [item for item in [*items, *more] if item.kind != "column" or (item.parent, item.name) in columns]


def _switched_off(item: InventoryItem, keys: Mapping[str, str]) -> InventoryItem:
    """Return a key, if its triggers are off, as one of which that is said."""
    what = keys.get(f"{item.parent}.{item.name}") if item.kind == "constraint" else None
    return _with_fact(item, facts.NOT_ENFORCED, what) if what else item


def _with_fact(item: InventoryItem, fact: str, value: str = "") -> InventoryItem:
    """Return an object of which one more fact is said, before its comment."""
    definition, comment, text = item.state.partition(f" | {facts.COMMENT} ")
    return item.model_copy(update={"state": f"{definition} | {f'{fact} {value}'.rstrip()}{comment}{text}"})


def _constraint(key: ForeignKey) -> InventoryItem:
    definition = key.definition.removesuffix(" NOT VALID")
    state = f"{key.definition}{' | NOT VALID' if definition != key.definition else ''}"
    comment = f" | {facts.COMMENT} {key.comment}" if key.comment else ""
    return InventoryItem(kind="constraint", name=unquoted(key.name), parent=key.table, columns="", state=f"{state}{comment}")
