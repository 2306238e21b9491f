"""Archiving partitions past retention: copy, restore and compare the copy, and only then drop.

The rows of a partition stay in the database until the transaction that drops it is committed; by
then every object of their set was read back, and the set was restored once. If a run is
interrupted, the next one finishes its work.
"""

import shutil
from collections.abc import Iterable
from dataclasses import replace

import psycopg
from prefect import get_run_logger

from tasks.backup.source import require_readable
from tasks.backup.take import Occasion, require_writable, take_part
from tasks.core import sql
from tasks.core.errors import ColdObject, DamagedSet, OperationError, RestoreDiffers
from tasks.core.partitions.archive import Archiving
from tasks.core.postgres.connection import Connection, connect
from tasks.core.postgres.messages import message_of
from tasks.core.restore.report import Purpose
from tasks.core.sets.hash_partitions import differences
from tasks.core.sets.large_objects import staying
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.name import Kind
from tasks.database.locks import MAINTENANCE_DATABASE, context_lock
from tasks.database.rows import reading_job, run_stream
from tasks.partitions.attach import detach_partition
from tasks.partitions.due import archive_of, count_rows, find_changes, leaves_of
from tasks.partitions.tables import PartitionedTable, read_table
from tasks.partitions.transaction import at_once, session
from tasks.restore.new_database import Recovery
from tasks.restore.target import require_right_to_create
from tasks.run import progress
from tasks.run.run import Run, step
from tasks.run.site import Site, find_drill_server
from tasks.sets.choose import archive_sets
from tasks.sets.listing import list_sets
from tasks.sets.manifest import name_of
from tasks.sets.marks import mark, remember_damage
from tasks.sets.upload import cool, missing_class


def require_archivable(site: Site, run: Run, due: Iterable[Archiving]) -> None:
    """Check, before a plan is published, that partitions can be copied, restored and compared.

    Raises:
        BadInput: this login may not read the partitions or create a database, or the store refuses
            sets.
    """
    if all(one.problem for one in due):
        return
    require_readable(site, run, read_others=False)
    require_writable(site, run, Kind.ARCHIVE)
    with connect(find_drill_server(run.context), MAINTENANCE_DATABASE, run.title) as connection:
        require_right_to_create(connection)


def archive(site: Site, run: Run, archiving: Archiving) -> Archiving:
    """Copy and verify a partition, and drop it unless rows match the rule's `hold` condition.

    After a failure the partition stays. Returns the outcome.
    """
    if archiving.problem:
        return archiving
    outcome = archiving
    try:
        if archiving.partition.detach_pending:
            _attach_again(site, run, archiving)
            outcome = replace(outcome, notes=["an interrupted DETACH … CONCURRENTLY was finished first"])
        manifest, was_read_back = take_proven_archive(site, run, archiving)
        outcome = replace(outcome, backup=manifest.id)
        rows, held = compare_with_archive(site, run, archiving, manifest)
        outcome = replace(outcome, rows=rows, held=held)
        classes = site.context.storage_classes
        cool(site.store, name_of(manifest), manifest, classes.of(Kind.ARCHIVE))
        outcome = replace(outcome, notes=[*outcome.notes, *missing_class(site.store, classes, Kind.ARCHIVE)])
        if not held and was_read_back:
            drop_partition(site, run, archiving, manifest)
            outcome = replace(outcome, dropped=True, notes=[*outcome.notes, *staying(manifest.large_objects)])
        elif not held:
            outcome = replace(
                outcome, notes=[*outcome.notes, "no row holds the partition any more: the next run reads its set back and drops it"]
            )
    except psycopg.Error as error:
        outcome = replace(outcome, problem=message_of(error))
    except OperationError as error:
        outcome = replace(outcome, problem=str(error))
    if outcome.problem:
        get_run_logger().error("%s stays: %s", outcome.partition.qualified, outcome.problem)
    return outcome


def _table_of(connection: Connection, site: Site, archiving: Archiving) -> PartitionedTable:
    rule = next(rule for rule in site.context.partitions if f"{site.context.namespace}.{rule.table}" == archiving.table)
    return read_table(connection, site.context, rule)


def _attach_again(site: Site, run: Run, archiving: Archiving) -> None:
    """Finish an interrupted DETACH … CONCURRENTLY, and attach again: its rows stay visible."""
    with session(site, run) as connection:
        table = _table_of(connection, site, archiving)
    with context_lock(site.server, site.context.name, run.title, exclusive=True) as lock:
        detach_partition(site, run, lock, table, archiving.partition, attach_again=True)


def take_proven_archive(site: Site, run: Run, archiving: Archiving) -> tuple[Manifest, bool]:
    """Return a set with the partition's present rows, and whether this run read it all back.

    A mark that a set was read back is not enough for dropping rows, because anybody may have
    written the mark; it is enough if the rows stay. If an earlier set cannot be read now, because
    it is cold, another set is taken.

    Raises:
        RestoreDiffers, DamagedSet: the set differs from what was stored, and was marked as damaged.
    """
    manifest = take_archive(site, run, archiving)
    try:
        return manifest, prove_archive(site, run, manifest, trust_mark=archiving.held > 0)
    except ColdObject as error:
        get_run_logger().info("%s cannot be read back now (%s): another set is taken", manifest.id, error)
        manifest = take_archive(site, run, archiving, anew=True)
        return manifest, prove_archive(site, run, manifest, trust_mark=False)


def take_archive(site: Site, run: Run, archiving: Archiving, *, anew: bool = False) -> Manifest:
    """Return a set that has the partition's present rows: a set of an earlier run, or a new one."""
    archives = [] if anew else archive_sets(site.store, site.context.name)
    with session(site, run) as connection:
        table = _table_of(connection, site, archiving)
        scope, leaves = table.scope(archiving.partition), leaves_of(connection, site.context, table, archiving.partition)
        if existing := archive_of(connection, table, archiving.partition, leaves, archives):
            get_run_logger().info("%s has all present rows of %s", existing.id, archiving.partition.qualified)
            return existing
    occasion = Occasion(label=archiving.partition.name, sort=Kind.ARCHIVE)
    return take_part(site.narrowed(scope), run, occasion, read_others=False)


def prove_archive(site: Site, run: Run, manifest: Manifest, *, trust_mark: bool) -> bool:
    """Restore an archive set into a scratch database and compare it, unless a mark records that.

    Returns whether the set was read back.

    Raises:
        RestoreDiffers, DamagedSet: the set differs from what was stored, and was marked as damaged.
    """
    name = name_of(manifest)
    if (
        trust_mark
        and next((listed_set.state for listed_set in list_sets(site.store, run.context).sets if listed_set.name == name), "")
        == "drilled"
    ):
        return False
    proof = Recovery(site.store, run.started, Purpose.DRILL, newest=False)
    server = find_drill_server(run.context)
    try:
        with proof.rehearse(server, run, manifest.id):
            pass
    except (RestoreDiffers, DamagedSet) as error:
        remember_damage(site.store, name, str(error))
        raise
    finally:
        shutil.rmtree(run.folder / manifest.id, ignore_errors=True)
    mark(site.store, name, "drilled", {"instant": run.started, "run": run.id})
    return True


def compare_with_archive(site: Site, run: Run, archiving: Archiving, manifest: Manifest) -> tuple[int, int]:
    """Compare the rows of the live partition with the set, without blocking other sessions.

    Return the number of all rows, and of rows that match the `hold` condition. Later, under the
    lock, it is checked that no rows were written since.

    Raises:
        RestoreDiffers: the rows differ.
    """
    problems = list[str]()
    with progress.of(run, f"comparing {archiving.partition.name} with its copy", manifest.plain_bytes, manifest.zone) as items:
        for relation in manifest.relations:
            job = reading_job(site.database, run, relation, manifest.database.encoding)
            facts = run_stream(site.server, run, job, relation.plain_bytes, items[relation.qualified].at)
            problems += differences(relation, facts.rows, facts.digest)
    with session(site, run) as connection:
        table = _table_of(connection, site, archiving)
        leaves = leaves_of(connection, site.context, table, archiving.partition)
        problems += find_changes(connection, leaves, manifest, sql.staging.as_written("false"))
        rows, held = count_rows(connection, table, leaves)
    if problems:
        raise RestoreDiffers(f"the partition differs from {manifest.id}: {'; '.join(problems)}")
    return rows, held


@step(name="drop {archiving.partition.name}")
def drop_partition(site: Site, run: Run, archiving: Archiving, manifest: Manifest) -> None:
    """Drop a partition, after a check that a set has all its rows and that no row holds it.

    The partition is dropped while it is attached, because dropping a detached one would lock the
    tables that its foreign keys reference.

    Raises:
        RestoreDiffers: rows changed since the set was taken; the partition stays. OperationError: a
            lock timed out, or an object depends on the partition; the partition stays.
    """
    partition = archiving.partition
    with (
        context_lock(site.server, site.context.name, run.title, exclusive=True) as lock,
        session(site, run) as connection,
    ):
        table = _table_of(connection, site, archiving)
        default = [(table.default.schema, table.default.name)] if table.default else []
        hold = sql.staging.as_written(table.rule.hold or "false")

        def change() -> None:
            connection.execute(sql.partitions.lock_alone([table.place]))
            # The partition with all its own partitions, if any, in the order in which PostgreSQL
            # locks them too.
            connection.execute(sql.partitions.lock_whole([(partition.schema, partition.name), *default]))
            if not connection.execute(sql.partitions.IS_PARTITION, {"parent": table.oid, "oid": partition.oid}).fetchall():
                raise OperationError(f"the table is no longer a partition of {table.qualified}")
            leaves = leaves_of(connection, site.context, table, partition)
            if changes := find_changes(connection, leaves, manifest, hold):
                raise RestoreDiffers("; ".join(changes))
            connection.execute(sql.partitions.drop_table(partition.schema, partition.name))

        try:
            oids = [table.oid, partition.oid]
            at_once(connection, lock, f"{partition.qualified} could not be dropped", oids, change)
        except psycopg.errors.DependentObjectsStillExist as error:
            raise OperationError(f"{message_of(error)}: {error.diag.message_detail}") from None
    get_run_logger().info("%s dropped; %s has its %d rows", partition.qualified, manifest.id, manifest.rows)
