"""Restoring into a database that is there already, without our tables or with all of them empty.

Others may live in it, so all of it is one transaction of one session: either everything is there and was compared, or
nothing happened. Slower than a database of our own, which is filled by several sessions.
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
from tasks.database.locks import LOCK_WAIT_SECONDS, ContextLock
from tasks.database.rows import load_rows, load_through, reading_job
from tasks.database.schema import read_chunks
from tasks.database.spelling import spelled_here
from tasks.restore.database import unforced_tables
from tasks.restore.entries import create_missing
from tasks.restore.fill import Filled
from tasks.restore.foreign_keys import KeyOutcome, keys_of, make_keys, own_keys, without
from tasks.restore.large_objects import large_objects_beside
from tasks.restore.roles import create_roles
from tasks.restore.target import Target, find_pg_restore
from tasks.restore.unproven import without_unproven_checks
from tasks.run import progress
from tasks.run.run import Run
from tasks.sets.stage import StagedSet, staged_context, unpack


def restore_into_existing(
    staged: StagedSet, target: Target, server: Server, run: Run, lock: ContextLock, phases: Phases
) -> Filled:  # fmt: skip
    """Create what is missing, fill, compare and commit; whatever fails leaves the database as it was.

    Raises:
        RestoreDiffers: rows or objects are not those of the backup.
        OperationError: an object cannot be created or rows cannot be loaded.
        UnsafeTarget: the oid of a large object is another one's there.
    """
    create_roles(server, run, staged.manifest, target)
    with large_objects_beside(server, target.name, run, staged) as to_do:
        try:
            filled = _fill_whole(staged, target, run, lock, phases, with_outbound_keys=True)
        except BrokenKey as error:
            # Dropping such a key locks the other context's table until the end, so only where its rows are not there anyway.
            get_run_logger().warning("%s; once more without the keys to other contexts", error)
            filled = _fill_whole(staged, target, run, lock, phases, with_outbound_keys=False)
        return replace(filled, to_do=[*filled.to_do, *to_do])


def _fill_whole(
    staged: StagedSet, target: Target, run: Run, lock: ContextLock, phases: Phases, *, with_outbound_keys: bool
) -> Filled:  # fmt: skip
    name = target.name
    with connect(target.loader, name, run.title) as connection:
        try:
            with connection.transaction():
                filled = _fill(connection, staged, target, run, phases, with_outbound_keys=with_outbound_keys)
                lock.require_held(f'the commit, so that database "{name}" is as it was', connection)
            return filled
        except psycopg.Error as error:
            if connection.broken:
                # Nobody knows whether a COMMIT that was under way came through.
                raise
            said = f'database "{name}" is as it was: {message_of(error)}; mend that, or name another target_database'
            raise OperationError(said) from None


def _fill(
    connection: Connection, staged: StagedSet, target: Target, run: Run, phases: Phases, *, with_outbound_keys: bool
) -> Filled:  # fmt: skip
    manifest, context = staged.manifest, staged_context(staged)
    pg_restore = find_pg_restore(manifest, target.server_major)
    archive, listing = unpack(staged, manifest.schema_archive), staged.files[manifest.schema_list.path]
    made, dropped = set[int](), list[ForeignKey]()
    path = read_source_path(connection, context.namespace, manifest.database)
    with phases.phase("schema before data"):
        connection.execute(sql.session.set_lock_timeout(LOCK_WAIT_SECONDS))
        had_tables = _lock_empty(connection, context)
        settings, chunks = read_chunks(run, pg_restore, "pre-data", archive, listing)
        to_do = create_missing(connection, settings, (one for one in chunks if not takes_from_owner(one)), made, path)
    # Views may still be missing: some are made after the data.
    members = catalog.read_members(connection, context.model_copy(update={"views": []}))
    with unforced_tables(connection, members.oids):
        with (
            phases.phase("data"),
            without_unproven_checks(connection, members.oids, path, of_tables=True),
            _unguarded(connection, members, dropped, with_outbound_keys=with_outbound_keys),
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
        for one in manifest.sequences:
            connection.execute(sql.sequences.advance_sequence(one.namespace, one.name, one.last_value, called=one.is_called))
    return Filled(load_seconds, keys, to_do=[*to_do, *notes])


def _keys_to_make(manifest: Manifest, dropped: list[ForeignKey]) -> tuple[list[ForeignKey], list[ForeignKey]]:
    """Return the keys within the context and those to others: the set's, and what the database had besides."""
    known = {(key.table, sql.names.unquoted(key.name)) for key in keys_of(manifest)}
    more = [key for key in dropped if (key.table, sql.names.unquoted(key.name)) not in known]
    within = [*own_keys(manifest), *(key for key in more if not key.references)]
    return within, [*manifest.outbound_keys, *(key for key in more if key.references)]


def _lock_empty(connection: Connection, context: Context) -> bool:
    """Lock the tables of ours that are there, and make sure under the lock that they are still empty; return if there are any."""
    asked = {"schema": context.namespace, "names": context.tables}
    missing = {row[0] for row in connection.execute(sql.catalog.MISSING_RELATIONS, asked)}
    there = [name for name in context.tables if name not in missing]
    if there:
        connection.execute(sql.foreign_keys.lock_own(context.namespace, there))
    for name in there:
        if connection.execute(sql.rows.holds_rows(context.namespace, name)).fetchall():
            raise UnsafeTarget(
                f'{context.namespace}.{name} of database "{connection.info.dbname}" holds rows that were not there a moment ago; '
                "nothing was changed; find out who writes there before you run again"
            )
    return bool(there)


@contextmanager
def _unguarded(
    connection: Connection, members: Members, dropped: list[ForeignKey], *, with_outbound_keys: bool
) -> Iterator[None]:  # fmt: skip
    """Load without triggers and without the keys among our own tables, whose circles no order satisfies.

    Triggers are as they were afterwards; which keys were `dropped`, the caller makes again.
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
    manifest, found = staged.manifest, dict[str, float]()
    divided = families(manifest)
    known = {one.qualified for family in divided for one in family.relations}
    alone = [one for one in manifest.relations if one.qualified not in known]
    with progress.of(run, "loading", manifest.plain_bytes, manifest.zone) as items:

        def load(relation: Relation) -> float:
            rows, moved = staged.sources(relation), items[relation.qualified].at
            return load_rows(connection, relation, rows, manifest.database.encoding, moved=moved, path=path)

        found |= {one.qualified: load(one) for one in alone}
        for family in divided:
            try:
                with connection.transaction():
                    found |= {one.qualified: load(one) for one in family.relations}
            except MisplacedRow as error:
                get_run_logger().info("%s; once more through the table that is divided", error)
                found |= load_through(connection, family, staged.sources_of(family.relations), manifest.database.encoding, path)
    return found


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
    """Return the relations whose rows are not those of the set."""
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
) -> list[str]:  # fmt: skip
    """Compare rows, digests and objects inside the transaction; what the database had before is returned, not refused."""
    manifest = staged.manifest
    same_major = manifest.versions.server_major == target.server_major
    members = catalog.read_members(connection, staged_context(staged))
    differing = _compare_rows(connection, manifest, members, target, run)
    there = without_absent(catalog.read_inventory(connection, members, manifest.inventory), manifest.left_out)
    restored = comparable(manifest, there)
    expected = comparable(manifest, without(without_absent(manifest.inventory, manifest.left_out), keys))
    if same_major:
        expected = spelled_here(connection, expected, restored, path)
    if had_tables:
        # What a migration made is the application's; but every table must be there.
        differing += [f"{name} is missing" for name in missing_objects(_of(TABLES, expected), restored)]
        told = expected, restored
    else:
        # A schema that was there, or what is needed by no relation of the context, may not be this context's alone.
        own = {item.identity for item in catalog.read_inventory(connection, members, [])}
        shared = {item.identity for item in restored if item.kind == "schema" or item.identity not in own}
        differing += compare_inventories(_but(shared, expected), _but(shared, restored), same_major=same_major)
        told = _only(shared, expected), _only(shared, restored)
    if differing:
        raise RestoreDiffers(
            f'database "{target.name}" is as it was: what was restored from {manifest.id} differs from the backup: '
            f"{'; '.join(differing[:10])}",
            differing,
        )
    return [f"it was there before, and {difference}" for difference in compare_inventories(*told, same_major=same_major)]


def _of(kinds: Collection[str], items: list[InventoryItem]) -> list[InventoryItem]:
    return [item for item in items if item.kind in kinds]


def _but(identities: Collection[tuple[str, str, str]], items: list[InventoryItem]) -> list[InventoryItem]:
    return [item for item in items if item.identity not in identities]


def _only(identities: Collection[tuple[str, str, str]], items: list[InventoryItem]) -> list[InventoryItem]:
    return [item for item in items if item.identity in identities]
