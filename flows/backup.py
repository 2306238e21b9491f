"""Backups of a bounded context, and the list of them.

Needs the database (a role with pg_read_all_data) and the store; leaves one committed backup set, read back, or nothing that
is listed. By hand: python -m flows.backup daily_backup --context bc-004
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

# As long as a long-term backup of the largest tables takes.
WAIT_SECONDS = 4 * 3600


@operation("daily-backup {context}")
def daily_backup(
    context: str = "bc-004", label: str | None = None, keep_until: str | None = None, accept_losses: bool = False
) -> str:
    """Back up the whole context under one snapshot, read every object back, and commit it as one set.

    Where a restore of it would make something else than the last drill that passed, a drill of it is asked for.
    A set in which a table lost too many of its rows since the last good one is stored, called suspect, and fails the run.

    Args:
        context: the bounded context to back up.
        label: what to call it, for example `before release 12`.
        keep_until: an instant (`2026-12-31`) before which it is never pruned.
        accept_losses: rows that are gone since the last good backup went on purpose.
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
    """Store what changed since the newest full, deletions included, so that full and differential restore this moment.

    Where there is no full that fits, a full is taken instead, and the report says why.

    Args:
        context: the bounded context to back up.
        label: what to call it.
        accept_losses: rows that are gone since the last good full went on purpose.
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
    """Back up the tables of one of the context's long-term jobs into cold storage, read back before they are cold.

    Args:
        context: the bounded context.
        name: the job, as the context's `long_term` has it.
    """
    with begin("long_term_backup", context) as run:
        site = find_site(context, "reader")
        manifest = take_long_term(site, run, name, run.started)
        return publish_backup(site, manifest, run.started)


def take_long_term(site: Site, run: Run, name: str, since: datetime) -> Manifest:
    """Back up the tables of a long-term job, unless that was done since an instant; return the set."""
    part = long_term.long_term_site(site, name)
    describe(site.server, site.store)
    # A clean-up begins with the long-term backups of its month: whoever comes second takes what the first one did.
    with context_lock(site.server, f"long-term {name} of {run.context}", run.title, exclusive=True, wait_seconds=WAIT_SECONDS):
        manifest = long_term.long_term_since(site, name, since)
        if manifest is None:
            manifest = take.take_part(part, run, take.Occasion(sort=name))
        # Also one that another run took, and died before it was cold.
        long_term.cool_long_term(part, name)
    return manifest


@operation("list-backups {context}")
def list_backups(context: str = "bc-004") -> list[dict[str, object]]:
    """List the backup sets of a context, newest first, with what is wrong with them as far as a listing can tell.

    Args:
        context: the bounded context.
    """
    instant = now()
    listing = list_sets(find_store(context), context)
    if listing.is_empty:
        # A name that was mistyped has no sets either.
        find_context(context)
    rows = table.listing_rows(listing, instant, zone_of(listing))
    table.publish_listing(context, listing, rows, instant)
    table.print_listing(context, rows)
    return rows


if __name__ == "__main__":
    run_from_command_line(daily_backup, differential_backup, long_term_backup, list_backups)
