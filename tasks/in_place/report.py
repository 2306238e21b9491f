"""Reports of restores into a live database: plans, results, failures."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from prefect.exceptions import Pause

from tasks.core.context import Context
from tasks.core.errors import OperationError
from tasks.core.in_place.plan import MergePlan
from tasks.core.in_place.report import (
    Beside,
    beside_report,
    beside_verdict,
    change_rows,
    merged_report,
    merged_verdict,
    plan_report,
    plan_verdict,
    unchanged_report,
    unchanged_verdict,
)
from tasks.core.in_place.request import Request
from tasks.core.report import markdown
from tasks.core.restore.legacy_dump import ArchiveRestore, archive_report, archive_verdict
from tasks.in_place.apply import Done
from tasks.run.artifacts import emit, explained, publish
from tasks.run.run import step


@step
def publish_plan(context: Context, plan: MergePlan, request: Request) -> str:
    """Publish the plan of a restore into a live database; return the verdict.

    Raises:
        OperationError: the plan has refusals.
    """
    verdict = plan_verdict(plan)
    command = replace(request, backup=plan.backup).command(context.name, plan.database)
    publish(f"{context.name}-restore-plan", verdict, plan_report(plan, context.zone, command), change_rows(plan.changes))
    if plan.refusals:
        raise OperationError(verdict)
    return verdict


@step
def publish_beside(context: Context, beside: Beside, passed_over: Sequence[str]) -> str:
    """Publish that a table was restored beside the live one; return the verdict."""
    verdict = beside_verdict(beside)
    publish(f"{context.name}-restore", verdict, beside_report(beside, context.zone, passed_over), [])
    emit(context.name, "live-restore.done", {"verdict": verdict, "set": beside.backup, "table": beside.name})
    return verdict


@step
def publish_merged(context: Context, done: Done) -> str:
    """Publish the report of a restore into a live database, emit the event; return the verdict."""
    plan, merged = done.planned, done.merged
    if merged:
        verdict, undo = merged_verdict(plan, merged), merged.undo
        text, rows = merged_report(plan, merged), change_rows(merged.changes)
    else:
        verdict, undo = unchanged_verdict(plan), ""
        text, rows = unchanged_report(plan), list[dict[str, object]]()
    publish(f"{context.name}-restore", verdict, text, rows)
    undo_text = f"see the report {context.name}-restore" if "--keys" in undo else undo
    emit(context.name, "live-restore.done", {"verdict": verdict, "set": plan.backup, "undo": undo_text})
    return verdict


@step
def publish_archive(context: Context, restore: ArchiveRestore) -> str:
    """Publish the outcome of restoring a legacy file; return the verdict.

    Raises:
        OperationError: rows of it could not be loaded.
    """
    verdict = archive_verdict(restore)
    publish(f"{context.name}-restore", verdict, archive_report(restore), [])
    emit(context.name, "live-restore.done", {"verdict": verdict, "file": restore.facts.path})
    if restore.lost or restore.unread:
        raise OperationError(verdict)
    return verdict


@contextmanager
def report_failure(context: Context) -> Iterator[None]:
    """Report a restore that fails in the block by event and artifact, and raise the error again."""
    try:
        with explained():
            yield
    except Pause:
        raise
    except BaseException as error:
        verdict = f"NOT RESTORED: {' '.join(str(error).split()) or type(error).__name__}"
        publish(f"{context.name}-restore", verdict, markdown.headline(verdict), [])
        emit(context.name, "live-restore.failed", {"verdict": verdict})
        raise
