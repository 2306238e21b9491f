"""Backups of a bounded context, and the list of them.

Needs the database (a role with pg_read_all_data) and the store; leaves one committed backup set, read back, or nothing that
is listed. By hand: python -m flows.backup daily_backup --context bc-004
"""

from dataclasses import replace
from datetime import datetime

from flows.command_line import run_from_command_line
from tasks import backups, listings, reports, runs, sites
from tasks.core.kinds import new_run_id, now
from tasks.core.manifest import Manifest
from tasks.locks import context_lock
from tasks.runs import Run, operation
from tasks.sets import list_sets, zone_of
from tasks.sites import Site

# As long as a long-term backup of the largest tables takes.
WAIT_SECONDS = 4 * 3600


@operation("daily-backup {context}")
def daily_backup(
    context: str = "bc-004", label: str | None = None, keep_until: str | None = None, accept_losses: bool = False
) -> str:
    """Back up the whole context under one snapshot, read every object back, and commit it as one set.

    A set in which a table lost too many of its rows since the last good one is stored, called suspect, and fails the run.

    Args:
        context: the bounded context to back up.
        label: what to call it, for example `before release 12`.
        keep_until: an instant (`2026-12-31`) before which it is never pruned.
        accept_losses: rows that are gone since the last good backup went on purpose.
    """
    with runs.begin("daily_backup", context) as run:
        site = sites.find_site(context, "reader")
        sites.describe(site.server, site.store)
        why = backups.occasion(site, run, label, keep_until, accept_losses=accept_losses)
        source = backups.check_source(site, run)
        with context_lock(site.server, context, run.title):
            manifest = backups.take_set(site, run, source, why)
        local_copy = backups.keep_local_copy(site, run, manifest)
        return reports.publish_backup(site, manifest, run.started, local_copy)


@operation("differential-backup {context}")
def differential_backup(context: str = "bc-004", label: str | None = None, accept_losses: bool = False) -> str:
    """Store what changed since the newest full, deletions included, so that full and differential restore this moment.

    Where there is no full that fits, a full is taken instead, and the report says why.

    Args:
        context: the bounded context to back up.
        label: what to call it.
        accept_losses: rows that are gone since the last good full went on purpose.
    """
    with runs.begin("differential_backup", context) as run:
        site = sites.find_site(context, "reader")
        sites.describe(site.server, site.store)
        why = backups.occasion(site, run, label, None, accept_losses=accept_losses)
        source = backups.check_source(site, run)
        with context_lock(site.server, context, run.title):
            manifest = backups.take_set(site, run, source, why, backups.find_base(site, run))
        local_copy = backups.keep_local_copy(site, run, manifest)
        return reports.publish_backup(site, manifest, run.started, local_copy)


@operation("long-term-backup {context} {name}")
def long_term_backup(context: str = "bc-004", name: str = "violations") -> str:
    """Back up the tables of one of the context's long-term jobs into cold storage, read back before they are cold.

    Args:
        context: the bounded context.
        name: the job, as the context's `long_term` has it.
    """
    with runs.begin("long_term_backup", context) as run:
        site = sites.find_site(context, "reader")
        manifest = take_long_term(site, run, name, run.started)
        return reports.publish_backup(site, manifest, run.started)


def take_long_term(site: Site, run: Run, name: str, since: datetime) -> Manifest:
    """Back up the tables of a long-term job, unless that was done since an instant; return the set."""
    part = backups.long_term_site(site, name)
    sites.describe(site.server, site.store)
    # A clean-up begins with the long-term backups of its month: whoever comes second takes what the first one did.
    with context_lock(site.server, f"long-term {name} of {run.context}", run.title, exclusive=True, wait_seconds=WAIT_SECONDS):
        manifest = backups.long_term_since(site, name, since)
        if manifest is None:
            source = backups.check_source(part, run)
            with context_lock(site.server, run.context, run.title):
                # Sets of one run and one second would have one name: each is of a run of its own.
                manifest = backups.take_set(part, replace(run, id=new_run_id()), source, backups.Occasion(sort=name))
        # Also one that another run took, and died before it was cold.
        backups.cool_long_term(part, name)
    return manifest


@operation("list-backups {context}")
def list_backups(context: str = "bc-004") -> list[dict[str, object]]:
    """List the backup sets of a context, newest first, with what is wrong with them as far as a listing can tell.

    Args:
        context: the bounded context.
    """
    instant = now()
    listing = list_sets(sites.find_store(context), context)
    if listing.is_empty:
        # A name that was mistyped has no sets either.
        sites.find_context(context)
    rows = listings.listing_rows(listing, instant, zone_of(listing))
    reports.publish_listing(context, listing, rows, instant)
    listings.print_listing(context, rows)
    return rows


if __name__ == "__main__":
    run_from_command_line(daily_backup, differential_backup, long_term_backup, list_backups)
