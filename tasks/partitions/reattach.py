"""Restoring archived partitions: loaded and compared as separate tables, then attached."""

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
from tasks.database.loading import load_rows
from tasks.database.locks import ContextLock
from tasks.database.rows import reading_job
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
    """A partition in an archive set: its schema.name, the set, the bound, and its live table."""

    partition: str
    backup: str
    bound: str
    table: PartitionedTable

    @property
    def place(self) -> tuple[str, str]:
        """The schema and name of the partition."""
        schema, _, name = self.partition.partition(".")
        return schema, name


@step
def find_archive(site: Site, run: Run, year: str | None, table: str | None, backup: str | None) -> Archived:
    """Find the newest archive set that has the partition of a period.

    With `backup`, return the named set, whatever its period.

    Raises:
        BadInput: the period or the table is not valid, or no archive set has it.
    """
    archives = [manifest for manifest in archive_sets(site.store, run.context) if backup in (None, manifest.id)]
    if backup:
        table = table or next((name for manifest in archives if manifest.only for name in manifest.only.tables), None)
    rules = site.context.partitions
    chosen = [rule for rule in rules if table in (None, rule.table, f"{site.context.namespace}.{rule.table}")]
    if len(chosen) != 1:
        names = ", ".join(rule.table for rule in rules) or "none"
        problem = f"table {table} is not partitioned" if table else "name the partitioned table"
        raise BadInput(f"{problem}; partitioned tables of context {site.context.name}: {names}")
    with session(site, run) as connection:
        partitioned = read_table(connection, site.context, chosen[0])
    if not (year or backup):
        raise BadInput(f"name a {partitioned.rule.period}, such as {EXAMPLES[partitioned.rule.period]}, or an archive set")
    start = None if backup else parse_period(str(year), partitioned.rule.period, partitioned.zone)
    if partition := next((archived for manifest in archives for archived in _partitions(manifest, partitioned, start)), None):
        return partition
    known = sorted({name for manifest in archives if manifest.only for name in manifest.only.partitions or []})
    problem = f"no archive set {backup} of {site.context.name} is complete" if backup else (
        f"no archive set of {site.context.name} has the partition of {partitioned.qualified} that "
        f"begins {start:%Y-%m-%d}"
    )  # fmt: skip
    raise BadInput(
        f"{problem} (there are: {', '.join(known) or 'none'}); name another "
        f"{partitioned.rule.period}, such as {EXAMPLES[partitioned.rule.period]}, or list sets: "
        "python -m flows.backup list_backups"
    )


def _partitions(manifest: Manifest, table: PartitionedTable, start: datetime | None) -> Iterator[Archived]:
    """Yield the partitions of a table in a set; with a start only the one that begins then."""
    named = manifest.only.partitions or [] if manifest.only else []
    for item in manifest.inventory:
        name = plain_name(item.name)
        if item.kind in TABLES and name in named and plain_name(item.parent) == table.qualified:
            bound = BOUND.search(item.state)
            with suppress(ValueError):
                # Only a range of timestamps is accepted, because the bound becomes part of a
                # statement unchanged.
                lower, _ = table.parse(bound["bound"] if bound else "")
                if bound and start in (None, lower):
                    yield Archived(name, manifest.id, bound["bound"], table)


def reattach(site: Site, run: Run, lock: ContextLock, archived: Archived) -> tuple[int, list[str]]:
    """Restore the partition with the rows of the archive set.

    Return the number of rows, and the differences from the set.

    Raises:
        UnsafeTarget: the partition's name is taken, or another partition covers its period.
        RestoreDiffers: the restored partition differs from the set; all was rolled back.
        OperationError: rows reference missing rows, or a lock timed out; the table is dropped
            again.
        LostLock: the context's lock was lost; a table that is not attached yet stays, and the next
            run drops it.
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
            # If this fails, the next run drops the table.
            _drop_unfinished(site, run, lock, archived)
        raise
    return rows, [*_differences(site, run, archived, manifest, same_major=same_major), *large.unlike, *large.unread, *notes]


def _differences(site: Site, run: Run, archived: Archived, manifest: Manifest, *, same_major: bool) -> list[str]:
    """Return how a partition differs from the set."""
    with session(site, run) as connection:
        scope = Scope(schema=archived.table.schema, tables=[archived.table.rule.table], partitions=[archived.partition])
        members = catalog.read_members(connection, site.context.narrowed(scope))
        objects = catalog.read_inventory(connection, members)
    both = (comparable(manifest, items) for items in (manifest.inventory, objects))
    archived_items, present_items = ([item for item in items if table_of(item) == archived.partition] for items in both)
    return compare_inventories(archived_items, present_items, same_major=same_major)


def _require_room(site: Site, run: Run, lock: ContextLock, archived: Archived) -> None:
    _drop_unfinished(site, run, lock, archived)
    table = archived.table
    lower, upper = table.parse(archived.bound)
    overlapping = [partition for partition in table.partitions if lower and upper and partition.overlaps(lower, upper)]
    if overlapping:
        raise UnsafeTarget(
            f"{overlapping[0].qualified} covers that period already ({overlapping[0].bound}): "
            "restore into that partition with table_restore, or restore the archive with "
            "mode=side-by-side"
        )
    with session(site, run) as connection:
        schema, name = archived.place
        occupant = connection.execute(sql.partitions.OCCUPANT, {"schema": schema, "name": name, "mark": MARK}).fetchone()
        if occupant:
            raise UnsafeTarget(f"{archived.partition} exists already as {occupant[0]}: rename that, or use mode=side-by-side")
        if default := table.default:
            condition = table.within(lower, upper)
            stray = connection.execute(sql.partitions.count_rows(default.schema, default.name, condition)).fetchall()[0][1]
            if stray:
                raise UnsafeTarget(f"{default.qualified} has {stray:,} rows of that period: move or delete them first")


def _drop_unfinished(site: Site, run: Run, lock: ContextLock, archived: Archived) -> None:
    """Drop the table that a killed run left: it has this project's mark and is not attached."""
    schema, name = archived.place
    with session(site, run) as connection:
        occupant = connection.execute(sql.partitions.OCCUPANT, {"schema": schema, "name": name, "mark": MARK}).fetchone()
        if occupant == ("a table", True):
            # Dropping the table locks the tables that its foreign keys reference.
            oids = concerned(connection, archived.table)
            failure = f"{archived.partition}, which is not attached yet, could not be dropped"
            at_once(connection, lock, failure, oids, lambda: connection.execute(sql.partitions.drop_table(schema, name)))
            get_run_logger().info("%s, which was not attached yet, is dropped", archived.partition)


def _make(merge: Merge, lock: ContextLock, archived: Archived) -> int:
    """Create the table with its rows and indexes, compare it, and commit it as a separate table."""
    if merge.refusals:
        raise OperationError("; ".join(merge.refusals))
    if [relation.qualified for relation in merge.absent] != [archived.partition]:
        raise BadInput(f"{archived.partition} is partitioned itself: restore it with table_restore --mode replace")
    (relation,), connection = merge.absent, merge.connection
    table, made = archived.table, set[int]()
    before, after = merge.sections
    encoding = merge.manifest.database.encoding
    with connection.transaction():
        create(connection, before, made, attach=False)
        unproven = connection.execute(sql.partitions.UNPROVEN_CHECKS, {"oid": table.oid}).fetchall()
        for check, _ in unproven:
            # Old rows may violate a check that is NOT VALID.
            connection.execute(sql.partitions.drop_check(*archived.place, sql.names.unquoted(check)))
        condition = table.within(*table.parse(archived.bound))
        connection.execute(sql.partitions.add_check(*archived.place, MARK, condition))
        with without_unproven_checks(connection, [oid_of(connection, archived.place)], merge.path, of_tables=False):
            load_rows(connection, relation, merge.staged.sources(relation), encoding, merge.path)
        for check, definition in unproven:
            connection.execute(sql.staging.add_constraint(sql.names.quoted_name(*archived.place), check, definition))
        create(connection, after, made, attach=False)
        make_checks(merge)
        connection.execute(sql.session.FIXED_SETTINGS)
        digest = digest_relation(connection, reading_job(merge.site.database, merge.run, relation, encoding))
        if problems := differences(relation, digest.rows, digest.hex):
            raise RestoreDiffers(f"{'; '.join(problems)}; rolled back")
        lock.require_held(f"{archived.partition} was created", connection)
    return relation.rows
