"""What the catalogue says of a context: its members, its objects, its borders."""

from collections import defaultdict
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from graphlib import TopologicalSorter
from hashlib import sha256
from typing import Any

from psycopg.rows import dict_row
from psycopg.sql import SQL

from tasks.core import sql
from tasks.core.closure import Catalogue, Choice, Dependency, NamedObject, choose_objects
from tasks.core.compare import spelled_stably
from tasks.core.context import Context
from tasks.core.errors import BadInput
from tasks.core.manifest import DatabaseProperties, ForeignKey, InventoryItem, Role, Sequence, View
from tasks.core.servers import Connection
from tasks.core.source_path import source_path

CLASSES = ["pg_class", "pg_proc", "pg_type", "pg_namespace", "pg_extension", "pg_publication_rel", "pg_rewrite"]
FINGERPRINT_KINDS = frozenset({"table", "partitioned table", "type"})


@dataclass(frozen=True)
class Member:
    """A table of the context, or a descendant of one."""

    oid: int
    schema: str
    name: str
    kind: str
    relfilenode: int
    parent_schema: str | None
    parent_name: str | None
    detach_pending: bool
    columns: tuple[str, ...]
    types: tuple[str, ...]
    layout: str

    @property
    def qualified(self) -> str:
        """schema.name, for people."""
        return f"{self.schema}.{self.name}"

    @property
    def parent(self) -> str | None:
        """schema.name of the table it is a partition or child of."""
        return f"{self.parent_schema}.{self.parent_name}" if self.parent_name else None


@dataclass(frozen=True)
class Members:
    """The context's relations and views, with the closure of what they need."""

    relations: tuple[Member, ...]
    views: tuple[View, ...]
    choice: Choice
    classes: dict[str, int]

    @property
    def oids(self) -> list[int]:
        """The oids of all relations."""
        return [relation.oid for relation in self.relations]

    @property
    def holding_rows(self) -> list[Member]:
        """Tables and leaf partitions: a partitioned table itself has no rows."""
        return [relation for relation in self.relations if relation.kind == "r"]

    @property
    def identity(self) -> frozenset[tuple[int, int, str | None]]:
        """What must not change between lock and snapshot: which relations, their storage, their place."""
        return frozenset((relation.oid, relation.relfilenode, relation.parent) for relation in self.relations)

    @cached_property
    def chosen_by_class(self) -> dict[str, list[int]]:
        """The chosen oids of each class that is asked for by name."""
        return {
            name: sorted(oid for class_id, oid in self.choice.objects if class_id == of_class)
            for name, of_class in self.classes.items()
        }


def read_members(connection: Connection, context: Context, *, restorable: bool = True) -> Members:
    """Return the context's relations as they are now, or under the session's snapshot.

    Raises:
        BadInput: a table or view of the context file is not in the database; or, where they are to be `restorable`, one cannot be.
    """
    place = {"schema": context.namespace}
    cursor = connection.cursor(row_factory=dict_row)
    chosen = {"tables": context.tables, "partitions": context.scope.partitions if context.scope else None}
    rows = cursor.execute(sql.MEMBERS, place | chosen).fetchall()
    relations = tuple(Member(**{**row, "columns": tuple(row["columns"]), "types": tuple(row["types"])}) for row in rows)
    views = read_views(connection, context)
    _require_all(connection, context, {relation.name for relation in relations} | {view.name for view, _ in views.values()})
    classes = _class_oids(connection)
    own = [relation.oid for relation in relations] + list(views)
    choice = choose_objects(_catalogue(connection, classes), own)
    if restorable:
        _require_whole(connection, context, relations, choice)
    return Members(relations, tuple(view for view, _ in views.values()), choice, classes)


def read_views(connection: Connection, context: Context) -> dict[int, tuple[View, frozenset[int]]]:
    """Return by oid those of the context's views that are there, with the oids of those among them that each reads.

    Each comes after those that it reads.
    """
    rows = connection.execute(sql.VIEWS, {"schema": context.namespace, "views": context.views}).fetchall()
    views = {row[0]: View(schema=row[1], name=row[2], populated=row[4], materialized=row[3] == "m") for row in rows}
    reads = defaultdict[int, set[int]](set, {oid: set() for oid in views})
    for oid, needed in connection.execute(sql.VIEW_NEEDS, {"oids": list(views)}):
        reads[oid].add(needed)
    return {oid: (views[oid], frozenset(reads[oid])) for oid in TopologicalSorter(reads).static_order()}


def is_there(connection: Connection, name: str, path: str | None = None) -> bool:
    """Say whether there is a relation of this name, written as SQL writes it; what people wrote is looked up on another path."""
    with source_path(connection, path) if path else nullcontext():
        return bool(connection.execute(sql.RELATION_IS_THERE, {"name": name}).fetchall()[0][0])


def present(connection: Connection, context: Context) -> Context:
    """Return the context as far as the database has it: of what somebody dropped, nothing can be read."""
    asked = {"schema": context.namespace, "names": [*context.tables, *context.views]}
    gone = {row[0] for row in connection.execute(sql.MISSING_RELATIONS, asked)}
    there = {what: [name for name in getattr(context, what) if name not in gone] for what in ("tables", "views")}
    return context.model_copy(update=there)


def _require_whole(connection: Connection, context: Context, relations: Iterable[Member], choice: Choice) -> None:
    if odd := [relation.qualified for relation in relations if relation.kind not in ("r", "p")]:
        raise BadInput(f"{', '.join(odd)}: foreign tables cannot be backed up; take them out of the context")
    if choice.torn:
        raise BadInput(
            f"{', '.join(_names(connection, choice.torn))} cannot be restored without another context's tables; "
            f"take it out of context {context.name}, or take those in"
        )


def _require_all(connection: Connection, context: Context, found: set[str]) -> None:
    if missing := [name for name in (*context.tables, *context.views) if name not in found]:
        raise BadInput(
            f'database "{connection.info.dbname}", schema "{context.namespace}": {", ".join(missing)} not found; '
            f"correct tables and views of context {context.name}, or connect to the right database"
        )


def _class_oids(connection: Connection) -> dict[str, int]:
    return dict(connection.execute(sql.CLASS_OIDS, {"names": CLASSES}).fetchall())


def _catalogue(connection: Connection, classes: dict[str, int]) -> Catalogue:
    rows = connection.execute(sql.DEPENDENCIES).fetchall()
    dependencies = [Dependency((row[0], row[1]), (row[2], row[3]), row[4]) for row in rows]
    kinds = {row[0]: row[3] for row in connection.execute(sql.RELATIONS)}
    named = [NamedObject((row[0], row[1]), row[2], row[3]) for row in connection.execute(sql.NAMED_OBJECTS)]
    return Catalogue(dependencies, kinds, named, classes)


def read_inventory(connection: Connection, members: Members) -> list[InventoryItem]:
    """Return every object of the context as text; the session must not depend on its search_path for names."""
    oids = _inventory_oids(members)
    with connection.transaction():
        connection.execute(sql.FIXED_SETTINGS)
        return [InventoryItem(**spelled_stably(row)) for row in _dicts(connection, sql.INVENTORY, oids)]


def _inventory_oids(members: Members) -> dict[str, list[int]]:
    named = {"relations": "pg_class", "functions": "pg_proc", "types": "pg_type", "schemas": "pg_namespace"}
    return {name: members.chosen_by_class[of_class] for name, of_class in named.items()}


def fingerprint(inventory: Iterable[InventoryItem]) -> str:
    """Return the SHA-256 of the columns and types: what decides whether two states can be merged."""
    lines = [f"{item.kind}\t{item.name}\t{item.columns}\n" for item in inventory if item.kind in FINGERPRINT_KINDS]
    return sha256("".join(sorted(lines)).encode()).hexdigest()


@dataclass(frozen=True)
class Borders:
    """What crosses the context's border, and what nobody claims."""

    outbound: list[ForeignKey]
    inbound: list[ForeignKey]
    forgotten: list[str]
    left_out: list[str]


def read_borders(connection: Connection, members: Members, context: Context, claimed: frozenset[str]) -> Borders:
    """Return keys in and out, and tables that no context looks after."""
    oids = {"oids": members.oids}
    keys = _dicts(connection, sql.FOREIGN_KEYS, oids)
    outbound = [key for key in keys if key["table_oid"] in set(members.oids)]
    inbound = [key for key in keys if key["table_oid"] not in set(members.oids)]
    neighbours = _dicts(connection, sql.NEIGHBOURS, oids | {"schema": context.namespace})
    forgotten = [
        f"{row['schema']}.{row['name']}" + (" (refers to this context)" if row["refers"] else "")
        for row in neighbours
        if f"{row['schema']}.{row['name']}" not in claimed
    ]
    # Keys to other contexts are named as such; what else is left out is named here.
    outbound_ids = frozenset(key["oid"] for key in outbound)
    others = [one for one in members.choice.left_out if one[1] not in outbound_ids]
    return Borders([_key(k) for k in outbound], [_key(k) for k in inbound], forgotten, _names(connection, others))


def read_outbound_keys(connection: Connection, members: Members) -> list[ForeignKey]:
    """Return the foreign keys to tables of other contexts; the session must not depend on its search_path for names."""
    keys = _dicts(connection, sql.FOREIGN_KEYS, {"oids": members.oids})
    return [_key(key) for key in keys if key["table_oid"] in set(members.oids)]


def _dicts(connection: Connection, query: SQL, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    return connection.cursor(row_factory=dict_row).execute(query, parameters).fetchall()


def _key(row: dict[str, Any]) -> ForeignKey:
    return ForeignKey(
        name=row["name"], table=row["table"], references=row["references"], definition=row["definition"],
        on_delete=row["on_delete"], comment=row["comment"],
    )  # fmt: skip


def _names(connection: Connection, objects: Iterable[tuple[int, int]]) -> list[str]:
    chosen = sorted(objects)
    parameters = {"classes": [one[0] for one in chosen], "objects": [one[1] for one in chosen]}
    return [row[0] for row in connection.execute(sql.DESCRIBE_OBJECTS, parameters) if row[0]]


def read_roles(connection: Connection, members: Members) -> list[Role]:
    """Return the roles that own, or are granted, something of the context."""
    chosen = sorted(members.choice.objects)
    parameters = {"classes": [one[0] for one in chosen], "objects": [one[1] for one in chosen]}
    return [Role(**row) for row in _dicts(connection, sql.ROLES, parameters | _inventory_oids(members))]


def read_sequences(connection: Connection, members: Members) -> list[Sequence]:
    """Return where the context's sequences are now; call it after the snapshot."""
    names = connection.execute(sql.SEQUENCES, {"oids": members.chosen_by_class["pg_class"]}).fetchall()
    return [_sequence(connection, schema, name) for schema, name in names]


def _sequence(connection: Connection, schema: str, name: str) -> Sequence:
    last_value, is_called = connection.execute(sql.sequence_position(schema, name)).fetchall()[0]
    return Sequence(schema=schema, name=name, last_value=last_value, is_called=is_called)


def read_extensions(connection: Connection, members: Members) -> list[str]:
    """Return the extensions that the context's objects come from."""
    return [row[0] for row in connection.execute(sql.EXTENSIONS, {"oids": members.chosen_by_class["pg_extension"]})]


LONG = timedelta(hours=1)


def read_lasting_transactions(connection: Connection) -> list[str]:
    """Return, as warnings, the transactions that are open for long.

    Every row that was written since the oldest began looks unfinished to a backup, and differentials store it again.
    """
    found = connection.execute(sql.LASTING_TRANSACTIONS, [LONG]).fetchall()
    return [f"{who} is open since {since:%Y-%m-%d %H:%M %Z}: differentials grow until it ends" for who, since in found]


def read_database(connection: Connection) -> DatabaseProperties:
    """Return what a CREATE DATABASE would have to say."""
    facts = _dicts(connection, sql.DATABASE_FACTS, {})[0]
    return DatabaseProperties(**facts | {"grants": facts["grants"] or []})


def read_unusable(connection: Connection, members: Members) -> list[str]:
    """Return what is switched off or broken in the source, as warnings: triggers not enabled, invalid indexes."""
    return [row[0] for row in connection.execute(sql.UNUSABLE, {"oids": members.oids})]
