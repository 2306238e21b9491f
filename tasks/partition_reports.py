"""Reports of what was done with partitions, or would be."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from prefect.events import emit_event

from tasks import merge_reports
from tasks.core import archiving, partitions, report
from tasks.core.archiving import Archiving
from tasks.core.context import Context
from tasks.core.errors import OperationError
from tasks.core.partitions import Timeline
from tasks.partition_restores import Archived
from tasks.reports import publish
from tasks.runs import step
from tasks.sites import Site


@contextmanager
def explained(context: Context) -> Iterator[None]:
    """Publish what stopped a run before it could report, as one error of ours; the run fails after that."""
    try:
        with merge_reports.explained():
            yield
    except OperationError as error:
        verdict = f"FAIL: {' '.join(str(error).split())}"
        publish(f"{context.name}-partitions", verdict, report.headline(verdict), [])
        raise


@step
def publish_timeline(context: Context, timelines: Sequence[Timeline], instant: datetime) -> str:
    """Publish the partitions that there are, with what becomes of each; return the verdict.

    Raises:
        OperationError: one that is needed could not be made.
    """
    verdict = partitions.timeline_verdict(timelines)
    rows = partitions.timeline_rows(timelines, instant, context.zone)
    text = partitions.timeline_report(timelines, instant, context.zone)
    publish(f"{context.name}-partitions", verdict, text, rows, "timeline")
    if any(timeline.problems for timeline in timelines):
        raise OperationError(verdict)
    return verdict


@step
def publish_plan(site: Site, found: Sequence[Archiving]) -> str:
    """Publish what would be archived; return the verdict."""
    context = site.context
    command = (
        f"python -m flows.partitions archive_partitions --context {context.name} --dry-run false --confirm-database {site.database}"
    )
    verdict = archiving.plan_verdict(found)
    text = archiving.archive_report(verdict, found, context.zone, [command] if found else [], planned=True)
    publish(f"{context.name}-archive-plan", verdict, text, archiving.archiving_rows(found, planned=True), "partitions")
    return verdict


@step
def publish_archived(site: Site, found: Sequence[Archiving]) -> str:
    """Publish what was archived, and tell each partition that was dropped as an event; return the verdict.

    Raises:
        OperationError: a partition stays that should not.
    """
    context, verdict = site.context, archiving.verdict(found)
    dropped = [one for one in found if one.dropped]
    commands = [
        f"python -m flows.partitions reattach_partition --context {context.name} --backup {one.backup}  # {one.partition.name}"
        for one in dropped
    ]
    text = archiving.archive_report(verdict, found, context.zone, commands, planned=False)
    publish(f"{context.name}-archive", verdict, text, archiving.archiving_rows(found, planned=False), "partitions")
    for one in dropped:
        _emit(context, "archived", one.partition.qualified, one.backup or "")
    if any(one.problem for one in found):
        raise OperationError(verdict)
    return verdict


@step
def publish_reattached(context: Context, found: Archived, rows: int, unlike: Sequence[str]) -> str:
    """Publish that an archived partition is back, and what of it is not as it was; return the verdict."""
    verdict = f"ATTACHED: {found.partition} with {rows:,} rows of {found.backup}, compared"
    if unlike:
        verdict += f"; not as it was: {'; '.join(unlike)}"
    publish(f"{context.name}-partitions", verdict, report.headline(verdict), [])
    _emit(context, "reattached", found.partition, found.backup)
    return verdict


def _emit(context: Context, state: str, partition: str, backup: str) -> None:
    resource = {"prefect.resource.id": f"bounded-context.{context.name}", "prefect.resource.name": context.name}
    emit_event(event=f"partition.{state}", resource=resource, payload={"partition": partition, "set": backup})
