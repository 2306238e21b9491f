"""Archived partitions brought back: filled and compared as tables by themselves, and then attached in one short transaction."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import psycopg
from prefect import get_run_logger

from tasks import catalogue, merge_plans, recoveries
from tasks.core import merge_sql, partition_sql, sql
from tasks.core.calendar import EXAMPLES, parse_period
from tasks.core.compare import compare_inventories
from tasks.core.errors import BadInput, OperationError, RestoreDiffers, UnsafeTarget
from tasks.core.manifest import TABLES, InventoryItem, Manifest, Scope
from tasks.core.merge import Drift, Mode, Request, trigger_states
from tasks.core.partitions import parse_bound
from tasks.core.stream import digest_relation
from tasks.core.toc import plain_name, table_of
from tasks.locks import ContextLock
from tasks.merge_objects import create, make_checks, missing_chunks
from tasks.merge_session import Merge
from tasks.partitions import MARK, PartitionedTable, at_once, attach_partition, concerned, read_tables, session
from tasks.runs import Run, step
from tasks.sets import archive_sets
from tasks.sites import Site
from tasks.tables import differences, load_rows, reading_job

BOUND = re.compile(r"\| bound (?P<bound>.*?)( \| |$)")


@dataclass(frozen=True)
class Archived:
    """A partition that an archive set has: its name as schema.name, the set, its bound, and the live table that it was of."""

    partition: str
    backup: str
    bound: str
    table: PartitionedTable

    @property
    def place(self) -> tuple[str, str]:
        """Its schema and name."""
        schema, _, name = self.partition.partition(".")
        return schema, name


@step
def find_archive(site: Site, run: Run, year: str | None, table: str | None, backup: str | None) -> Archived:
    """Find the newest archive set that has the partition of a period, or the named one, whatever its period is.

    Raises:
        BadInput: the period or the table is none, or no archive set has it.
    """
    archives = [one for one in archive_sets(site.store, run.context) if backup in (None, one.id)]
    with session(site, run) as connection:
        tables = read_tables(connection, site.context)
    if backup:
        table = table or next((name for one in archives if one.only for name in one.only.tables), None)
    chosen = [one for one in tables if table in (None, one.rule.table, one.qualified)]
    if len(chosen) != 1:
        names = ", ".join(one.rule.table for one in tables) or "none"
        said = f"no table {table} is partitioned" if table else "say which table"
        raise BadInput(f"{said} in context {site.context.name}: {names}")
    (found,) = chosen
    if not (year or backup):
        raise BadInput(f"say which {found.rule.period}, such as {EXAMPLES[found.rule.period]}, or which archive set")
    start = None if backup else parse_period(str(year), found.rule.period, found.zone)
    if partition := next((one for archive in archives for one in _partitions(archive, found, start)), None):
        return partition
    there = sorted({name for one in archives if one.only for name in one.only.partitions or []})
    sought = f"no archive set {backup} of {site.context.name} looks whole" if backup else (
        f"no archive set of {site.context.name} has the partition of {found.qualified} that begins {start:%Y-%m-%d}"
    )  # fmt: skip
    raise BadInput(
        f"{sought} (there are: {', '.join(there) or 'none'}); name another {found.rule.period}, such as "
        f"{EXAMPLES[found.rule.period]}, or list sets: python -m flows.backup list_backups"
    )


def _partitions(manifest: Manifest, table: PartitionedTable, start: datetime | None) -> Iterator[Archived]:
    """Yield the partition of a table that a set has, if it begins then."""
    named = manifest.only.partitions or [] if manifest.only else []
    for item in manifest.inventory:
        name = plain_name(item.name)
        if item.kind in TABLES and name in named and plain_name(item.parent) == table.qualified:
            bound = BOUND.search(item.state)
            with suppress(ValueError):
                # What is no range of instants gets no further: it stands in a statement as it is.
                lower, _ = parse_bound(bound["bound"] if bound else "", table.zone)
                if bound and start in (None, lower):
                    yield Archived(name, manifest.id, bound["bound"], table)


def reattach(site: Site, run: Run, lock: ContextLock, archived: Archived) -> tuple[int, list[str]]:
    """Make the partition as it was, with the rows of the archive set; return how many, and what else is not as it was.

    Raises:
        UnsafeTarget: something of its name, or a partition for its period, is there.
        RestoreDiffers: what was made is not what the set has; nothing was kept.
        OperationError: rows refer to rows that are gone, or the locks were not to be had; the table is dropped again.
        LostLock: the lock was lost; a table that is not attached yet stays, and the next run drops it.
    """
    _require_room(site, run, lock, archived)
    recovery = recoveries.stage_copy(site.store, run, archived.backup)
    request = Request(archived.backup, Drift.REFUSE, accept_effects=False, table=archived.partition, mode=Mode.REPLACE)
    with merge_plans.begin(site, run, recovery, request) as merge:
        rows = _make(merge, lock, archived)
        inventory = merge.manifest.inventory
        same_major = merge.manifest.versions.server_major == merge.source.major
    try:
        attach_partition(site, run, lock, archived.table, archived.place, archived.bound, trigger_states(inventory))
    except (OperationError, psycopg.Error):
        with suppress(OperationError, psycopg.Error):
            # If not now, the next run drops it.
            _drop_unfinished(site, run, lock, archived)
        raise
    return rows, _unlike(site, run, archived, inventory, same_major=same_major)


def _unlike(site: Site, run: Run, archived: Archived, inventory: list[InventoryItem], *, same_major: bool) -> list[str]:
    """Return what of a partition is not as it was."""
    with session(site, run) as connection:
        scope = Scope(schema=archived.table.schema, tables=[archived.table.rule.table], partitions=[archived.partition])
        members = catalogue.read_members(connection, site.context.narrowed(scope))
        found = catalogue.read_inventory(connection, members)
    then, now = ([one for one in items if table_of(one) == archived.partition] for items in (inventory, found))
    return compare_inventories(then, now, same_major=same_major)


def _require_room(site: Site, run: Run, lock: ContextLock, archived: Archived) -> None:
    _drop_unfinished(site, run, lock, archived)
    table = archived.table
    lower, upper = parse_bound(archived.bound, table.zone)
    taken = [one for one in table.partitions if lower and upper and one.overlaps(lower, upper)]
    if taken:
        raise UnsafeTarget(
            f"{taken[0].qualified} takes rows of that period already ({taken[0].bound}): restore into it with table_restore, "
            "or look at the archive with mode=side-by-side"
        )
    with session(site, run) as connection:
        schema, name = archived.place
        occupant = connection.execute(partition_sql.OCCUPANT, {"schema": schema, "name": name, "mark": MARK}).fetchone()
        if occupant:
            raise UnsafeTarget(f"{archived.partition} is {occupant[0]}: rename it, or use mode=side-by-side")
        if default := table.default:
            condition = partition_sql.within(table.rule.column, table.end(lower), table.end(upper))
            stray = connection.execute(partition_sql.count_rows(default.schema, default.name, condition)).fetchall()[0][1]
            if stray:
                raise UnsafeTarget(f"{default.qualified} holds {stray:,} rows of that period: move or delete them first")


def _drop_unfinished(site: Site, run: Run, lock: ContextLock, archived: Archived) -> None:
    """Drop what a run that died left of the partition: a table that bears our mark, and is attached to nothing."""
    schema, name = archived.place
    with session(site, run) as connection:
        occupant = connection.execute(partition_sql.OCCUPANT, {"schema": schema, "name": name, "mark": MARK}).fetchone()
        if occupant == ("a table", True):
            # Its keys lead to tables that are locked when it goes.
            oids = concerned(connection, archived.table)
            what = f"{archived.partition}, which is not attached yet, could not be dropped"
            at_once(connection, lock, what, oids, lambda: connection.execute(partition_sql.drop_table(schema, name)))
            get_run_logger().info("%s, which was not attached yet, is dropped", archived.partition)


def _make(merge: Merge, lock: ContextLock, archived: Archived) -> int:
    """Make the table with its rows and indexes, compare it, and commit it as a table by itself."""
    if merge.refusals:
        raise OperationError("; ".join(merge.refusals))
    if [one.qualified for one in merge.absent] != [archived.partition]:
        raise BadInput(f"{archived.partition} is divided itself: bring it back with table_restore --mode replace")
    (relation,), connection = merge.absent, merge.connection
    table, made = archived.table, set[int]()
    lower, upper = parse_bound(archived.bound, table.zone)
    before, after = missing_chunks(merge)
    encoding = merge.manifest.database.encoding
    with connection.transaction():
        create(connection, before, made, attach=False)
        unproven = connection.execute(partition_sql.UNPROVEN_CHECKS, {"oid": table.oid}).fetchall()
        for check, _ in unproven:
            # Old rows may break what only new ones were asked for.
            connection.execute(partition_sql.drop_check(*archived.place, sql.unquoted(check)))
        condition = partition_sql.within(table.rule.column, table.end(lower), table.end(upper))
        connection.execute(partition_sql.add_check(*archived.place, MARK, condition))
        load_rows(connection, relation, merge.staged.sources(relation), encoding)
        for check, definition in unproven:
            connection.execute(merge_sql.add_constraint(sql.quoted_name(*archived.place), check, definition))
        create(connection, after, made, attach=False)
        make_checks(merge)
        connection.execute(sql.FIXED_SETTINGS)
        found = digest_relation(connection, reading_job(merge.site.database, merge.run, relation, encoding))
        if problems := differences(relation, found.rows, found.hex):
            raise RestoreDiffers(f"{'; '.join(problems)}; nothing was kept")
        lock.require_held(f"{archived.partition} was made", connection)
    return relation.rows
