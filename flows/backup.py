"""Backups of a bounded context, and their list.

Needs the database (a role with pg_read_all_data) and the store; leaves one committed and verified
backup set, or nothing that is listed.
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
    """Back up the whole context under one snapshot, read every object back, and commit it as one set.

    If its schema is not that of the last passed drill, a drill is requested. If a table lost too
    many rows since the last good full, the set is stored as suspect, and the run fails.

    Args:
        context: the bounded context to back up.
        label: a label for the set, such as `before release 12`.
        keep_until: a timestamp (`2026-12-31`); the set is not pruned before.
        accept_losses: accept that rows are missing since the last good full.
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
    """Store all changes since the newest full, including deletions; both restore the current state.

    If no full can be its base, a full is taken instead, and the report says why.

    Args:
        context: the bounded context to back up.
        label: a label for the set.
        accept_losses: accept that rows are missing since the last good full.
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
    """Back up the tables of a long-term job into cold storage, read back before they become cold.

    Args:
        context: the bounded context.
        name: a job in the context's `long_term`.
    """
    with begin("long_term_backup", context) as run:
        site = find_site(context, "reader")
        manifest = take_long_term(site, run, name, run.started)
        return publish_backup(site, manifest, run.started)


def take_long_term(site: Site, run: Run, name: str, since: datetime) -> Manifest:
    """Back up the tables of a long-term job, unless a set is newer than `since`; return the set."""
    part = long_term.long_term_site(site, name)
    describe(site.server, site.store)
    # A clean-up begins with its month's long-term backups: a concurrent run uses that set.
    lock = f"long-term {name} of {run.context}"
    with context_lock(site.server, lock, run.title, exclusive=True, wait_seconds=WAIT_SECONDS):
        manifest = long_term.long_term_since(site, name, since)
        if manifest is None:
            manifest = take.take_part(part, run, take.Occasion(sort=name))
        # Also the set of a run that died before the set was cold.
        long_term.cool_long_term(part, name)
    return manifest


@operation("list-backups {context}")
def list_backups(context: str = "bc-004") -> list[dict[str, object]]:
    """List the backup sets of a context, newest first, with the problems that a listing shows.

    Args:
        context: the bounded context.
    """
    instant = now()
    listing = list_sets(find_store(context), context)
    if listing.is_empty:
        # A mistyped name has no sets either.
        find_context(context)
    rows = table.listing_rows(listing, instant, zone_of(listing))
    table.publish_listing(context, listing, rows, instant)
    table.print_listing(context, rows)
    return rows


if __name__ == "__main__":
    run_from_command_line(daily_backup, differential_backup, long_term_backup, list_backups)
