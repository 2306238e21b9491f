"""The life of what is kept: backup sets that have had their time.

Needs the store alone. By hand: python -m flows.retention prune_backups --context bc-004 [--dry-run false]
"""

from prefect import flow

from flows.command_line import run_from_command_line
from tasks import prunings, runs, sites


@flow(flow_run_name="prune-backups {context}", task_runner=runs.task_runner())
def prune_backups(context: str = "bc-004", dry_run: bool = True) -> str:
    """Let backup sets expire that are older than their retention, delete what expired a day ago, sweep what died unfinished.

    Nothing that is needed goes: not the newest full, nor the newest proven one, nor a full that a differential needs; and
    nothing at all while the newest set is suspect.

    Args:
        context: the bounded context.
        dry_run: only plan, and publish the plan.
    """
    with runs.begin("prune_backups", context) as run:
        definition, store = sites.find_context(context), sites.find_store(context)
        sites.require_apart(definition, store)
        verdicts = list[str]()
        for key, place, periods in prunings.places(definition, store):
            pruning = prunings.survey(place, definition, periods, run.started)
            if not dry_run:
                prunings.carry_out(place, pruning)
            verdicts.append(prunings.publish_pruning(definition, key, pruning, dry_run=dry_run))
        return "; ".join(verdicts)


if __name__ == "__main__":
    run_from_command_line(prune_backups)
