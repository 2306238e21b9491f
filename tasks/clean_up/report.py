"""Reports of a clean-up: which rows would be deleted, and which were."""

from collections.abc import Sequence

from prefect import get_run_logger

from tasks.core.clean_up.outcome import CleanUp, clean_up_report, clean_up_rows, verdict
from tasks.core.errors import OperationError
from tasks.run.artifacts import emit, publish
from tasks.run.run import step
from tasks.run.site import Site


@step
def publish_plan(site: Site, clean_ups: Sequence[CleanUp]) -> str:
    """Publish the plan of a clean-up: which rows it would delete. Return the verdict.

    Raises:
        OperationError: a rule cannot be followed.
    """
    context = site.context
    command = (
        f"python -m flows.retention clean_up_old_data --context {context.name} --dry-run false --confirm-database {site.database}"
    )
    verdict_line = verdict(clean_ups, planned=True)
    text = clean_up_report(verdict_line, clean_ups, [command] if any(clean_up.rows for clean_up in clean_ups) else [], planned=True)
    publish(f"{context.name}-clean-up-plan", verdict_line, text, clean_up_rows(clean_ups), "rules")
    return _or_fail(verdict_line, clean_ups)


@step
def publish_cleaned(site: Site, clean_ups: Sequence[CleanUp]) -> str:
    """Publish what a clean-up deleted, and emit an event; return the verdict.

    Raises:
        OperationError: a rule could not be followed.
    """
    context, verdict_line = site.context, verdict(clean_ups, planned=False)
    commands = [
        f"python -m flows.restore restore_cleaned_up --context {context.name} --backup {name}  # {clean_up.rule.table}"
        # Referenced rows were deleted last, and have to be restored first.
        for clean_up in reversed(clean_ups)
        for name in reversed(clean_up.sets)
    ]
    publish(
        f"{context.name}-clean-up",
        verdict_line,
        clean_up_report(verdict_line, clean_ups, commands, planned=False),
        clean_up_rows(clean_ups),
        "rules",
    )
    emit(
        context.name, "clean-up.done", {"verdict": verdict_line, "sets": [name for clean_up in clean_ups for name in clean_up.sets]}
    )
    return _or_fail(verdict_line, clean_ups)


def _or_fail(verdict_line: str, clean_ups: Sequence[CleanUp]) -> str:
    # Without a Prefect server the log is the report.
    for line in (line for clean_up in clean_ups for line in (*clean_up.reason_counts, *clean_up.doubt_counts, *clean_up.notes)):
        get_run_logger().warning("%s", line)
    if any(clean_up.problem for clean_up in clean_ups):
        raise OperationError(verdict_line)
    return verdict_line
