"""Reading a context from the catalog: relations, other objects, foreign keys to other contexts."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import TopologicalSorter
from hashlib import sha256
from typing import Any

from psycopg.rows import dict_row
from psycopg.sql import SQL

from tasks.core import sql
from tasks.core.context import Context
from tasks.core.database.comparison import spelled_stably
from tasks.core.database.dependencies import Choice, ObjectId
from tasks.core.database.objects import DatabaseProperties, ForeignKey, InventoryItem, Role, Sequence, View
from tasks.core.database.surroundings import Surroundings
from tasks.core.errors import BadInput
from tasks.core.partitions.timeline import unfinished_detach
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.source_path import source_path
from tasks.core.restore.obstacle import Obstacle
from tasks.database.surroundings import choose, describe, read_database_objects, read_surroundings

CLASSES = [
    "pg_class", "pg_proc", "pg_type", "pg_namespace", "pg_extension", "pg_publication_rel", "pg_constraint",
    "pg_cast", "pg_operator", "pg_opclass", "pg_transform", "pg_collation", "pg_ts_config", "pg_ts_dict", "pg_subscription",
]  # fmt: skip
# Catalogs whose objects an inventory names as pg_identify_object() does.
OTHER_CLASSES = ["pg_cast", "pg_operator", "pg_collation", "pg_ts_config", "pg_ts_dict"]
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
        """schema.name, for messages."""
        return f"{self.schema}.{self.name}"

    @property
    def parent(self) -> str | None:
        """schema.name of the table that it is a partition or child of."""
        return f"{self.parent_schema}.{self.parent_name}" if self.parent_name else None

    @property
    def unfinished_detach(self) -> Obstacle | None:
        """That a DETACH … CONCURRENTLY of it was interrupted."""
        if not (self.detach_pending and self.parent_schema and self.parent_name):
            return None
        return unfinished_detach((self.parent_schema, self.parent_name), (self.schema, self.name))


@dataclass(frozen=True)
class Members:
    """The context's relations and views, with the closure of what they need."""

    relations: tuple[Member, ...]
    views: tuple[View, ...]
    choice: Choice
    classes: dict[str, int]
    around: Surroundings = field(default_factory=lambda: Surroundings(frozenset()))

    @property
    def oids(self) -> list[int]:
        """The oids of all relations."""
        return [relation.oid for relation in self.relations]

    @property
    def holding_rows(self) -> list[Member]:
        """The tables and leaf partitions, which store rows; a partitioned table itself has none."""
        return [relation for relation in self.relations if relation.kind == "r"]

    @property
    def objects(self) -> frozenset[ObjectId]:
        """The objects that the relations need, and the included surrounding objects."""
        return self.choice.objects | self.around.objects

    @cached_property
    def chosen_by_class(self) -> dict[str, list[int]]:
        """The chosen oids, by the name of their catalog."""
        return {
            name: sorted(oid for class_id, oid in self.objects if class_id == of_class) for name, of_class in self.classes.items()
        }


def read_members(
    connection: Connection, context: Context, *, restorable: bool = True, claimed: frozenset[str] | None = None
) -> Members:
    """Return the context's relations as they are now, or in the session's snapshot.

    If the relations that any context lists are `claimed` (schema.table), the surrounding objects of
    the whole context are read too.

    Raises:
        BadInput: a table or view of the context file is missing, or could not be restored although
            `restorable` requires it.
    """
    relations = read_relations(connection, context)
    views = read_views(connection, context)
    _require_all(connection, context, {relation.name for relation in relations} | {view.name for view, _ in views.values()})
    classes = _class_oids(connection)
    own = [relation.oid for relation in relations] + list(views)
    database = read_database_objects(connection, classes, own)
    choice = choose(database, own, claimed or ())
    if restorable:
        _require_whole(connection, context, relations, choice)
    members = Members(relations, tuple(view for view, _ in views.values()), choice, classes)
    if claimed is None or context.scope:
        return members
    return replace(members, around=read_surroundings(connection, database, choice, own, context, claimed))


def read_relations(connection: Connection, context: Context) -> tuple[Member, ...]:
    """Return the context's tables with their partitions and children only."""
    cursor = connection.cursor(row_factory=dict_row)
    partitions = context.scope.partitions if context.scope else None
    asked = {"schema": context.namespace, "tables": context.tables, "partitions": partitions}
    rows = cursor.execute(sql.catalog.MEMBERS, asked).fetchall()
    members = [Member(**{**row, "columns": tuple(row["columns"]), "types": tuple(row["types"])}) for row in rows]
    by_name: dict[tuple[str | None, str | None], Member] = {(member.schema, member.name): member for member in members}
    return tuple(_ordered_as_top(member, by_name) for member in members)


def _ordered_as_top(member: Member, by_name: Mapping[tuple[str | None, str | None], Member]) -> Member:
    """Return a partition with its columns in the order of the topmost partitioned table.

    An attached partition may have them in another order. Digests of rows can be added up only if all have the same.
    """
    top = member
    while (above := by_name.get((top.parent_schema, top.parent_name))) and above.kind == "p":
        top = above
    order = {name: place for place, name in enumerate(top.columns)}
    pairs = sorted(zip(member.columns, member.types, strict=True), key=lambda pair: order.get(pair[0], len(order)))
    columns, types = tuple(name for name, _ in pairs), tuple(kind for _, kind in pairs)
    return replace(member, columns=columns, types=types)


def read_views(connection: Connection, context: Context) -> dict[int, tuple[View, frozenset[int]]]:
    """Return the context's views by oid, in order of dependency, with oids of those they read."""
    rows = connection.execute(sql.catalog.VIEWS, {"schema": context.namespace, "views": context.views}).fetchall()
    views = {row[0]: View(schema=row[1], name=row[2], populated=row[4], materialized=row[3] == "m") for row in rows}
    reads = defaultdict[int, set[int]](set, {oid: set() for oid in views})
    for oid, needed in connection.execute(sql.catalog.VIEW_NEEDS, {"oids": list(views)}):
        reads[oid].add(needed)
    return {oid: (views[oid], frozenset(reads[oid])) for oid in TopologicalSorter(reads).static_order()}


def is_there(connection: Connection, name: str, path: str | None = None) -> bool:
    """Return whether a relation, named as in SQL, exists; texts of users need the source's path."""
    with source_path(connection, path) if path else nullcontext():
        return bool(connection.execute(sql.catalog.RELATION_IS_THERE, {"name": name}).fetchall()[0][0])


def present(connection: Connection, context: Context) -> Context:
    """Return the context reduced to tables and views that exist."""
    asked = {"schema": context.namespace, "names": [*context.tables, *context.views]}
    gone = {row[0] for row in connection.execute(sql.catalog.MISSING_RELATIONS, asked)}
    there = {what: [name for name in getattr(context, what) if name not in gone] for what in ("tables", "views")}
    return context.model_copy(update=there | {"include": []})


def _require_whole(connection: Connection, context: Context, relations: Iterable[Member], choice: Choice) -> None:
    if odd := [relation.qualified for relation in relations if relation.kind not in ("r", "p")]:
        raise BadInput(f"{', '.join(odd)}: foreign tables cannot be backed up; remove them from the context")
    if choice.torn:
        needs = describe(connection, [*choice.torn, *choice.torn.values()])
        problem = "; ".join(f"{needs[object_id]} needs {needs[other]}" for object_id, other in choice.torn.items())
        raise BadInput(
            f"{problem}: it cannot be restored without another context's tables; remove it from "
            f"context {context.name}, or add those tables; a default or check may call a function "
            "that reads them, if the function has no BEGIN ATOMIC body"
        )


def _require_all(connection: Connection, context: Context, names: set[str]) -> None:
    if missing := [name for name in (*context.tables, *context.views) if name not in names]:
        raise BadInput(
            f'database "{connection.info.dbname}", schema "{context.namespace}": '
            f"{', '.join(missing)} not found; "
            f"correct `tables` and `views` in the context file of {context.name}, or connect to the right database"
        )


def _class_oids(connection: Connection) -> dict[str, int]:
    return dict(connection.execute(sql.catalog.CLASS_OIDS, {"names": CLASSES}).fetchall())


def read_inventory(
    connection: Connection, members: Members, expected: Iterable[InventoryItem] | None = None
) -> list[InventoryItem]:
    """Return every object of the context as text.

    Names must not depend on the session's search_path. Objects that belong to no relation are found
    by the names in a set's inventory, `expected`.
    """
    with connection.transaction():
        connection.execute(sql.session.FIXED_SETTINGS)
        oids = inventory_oids(members) if expected is None else _expected_oids(connection, members, [*expected])
        return [InventoryItem(**spelled_stably(row)) for row in dicts(connection, sql.inventory.INVENTORY, oids)]


PLACES = {"relations": "pg_class", "functions": "pg_proc", "types": "pg_type", "schemas": "pg_namespace"}


def inventory_oids(members: Members) -> dict[str, list[int]]:
    """Return the oids of inventory objects, by the parameters of its query."""
    others = sorted((of_class, oid) for name in OTHER_CLASSES for of_class, oid in _of_class(members, name))
    return {name: members.chosen_by_class[of_class] for name, of_class in PLACES.items()} | _pairs(others)


def _of_class(members: Members, name: str) -> list[ObjectId]:
    return [(members.classes[name], oid) for oid in members.chosen_by_class[name]]


def _pairs(objects: Iterable[ObjectId]) -> dict[str, list[int]]:
    chosen = [*objects]
    return {"other_classes": [object_id[0] for object_id in chosen], "others": [object_id[1] for object_id in chosen]}


def _expected_oids(connection: Connection, members: Members, expected: list[InventoryItem]) -> dict[str, list[int]]:
    asked = {"kinds": [item.kind for item in expected], "names": [item.name for item in expected]}
    oids = defaultdict[str, set[int]](set)
    others = list[ObjectId]()
    for place, of_class, oid in connection.execute(sql.inventory.EXPECTED, asked):
        oids[place].add(oid)
        others += [(of_class, oid)] if place == "others" else []
    return {name: sorted({*members.chosen_by_class[of_class], *oids[name]}) for name, of_class in PLACES.items()} | _pairs(
        sorted(others)
    )


def fingerprint(inventory: Iterable[InventoryItem]) -> str:
    """Return the SHA-256 of columns and types: rows fit only where it is the same."""
    lines = [f"{item.kind}\t{item.name}\t{item.columns}\n" for item in inventory if item.kind in FINGERPRINT_KINDS]
    return sha256("".join(sorted(lines)).encode()).hexdigest()


def read_outbound_keys(connection: Connection, members: Members) -> list[ForeignKey]:
    """Return foreign keys to others' tables, in names independent of the session's search_path."""
    keys = dicts(connection, sql.catalog.FOREIGN_KEYS, {"oids": members.oids})
    return [key_of(key) for key in keys if key["table_oid"] in set(members.oids)]


def read_disabled_keys(connection: Connection, members: Members) -> list[str]:
    """Return table.key of each foreign key, from or to these tables, with a disabled trigger."""
    disabled = connection.execute(sql.in_place.KEYS_SWITCHED_OFF, {"oids": members.oids}).fetchall()
    return [f"{table}.{name}" for table, name, _ in disabled]


def dicts(connection: Connection, query: SQL, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a query as dictionaries."""
    return connection.cursor(row_factory=dict_row).execute(query, parameters).fetchall()


def key_of(row: dict[str, Any]) -> ForeignKey:
    """Return the foreign key in a row of `FOREIGN_KEYS`."""
    return ForeignKey(
        name=row["name"], table=row["table"], references=row["references"], definition=row["definition"],
        on_delete=row["on_delete"], comment=row["comment"],
    )  # fmt: skip


def read_roles(connection: Connection, members: Members) -> list[Role]:
    """Return the roles that own, or are granted, something in the context."""
    chosen = sorted(members.objects)
    parameters = {"classes": [object_id[0] for object_id in chosen], "objects": [object_id[1] for object_id in chosen]}
    return [Role(**row) for row in dicts(connection, sql.catalog.ROLES, parameters | inventory_oids(members))]


def read_roles_named(connection: Connection, names: Iterable[str]) -> list[Role]:
    """Return the named roles, without PostgreSQL's own."""
    return [Role(**row) for row in dicts(connection, sql.catalog.ROLES_NAMED, {"names": sorted(names)})]


def read_sequences(connection: Connection, members: Members) -> list[Sequence]:
    """Return the positions of the context's sequences; call it after the snapshot."""
    names = connection.execute(sql.sequences.SEQUENCES, {"oids": members.chosen_by_class["pg_class"]}).fetchall()
    return [_sequence(connection, schema, name) for schema, name in names]


def _sequence(connection: Connection, schema: str, name: str) -> Sequence:
    last_value, is_called = connection.execute(sql.sequences.sequence_position(schema, name)).fetchall()[0]
    return Sequence(schema=schema, name=name, last_value=last_value, is_called=is_called)


def read_extensions(connection: Connection, members: Members) -> dict[str, str]:
    """Return the extensions of the context's objects, with their versions."""
    return dict(connection.execute(sql.catalog.EXTENSIONS, {"oids": members.chosen_by_class["pg_extension"]}).fetchall())


def read_database(connection: Connection) -> DatabaseProperties:
    """Return the properties that CREATE DATABASE needs."""
    facts = dicts(connection, sql.databases.DATABASE_FACTS, {})[0]
    return DatabaseProperties(**facts | {"grants": facts["grants"] or []})
