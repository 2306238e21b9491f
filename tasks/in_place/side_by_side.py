"""Restoring one table of a set under a new name beside the live table, which is not changed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.database.objects import TABLES
from tasks.core.errors import BadInput, DamagedSet, RestoreDiffers
from tasks.core.in_place.report import Beside
from tasks.core.in_place.request import Keys, name_beside, tables_named
from tasks.core.postgres.connection import Connection, connect, major_of
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import read_source_path
from tasks.core.restore.obstacle import refuse
from tasks.core.rows.digest import MODULUS
from tasks.core.rows.stream import digest_relation
from tasks.core.sets.hash_partitions import differences
from tasks.core.sets.large_objects import named
from tasks.core.sets.manifest import Manifest, Relation
from tasks.core.spelling import ANY_NAME, PRIMARY_KEY
from tasks.core.sql.names import plain_name
from tasks.database.loading import load_rows
from tasks.database.rows import reading_job
from tasks.in_place.large_objects import compare_live, references_in
from tasks.in_place.selection import read_condition
from tasks.restore.prerequisites import TABLES_MADE, refusing_event_triggers
from tasks.run.run import Run, step
from tasks.run.site import Site
from tasks.sets.column_order import in_one_order
from tasks.sets.stage import StagedSet


@step(name="restore {table} beside")
def restore_beside(site: Site, run: Run, staged: StagedSet, table: str, keys: Keys | None) -> Beside:
    """Create a table with a set's rows of a table or partition, and compare the rows.

    The new table has the columns and the primary key, but no other indexes, keys or triggers.

    Raises:
        BadInput: there is no such table, the new name exists already, CREATE is not granted, or
            `keys` is not valid. RestoreDiffers: the loaded rows differ from the set; all was rolled
            back.
    """
    manifest, started = staged.manifest, time.monotonic()
    named, relations = _choose(manifest, site.context.namespace, table)
    first, place = relations[0], (named[0], name_beside(named[1], manifest.id))
    key = _primary_key(manifest, first)
    with connect(site.owners_login, site.database, run.title) as connection:
        connection.execute(sql.session.FIXED_SETTINGS)
        refuse(refusing_event_triggers(connection, sql.prerequisites.TRY_TO_MAKE, TABLES_MADE))
        path = read_source_path(connection, site.context.namespace)
        with _explained(site.database, place), connection.transaction():
            notes = [*_create(connection, place, first), *_left_out(manifest, first)]
            if keys is None:
                rows = _load(connection, run, site.database, staged, relations, place, path)
            else:
                rows = _load_some(connection, run, site.database, staged, relations, place, path, keys, key)
            if key:
                connection.execute(sql.in_place.add_primary_key(*place, key))
            _hand_over(connection, place, manifest, first)
            connection.execute(sql.in_place.comment_on_table(*place, f"restored from {manifest.id}; drop this table after use"))
            connection.execute(sql.rows.analyze_relation(*place))
        notes += _large_objects(site, run, staged, relations)
    all_rows = sum(relation.rows for relation in relations)
    get_run_logger().info("%s: %d of %d rows of %s", ".".join(place), rows, all_rows, ".".join(named))
    return Beside(
        sql.names.quoted_name(*place), sql.names.quoted_name(*named), manifest.id, manifest.snapshot.instant, site.database, rows,
        all_rows, time.monotonic() - started, [sql.names.quoted(name) for name in key], notes,
    )  # fmt: skip


def _choose(manifest: Manifest, namespace: str, table: str) -> tuple[tuple[str, str], list[Relation]]:
    """Return the requested table, and the relations that store its rows: itself or partitions.

    Raises:
        BadInput: the set has no such table, or its partitions have different columns.
    """
    parents = {plain_name(item.name): plain_name(item.parent) for item in manifest.inventory if item.kind in TABLES}
    names = tables_named(table, namespace, parents, f"in {manifest.id}")
    chosen = [relation for relation in manifest.relations if relation.qualified in names]
    if not chosen:
        raise BadInput(f"{table} has no partition in {manifest.id}")
    if odd := [relation.qualified for relation in chosen if {*relation.columns} != {*chosen[0].columns}]:
        raise BadInput(f"{', '.join(odd)} has other columns than {chosen[0].qualified}; restore each partition by itself")
    top = next((name for name in names if parents[name] not in names), None)
    if top is None:
        raise DamagedSet(f"{manifest.id}: inventory: {table} is a partition of itself; restore another set")
    schema, _, name = top.partition(".")
    return (schema, name), chosen


def _primary_key(manifest: Manifest, relation: Relation) -> list[str]:
    """Return the columns of a relation's primary key."""
    for item in manifest.inventory:
        if item.kind == "constraint" and plain_name(item.parent) == relation.qualified and (key := PRIMARY_KEY.match(item.state)):
            columns = [sql.names.unquoted(name) for name in ANY_NAME.findall(key["columns"])]
            # A generated column is not among the set's rows.
            return columns if set(columns) <= set(relation.columns) else []
    return []


@contextmanager
def _explained(database: str, place: tuple[str, str]) -> Iterator[None]:
    """Turn errors of creating the table into BadInput with the remedy."""
    try:
        yield
    except psycopg.errors.DuplicateTable:
        raise BadInput(f"{sql.names.quoted_name(*place)} exists already; look at that table, then drop or rename it") from None
    except psycopg.errors.InsufficientPrivilege as error:
        remedy = f"GRANT USAGE, CREATE ON SCHEMA {sql.names.quoted(place[0])} TO …"
        raise BadInput(f'{message_of(error)}; run in database "{database}": {remedy}') from None


def _create(connection: Connection, place: tuple[str, str], relation: Relation) -> list[str]:
    """Create the empty table; return notes on columns that got another type than in the set."""
    types = relation.types or ["text"] * len(relation.columns)
    # Types come from the manifest: only what PostgreSQL parses as a type name gets into a
    # statement.
    known = [connection.execute(sql.catalog.TYPE_IS_THERE, {"name": kind}).fetchall()[0][0] for kind in types]
    loose = [
        connection.execute(sql.prerequisites.BASE_OF_UNPROVEN, {"name": kind if there else None}).fetchall()
        for kind, there in zip(types, known, strict=True)
    ]
    bases = {kind: base[0][0] for kind, base in zip(types, loose, strict=True) if base}
    columns = [
        (name, bases.get(kind, kind) if there else "text") for name, kind, there in zip(relation.columns, types, known, strict=True)
    ]
    connection.execute(sql.in_place.create_beside(*place, columns))
    return [
        f"column {name} has type text, because this database has no type {kind}"
        for name, kind, there in zip(relation.columns, types, known, strict=True)
        if not there
    ] + [
        f"column {name} has type {bases[kind]} instead of domain {kind}, because rows may violate a NOT VALID check of the domain"
        for name, kind in zip(relation.columns, types, strict=True)
        if kind in bases
    ]


def _hand_over(connection: Connection, place: tuple[str, str], manifest: Manifest, relation: Relation) -> None:
    """Give the new table to its owner in the set, if allowed: this login may end with the run."""
    item = next(item for item in manifest.inventory if item.kind in TABLES and plain_name(item.name) == relation.qualified)
    owner = item.state.removeprefix("owner ").partition(" | ")[0]
    question = sql.databases.MAY_BECOME_16 if major_of(connection) >= 16 else sql.databases.MAY_BECOME
    if connection.execute(question, {"names": [owner]}).fetchall():
        connection.execute(sql.logins.give_table(*place, owner))


def _left_out(manifest: Manifest, relation: Relation) -> list[str]:
    """Return a note if the set's table has generated columns, whose values sets do not store."""
    stated = next(
        (item.columns for item in manifest.inventory if item.kind in TABLES and plain_name(item.name) == relation.qualified), ""
    )
    return ["the table has no generated columns"] if " GENERATED " in stated else []


def _large_objects(site: Site, run: Run, staged: StagedSet, relations: list[Relation]) -> list[str]:
    """Return how large objects that the rows reference differ here; they are not changed."""
    columns = staged.manifest.large_objects.columns if staged.manifest.large_objects else {}
    oids = {oid for relation in relations for oid in references_in(staged, relation, columns.get(relation.qualified, []))}
    compared = compare_live(site, run, staged, oids)
    gone = [
        f"{name}, which rows reference, is missing in the live database: restore it by full_restore into a new database"
        for name in ([named(compared.missing)] if compared.missing else [])
    ]
    return [*gone, *(f"of the live database, {text}" for text in (*compared.unlike, *compared.unread))]


def _load(
    connection: Connection, run: Run, database: str, staged: StagedSet, relations: list[Relation], place: tuple[str, str], path: str
) -> int:
    """Load all rows and read them back.

    Raises:
        RestoreDiffers: the rows differ from those of the set.
    """
    encoding = staged.manifest.database.encoding
    for relation in relations:
        load_rows(connection, relation, staged.sources(relation), encoding, path, into=place)
    # Digests are sums, so that of all partitions is the sum of theirs.
    total = sum(int(relation.digest, 16) for relation in in_one_order(staged, relations)) % MODULUS
    rows = sum(relation.rows for relation in relations)
    expected = relations[0].model_copy(update={"rows": rows, "digest": f"{total:032x}"})
    job = replace(reading_job(database, run, expected, encoding), schema=place[0], name=place[1])
    digest = digest_relation(connection, job)
    if problems := differences(expected, digest.rows, digest.hex):
        raise RestoreDiffers("; ".join(problems))
    return rows


def _load_some(
    connection: Connection, run: Run, database: str, staged: StagedSet, relations: list[Relation], place: tuple[str, str],
    path: str, keys: Keys, key: list[str],
) -> int:  # fmt: skip
    """Load and compare all rows in a TEMP table, and copy the selected ones from there."""
    condition = read_condition(connection, keys, place, key, path)
    connection.execute(sql.staging.create_staging(0, *place, relations[0].columns, relations[0].columns, {}))
    _load(connection, run, database, staged, relations, sql.staging.staging_place(0), path)
    return connection.execute(sql.key_values.copy_chosen(0, *place, relations[0].columns, condition)).rowcount
