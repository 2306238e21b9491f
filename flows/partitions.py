"""Partitions: created in advance, archived after their retention, and restored.

Needs the database (a role that acts as the owner of the tables), the store, and for the archive a
server to restore copies to.
By hand: python -m flows.partitions create_partitions --context bc-004, or archive_partitions, or
reattach_partition --year 2023
"""

from typing import Literal

from flows.command_line import run_from_command_line
from flows.restore import restore_beside
from tasks.core.run.limits import Periods
from tasks.core.sets.thaw import Tier
from tasks.database import logins
from tasks.database.locks import context_lock
from tasks.partitions import archive, create, reattach
from tasks.partitions.due import find_due
from tasks.partitions.report import explained, publish_archived, publish_plan, publish_reattached, publish_timeline
from tasks.run import approval
from tasks.run.run import begin, operation
from tasks.run.site import find_site, require_confirmed
from tasks.sets import thaw


@operation("create-partitions {context}")
def create_partitions(context: str = "bc-004", ahead: Periods = 1, move_default_rows: bool = False) -> str:
    """Create the partitions of the current and next periods, and any missing ones.

    Report every partition, and what will become of it.

    Args:
        context: the bounded context.
        ahead: the number of future periods to create partitions for.
        move_default_rows: move rows of a new partition's period out of the DEFAULT partition;
            readers of the DEFAULT partition are blocked meanwhile.
    """
    with begin("create_partitions", context) as run:
        site = logins.with_loader(find_site(context), run)
        with (
            explained(site.context),
            context_lock(site.server, context, run.title, exclusive=True) as lock,
        ):
            timelines = create.create_partitions(site, run, lock, run.started, ahead, move_default_rows=move_default_rows)
        return publish_timeline(site.context, timelines, run.started)


@operation("archive-partitions {context}")
def archive_partitions(context: str = "bc-004", dry_run: bool = True, confirm_database: str | None = None) -> str:
    """Copy partitions past retention, restore and compare the copies, and drop what was copied.

    A partition with rows that match the rule's `hold` condition is copied, but not dropped. If a
    run is interrupted, the next one finishes its work.

    Args:
        context: the bounded context.
        dry_run: only show what would be done.
        confirm_database: the name of the database, to confirm that its partitions may be dropped.
    """
    with begin("archive_partitions", context) as run:
        site = logins.with_loader(find_site(context), run)
        with explained(site.context):
            logins.require_all_rows(site, run)
            due = find_due(site, run, run.started)
            archive.require_archivable(site, run, due)
            if dry_run:
                return publish_plan(site, due)
            if due and approval.required_unscheduled(site.context):
                confirm_database = approval.ask(publish_plan(site, due))
            require_confirmed(site, confirm_database, "drop partitions")
            archived = [archive.archive(site, run, partition) for partition in due]
        return publish_archived(site, archived)


@operation("reattach-partition {context} {year} {mode}")
def reattach_partition(
    context: str = "bc-004",
    *,
    year: str | None = None,
    table: str | None = None,
    backup: str | None = None,
    mode: Literal["attach", "side-by-side"] = "attach",
    tier: Tier = "Standard",
    trust_unsigned: bool = False,
) -> str:
    """Restore an archived partition, or a copy of it beside the live table for an audit.

    Args:
        context: the bounded context.
        year: the archived year, such as 2023; for monthly partitions 2023-05, for quarterly ones
            2023-Q2.
        table: the partitioned table; needed only if the context has several.
        backup: the id of the archive set, instead of a year; by default the newest one that has
            that partition.
        mode: `attach` makes it a partition again; `side-by-side` makes a separate table and changes
            nothing else.
        tier: how fast a cold set is thawed: Expedited (minutes), Standard (hours) or Bulk (half a
            day).
        trust_unsigned: accept sets without a signature although BACKUP_VERIFY_KEY is set. A wrong
            signature is never accepted.
    """
    with begin("reattach_partition", context) as run:
        site = logins.with_loader(find_site(context, trust_unsigned=trust_unsigned), run)
        with explained(site.context):
            if mode == "attach":
                logins.require_all_rows(site, run)
            copy = reattach.find_archive(site, run, year, table, backup)
            thaw.require_warm(site.store, run, copy.backup, tier)
            if mode == "side-by-side":
                return restore_beside(site, run, copy.partition, copy.backup, None)
            if approval.required(site.context):
                typed = approval.ask(
                    f"{copy.partition} would be restored from {copy.backup} and attached to {copy.table.qualified}"
                )
                require_confirmed(site, typed, "attach a partition to a table")
            with context_lock(site.server, context, run.title, exclusive=True) as lock:
                rows, unlike = reattach.reattach(site, run, lock, copy)
        return publish_reattached(site.context, copy, rows, unlike)


if __name__ == "__main__":
    run_from_command_line(create_partitions, archive_partitions, reattach_partition)
