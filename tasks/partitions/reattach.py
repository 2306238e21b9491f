"""Archived partitions brought back: filled and compared as tables by themselves, and then attached in one short transaction."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.calendar import EXAMPLES, parse_period
from tasks.core.database.comparison import compare_inventories
from tasks.core.database.objects import TABLES
from tasks.core.errors import BadInput, OperationError, RestoreDiffers, UnsafeTarget
from tasks.core.in_place.plan import trigger_states
from tasks.core.in_place.request import Drift, Mode, Request
from tasks.core.postgres.archive_toc import table_of
from tasks.core.rows.stream import digest_relation
from tasks.core.sets.hash_partitions import differences
from tasks.core.sets.manifest import Manifest, Scope
from tasks.core.sets.shared_schema import comparable
from tasks.core.sql.names import plain_name
from tasks.database import catalog
from tasks.database.locks import ContextLock
from tasks.database.rows import load_rows, reading_job
from tasks.in_place import plan
from tasks.in_place.large_objects import look_at_large_objects, with_large_objects
from tasks.in_place.objects import create, make_checks
from tasks.in_place.session import Merge
from tasks.partitions.attach import attach_partition
from tasks.partitions.tables import MARK, PartitionedTable, concerned, oid_of, read_table
from tasks.partitions.transaction import at_once, session
from tasks.restore.unproven import without_unproven_checks
from tasks.run.run import Run, step
from tasks.run.site import Site
from tasks.sets import stage
from tasks.sets.choose import archive_sets

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
    if backup:
        table = table or next((name for one in archives if one.only for name in one.only.tables), None)
    rules = site.context.partitions
    chosen = [one for one in rules if table in (None, one.table, f"{site.context.namespace}.{one.table}")]
    if len(chosen) != 1:
        names = ", ".join(one.table for one in rules) or "none"
        said = f"no table {table} is partitioned" if table else "say which table"
        raise BadInput(f"{said} in context {site.context.name}: {names}")
    with session(site, run) as connection:
        found = read_table(connection, site.context, chosen[0])
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
                lower, _ = table.parse(bound["bound"] if bound else "")
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
    staged = stage.stage_newest_good(site.store, run, archived.backup)
    request = Request(archived.backup, Drift.REFUSE, accept_effects=False, table=archived.partition, mode=Mode.REPLACE)
    with plan.begin(site, run, staged.set, request) as merge:
        large = look_at_large_objects(merge)
        with with_large_objects(merge) as notes:
            rows = _make(merge, lock, archived)
        manifest = merge.manifest
        same_major = merge.manifest.versions.server_major == merge.source.major
    try:
        attach_partition(site, run, lock, archived.table, archived.place, archived.bound, trigger_states(manifest.inventory))
    except (OperationError, psycopg.Error):
        with suppress(OperationError, psycopg.Error):
            # If not now, the next run drops it.
            _drop_unfinished(site, run, lock, archived)
        raise
    return rows, [*_unlike(site, run, archived, manifest, same_major=same_major), *large.unlike, *large.unread, *notes]


def _unlike(site: Site, run: Run, archived: Archived, manifest: Manifest, *, same_major: bool) -> list[str]:
    """Return what of a partition is not as it was."""
    with session(site, run) as connection:
        scope = Scope(schema=archived.table.schema, tables=[archived.table.rule.table], partitions=[archived.partition])
        members = catalog.read_members(connection, site.context.narrowed(scope))
        found = catalog.read_inventory(connection, members)
    both = (comparable(manifest, items) for items in (manifest.inventory, found))
    then, now = ([one for one in items if table_of(one) == archived.partition] for items in both)
    return compare_inventories(then, now, same_major=same_major)


def _require_room(site: Site, run: Run, lock: ContextLock, archived: Archived) -> None:
    _drop_unfinished(site, run, lock, archived)
    table = archived.table
    lower, upper = table.parse(archived.bound)
    taken = [one for one in table.partitions if lower and upper and one.overlaps(lower, upper)]
    if taken:
        raise UnsafeTarget(
            f"{taken[0].qualified} takes rows of that period already ({taken[0].bound}): restore into it with table_restore, "
            "or look at the archive with mode=side-by-side"
        )
    with session(site, run) as connection:
        schema, name = archived.place
        occupant = connection.execute(sql.partitions.OCCUPANT, {"schema": schema, "name": name, "mark": MARK}).fetchone()
        if occupant:
            raise UnsafeTarget(f"{archived.partition} is {occupant[0]}: rename it, or use mode=side-by-side")
        if default := table.default:
            condition = table.within(lower, upper)
            stray = connection.execute(sql.partitions.count_rows(default.schema, default.name, condition)).fetchall()[0][1]
            if stray:
                raise UnsafeTarget(f"{default.qualified} holds {stray:,} rows of that period: move or delete them first")


def _drop_unfinished(site: Site, run: Run, lock: ContextLock, archived: Archived) -> None:
    """Drop what a run that died left of the partition: a table that bears our mark, and is attached to nothing."""
    schema, name = archived.place
    with session(site, run) as connection:
        occupant = connection.execute(sql.partitions.OCCUPANT, {"schema": schema, "name": name, "mark": MARK}).fetchone()
        if occupant == ("a table", True):
            # Its keys lead to tables that are locked when it goes.
            oids = concerned(connection, archived.table)
            what = f"{archived.partition}, which is not attached yet, could not be dropped"
            at_once(connection, lock, what, oids, lambda: connection.execute(sql.partitions.drop_table(schema, name)))
            get_run_logger().info("%s, which was not attached yet, is dropped", archived.partition)


def _make(merge: Merge, lock: ContextLock, archived: Archived) -> int:
    """Make the table with its rows and indexes, compare it, and commit it as a table by itself."""
    if merge.refusals:
        raise OperationError("; ".join(merge.refusals))
    if [one.qualified for one in merge.absent] != [archived.partition]:
        raise BadInput(f"{archived.partition} is divided itself: bring it back with table_restore --mode replace")
    (relation,), connection = merge.absent, merge.connection
    table, made = archived.table, set[int]()
    before, after = merge.sections
    encoding = merge.manifest.database.encoding
    with connection.transaction():
        create(connection, before, made, attach=False)
        unproven = connection.execute(sql.partitions.UNPROVEN_CHECKS, {"oid": table.oid}).fetchall()
        for check, _ in unproven:
            # Old rows may break what only new ones were asked for.
            connection.execute(sql.partitions.drop_check(*archived.place, sql.names.unquoted(check)))
        condition = table.within(*table.parse(archived.bound))
        connection.execute(sql.partitions.add_check(*archived.place, MARK, condition))
        with without_unproven_checks(connection, [oid_of(connection, archived.place)], merge.path, of_tables=False):
            load_rows(connection, relation, merge.staged.sources(relation), encoding)
        for check, definition in unproven:
            connection.execute(sql.staging.add_constraint(sql.names.quoted_name(*archived.place), check, definition))
        create(connection, after, made, attach=False)
        make_checks(merge)
        connection.execute(sql.session.FIXED_SETTINGS)
        found = digest_relation(connection, reading_job(merge.site.database, merge.run, relation, encoding))
        if problems := differences(relation, found.rows, found.hex):
            raise RestoreDiffers(f"{'; '.join(problems)}; nothing was kept")
        lock.require_held(f"{archived.partition} was made", connection)
    return relation.rows
