"""Restoring into an existing database that lacks the context's tables, or has all of them empty.

The database may have other contexts' data, so the restore is one transaction: either all is
restored and compared, or nothing changes. This is slower than a restore into a new database, which
several sessions fill.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.context import Context
from tasks.core.database.comparison import compare_inventories, missing_objects
from tasks.core.database.objects import TABLES, ForeignKey, InventoryItem
from tasks.core.errors import BrokenKey, MisplacedRow, OperationError, RestoreDiffers, UnsafeTarget
from tasks.core.postgres.connection import Connection, Server, connect
from tasks.core.postgres.grants import takes_from_owner
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import read_source_path, source_path
from tasks.core.rows.digest import RowDigest
from tasks.core.rows.stream import digest_relation
from tasks.core.run.phases import Phases
from tasks.core.sets.hash_partitions import families, unlike
from tasks.core.sets.left_out import without_absent
from tasks.core.sets.manifest import Manifest, Relation
from tasks.core.sets.shared_schema import comparable
from tasks.database import catalog
from tasks.database.catalog import Members
from tasks.database.loading import load_rows, load_through
from tasks.database.locks import LOCK_WAIT_SECONDS, ContextLock
from tasks.database.rows import reading_job
from tasks.database.schema import read_chunks
from tasks.database.spelling import spelled_here
from tasks.restore.database import unforced_tables
from tasks.restore.entries import create_missing
from tasks.restore.fill import Filled
from tasks.restore.foreign_keys import KeyOutcome, exclude_unmade_keys, keys_of, make_keys, own_keys
from tasks.restore.large_objects import large_objects_beside
from tasks.restore.roles import create_roles
from tasks.restore.target import Target, find_pg_restore
from tasks.restore.unproven import without_unproven_checks
from tasks.run import progress
from tasks.run.run import Run
from tasks.sets.column_order import comparable_manifest
from tasks.sets.stage import StagedSet, staged_context, unpack


def restore_into_existing(
    staged: StagedSet,
    target: Target,
    server: Server,
    run: Run,
    lock: ContextLock,
    phases: Phases,
) -> Filled:
    """Create missing objects, load, compare and commit; after a failure the database is unchanged.

    Raises:
        RestoreDiffers: rows or objects differ from the backup.
        OperationError: an object cannot be created or rows cannot be loaded.
        UnsafeTarget: a large object with other content has an oid of the set.
    """
    create_roles(server, run, staged.manifest, target)
    with large_objects_beside(server, target.name, run, staged) as to_do:
        try:
            filled = _fill_whole(staged, target, run, lock, phases, with_outbound_keys=True)
        except BrokenKey as error:
            # Dropping these keys locks other contexts' tables until the end, so it is done only
            # after a key was violated.
            get_run_logger().warning("%s; retrying without the keys to other contexts", error)
            filled = _fill_whole(staged, target, run, lock, phases, with_outbound_keys=False)
        return replace(filled, to_do=[*filled.to_do, *to_do])


def _fill_whole(
    staged: StagedSet, target: Target, run: Run, lock: ContextLock, phases: Phases, *, with_outbound_keys: bool
) -> Filled:
    name = target.name
    with connect(target.loader, name, run.title) as connection:
        try:
            with connection.transaction():
                filled = _fill(connection, staged, target, run, phases, with_outbound_keys=with_outbound_keys)
                lock.require_held(f'the commit, so that database "{name}" is unchanged', connection)
            return filled
        except psycopg.Error as error:
            if connection.broken:
                # It is unknown whether a COMMIT in progress succeeded.
                raise
            message = f'database "{name}" is unchanged: {message_of(error)}; fix that, or name another target_database'
            raise OperationError(message) from None


def _fill(
    connection: Connection, staged: StagedSet, target: Target, run: Run, phases: Phases, *, with_outbound_keys: bool
) -> Filled:
    manifest, context = staged.manifest, staged_context(staged)
    pg_restore = find_pg_restore(manifest, target.server_major)
    archive, listing = unpack(staged, manifest.schema_archive), staged.files[manifest.schema_list.path]
    made, dropped = set[int](), list[ForeignKey]()
    path = read_source_path(connection, context.namespace, manifest.database)
    with phases.phase("schema before data"):
        connection.execute(sql.session.set_lock_timeout(LOCK_WAIT_SECONDS))
        had_tables = _lock_empty(connection, context)
        settings, chunks = read_chunks(run, pg_restore, "pre-data", archive, listing)
        to_do = create_missing(connection, settings, (chunk for chunk in chunks if not takes_from_owner(chunk)), made, path)
    # Views may still be missing: some are created after the data.
    members = catalog.read_members(connection, context.model_copy(update={"views": []}))
    with unforced_tables(connection, members.oids):
        with (
            phases.phase("data"),
            without_unproven_checks(connection, members.oids, path, of_tables=True),
            _triggers_and_keys_disabled(connection, members, dropped, with_outbound_keys=with_outbound_keys),
        ):
            load_seconds = _load(connection, staged, run, path)
        with phases.phase("indexes, keys, triggers"), progress.of(run, "making indexes and keys", {}, manifest.zone):
            connection.execute(sql.session.SORT_IN_MEMORY)
            to_do += create_missing(connection, *read_chunks(run, pg_restore, "post-data", archive, listing), made, path)
            to_do += create_missing(connection, settings, filter(takes_from_owner, chunks), made, path)
            within, outbound = _keys_to_make(manifest, dropped)
            keys = make_keys(connection, within, LOCK_WAIT_SECONDS)
    with phases.phase("statistics and views"):
        _refresh(connection, manifest, path)
    with phases.phase("comparison"):
        notes = _compare(connection, staged, target, keys, run, path, had_tables=had_tables)
    with phases.phase("keys to other contexts"), unforced_tables(connection, members.oids):
        keys += make_keys(connection, outbound, LOCK_WAIT_SECONDS)
        for sequence in manifest.sequences:
            connection.execute(
                sql.sequences.advance_sequence(sequence.namespace, sequence.name, sequence.last_value, called=sequence.is_called)
            )
    return Filled(load_seconds, keys, to_do=[*to_do, *notes])


def _keys_to_make(manifest: Manifest, dropped: list[ForeignKey]) -> tuple[list[ForeignKey], list[ForeignKey]]:
    """Return the keys to create, within the context and to others: the set's, and dropped ones."""
    known = {(key.table, sql.names.unquoted(key.name)) for key in keys_of(manifest)}
    more = [key for key in dropped if (key.table, sql.names.unquoted(key.name)) not in known]
    within = [*own_keys(manifest), *(key for key in more if not key.references)]
    return within, [*manifest.outbound_keys, *(key for key in more if key.references)]


def _lock_empty(connection: Connection, context: Context) -> bool:
    """Lock the context's existing tables, check that they are empty; return whether any exist."""
    asked = {"schema": context.namespace, "names": context.tables}
    missing = {row[0] for row in connection.execute(sql.catalog.MISSING_RELATIONS, asked)}
    there = [name for name in context.tables if name not in missing]
    if there:
        connection.execute(sql.foreign_keys.lock_own(context.namespace, there))
    for name in there:
        if connection.execute(sql.rows.holds_rows(context.namespace, name)).fetchall():
            raise UnsafeTarget(
                f'{context.namespace}.{name} of database "{connection.info.dbname}" got rows after '
                "it was found empty; "
                "nothing was changed; find out who writes there before you run again"
            )
    return bool(there)


@contextmanager
def _triggers_and_keys_disabled(
    connection: Connection, members: Members, dropped: list[ForeignKey], *, with_outbound_keys: bool
) -> Iterator[None]:
    """Disable triggers and drop keys within the context, as no load order satisfies circular keys.

    Triggers are enabled again afterwards; the caller re-creates the `dropped` keys.
    """
    triggers = connection.execute(sql.triggers.TRIGGER_STATES, {"oids": members.oids}).fetchall()
    for schema, table, trigger, _, _ in triggers:
        connection.execute(sql.triggers.switch_trigger(schema, table, trigger, "DISABLE"))
    for table, name, definition, comment in connection.execute(sql.foreign_keys.KEYS_WITHIN, {"oids": members.oids}).fetchall():
        dropped.append(ForeignKey(name=name, table=table, references="", definition=definition, on_delete="", comment=comment))
    dropped += [] if with_outbound_keys else catalog.read_outbound_keys(connection, members)
    for key in dropped:
        connection.execute(sql.foreign_keys.drop_key(key.table, key.name))
    yield
    make_keys(connection, [key for key in dropped if not key.references], LOCK_WAIT_SECONDS)
    for schema, table, trigger, words, _ in triggers:
        connection.execute(sql.triggers.switch_trigger(schema, table, trigger, words))


def _load(connection: Connection, staged: StagedSet, run: Run, path: str) -> dict[str, float]:
    manifest, seconds = staged.manifest, dict[str, float]()
    divided = families(manifest)
    known = {relation.qualified for family in divided for relation in family.relations}
    alone = [relation for relation in manifest.relations if relation.qualified not in known]
    with progress.of(run, "loading", manifest.plain_bytes, manifest.zone) as items:

        def load(relation: Relation) -> float:
            rows, moved = staged.sources(relation), items[relation.qualified].at
            return load_rows(connection, relation, rows, manifest.database.encoding, path, moved=moved)

        seconds |= {relation.qualified: load(relation) for relation in alone}
        for family in divided:
            try:
                with connection.transaction():
                    seconds |= {relation.qualified: load(relation) for relation in family.relations}
            except MisplacedRow as error:
                get_run_logger().info("%s; loading it again through the partitioned table", error)
                seconds |= load_through(connection, family, staged.sources_of(family.relations), manifest.database.encoding, path)
    return seconds


def _refresh(connection: Connection, manifest: Manifest, path: str) -> None:
    connection.execute(sql.catalog.SHOW_AS_OWNER)
    with source_path(connection, path):
        for relation in manifest.relations:
            connection.execute(sql.rows.analyze_relation(relation.namespace, relation.name))
        for view in manifest.views:
            if view.materialized and view.populated:
                connection.execute(sql.views.refresh_view(view.namespace, view.name))
    connection.execute(sql.session.FIXED_SETTINGS)


def _compare_rows(connection: Connection, manifest: Manifest, members: Members, target: Target, run: Run) -> list[str]:
    """Return the relations whose rows differ from the set."""
    read = dict[str, RowDigest]()
    with (
        unforced_tables(connection, members.oids),
        progress.of(run, "comparing", manifest.plain_bytes, manifest.zone) as items,
    ):
        for relation in manifest.relations:
            job = reading_job(target.name, run, relation, manifest.database.encoding)
            read[relation.qualified] = digest_relation(connection, job, items[relation.qualified].at)
    return unlike(manifest, read)


def _compare(
    connection: Connection, staged: StagedSet, target: Target, keys: Sequence[KeyOutcome], run: Run, path: str, *, had_tables: bool
) -> list[str]:
    """Compare rows and objects in the transaction; return differences of older objects."""
    manifest = staged.manifest
    same_major = manifest.versions.server_major == target.server_major
    members = catalog.read_members(connection, staged_context(staged))
    differing = _compare_rows(connection, comparable_manifest(staged), members, target, run)
    there = without_absent(catalog.read_inventory(connection, members, manifest.inventory), manifest.left_out)
    restored = comparable(manifest, there)
    expected = comparable(manifest, exclude_unmade_keys(without_absent(manifest.inventory, manifest.left_out), keys))
    if same_major:
        expected = spelled_here(connection, expected, restored, path)
    if had_tables:
        # Objects may have been created by a migration and differ, but every table must exist.
        tables = [item for item in expected if item.kind in TABLES]
        differing += [f"{name} is missing" for name in missing_objects(tables, restored)]
        compared = expected, restored
    else:
        # An existing schema, or an object that no relation needs, may be shared with others.
        own = {item.identity for item in catalog.read_inventory(connection, members, [])}
        shared = {item.identity for item in restored if item.kind == "schema" or item.identity not in own}
        differing += compare_inventories(_but(shared, expected), _but(shared, restored), same_major=same_major)
        compared = _only(shared, expected), _only(shared, restored)
    if differing:
        raise RestoreDiffers(
            f'database "{target.name}" is unchanged: the restored {manifest.id} differs from the '
            "backup: "
            f"{'; '.join(differing[:10])}",
            differing,
        )
    return [f"existed before the restore: {difference}" for difference in compare_inventories(*compared, same_major=same_major)]


def _but(identities: Collection[tuple[str, str, str]], items: list[InventoryItem]) -> list[InventoryItem]:
    return [item for item in items if item.identity not in identities]


def _only(identities: Collection[tuple[str, str, str]], items: list[InventoryItem]) -> list[InventoryItem]:
    return [item for item in items if item.identity in identities]
