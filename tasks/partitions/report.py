"""Reports on partitions: created, archived and reattached ones, and plans."""

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
    """Publish the error of a run that stops before its report; raise it as OperationError."""
    try:
        with artifacts.explained():
            yield
    except OperationError as error:
        verdict = f"FAIL: {' '.join(str(error).split())}"
        publish(f"{context.name}-partitions", verdict, markdown.headline(verdict), [])
        raise


@step
def publish_timeline(context: Context, timelines: Sequence[Timeline], instant: datetime) -> str:
    """Publish the existing partitions, and what will become of each; return the verdict.

    Raises:
        OperationError: a needed partition could not be created.
    """
    verdict = timeline_verdict(timelines)
    rows = timeline_rows(timelines, instant, context.zone)
    text = timeline_report(timelines, instant, context.zone)
    publish(f"{context.name}-partitions", verdict, text, rows, "timeline")
    if any(timeline.problems for timeline in timelines):
        raise OperationError(verdict)
    return verdict


@step
def publish_plan(site: Site, archivings: Sequence[Archiving]) -> str:
    """Publish which partitions would be archived; return the verdict.

    Raises:
        OperationError: a table does not fit its rule.
    """
    context = site.context
    command = (
        f"python -m flows.partitions archive_partitions --context {context.name} --dry-run false --confirm-database {site.database}"
    )
    verdict = archive.plan_verdict(archivings)
    text = archive.archive_report(verdict, archivings, context.zone, [command] if archivings else [], planned=True)
    publish(f"{context.name}-archive-plan", verdict, text, archive.archiving_rows(archivings, planned=True), "partitions")
    if any(archiving.problem and not archiving.partition.oid for archiving in archivings):
        raise OperationError(verdict)
    return verdict


@step
def publish_archived(site: Site, archivings: Sequence[Archiving]) -> str:
    """Publish which partitions were archived, and emit an event for each dropped one.

    Return the verdict.

    Raises:
        OperationError: a partition could not be archived.
    """
    context, verdict = site.context, archive.verdict(archivings)
    dropped = [archiving for archiving in archivings if archiving.dropped]
    commands = [
        f"python -m flows.partitions reattach_partition --context {context.name} --backup {part.backup}  # {part.partition.name}"
        for part in dropped
    ]
    text = archive.archive_report(verdict, archivings, context.zone, commands, planned=False)
    publish(f"{context.name}-archive", verdict, text, archive.archiving_rows(archivings, planned=False), "partitions")
    for archiving in dropped:
        emit(context.name, "partition.archived", {"partition": archiving.partition.qualified, "set": archiving.backup or ""})
    if any(archiving.problem for archiving in archivings):
        raise OperationError(verdict)
    return verdict


@step
def publish_reattached(context: Context, archived: Archived, rows: int, differences: Sequence[str]) -> str:
    """Publish that a partition is attached again, and how it differs; return the verdict."""
    verdict = f"ATTACHED: {archived.partition} with {rows:,} rows of {archived.backup}, compared"
    if differences:
        verdict += f"; differs: {'; '.join(differences)}"
    publish(f"{context.name}-partitions", verdict, markdown.headline(verdict), [])
    emit(context.name, "partition.reattached", {"partition": archived.partition, "set": archived.backup})
    return verdict
