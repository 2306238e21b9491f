"""Reading the objects around a context: dependencies, names in code, objects of no relation."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row

from tasks.core import sql
from tasks.core.context import Context
from tasks.core.context_keys import Included
from tasks.core.database.dependencies import Catalogue, Choice, Dependency, Graph, NamedObject, ObjectId, choose_objects
from tasks.core.database.objects import FORGOTTEN
from tasks.core.database.surroundings import Around, Bystander, Surroundings, choose_surroundings
from tasks.core.errors import BadInput
from tasks.core.postgres.connection import Connection

# Why relations that no context lists are not in a set, by their kind; plain views may be.
WHY_UNLISTED = {
    **dict.fromkeys("rp", f"{FORGOTTEN}; add it to `tables` of a context, or to `neighbours`"),
    "m": "no context lists it; add it to `views` of the context",
    "f": "its rows belong to another server or program",
}


@dataclass(frozen=True)
class Database:
    """The objects of a database: dependencies, and names of relations (schema, name)."""

    catalogue: Catalogue
    relations: Mapping[ObjectId, tuple[str, str]]


def read_database_objects(connection: Connection, classes: Mapping[str, int], own: Collection[int]) -> Database:
    """Return dependencies, and names in functions and in the context's defaults and triggers."""
    rows = connection.execute(sql.catalog.DEPENDENCIES).fetchall()
    dependencies = [Dependency((row[0], row[1]), (row[2], row[3]), row[4]) for row in rows]
    relations = connection.execute(sql.catalog.RELATIONS).fetchall()
    rows_named = connection.execute(sql.surroundings.NAMED_OBJECTS, {"oids": [*own]})
    named = [NamedObject((row[0], row[1]), *row[2:]) for row in rows_named]
    inline = frozenset((row[0], row[1]) for row in connection.execute(sql.catalog.MADE_INLINE))
    kinds = {oid: kind for oid, _, _, kind in relations}
    names = {(classes["pg_class"], oid): (schema, name) for oid, schema, name, kind in relations if kind in "rpvmf"}
    return Database(Catalogue(dependencies, kinds, named, classes, inline), names)


def read_surroundings(
    connection: Connection, database: Database, choice: Choice, own: Collection[int], context: Context, claimed: Collection[str]
) -> Surroundings:
    """Return the included objects around a context.

    `claimed` are the relations that any context lists.

    Raises:
        BadInput: an object in the context file's `include` does not exist, or cannot be included.
    """
    catalogue = database.catalogue
    listed = {object_id for object_id, (schema, name) in database.relations.items() if f"{schema}.{name}" in claimed}
    views = {object_id for object_id in database.relations.keys() - listed if catalogue.relation_kinds[object_id[1]] in "vm"}
    forgotten = {(catalogue.classes["pg_class"], row["oid"]) for row in read_forgotten(connection, own, context, claimed)}
    unlisted = {object_id: WHY_UNLISTED.get(catalogue.relation_kinds[object_id[1]], "") for object_id in views | forgotten}
    places = connection.execute(sql.surroundings.OWN_PLACES, {"oids": [*own]}).fetchall()
    schemas = {row[0] for row in places}
    rows = connection.execute(sql.surroundings.BYSTANDERS, {"oids": [*own], "schemas": [*schemas]}).fetchall()
    bystanders = {(row[0], row[1]): Bystander((row[0], row[1]), *row[2:]) for row in rows}
    bystanders |= {object_id: Bystander(object_id, None, None, plain=True, wide=False) for object_id in forgotten}
    asked = _asked(connection, context.include)
    around = Around(
        schemas,
        {row[1] for row in places},
        database.relations,
        {entry.id: entry.source for entry in catalogue.named if entry.source},
        {object_id: facts for object_id, facts in bystanders.items() if object_id not in listed},
        frozenset(asked.values()) | forgotten,
        {object_id: why for object_id, why in unlisted.items() if why},
        listed,
    )
    graph = Graph(catalogue, own, [oid for _, oid in unlisted])
    surroundings = choose_surroundings(graph, choice, around)
    _require_included(connection, asked, choice, surroundings)
    return surroundings


def read_forgotten(
    connection: Connection, oids: Collection[int], context: Context, claimed: Collection[str]
) -> list[dict[str, Any]]:
    """Return the tables in the context's schema, and those that refer to its tables, that no context lists."""
    asked = {"oids": [*oids], "schema": context.namespace}
    neighbours = connection.cursor(row_factory=dict_row).execute(sql.catalog.NEIGHBOURS, asked).fetchall()
    return [row for row in neighbours if f"{row['schema']}.{row['name']}" not in claimed]


def _asked(connection: Connection, included: Iterable[Included]) -> dict[Included, ObjectId]:
    """Return the objects that a context file includes."""
    wanted = [*included]
    if not wanted:
        return {}
    rows = connection.execute(sql.surroundings.OBJECTS_BY_NAME, {"kinds": [item.kind for item in wanted]}).fetchall()
    there = {(row[2], row[3]): (row[0], row[1]) for row in rows}
    missing = [item for item in wanted if (item.kind, item.name) not in there]
    if missing:
        unknown = missing[0]
        bare = unknown.name.partition("(")[0].rpartition(".")[2]
        like = sorted(name for kind, name in there if kind == unknown.kind and name.partition("(")[0].rpartition(".")[2] == bare)
        hint = f" (the database has {', '.join(like)})" if like else ""
        raise BadInput(
            f'include: there is no {unknown.kind} "{unknown.name}" in database '
            f'"{connection.info.dbname}"{hint}; spell it as '
            "pg_identify_object() does (with its schema; a function with its argument types), or "
            "remove it"
        )
    return {item: there[item.kind, item.name] for item in wanted}


def _require_included(
    connection: Connection, asked: Mapping[Included, ObjectId], choice: Choice, surroundings: Surroundings
) -> None:
    for item, object_id in asked.items():
        if object_id not in choice.objects | surroundings.objects:
            why, other = surroundings.named.get(object_id, ("objects that it depends on are not in the set", None))
            name = describe(connection, [other])[other] if other else ""
            raise BadInput(f'include: {item.kind} "{item.name}" cannot be included: {why.format(name)}; remove it from `include`')


def describe(connection: Connection, objects: Iterable[ObjectId]) -> dict[ObjectId, str]:
    """Return PostgreSQL's descriptions of objects; dropped ones have none."""
    chosen = sorted(objects)
    parameters = {"classes": [object_id[0] for object_id in chosen], "objects": [object_id[1] for object_id in chosen]}
    rows = connection.execute(sql.catalog.DESCRIBE_OBJECTS, parameters).fetchall()
    return {(row[0], row[1]): row[2] for row in rows if row[2]}


def left_out(
    connection: Connection, choice: Choice, named: Surroundings, but: Collection[ObjectId]
) -> list[tuple[ObjectId, str, str]]:
    """Return objects left out of a set that need the context, or that it needs: name and reason."""
    reasons = {
        **{
            object_id: ("only {} needs it, and that is left out", other)
            for object_id, other in choice.with_them.items()
            if other not in but
        },
        **{
            object_id: ("it needs {} of another context", other)
            for object_id, other in choice.left_out.items()
            if object_id not in but
        },
        **{object_id: reason for object_id, reason in named.named.items() if object_id not in choice.left_out},
    }
    names = describe(connection, [*reasons, *(other for _, other in reasons.values() if other)])
    return [
        (object_id, names[object_id], why.format(names.get(other, "")) if other else why)
        for object_id, (why, other) in reasons.items()
        if object_id in names
    ]


def choose(database: Database, own: Collection[int], claimed: Collection[str] = ()) -> Choice:
    """Return the context's objects; plain views that no context lists are created for what needs them."""
    kinds = database.catalogue.relation_kinds
    views = [
        oid for (_, oid), (schema, name) in database.relations.items() if kinds[oid] == "v" and f"{schema}.{name}" not in claimed
    ]
    return choose_objects(Graph(database.catalogue, own, views))
