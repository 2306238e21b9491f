"""Backups of a bounded context, and their list.

Needs the database (a role with pg_read_all_data) and the store; leaves one committed and verified
backup set; after a failure no set is listed.
By hand: python -m flows.backup daily_backup --context bc-004
"""

from datetime import datetime

from flows.command_line import run_from_command_line
from tasks.backup import long_term, take
from tasks.backup.local_copy import keep_local_copy
from tasks.backup.rehearsal import ask_for_drill
from tasks.backup.report import publish_backup
from tasks.backup.source import check_source
from tasks.core.run.clock import now
from tasks.core.sets.manifest import Manifest
from tasks.database.locks import context_lock
from tasks.run.run import Run, begin, operation
from tasks.run.site import Site, describe, find_context, find_site, find_store
from tasks.sets import table
from tasks.sets.choose import zone_of
from tasks.sets.listing import list_sets

# The time of a long-term backup of the largest tables.
WAIT_SECONDS = 4 * 3600


@operation("daily-backup {context}")
def daily_backup(
    context: str = "bc-004",
    label: str | None = None,
    keep_until: str | None = None,
    accept_losses: bool = False,
) -> str:
    """Back up a whole context under one snapshot, read every object back, and commit the set.

    If the schema changed since the last recovery drill that passed, a new drill is requested. If a
    table lost too many rows since the last good full backup, the set is stored and marked as
    suspect, and the run fails.

    Args:
        context: the bounded context to back up.
        label: a label for the set, such as `before release 12`.
        keep_until: a timestamp such as `2026-12-31`, until which the set is never pruned.
        accept_losses: accept that tables lost rows since the last good full backup, because they
            were deleted on purpose.
    """
    with begin("daily_backup", context) as run:
        site = find_site(context, "reader")
        describe(site.server, site.store)
        why = take.occasion(site, run, label, keep_until, accept_losses=accept_losses)
        source = check_source(site, run)
        with context_lock(site.server, context, run.title):
            manifest = take.take_set(site, run, source, why)
        local_copy = keep_local_copy(site, run, manifest)
        return publish_backup(site, manifest, run.started, local_copy, ask_for_drill(site, manifest))


@operation("differential-backup {context}")
def differential_backup(context: str = "bc-004", label: str | None = None, accept_losses: bool = False) -> str:
    """Store all changes since the newest full backup, including deletions.

    A restore needs both sets. If no full backup can be the base, a full backup is taken instead,
    and the report says why.

    Args:
        context: the bounded context to back up.
        label: a label for the set.
        accept_losses: accept that tables lost rows since the last good full backup, because they
            were deleted on purpose.
    """
    with begin("differential_backup", context) as run:
        site = find_site(context, "reader")
        describe(site.server, site.store)
        why = take.occasion(site, run, label, None, accept_losses=accept_losses)
        source = check_source(site, run)
        with context_lock(site.server, context, run.title):
            manifest = take.take_set(site, run, source, why, take.find_base(site, run))
        local_copy = keep_local_copy(site, run, manifest)
        return publish_backup(site, manifest, run.started, local_copy)


@operation("long-term-backup {context} {name}")
def long_term_backup(context: str = "bc-004", name: str = "violations") -> str:
    """Back up the tables of a long-term job, read them back, and move them to cold storage.

    Args:
        context: the bounded context.
        name: a job in the context's `long_term`.
    """
    with begin("long_term_backup", context) as run:
        site = find_site(context, "reader")
        manifest = take_long_term(site, run, name, run.started)
        return publish_backup(site, manifest, run.started)


def take_long_term(site: Site, run: Run, name: str, since: datetime) -> Manifest:
    """Back up the tables of a long-term job, or return its set that was taken since `since`."""
    part = long_term.long_term_site(site, name)
    describe(site.server, site.store)
    # A clean-up takes the month's long-term backup itself; a scheduled run meanwhile uses that set.
    lock = f"long-term {name} of {run.context}"
    with context_lock(site.server, lock, run.title, exclusive=True, wait_seconds=WAIT_SECONDS):
        manifest = long_term.long_term_since(site, name, since)
        if manifest is None:
            manifest = take.take_part(part, run, take.Occasion(sort=name))
        # This also moves a set that an interrupted run left in warm storage.
        long_term.cool_long_term(part, name)
    return manifest


@operation("list-backups {context}")
def list_backups(context: str = "bc-004") -> list[dict[str, object]]:
    """List a context's backup sets, newest first, with problems known without reading their data.

    Args:
        context: the bounded context.
    """
    instant = now()
    listing = list_sets(find_store(context), context)
    if listing.is_empty:
        # No sets: the name may be mistyped, which this reports.
        find_context(context)
    rows = table.listing_rows(listing, instant, zone_of(listing))
    table.publish_listing(context, listing, rows, instant)
    table.print_listing(context, rows)
    return rows


if __name__ == "__main__":
    run_from_command_line(daily_backup, differential_backup, long_term_backup, list_backups)
