"""Reports of what was done with partitions, or would be."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from tasks.core.context import Context
from tasks.core.errors import OperationError
from tasks.core.partitions import archive
from tasks.core.partitions.archive import Archiving
from tasks.core.partitions.timeline import Timeline, timeline_report, timeline_rows, timeline_verdict
from tasks.core.report import markdown
from tasks.partitions.reattach import Archived
from tasks.run import artifacts
from tasks.run.artifacts import emit, publish
from tasks.run.run import step
from tasks.run.site import Site


@contextmanager
def explained(context: Context) -> Iterator[None]:
    """Publish what stopped a run before it could report, as one error of ours; the run fails after that."""
    try:
        with artifacts.explained():
            yield
    except OperationError as error:
        verdict = f"FAIL: {' '.join(str(error).split())}"
        publish(f"{context.name}-partitions", verdict, markdown.headline(verdict), [])
        raise


@step
def publish_timeline(context: Context, timelines: Sequence[Timeline], instant: datetime) -> str:
    """Publish the partitions that there are, with what becomes of each; return the verdict.

    Raises:
        OperationError: one that is needed could not be made.
    """
    verdict = timeline_verdict(timelines)
    rows = timeline_rows(timelines, instant, context.zone)
    text = timeline_report(timelines, instant, context.zone)
    publish(f"{context.name}-partitions", verdict, text, rows, "timeline")
    if any(timeline.problems for timeline in timelines):
        raise OperationError(verdict)
    return verdict


@step
def publish_plan(site: Site, found: Sequence[Archiving]) -> str:
    """Publish what would be archived; return the verdict.

    Raises:
        OperationError: a table is not as its rule says.
    """
    context = site.context
    command = (
        f"python -m flows.partitions archive_partitions --context {context.name} --dry-run false --confirm-database {site.database}"
    )
    verdict = archive.plan_verdict(found)
    text = archive.archive_report(verdict, found, context.zone, [command] if found else [], planned=True)
    publish(f"{context.name}-archive-plan", verdict, text, archive.archiving_rows(found, planned=True), "partitions")
    if any(one.problem and not one.partition.oid for one in found):
        raise OperationError(verdict)
    return verdict


@step
def publish_archived(site: Site, found: Sequence[Archiving]) -> str:
    """Publish what was archived, and tell each partition that was dropped as an event; return the verdict.

    Raises:
        OperationError: a partition stays that should not.
    """
    context, verdict = site.context, archive.verdict(found)
    dropped = [one for one in found if one.dropped]
    commands = [
        f"python -m flows.partitions reattach_partition --context {context.name} --backup {one.backup}  # {one.partition.name}"
        for one in dropped
    ]
    text = archive.archive_report(verdict, found, context.zone, commands, planned=False)
    publish(f"{context.name}-archive", verdict, text, archive.archiving_rows(found, planned=False), "partitions")
    for one in dropped:
        emit(context.name, "partition.archived", {"partition": one.partition.qualified, "set": one.backup or ""})
    if any(one.problem for one in found):
        raise OperationError(verdict)
    return verdict


@step
def publish_reattached(context: Context, found: Archived, rows: int, unlike: Sequence[str]) -> str:
    """Publish that an archived partition is back, and what of it is not as it was; return the verdict."""
    verdict = f"ATTACHED: {found.partition} with {rows:,} rows of {found.backup}, compared"
    if unlike:
        verdict += f"; not as it was: {'; '.join(unlike)}"
    publish(f"{context.name}-partitions", verdict, markdown.headline(verdict), [])
    emit(context.name, "partition.reattached", {"partition": found.partition, "set": found.backup})
    return verdict
