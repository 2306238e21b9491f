"""Reports of restores into a live database: the plan, what was done, and what happened when it was not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from tasks.core import merge, report
from tasks.core.archives import ArchiveRestore, archive_report, archive_verdict
from tasks.core.complaints import message_of
from tasks.core.context import Context
from tasks.core.errors import OperationError
from tasks.core.merge import Beside, Merged, MergePlan, Request
from tasks.reports import publish


@task(cache_policy=NO_CACHE)
def publish_plan(context: Context, plan: MergePlan, request: Request) -> str:
    """Publish what a restore into a live database would do; return the verdict.

    Raises:
        OperationError: the plan says why it cannot be done.
    """
    verdict = merge.plan_verdict(plan)
    command = request.command(context.name, plan.database)
    publish(
        f"{context.name}-restore-plan", verdict, merge.plan_report(plan, context.zone, command), merge.change_rows(plan.changes)
    )
    if plan.refusals:
        raise OperationError(verdict)
    return verdict


@task(cache_policy=NO_CACHE)
def publish_beside(context: Context, beside: Beside, passed_over: list[str]) -> str:
    """Publish that a table was restored beside the live one; return the verdict."""
    verdict = merge.beside_verdict(beside)
    publish(f"{context.name}-restore", verdict, merge.beside_report(beside, context.zone, passed_over), [])
    _emit(context, "done", {"verdict": verdict, "set": beside.backup, "table": beside.name})
    return verdict


@task(cache_policy=NO_CACHE)
def publish_nothing_to_do(context: Context, plan: MergePlan) -> str:
    """Publish that what is there is what the set has; return the verdict."""
    verdict = f"RESTORED: nothing differs, nothing was touched: {plan.aim}"
    publish(f"{context.name}-restore", verdict, report.headline(verdict), [])
    _emit(context, "done", {"verdict": verdict, "set": plan.backup})
    return verdict


@task(cache_policy=NO_CACHE)
def publish_merged(context: Context, plan: MergePlan, merged: Merged) -> str:
    """Publish what a restore into a live database did, and tell it as an event; return the verdict."""
    verdict = merge.merged_verdict(plan, merged)
    publish(f"{context.name}-restore", verdict, merge.merged_report(plan, merged), merge.change_rows(plan.changes))
    _emit(context, "done", {"verdict": verdict, "set": plan.backup, "undo": merged.undo})
    return verdict


@task(cache_policy=NO_CACHE)
def publish_archive(context: Context, restore: ArchiveRestore) -> str:
    """Publish what became of a legacy file; return the verdict.

    Raises:
        OperationError: rows of it could not be loaded.
    """
    verdict = archive_verdict(restore)
    publish(f"{context.name}-restore", verdict, archive_report(restore, context.zone), [])
    _emit(context, "done", {"verdict": verdict, "file": restore.facts.path})
    if restore.lost:
        raise OperationError(verdict)
    return verdict


@contextmanager
def told(context: Context) -> Iterator[None]:
    """Tell a restore that was not done by event and artifact; the run fails after that."""
    try:
        yield
    except BaseException as error:
        said = message_of(error) if isinstance(error, psycopg.Error) else " ".join(str(error).split()) or type(error).__name__
        verdict = f"NOT RESTORED: {said}"
        publish(f"{context.name}-restore", verdict, report.headline(verdict), [])
        _emit(context, "failed", {"verdict": verdict})
        if isinstance(error, psycopg.Error):
            # Not the error itself, whose details may quote rows.
            raise OperationError(said) from None
        raise


def _emit(context: Context, state: str, payload: dict[str, Any]) -> None:
    resource = {"prefect.resource.id": f"bounded-context.{context.name}", "prefect.resource.name": context.name}
    emit_event(event=f"live-restore.{state}", resource=resource, payload=payload)
