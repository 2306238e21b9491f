"""Restoring into a database that is there already, without our tables or with all of them empty.

Others may live in it, so all of it is one transaction of one session: either everything is there and was compared, or
nothing happened. Slower than a database of our own, which is filled by several sessions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from prefect import get_run_logger

from tasks import catalogue
from tasks.core import sql
from tasks.core.compare import compare_inventories
from tasks.core.context import Context
from tasks.core.errors import OperationError, RestoreDiffers, UnsafeTarget
from tasks.core.manifest import Manifest
from tasks.core.programs import Program
from tasks.core.servers import Connection, Server, connect
from tasks.core.stream import digest_relation
from tasks.core.toc import Chunk
from tasks.databases import create_roles
from tasks.keys import make_keys, own_keys, without
from tasks.locks import MAINTENANCE_DATABASE
from tasks.recoveries import Recovery, find_pg_restore, staged_context
from tasks.runs import Run
from tasks.schema import LOCK_WAIT_SECONDS, RESTORE_SETTINGS, read_chunks
from tasks.sets import unpack
from tasks.tables import differences, load_rows, reading_job

# What CREATE and ADD say of an object that is there; a second primary key is an InvalidTableDefinition.
IS_THERE = (
    psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject, psycopg.errors.DuplicateFunction,
    psycopg.errors.DuplicateSchema, psycopg.errors.InvalidTableDefinition,
)  # fmt: skip


def restore_into_existing(recovery: Recovery, server: Server, run: Run) -> None:
    """Create what is missing, fill, compare and commit; whatever fails leaves the database as it was.

    Raises:
        RestoreDiffers: rows or objects are not those of the backup.
        OperationError: an object cannot be created or rows cannot be loaded.
    """
    manifest, target = recovery.manifest, recovery.chosen
    with connect(server, MAINTENANCE_DATABASE, run.title) as connection:
        create_roles(connection, manifest, target)
    with connect(server, target.name, run.title) as connection, _all_or_nothing(connection, target.name):
        _fill(connection, recovery, run, find_pg_restore(manifest, target))
    recovery.proven = True


@contextmanager
def _all_or_nothing(connection: Connection, database: str) -> Iterator[None]:
    try:
        with connection.transaction():
            yield
    except psycopg.Error as error:
        if connection.broken:
            # Nobody knows whether a COMMIT that was under way came through.
            raise
        said = error.diag.message_primary or type(error).__name__
        raise OperationError(f'database "{database}" is as it was: {said}; mend that, or name another target_database') from error


def _fill(connection: Connection, recovery: Recovery, run: Run, pg_restore: Program) -> None:
    staged, phases, manifest = recovery.staged_set, recovery.phases, recovery.manifest
    context = staged_context(recovery)
    archive, listing = unpack(staged.files[manifest.schema_archive.path]), staged.files[manifest.schema_list.path]
    made = set[int]()
    connection.execute(sql.set_lock_timeout(LOCK_WAIT_SECONDS))
    with phases.phase("schema before data"):
        had_tables = _lock_empty(connection, context)
        _create_missing(connection, *read_chunks(run, pg_restore, "pre-data", archive, listing), made)
    with phases.phase("data"), _unguarded(connection, context):
        connection.execute(sql.FIXED_SETTINGS)
        _load(connection, recovery)
    with phases.phase("indexes, keys, triggers"):
        connection.execute(sql.statement(RESTORE_SETTINGS))
        _create_missing(connection, *read_chunks(run, pg_restore, "post-data", archive, listing), made)
        recovery.keys = make_keys(connection, own_keys(manifest), LOCK_WAIT_SECONDS)
    with phases.phase("statistics and views"):
        _refresh(connection, manifest)
    with phases.phase("comparison"):
        _compare(connection, recovery, run, had_tables=had_tables)
    with phases.phase("keys to other contexts"):
        recovery.keys += make_keys(connection, manifest.outbound_keys, LOCK_WAIT_SECONDS)


def _lock_empty(connection: Connection, context: Context) -> bool:
    """Lock the tables of ours that are there, and make sure under the lock that they are still empty; return if there are any."""
    asked = {"schema": context.namespace, "names": context.tables}
    missing = {row[0] for row in connection.execute(sql.MISSING_RELATIONS, asked)}
    there = [name for name in context.tables if name not in missing]
    if there:
        connection.execute(sql.lock_own(context.namespace, there))
    for name in there:
        if connection.execute(sql.holds_rows(context.namespace, name)).fetchall():
            raise UnsafeTarget(
                f'{context.namespace}.{name} of database "{connection.info.dbname}" holds rows that were not there a moment ago; '
                "nothing was changed; find out who writes there before you run again"
            )
    return bool(there)


def _create_missing(connection: Connection, settings: bytes, chunks: list[Chunk], made: set[int]) -> None:
    """Run the statements of each entry whose object is not there; what is said about an object that was, stays unsaid."""
    connection.execute(settings)
    for chunk in chunks:
        if not chunk.has_class and not chunk.needs & made:
            continue
        try:
            with connection.transaction():
                connection.execute(chunk.statements)
        except IS_THERE as error:
            get_run_logger().info("there already: %s", error.diag.message_primary)
        except psycopg.errors.ForeignKeyViolation as error:
            get_run_logger().warning("left out: %s", error.diag.message_primary)
        else:
            made.add(chunk.dump_id)
    connection.execute(sql.FIXED_SETTINGS)


@contextmanager
def _unguarded(connection: Connection, context: Context) -> Iterator[None]:
    """Load without triggers and without keys among our own tables, whose circles no order satisfies; then as it was."""
    # Views may still be missing: some are made after the data.
    oids = {"oids": catalogue.read_members(connection, context.model_copy(update={"views": []})).oids}
    triggers = connection.execute(sql.TRIGGERS_ON, oids).fetchall()
    keys = connection.execute(sql.KEYS_WITHIN, oids).fetchall()
    for schema, table, trigger, _ in triggers:
        connection.execute(sql.switch_trigger(schema, table, trigger, "DISABLE"))
    for schema, table, key, _, _ in keys:
        connection.execute(sql.drop_constraint(schema, table, key))
    yield
    for schema, table, key, definition, comment in keys:
        try:
            with connection.transaction():
                connection.execute(sql.add_constraint(schema, table, key, definition))
                if comment:
                    connection.execute(sql.comment_on_constraint(schema, table, key, comment))
        except psycopg.errors.ForeignKeyViolation as error:
            get_run_logger().warning("left out: %s", error.diag.message_primary)
    for schema, table, trigger, words in triggers:
        connection.execute(sql.switch_trigger(schema, table, trigger, words))


def _load(connection: Connection, recovery: Recovery) -> None:
    manifest, files = recovery.manifest, recovery.staged_set.files
    for relation in manifest.relations:
        parts: list[Path] = [files[part.path] for part in relation.parts]
        seconds = load_rows(connection, relation, parts, manifest.database.encoding, freeze=False)
        recovery.load_seconds[relation.qualified] = seconds
    for one in manifest.sequences:
        place = {"schema": one.namespace, "name": one.name, "value": one.last_value, "called": one.is_called}
        connection.execute(sql.SET_SEQUENCE, place)


def _refresh(connection: Connection, manifest: Manifest) -> None:
    for relation in manifest.relations:
        connection.execute(sql.analyze_relation(relation.namespace, relation.name))
    for view in manifest.views:
        if view.materialized and view.populated:
            connection.execute(sql.refresh_view(view.namespace, view.name))


def _compare(connection: Connection, recovery: Recovery, run: Run, *, had_tables: bool) -> None:
    """Compare rows, digests and objects inside the transaction; of tables that were there, other objects are told, not refused."""
    manifest, target = recovery.manifest, recovery.chosen
    for relation in manifest.relations:
        digest = digest_relation(connection, reading_job(target.name, run, relation, manifest.database.encoding))
        recovery.differences += differences(relation, digest.rows, digest.hex)
    restored = catalogue.read_inventory(connection, catalogue.read_members(connection, staged_context(recovery)))
    same_major = manifest.versions.server_major == target.server_major
    unlike = compare_inventories(without(manifest.inventory, recovery.keys), restored, same_major=same_major)
    if had_tables:
        target.to_do.extend(f"the tables were there before, and {one}" for one in unlike)
    else:
        recovery.differences += unlike
    if recovery.differences:
        raise RestoreDiffers(
            f'database "{target.name}" is as it was: what was restored from {manifest.id} differs from the backup: '
            f"{'; '.join(recovery.differences[:10])}"
        )
