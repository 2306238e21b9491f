"""Partitions that have had their time: copied, the copy restored and compared, and only then dropped.

Until the transaction that drops a partition is committed its rows are where they were; from then on they are in a set whose
every object was read back and which was restored once. A run that dies in between is finished by the next one.
"""

import shutil
from dataclasses import replace

import psycopg
from prefect import get_run_logger

from tasks.backup.take import Occasion, take_part
from tasks.core import sql
from tasks.core.errors import ColdObject, DamagedSet, OperationError, RestoreDiffers
from tasks.core.partitions.archive import Archiving
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.messages import message_of
from tasks.core.restore.report import Purpose
from tasks.core.sets.hash_partitions import differences
from tasks.core.sets.large_objects import staying
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.name import Kind
from tasks.database.locks import context_lock
from tasks.database.rows import reading_job, run_stream
from tasks.partitions.attach import detach_partition
from tasks.partitions.due import archive_of, count_rows, find_changes, leaves_of
from tasks.partitions.tables import PartitionedTable, read_table
from tasks.partitions.transaction import at_once, session
from tasks.restore.new_database import Recovery
from tasks.run import progress
from tasks.run.run import Run, step
from tasks.run.site import Site, find_drill_server
from tasks.sets.choose import archive_sets
from tasks.sets.listing import list_sets
from tasks.sets.manifest import name_of
from tasks.sets.marks import mark, remember_damage
from tasks.sets.upload import cool, missing_class


def archive(site: Site, run: Run, due: Archiving) -> Archiving:
    """Copy one partition, prove the copy, and drop the partition unless rows hold it; what fails leaves it where it is.

    Returns what became of it.
    """
    if due.problem:
        return due
    done = due
    try:
        if due.partition.detach_pending:
            _attach_again(site, run, due)
            done = replace(done, notes=["somebody's DETACH … CONCURRENTLY was finished first"])
        manifest, was_read_back = take_proven_archive(site, run, due)
        done = replace(done, backup=manifest.id)
        rows, held = compare_with_archive(site, run, due, manifest)
        done = replace(done, rows=rows, held=held)
        classes = site.context.storage_classes
        cool(site.store, name_of(manifest), manifest, classes.of(Kind.ARCHIVE))
        done = replace(done, notes=[*done.notes, *missing_class(site.store, classes, Kind.ARCHIVE)])
        if not held and was_read_back:
            drop_partition(site, run, due, manifest)
            done = replace(done, dropped=True, notes=[*done.notes, *staying(manifest.large_objects)])
        elif not held:
            done = replace(done, notes=[*done.notes, "no row holds it any more: the next run reads its set back and drops it"])
    except psycopg.Error as error:
        done = replace(done, problem=message_of(error))
    except OperationError as error:
        done = replace(done, problem=str(error))
    if done.problem:
        get_run_logger().error("%s stays: %s", done.partition.qualified, done.problem)
    return done


def _table_of(connection: Connection, site: Site, one: Archiving) -> PartitionedTable:
    rule = next(rule for rule in site.context.partitions if f"{site.context.namespace}.{rule.table}" == one.table)
    return read_table(connection, site.context, rule)


def _attach_again(site: Site, run: Run, one: Archiving) -> None:
    """Finish what somebody's DETACH … CONCURRENTLY left, and attach it again: its rows are seen till it leaves."""
    with session(site, run) as connection:
        table = _table_of(connection, site, one)
    with context_lock(site.server, site.context.name, run.title, exclusive=True) as lock:
        detach_partition(site, run, lock, table, one.partition, attach_again=True)


def take_proven_archive(site: Site, run: Run, one: Archiving) -> tuple[Manifest, bool]:
    """Return a set that has the partition's rows as they are now, and whether this run read it back whole.

    That a set was read back once, a mark says, which anybody may have written: rows are dropped on no mark's word. Where they
    stay, it is enough. An older set that cannot be read now, because it is cold, is left to itself: another one is taken.

    Raises:
        RestoreDiffers, DamagedSet: it is not what was stored; it is called damaged from now on.
    """
    manifest = take_archive(site, run, one)
    try:
        return manifest, prove_archive(site, run, manifest, trust_mark=one.held > 0)
    except ColdObject as error:
        get_run_logger().info("%s cannot be read back now (%s): another set is taken", manifest.id, error)
        manifest = take_archive(site, run, one, anew=True)
        return manifest, prove_archive(site, run, manifest, trust_mark=False)


def take_archive(site: Site, run: Run, one: Archiving, *, anew: bool = False) -> Manifest:
    """Return a set that has the partition's rows as they are now: the one that a run before took, or a new one."""
    archives = [] if anew else archive_sets(site.store, site.context.name)
    with session(site, run) as connection:
        table = _table_of(connection, site, one)
        scope, leaves = table.scope(one.partition), leaves_of(connection, site.context, table, one.partition)
        if found := archive_of(connection, table, one.partition, leaves, archives):
            get_run_logger().info("%s has every row of %s", found.id, one.partition.qualified)
            return found
    why = Occasion(label=one.partition.name, sort=Kind.ARCHIVE)
    return take_part(site.narrowed(scope), run, why, read_others=False)


def prove_archive(site: Site, run: Run, manifest: Manifest, *, trust_mark: bool) -> bool:
    """Restore an archive set into a scratch database and compare it, unless a mark may be trusted that it was done.

    Returns whether it was read back.

    Raises:
        RestoreDiffers, DamagedSet: it is not what was stored; it is called damaged from now on.
    """
    name = name_of(manifest)
    if trust_mark and next((one.state for one in list_sets(site.store, run.context).sets if one.name == name), "") == "drilled":
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


def compare_with_archive(site: Site, run: Run, one: Archiving, manifest: Manifest) -> tuple[int, int]:
    """Read the live partition and compare its rows with the set, while nobody is kept waiting; count them, and what holds it.

    That none was written since is found out again, under the lock.

    Raises:
        RestoreDiffers: they are not the same.
    """
    found = list[str]()
    with progress.of(run, f"comparing {one.partition.name} with its copy", manifest.plain_bytes, manifest.zone) as items:
        for relation in manifest.relations:
            job = reading_job(site.database, run, relation, manifest.database.encoding)
            facts = run_stream(site.server, run, job, relation.plain_bytes, items[relation.qualified].at)
            found += differences(relation, facts.rows, facts.digest)
    with session(site, run) as connection:
        table = _table_of(connection, site, one)
        leaves = leaves_of(connection, site.context, table, one.partition)
        found += find_changes(connection, leaves, manifest, sql.staging.as_written("false"))
        rows, held = count_rows(connection, table, leaves)
    if found:
        raise RestoreDiffers(f"it is not what {manifest.id} has: {'; '.join(found)}")
    return rows, held


@step(name="drop {one.partition.name}")
def drop_partition(site: Site, run: Run, one: Archiving, manifest: Manifest) -> None:
    """Drop a partition in one short transaction in which it was found to be what an archive set has, and unheld.

    It is dropped while it is attached: that locks no table that its keys lead to, as dropping a detached one would.

    Raises:
        RestoreDiffers: it changed since, and the rows are named; it stays.
        OperationError: the locks were not to be had, or something needs it; it stays.
    """
    partition = one.partition
    with (
        context_lock(site.server, site.context.name, run.title, exclusive=True) as lock,
        session(site, run) as connection,
    ):
        table = _table_of(connection, site, one)
        default = [(table.default.schema, table.default.name)] if table.default else []
        hold = sql.staging.as_written(table.rule.hold or "false")

        def change() -> None:
            connection.execute(sql.partitions.lock_alone([table.place]))
            # A partition that is divided with all that it is divided into, in the order in which PostgreSQL locks them too.
            connection.execute(sql.partitions.lock_whole([(partition.schema, partition.name), *default]))
            if not connection.execute(sql.partitions.IS_PARTITION, {"parent": table.oid, "oid": partition.oid}).fetchall():
                raise OperationError(f"it is no partition of {table.qualified} any more")
            leaves = leaves_of(connection, site.context, table, partition)
            if found := find_changes(connection, leaves, manifest, hold):
                raise RestoreDiffers("; ".join(found))
            connection.execute(sql.partitions.drop_table(partition.schema, partition.name))

        try:
            oids = [table.oid, partition.oid]
            at_once(connection, lock, f"{partition.qualified} could not be dropped", oids, change)
        except psycopg.errors.DependentObjectsStillExist as error:
            raise OperationError(f"{message_of(error)}: {error.diag.message_detail}") from None
    get_run_logger().info("%s dropped; %s has its %d rows", partition.qualified, manifest.id, manifest.rows)
