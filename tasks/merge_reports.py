"""Reports of restores into a live database: the plan, what was done, and what happened when it was not."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
from prefect.events import emit_event
from prefect.exceptions import Pause

from tasks.core import merge, report
from tasks.core.archives import ArchiveRestore, archive_report, archive_verdict
from tasks.core.complaints import message_of
from tasks.core.context import Context
from tasks.core.errors import OperationError
from tasks.core.merge import Beside, MergePlan, Request
from tasks.merges import Done
from tasks.reports import publish
from tasks.runs import step


@step
def publish_plan(context: Context, plan: MergePlan, request: Request) -> str:
    """Publish what a restore into a live database would do; return the verdict.

    Raises:
        OperationError: the plan says why it cannot be done.
    """
    verdict = merge.plan_verdict(plan)
    command = replace(request, backup=plan.backup).command(context.name, plan.database)
    publish(
        f"{context.name}-restore-plan", verdict, merge.plan_report(plan, context.zone, command), merge.change_rows(plan.changes)
    )
    if plan.refusals:
        raise OperationError(verdict)
    return verdict


@step
def publish_beside(context: Context, beside: Beside, passed_over: list[str]) -> str:
    """Publish that a table was restored beside the live one; return the verdict."""
    verdict = merge.beside_verdict(beside)
    publish(f"{context.name}-restore", verdict, merge.beside_report(beside, context.zone, passed_over), [])
    _emit(context, "done", {"verdict": verdict, "set": beside.backup, "table": beside.name})
    return verdict


@step
def publish_merged(context: Context, done: Done) -> str:
    """Publish what a restore into a live database did, and tell it as an event; return the verdict."""
    plan, merged = done.planned, done.merged
    if merged:
        verdict, undo = merge.merged_verdict(plan, merged), merged.undo
        text, rows = merge.merged_report(plan, merged), merge.change_rows(merged.changes)
    else:
        verdict, undo = f"RESTORED: nothing differs, nothing was touched: {plan.aim}{plan.caution}", ""
        text, rows = report.headline(verdict), list[dict[str, object]]()
    publish(f"{context.name}-restore", verdict, text, rows)
    told = f"see the report {context.name}-restore" if "--keys" in undo else undo
    _emit(context, "done", {"verdict": verdict, "set": plan.backup, "undo": told})
    return verdict


@step
def publish_archive(context: Context, restore: ArchiveRestore) -> str:
    """Publish what became of a legacy file; return the verdict.

    Raises:
        OperationError: rows of it could not be loaded.
    """
    verdict = archive_verdict(restore)
    publish(f"{context.name}-restore", verdict, archive_report(restore), [])
    _emit(context, "done", {"verdict": verdict, "file": restore.facts.path})
    if restore.lost or restore.unread:
        raise OperationError(verdict)
    return verdict


@contextmanager
def told(context: Context) -> Iterator[None]:
    """Tell a restore that was not done by event and artifact; the run fails after that."""
    try:
        with explained():
            yield
    except Pause:
        raise
    except BaseException as error:
        verdict = f"NOT RESTORED: {' '.join(str(error).split()) or type(error).__name__}"
        publish(f"{context.name}-restore", verdict, report.headline(verdict), [])
        _emit(context, "failed", {"verdict": verdict})
        raise


@contextmanager
def explained() -> Iterator[None]:
    """Turn what PostgreSQL says into one error of ours, without the details, which may quote rows.

    Raises:
        OperationError: what PostgreSQL said.
    """
    try:
        yield
    except psycopg.Error as error:
        raise OperationError(message_of(error)) from None


def _emit(context: Context, state: str, payload: dict[str, Any]) -> None:
    resource = {"prefect.resource.id": f"bounded-context.{context.name}", "prefect.resource.name": context.name}
    emit_event(event=f"live-restore.{state}", resource=resource, payload=payload)
