"""The life of what is kept: backup sets that have had their time, and rows of the database that have had theirs.

Both need store and database: prune_backups asks the database for the time alone, with a role that may connect; clean_up_old_data
needs a role that acts as the owner of the tables.
By hand: python -m flows.retention prune_backups --context bc-004 [--dry-run false], or clean_up_old_data
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
    """Let backup sets expire that are older than their retention, delete what expired a day ago, sweep what died unfinished.

    Nothing that is needed goes: not the newest full, nor the newest proven one, nor a full that a differential needs; and
    nothing at all while the newest set is suspect, while no new full comes, where clocks differ, or without the database.

    Args:
        context: the bounded context.
        dry_run: only plan, and publish the plan.
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
    """Archive and delete rows that have had their time by the context's rules, after the long-term backups of the month.

    Rows that are still referred to, or that a trigger keeps, stay and are reported; they hold up nothing else. A run that was
    interrupted is finished by the next one.

    Args:
        context: the bounded context.
        dry_run: only find out, in a transaction that is rolled back, and publish what would be done.
        confirm_database: the name of the database whose rows are to be deleted, to say that this is meant.
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
