"""Reading what stands around a context: what objects need, what code names, and what is part of no relation."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from tasks.core import sql
from tasks.core.context import Context
from tasks.core.context_keys import Included
from tasks.core.database.dependencies import Catalogue, Choice, Dependency, Graph, NamedObject, ObjectId, choose_objects
from tasks.core.database.surroundings import Around, Bystander, Surroundings, choose_surroundings
from tasks.core.errors import BadInput
from tasks.core.postgres.connection import Connection


@dataclass(frozen=True)
class Database:
    """What is known of the objects of a database: needs, and names of relations (schema, name)."""

    catalogue: Catalogue
    relations: Mapping[ObjectId, tuple[str, str]]


def read_database_objects(connection: Connection, classes: Mapping[str, int], own: Collection[int]) -> Database:
    """Return what objects need and what the code of all functions names, and that of defaults and triggers of own relations."""
    rows = connection.execute(sql.catalog.DEPENDENCIES).fetchall()
    dependencies = [Dependency((row[0], row[1]), (row[2], row[3]), row[4]) for row in rows]
    relations = connection.execute(sql.catalog.RELATIONS).fetchall()
    found = connection.execute(sql.surroundings.NAMED_OBJECTS, {"oids": [*own]})
    named = [NamedObject((row[0], row[1]), *row[2:]) for row in found]
    inline = frozenset((row[0], row[1]) for row in connection.execute(sql.catalog.MADE_INLINE))
    kinds = {oid: kind for oid, _, _, kind in relations}
    names = {(classes["pg_class"], oid): (schema, name) for oid, schema, name, kind in relations if kind in "rpvmf"}
    return Database(Catalogue(dependencies, kinds, named, classes, inline), names)


def read_surroundings(
    connection: Connection, database: Database, choice: Choice, own: Collection[int], context: Context, claimed: Collection[str]
) -> Surroundings:  # fmt: skip
    """Return what of a context's surroundings comes along; `claimed` are the relations that some context looks after.

    Raises:
        BadInput: what the context file includes is not there, or cannot come along.
    """
    catalogue = database.catalogue
    unclaimed = [
        one[1] for one, (schema, name) in database.relations.items()
        if catalogue.relation_kinds[one[1]] == "v" and f"{schema}.{name}" not in claimed
    ]  # fmt: skip
    places = connection.execute(sql.surroundings.OWN_PLACES, {"oids": [*own]}).fetchall()
    schemas = {row[0] for row in places}
    rows = connection.execute(sql.surroundings.BYSTANDERS, {"oids": [*own], "schemas": [*schemas]}).fetchall()
    claimed_views = {one for one in database.relations if one[1] not in unclaimed}
    bystanders = {(row[0], row[1]): Bystander((row[0], row[1]), *row[2:]) for row in rows}
    asked = _asked(connection, context.include)
    around = Around(
        schemas, {row[1] for row in places}, database.relations, {one.id: one.source for one in catalogue.named if one.source},
        {one: facts for one, facts in bystanders.items() if one not in claimed_views}, frozenset(asked.values()),
    )  # fmt: skip
    graph = Graph(catalogue, own, unclaimed)
    found = choose_surroundings(graph, choice, around)
    _require_included(connection, asked, choice, found)
    return found


def _asked(connection: Connection, included: Iterable[Included]) -> dict[Included, ObjectId]:
    """Return the objects that a context file includes."""
    wanted = [*included]
    if not wanted:
        return {}
    rows = connection.execute(sql.surroundings.OBJECTS_BY_NAME, {"kinds": [one.kind for one in wanted]}).fetchall()
    there = {(row[2], row[3]): (row[0], row[1]) for row in rows}
    missing = [one for one in wanted if (one.kind, one.name) not in there]
    if missing:
        one = missing[0]
        bare = one.name.partition("(")[0].rpartition(".")[2]
        like = sorted(name for kind, name in there if kind == one.kind and name.partition("(")[0].rpartition(".")[2] == bare)
        said = f" (there is {', '.join(like)})" if like else ""
        raise BadInput(
            f'include: there is no {one.kind} "{one.name}" in database "{connection.info.dbname}"{said}; name it as '
            "pg_identify_object() does: with its schema, functions with the types of their arguments; or take it out"
        )
    return {one: there[one.kind, one.name] for one in wanted}


def _require_included(
    connection: Connection, asked: Mapping[Included, ObjectId], choice: Choice, found: Surroundings
) -> None:  # fmt: skip
    for one, object_id in asked.items():
        if object_id not in choice.objects | found.objects:
            why, other = found.named.get(object_id, ("it is left out, because of what it needs", None))
            name = describe(connection, [other])[other] if other else ""
            raise BadInput(f'include: {one.kind} "{one.name}" cannot be taken along: {why.format(name)}; take it out of `include`')


def describe(connection: Connection, objects: Iterable[ObjectId]) -> dict[ObjectId, str]:
    """Return what PostgreSQL calls objects, for people; what is gone has no name."""
    chosen = sorted(objects)
    parameters = {"classes": [one[0] for one in chosen], "objects": [one[1] for one in chosen]}
    rows = connection.execute(sql.catalog.DESCRIBE_OBJECTS, parameters).fetchall()
    return {(row[0], row[1]): row[2] for row in rows if row[2]}


def left_out(
    connection: Connection, choice: Choice, named: Surroundings, but: Collection[ObjectId]
) -> list[tuple[ObjectId, str, str]]:
    """Return what is not in a set although it needs the context, or the context needs it: what it is called, and why."""
    reasons = {
        **{one: ("only {} needs it, which is left out", other) for one, other in choice.with_them.items() if other not in but},
        **{one: ("it needs {} of another context", other) for one, other in choice.left_out.items() if one not in but},
        **{one: reason for one, reason in named.named.items() if one not in choice.left_out},
    }
    names = describe(connection, [*reasons, *(other for _, other in reasons.values() if other)])
    return [
        (one, names[one], why.format(names.get(other, "")) if other else why)
        for one, (why, other) in reasons.items() if one in names
    ]  # fmt: skip


def choose(database: Database, own: Collection[int]) -> Choice:
    """Return the context's objects."""
    return choose_objects(Graph(database.catalogue, own))
