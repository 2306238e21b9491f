"""Retention: of backup sets in the store, and of rows in the database.

Both need store and database. prune_backups only asks the database for the time, with a role that
may connect; clean_up_old_data needs a role that acts as the owner of the tables.
By hand: python -m flows.retention prune_backups --context bc-004 [--dry-run false], or
clean_up_old_data
"""

from flows.backup import take_long_term
from flows.command_line import run_from_command_line
from tasks.clean_up.plan import plan
from tasks.clean_up.report import publish_cleaned, publish_plan
from tasks.clean_up.rules import clean_up, require_archivable, rules_in_order
from tasks.core.calendar import start_of
from tasks.database import logins
from tasks.run import approval
from tasks.run.run import begin, operation
from tasks.run.site import find_context, find_site, find_store, require_apart, require_confirmed
from tasks.sets import prune, survey
from tasks.sets.report import publish_pruning


@operation("prune-backups {context}")
def prune_backups(context: str = "bc-004", dry_run: bool = True) -> str:
    """Expire backup sets past retention, delete those expired for a day, remove unfinished ones.

    Sets that are needed are kept: the newest full backup, the newest one that was verified, and
    full backups that a differential needs. Nothing is deleted while the newest set is suspect, full
    backups have stopped, clocks differ, or the database is down.

    Args:
        context: the bounded context.
        dry_run: only publish the plan.
    """
    with begin("prune_backups", context) as run:
        definition, store = find_context(context), find_store(context)
        require_apart(definition, store)
        verdicts = list[str]()
        with survey.alone(context, run) as lock:
            for key, place, periods in survey.places(definition, store):
                pruning = survey.survey(place, definition, periods, run.started, lock)
                if not dry_run:
                    prune.carry_out(place, run, lock, pruning)
                verdicts.append(publish_pruning(definition, key, pruning, dry_run=dry_run))
        return "; ".join(verdicts)


@operation("clean-up-old-data {context}")
def clean_up_old_data(context: str = "bc-004", dry_run: bool = True, confirm_database: str | None = None) -> str:
    """Take the month's long-term backups, then archive and delete rows past retention.

    Rows that other rows refer to, or that a trigger protects, are not deleted but reported; the
    others are deleted. If a run is interrupted, the next one finishes its work.

    Args:
        context: the bounded context.
        dry_run: only try the deletion, in transactions that are rolled back, and publish the plan.
        confirm_database: the name of the database, to confirm that its rows may be deleted.
    """
    with begin("clean_up_old_data", context) as run:
        site = logins.with_loader(find_site(context), run)
        logins.require_all_rows(site, run)
        month = start_of("month", run.started, site.context.zone)
        require_archivable(site, run, month)
        if dry_run:
            return publish_plan(site, plan(site, run))
        if approval.required_unscheduled(site.context):
            confirm_database = approval.ask(publish_plan(site, plan(site, run)))
        require_confirmed(site, confirm_database, "delete rows")
        rules = rules_in_order(site, run)
        for job in site.context.long_term if rules else ():
            take_long_term(site, run, job, month)
        for rule in rules:
            clean_up(site, run, rule)
        return publish_cleaned(site, rules)


if __name__ == "__main__":
    run_from_command_line(prune_backups, clean_up_old_data)
