"""Archived partitions brought back: filled and compared as tables by themselves, and then attached in one short transaction."""

import re
from dataclasses import dataclass

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks import catalogue, merge_plans, recoveries
from tasks.core import partition_sql, sql
from tasks.core.calendar import EXAMPLES, parse_period
from tasks.core.compare import compare_inventories
from tasks.core.errors import BadInput, OperationError, RestoreDiffers, UnsafeTarget
from tasks.core.kinds import Kind
from tasks.core.manifest import TABLES, Manifest
from tasks.core.merge import Drift, Mode, Request
from tasks.core.partitions import parse_bound
from tasks.core.stream import digest_relation
from tasks.core.toc import plain_name, table_of
from tasks.merge_objects import create, missing_chunks
from tasks.merge_session import Merge
from tasks.partitions import MARK, PartitionedTable, attach_partition, read_tables, session
from tasks.runs import Run
from tasks.sets import list_sets
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


@task(cache_policy=NO_CACHE)
def find_archive(site: Site, run: Run, year: str, table: str | None, backup: str | None) -> Archived:
    """Find the newest archive set, or the named one, that has the partition of a period.

    Raises:
        BadInput: the period or the table is none, or no archive set has it.
    """
    with session(site, run) as connection:
        tables = read_tables(connection, site.context)
    chosen = [one for one in tables if table in (None, one.rule.table, one.qualified)]
    if len(chosen) != 1:
        names = ", ".join(one.rule.table for one in tables) or "none"
        said = f"no table {table} is partitioned" if table else "say which table"
        raise BadInput(f"{said} in context {site.context.name}: {names}")
    (found,) = chosen
    start = parse_period(str(year), found.rule.period, found.zone)
    archives = [one for one in list_sets(site.store, run.context).sets if one.name.kind is Kind.ARCHIVE and one.manifest]
    for one in archives:
        if one.manifest and backup in (None, one.name.id) and (bound := _bound_at(one.manifest, found, start)):
            if one.damage:
                get_run_logger().warning("passed over: %s", one.damage)
                continue
            return Archived(*bound, found)
    scopes = [one.manifest.only for one in archives if one.manifest and one.manifest.only]
    there = sorted({name for scope in scopes for name in scope.partitions or []})
    raise BadInput(
        f"no archive set{f' {backup}' if backup else ''} of {site.context.name} has the partition of {found.qualified} that begins "
        f"{start:%Y-%m-%d} (there are: {', '.join(there) or 'none'}); name another {found.rule.period}, such as "
        f"{EXAMPLES[found.rule.period]}"
    )


def _bound_at(manifest: Manifest, table: PartitionedTable, start: object) -> tuple[str, str, str] | None:
    """Return name, set and bound of the partition of a table that begins then, if a set has it."""
    for item in manifest.inventory:
        if item.kind in TABLES and plain_name(item.parent) == table.qualified and (found := BOUND.search(item.state)):
            try:
                lower, _ = parse_bound(found["bound"], table.zone)
            except ValueError:
                continue
            if lower == start:
                return plain_name(item.name), manifest.id, found["bound"]
    return None


def reattach(site: Site, run: Run, archived: Archived) -> int:
    """Make the partition as it was, with the rows of the archive set; return how many.

    Raises:
        UnsafeTarget: something of its name, or a partition for its period, is there.
        RestoreDiffers: what was made is not what the set has; nothing was kept.
        OperationError: rows refer to rows that are gone, or the locks were not to be had; the table is dropped again.
    """
    _require_room(site, run, archived)
    recovery = recoveries.stage_copy(site.store, run, archived.backup)
    request = Request(archived.backup, Drift.REFUSE, accept_effects=False, table=archived.partition, mode=Mode.REPLACE)
    with merge_plans.begin(site, run, recovery, request) as merge:
        rows = _make(merge, archived)
        inventory = merge.manifest.inventory
        same_major = merge.manifest.versions.server_major == merge.source.major
    try:
        attach_partition(site, run, archived.table, archived.place, archived.bound)
    except BaseException:
        _drop_unfinished(site, run, archived)
        raise
    with session(site, run) as connection:
        context = site.context.narrowed(merge.whole.scope) if merge.whole.scope else site.context
        now = catalogue.read_inventory(connection, catalogue.read_members(connection, context))
    then, now = ([one for one in items if table_of(one) == archived.partition] for items in (inventory, now))
    for difference in compare_inventories(then, now, same_major=same_major):
        get_run_logger().warning("its parent is not what it was: %s", difference)
    return rows


def _require_room(site: Site, run: Run, archived: Archived) -> None:
    _drop_unfinished(site, run, archived)
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


def _drop_unfinished(site: Site, run: Run, archived: Archived) -> None:
    """Drop what a run that died left of the partition: a table that bears our mark, and is attached to nothing."""
    schema, name = archived.place
    with session(site, run) as connection:
        occupant = connection.execute(partition_sql.OCCUPANT, {"schema": schema, "name": name, "mark": MARK}).fetchone()
        if occupant == ("a table", True):
            connection.execute(partition_sql.drop_table(schema, name))
            get_run_logger().info("%s, which was not attached yet, is dropped", archived.partition)


def _make(merge: Merge, archived: Archived) -> int:
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
        condition = partition_sql.within(table.rule.column, table.end(lower), table.end(upper))
        connection.execute(partition_sql.add_check(*archived.place, MARK, condition))
        load_rows(connection, relation, merge.staged.sources(relation), encoding)
        create(connection, after, made, attach=False)
        connection.execute(sql.FIXED_SETTINGS)
        found = digest_relation(connection, reading_job(merge.site.database, merge.run, relation, encoding))
        if problems := differences(relation, found.rows, found.hex):
            raise RestoreDiffers(f"{'; '.join(problems)}; nothing was kept")
    return relation.rows
