"""Reports of a clean-up: what would be done, and what was."""

from collections.abc import Sequence

from prefect import get_run_logger

from tasks.core.clean_up.outcome import CleanUp, clean_up_report, clean_up_rows, verdict
from tasks.core.errors import OperationError
from tasks.run.artifacts import emit, publish
from tasks.run.run import step
from tasks.run.site import Site


@step
def publish_plan(site: Site, found: Sequence[CleanUp]) -> str:
    """Publish what a clean-up would do; return the verdict.

    Raises:
        OperationError: a rule cannot be followed.
    """
    context = site.context
    command = (
        f"python -m flows.retention clean_up_old_data --context {context.name} --dry-run false --confirm-database {site.database}"
    )
    said = verdict(found, planned=True)
    text = clean_up_report(said, found, [command] if any(one.rows for one in found) else [], planned=True)
    publish(f"{context.name}-clean-up-plan", said, text, clean_up_rows(found), "rules")
    return _or_fail(said, found)


@step
def publish_cleaned(site: Site, found: Sequence[CleanUp]) -> str:
    """Publish what a clean-up did, and tell it as an event; return the verdict.

    Raises:
        OperationError: a rule could not be followed.
    """
    context, said = site.context, verdict(found, planned=False)
    commands = [
        f"python -m flows.restore restore_cleaned_up --context {context.name} --backup {name}  # {one.rule.table}"
        # What others refer to comes back first, so it went last.
        for one in reversed(found)
        for name in reversed(one.sets)
    ]
    publish(f"{context.name}-clean-up", said, clean_up_report(said, found, commands, planned=False), clean_up_rows(found), "rules")
    emit(context.name, "clean-up.done", {"verdict": said, "sets": [name for one in found for name in one.sets]})
    return _or_fail(said, found)


def _or_fail(said: str, found: Sequence[CleanUp]) -> str:
    # Where there is no server, the log is the report.
    for line in (line for one in found for line in (*one.counted_reasons, *one.counted_doubts, *one.notes)):
        get_run_logger().warning("%s", line)
    if any(one.problem for one in found):
        raise OperationError(said)
    return said
