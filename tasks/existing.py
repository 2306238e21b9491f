"""Restoring into a database that is there already, without our tables or with all of them empty.

Others may live in it, so all of it is one transaction of one session: either everything is there and was compared, or
nothing happened. Slower than a database of our own, which is filled by several sessions.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import psycopg
from prefect import get_run_logger

from tasks import catalogue, progress
from tasks.core import sql
from tasks.core.compare import compare_inventories, missing_objects
from tasks.core.complaints import message_of
from tasks.core.context import Context
from tasks.core.errors import BrokenKey, OperationError, RestoreDiffers, UnsafeTarget
from tasks.core.manifest import TABLES, ForeignKey, InventoryItem, Manifest
from tasks.core.programs import Program
from tasks.core.servers import Connection, Server, connect
from tasks.core.stream import digest_relation
from tasks.core.toc import Chunk
from tasks.databases import create_roles
from tasks.keys import keys_of, make_keys, own_keys, without
from tasks.locks import ContextLock
from tasks.recoveries import Recovery, find_pg_restore, staged_context
from tasks.runs import Run
from tasks.schema import LOCK_WAIT_SECONDS, read_chunks
from tasks.sets import unpack
from tasks.tables import differences, load_rows, reading_job

# What CREATE and ADD say of an object that is there; a second primary key is an InvalidTableDefinition.
IS_THERE = (
    psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject, psycopg.errors.DuplicateFunction,
    psycopg.errors.DuplicateSchema, psycopg.errors.InvalidTableDefinition,
)  # fmt: skip


def restore_into_existing(recovery: Recovery, server: Server, run: Run, lock: ContextLock) -> None:
    """Create what is missing, fill, compare and commit; whatever fails leaves the database as it was.

    Raises:
        RestoreDiffers: rows or objects are not those of the backup.
        OperationError: an object cannot be created or rows cannot be loaded.
    """
    manifest, target = recovery.manifest, recovery.chosen
    pg_restore = find_pg_restore(manifest, target.server_major)
    create_roles(server, run, manifest, target)
    try:
        _fill_whole(recovery, run, lock, pg_restore, with_outbound_keys=True)
    except BrokenKey as error:
        # Dropping such a key locks the other context's table until the end, so only where its rows are not there anyway.
        get_run_logger().warning("%s; once more without the keys to other contexts", error)
        _fill_whole(recovery, run, lock, pg_restore, with_outbound_keys=False)
    recovery.proven = True


def _fill_whole(
    recovery: Recovery, run: Run, lock: ContextLock, pg_restore: Program, *, with_outbound_keys: bool
) -> None:  # fmt: skip
    name = recovery.chosen.name
    recovery.keys, recovery.differences, recovery.load_seconds = [], [], {}
    with connect(recovery.chosen.loader, name, run.title) as connection:
        try:
            with connection.transaction():
                _fill(connection, recovery, run, pg_restore, with_outbound_keys=with_outbound_keys)
                lock.require_held(f'the commit, so that database "{name}" is as it was', connection)
        except psycopg.Error as error:
            if connection.broken:
                # Nobody knows whether a COMMIT that was under way came through.
                raise
            said = f'database "{name}" is as it was: {message_of(error)}; mend that, or name another target_database'
            raise OperationError(said) from None


def _fill(connection: Connection, recovery: Recovery, run: Run, pg_restore: Program, *, with_outbound_keys: bool) -> None:
    staged, phases, manifest = recovery.staged_set, recovery.phases, recovery.manifest
    context = staged_context(recovery)
    archive, listing = unpack(staged, manifest.schema_archive), staged.files[manifest.schema_list.path]
    made, dropped = set[int](), list[ForeignKey]()
    with phases.phase("schema before data"):
        connection.execute(sql.set_lock_timeout(LOCK_WAIT_SECONDS))
        had_tables = _lock_empty(connection, context)
        create_missing(connection, *read_chunks(run, pg_restore, "pre-data", archive, listing), made)
    with phases.phase("data"), _unguarded(connection, context, dropped, with_outbound_keys=with_outbound_keys):
        _load(connection, recovery, run)
    with phases.phase("indexes, keys, triggers"), progress.of(run, "making indexes and keys", {}, manifest.zone):
        connection.execute(sql.SORT_IN_MEMORY)
        create_missing(connection, *read_chunks(run, pg_restore, "post-data", archive, listing), made)
        within, outbound = _keys_to_make(manifest, dropped)
        recovery.keys = make_keys(connection, within, LOCK_WAIT_SECONDS)
    with phases.phase("statistics and views"):
        _refresh(connection, manifest)
    with phases.phase("comparison"):
        _compare(connection, recovery, run, had_tables=had_tables)
    with phases.phase("keys to other contexts"):
        recovery.keys += make_keys(connection, outbound, LOCK_WAIT_SECONDS)
        for one in manifest.sequences:
            connection.execute(sql.advance_sequence(one.namespace, one.name, one.last_value, called=one.is_called))


def _keys_to_make(manifest: Manifest, dropped: list[ForeignKey]) -> tuple[list[ForeignKey], list[ForeignKey]]:
    """Return the keys within the context and those to others: the set's, and what the database had besides."""
    known = {(key.table, sql.unquoted(key.name)) for key in keys_of(manifest)}
    more = [key for key in dropped if (key.table, sql.unquoted(key.name)) not in known]
    within = [*own_keys(manifest), *(key for key in more if not key.references)]
    return within, [*manifest.outbound_keys, *(key for key in more if key.references)]


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


def create_missing(
    connection: Connection, settings: bytes, chunks: Iterable[Chunk], made: set[int], wanted: Collection[int] | None = None
) -> None:  # fmt: skip
    """Run the statements of each wanted entry whose object is not there; what is said about one that was, stays unsaid."""
    connection.execute(settings)
    connection.execute(sql.set_lock_timeout(LOCK_WAIT_SECONDS))
    for chunk in chunks:
        if not chunk.needs & made if not chunk.has_class else wanted is not None and chunk.dump_id not in wanted:
            continue
        try:
            with connection.transaction():
                connection.execute(chunk.statements)
        except (*IS_THERE, psycopg.errors.ForeignKeyViolation) as error:
            get_run_logger().info("not made: %s", message_of(error))
        except psycopg.errors.InsufficientPrivilege:
            # An extension that is there may be another's; CREATE … IF NOT EXISTS does not say that it was.
            if b"COMMENT ON EXTENSION" not in chunk.statements:
                raise
        else:
            made.add(chunk.dump_id)
    connection.execute(sql.FIXED_SETTINGS)


@contextmanager
def _unguarded(
    connection: Connection, context: Context, dropped: list[ForeignKey], *, with_outbound_keys: bool
) -> Iterator[None]:  # fmt: skip
    """Load without triggers and without the keys among our own tables, whose circles no order satisfies.

    Triggers are as they were afterwards; which keys were `dropped`, the caller makes again.
    """
    # Views may still be missing: some are made after the data.
    members = catalogue.read_members(connection, context.model_copy(update={"views": []}))
    triggers = connection.execute(sql.TRIGGER_STATES, {"oids": members.oids}).fetchall()
    for schema, table, trigger, _, _ in triggers:
        connection.execute(sql.switch_trigger(schema, table, trigger, "DISABLE"))
    for table, name, definition, comment in connection.execute(sql.KEYS_WITHIN, {"oids": members.oids}).fetchall():
        dropped.append(ForeignKey(name=name, table=table, references="", definition=definition, on_delete="", comment=comment))
    dropped += [] if with_outbound_keys else catalogue.read_outbound_keys(connection, members)
    for key in dropped:
        connection.execute(sql.drop_key(key.table, key.name))
    yield
    make_keys(connection, [key for key in dropped if not key.references], LOCK_WAIT_SECONDS)
    for schema, table, trigger, words, _ in triggers:
        connection.execute(sql.switch_trigger(schema, table, trigger, words))


def _load(connection: Connection, recovery: Recovery, run: Run) -> None:
    staged, manifest = recovery.staged_set, recovery.manifest
    with progress.of(run, "loading", manifest.plain_bytes, manifest.zone) as items:
        for relation in manifest.relations:
            name, rows = relation.qualified, staged.sources(relation)
            seconds = load_rows(connection, relation, rows, manifest.database.encoding, moved=items[name].at)
            recovery.load_seconds[name] = seconds


def _refresh(connection: Connection, manifest: Manifest) -> None:
    for relation in manifest.relations:
        connection.execute(sql.analyze_relation(relation.namespace, relation.name))
    for view in manifest.views:
        if view.materialized and view.populated:
            connection.execute(sql.refresh_view(view.namespace, view.name))


# A partition that is not attached where it was, has rows that nobody sees.
SCHEMA = ("schema",)


def _compare(connection: Connection, recovery: Recovery, run: Run, *, had_tables: bool) -> None:
    """Compare rows, digests and objects inside the transaction; what the database had before is told, not refused."""
    manifest, target = recovery.manifest, recovery.chosen
    with progress.of(run, "comparing", manifest.plain_bytes, manifest.zone) as items:
        for relation in manifest.relations:
            job = reading_job(target.name, run, relation, manifest.database.encoding)
            digest = digest_relation(connection, job, items[relation.qualified].at)
            recovery.differences += differences(relation, digest.rows, digest.hex)
    restored = catalogue.read_inventory(connection, catalogue.read_members(connection, staged_context(recovery)))
    expected = without(manifest.inventory, recovery.keys)
    if had_tables:
        # What a migration made is the application's; but every table must be there.
        recovery.differences += [f"{name} is missing" for name in missing_objects(_of(TABLES, expected), restored)]
        told = expected, restored
    else:
        # A schema that was there is not this context's alone.
        recovery.differences += _unlike(recovery, _but(SCHEMA, expected), _but(SCHEMA, restored))
        told = _of(SCHEMA, expected), _of(SCHEMA, restored)
    target.to_do.extend(f"it was there before, and {unlike}" for unlike in _unlike(recovery, *told))
    if recovery.differences:
        raise RestoreDiffers(
            f'database "{target.name}" is as it was: what was restored from {manifest.id} differs from the backup: '
            f"{'; '.join(recovery.differences[:10])}"
        )


def _unlike(recovery: Recovery, expected: list[InventoryItem], restored: list[InventoryItem]) -> list[str]:
    same_major = recovery.manifest.versions.server_major == recovery.chosen.server_major
    return compare_inventories(expected, restored, same_major=same_major)


def _of(kinds: Collection[str], items: list[InventoryItem]) -> list[InventoryItem]:
    return [item for item in items if item.kind in kinds]


def _but(kinds: Collection[str], items: list[InventoryItem]) -> list[InventoryItem]:
    return [item for item in items if item.kind not in kinds]
