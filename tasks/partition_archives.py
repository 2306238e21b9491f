"""Partitions that have had their time: copied, the copy restored and compared, and only then dropped.

Until the transaction that drops a partition is committed its rows are where they were; from then on they are in a set whose
every object was read back and which was restored once. A run that dies in between is finished by the next one.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import psycopg
from prefect import get_run_logger
from psycopg.sql import Composed

from tasks import catalogue, progress, recoveries, sites
from tasks.backups import Occasion, check_source, position, take_set
from tasks.catalogue import Member
from tasks.core import merge_sql, partition_sql, sql
from tasks.core.archiving import Archiving
from tasks.core.bases import misfit
from tasks.core.complaints import message_of
from tasks.core.context import Context
from tasks.core.errors import ColdObject, DamagedSet, OperationError, RestoreDiffers
from tasks.core.kinds import Kind, new_run_id
from tasks.core.manifest import Manifest, Relation
from tasks.core.partitions import Partition, due
from tasks.core.recovery_report import Purpose
from tasks.core.servers import Connection
from tasks.databases import sweep_unfinished
from tasks.locks import context_lock
from tasks.partitions import (
    PartitionedTable,
    at_once,
    detach_partition,
    read_table,
    read_tables,
    session,
)
from tasks.recoveries import Recovery
from tasks.runs import Run, step
from tasks.sets import archive_sets, cool, list_sets, mark, name_of, remember_damage
from tasks.sites import Site
from tasks.tables import differences, reading_job, run_stream


@step
def find_due(site: Site, run: Run, instant: datetime) -> list[Archiving]:
    """Find the partitions whose upper bound is older than their rule keeps them, oldest first; nothing is touched."""
    archives = archive_sets(site.store, site.context.name)
    with session(site, run) as connection:
        return [
            _look(connection, site, table, partition, archives)
            for table in read_tables(connection, site.context)
            for partition in due(table.rule, table.partitions, instant, table.zone)
        ]


def _look(
    connection: Connection, site: Site, table: PartitionedTable, partition: Partition, archives: Sequence[Manifest]
) -> Archiving:  # fmt: skip
    found = Archiving(table.qualified, partition, partition.rows or 0, 0, table.rule.hold)
    try:
        found.rows, found.held = _count(connection, site.context, table, partition)
        if not partition.detach_pending:
            archived = _archive_of(connection, site.context, table, partition, archives)
            found.backup = archived.id if archived else None
    except psycopg.Error as error:
        # It holds up no other one.
        found.problem = message_of(error)
    return found


def _count(connection: Connection, context: Context, table: PartitionedTable, partition: Partition) -> tuple[int, int]:
    """Count the rows of a partition, and those that keep it from being dropped."""
    hold, rows, held = merge_sql.as_written(table.rule.hold or "false"), 0, 0
    for leaf in _leaves(connection, context, table, partition):
        found = connection.execute(partition_sql.count_rows(leaf.schema, leaf.name, hold)).fetchall()[0]
        rows, held = rows + found[0], held + found[1]
    return rows, held


def _leaves(connection: Connection, context: Context, table: PartitionedTable, partition: Partition) -> list[Member]:
    """Return the relations that hold the rows of a partition: itself, or what it is divided into."""
    members = catalogue.read_members(connection, context.narrowed(table.scope(partition)))
    return members.holding_rows


def _archive_of(
    connection: Connection, context: Context, table: PartitionedTable, partition: Partition, archives: Sequence[Manifest]
) -> Manifest | None:
    """Return the newest archive set that has the rows that a partition has now."""
    leaves, hold = _leaves(connection, context, table, partition), merge_sql.as_written("false")
    mine = (one for one in archives if one.only == table.scope(partition))
    return next((one for one in mine if not find_changes(connection, leaves, one, hold)), None)


def find_changes(connection: Connection, leaves: Sequence[Member], manifest: Manifest, hold: Composed) -> list[str]:
    """Return how relations are not what they were when a set of them was taken.

    A row that was inserted or updated since was written by a transaction that is not older than the set's snapshot; after that
    only the number of rows tells what was deleted. Rows that `hold` is true of are told too.
    """
    here, xmax, database = position(connection)
    if unfit := misfit(manifest, here, xmax, database, manifest.inventory):
        return [f"whether rows were written since {manifest.id} was taken cannot be said: {unfit}"]
    relations = {one.qualified: one for one in manifest.relations}
    if {one.qualified for one in leaves} != relations.keys():
        return [f"it has other partitions than {manifest.id}"]
    return [said for leaf in leaves for said in _changes(connection, leaf, relations[leaf.qualified], manifest, hold)]


def _changes(connection: Connection, leaf: Member, then: Relation, manifest: Manifest, hold: Composed) -> list[str]:
    if (leaf.oid, leaf.relfilenode) != (then.oid, then.relfilenode):
        return [f"{leaf.qualified} was written anew since {manifest.id} was taken"]
    if (list(leaf.columns), list(leaf.types), leaf.layout) != (then.columns, then.types, then.layout) or not leaf.layout:
        return [f"{leaf.qualified} has other columns than when {manifest.id} was taken"]
    is_old = sql.is_old(manifest.snapshot.xmin)
    rows, old, held = connection.execute(partition_sql.count_old_and_held(leaf.schema, leaf.name, is_old, hold)).fetchall()[0]
    if rows > old:
        return [f"{rows - old:,} rows of {leaf.qualified} were written since {manifest.id} was taken"]
    if rows != then.rows:
        return [f"{leaf.qualified} has {rows:,} rows, {manifest.id} has {then.rows:,}"]
    return [f"{held:,} rows of {leaf.qualified} hold it by now"] if held else []


def archive(site: Site, run: Run, one: Archiving) -> None:
    """Copy one partition, prove the copy, and drop the partition unless rows hold it; what fails leaves it where it is."""
    if one.problem:
        return
    try:
        if one.partition.detach_pending:
            _attach_again(site, run, one)
        manifest = take_proven_archive(site, run, one)
        compare_with_archive(site, run, one, manifest)
        cool(site.store, name_of(manifest), manifest)
        if not one.held and one.read_back:
            drop_partition(site, run, one, manifest)
            one.dropped = True
        elif not one.held:
            one.notes.append("no row holds it any more: the next run reads its set back and drops it")
    except psycopg.Error as error:
        one.problem = message_of(error)
    except OperationError as error:
        one.problem = str(error)
    if one.problem:
        get_run_logger().error("%s stays: %s", one.partition.qualified, one.problem)


def _table_of(connection: Connection, site: Site, one: Archiving) -> PartitionedTable:
    rule = next(rule for rule in site.context.partitions if f"{site.context.namespace}.{rule.table}" == one.table)
    return read_table(connection, site.context, rule)


def _attach_again(site: Site, run: Run, one: Archiving) -> None:
    """Finish what somebody's DETACH … CONCURRENTLY left, and attach it again: its rows are seen till it leaves."""
    with session(site, run) as connection:
        table = _table_of(connection, site, one)
    with context_lock(site.server, site.context.name, run.title, exclusive=True) as lock:
        detach_partition(site, run, lock, table, one.partition, attach_again=True)
    one.notes.append("somebody's DETACH … CONCURRENTLY was finished first")


def take_proven_archive(site: Site, run: Run, one: Archiving) -> Manifest:
    """Return a set that has the partition's rows as they are now, and that this run read back whole.

    That a set was read back once, a mark says, which anybody may have written: rows are dropped on no mark's word. Where they
    stay, it is enough. An older set that cannot be read now, because it is cold, is left to itself: another one is taken.

    Raises:
        RestoreDiffers, DamagedSet: it is not what was stored; it is called damaged from now on.
    """
    manifest = take_archive(site, run, one)
    try:
        one.read_back = prove_archive(site, run, manifest, trust_mark=one.held > 0)
    except ColdObject as error:
        get_run_logger().info("%s cannot be read back now (%s): another set is taken", manifest.id, error)
        manifest = take_archive(site, run, one, anew=True)
        one.read_back = prove_archive(site, run, manifest, trust_mark=False)
    one.backup = manifest.id
    return manifest


def take_archive(site: Site, run: Run, one: Archiving, *, anew: bool = False) -> Manifest:
    """Return a set that has the partition's rows as they are now: the one that a run before took, or a new one."""
    archives = [] if anew else archive_sets(site.store, site.context.name)
    with session(site, run) as connection:
        table = _table_of(connection, site, one)
        scope = table.scope(one.partition)
        if found := _archive_of(connection, site.context, table, one.partition, archives):
            get_run_logger().info("%s has every row of %s", found.id, one.partition.qualified)
            return found
    part = site.narrowed(scope)
    source = check_source(part, run, read_others=False)
    with context_lock(site.server, site.context.name, run.title):
        # Sets of one run and one second would have one name: each is of a run of its own.
        own = replace(run, id=new_run_id())
        return take_set(part, own, source, Occasion(label=one.partition.name, sort=Kind.ARCHIVE))


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
    server = sites.find_drill_server(run.context)
    try:
        with context_lock(server, f"drill of {run.context}", run.title, exclusive=True) as lock:
            sweep_unfinished(lock, run.context, scratch=True)
            recoveries.stage(proof, server, run, manifest.id, None)
            with recoveries.scratch_database(proof, server, run, lock, keep=False):
                recoveries.fill_database(proof, server, run)
                recoveries.compare_with_manifest(proof, run)
    except (RestoreDiffers, DamagedSet) as error:
        remember_damage(site.store, name, str(error))
        raise
    finally:
        shutil.rmtree(run.folder / manifest.id, ignore_errors=True)
    mark(site.store, name, "drilled", {"instant": run.started, "run": run.id})
    return True


def compare_with_archive(site: Site, run: Run, one: Archiving, manifest: Manifest) -> None:
    """Read the live partition and compare its rows with the set, while nobody is kept waiting; and count what holds it.

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
        leaves = _leaves(connection, site.context, table, one.partition)
        found += find_changes(connection, leaves, manifest, merge_sql.as_written("false"))
        one.rows, one.held = _count(connection, site.context, table, one.partition)
    if found:
        raise RestoreDiffers(f"it is not what {manifest.id} has: {'; '.join(found)}")


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
        hold = merge_sql.as_written(table.rule.hold or "false")

        def change() -> None:
            connection.execute(partition_sql.lock_alone([table.place]))
            # A partition that is divided with all that it is divided into, in the order in which PostgreSQL locks them too.
            connection.execute(partition_sql.lock_whole([(partition.schema, partition.name), *default]))
            if not connection.execute(partition_sql.IS_PARTITION, {"parent": table.oid, "oid": partition.oid}).fetchall():
                raise OperationError(f"it is no partition of {table.qualified} any more")
            leaves = _leaves(connection, site.context, table, partition)
            if found := find_changes(connection, leaves, manifest, hold):
                raise RestoreDiffers("; ".join(found))
            connection.execute(partition_sql.drop_table(partition.schema, partition.name))

        try:
            oids = [table.oid, partition.oid]
            at_once(connection, lock, f"{partition.qualified} could not be dropped", oids, change)
        except psycopg.errors.DependentObjectsStillExist as error:
            raise OperationError(f"{message_of(error)}: {error.diag.message_detail}") from None
    get_run_logger().info("%s dropped; %s has its %d rows", partition.qualified, manifest.id, manifest.rows)
