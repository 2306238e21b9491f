"""Reports of restores into a live database: the plan, what was done, and what happened when it was not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from tasks.core import merge, report
from tasks.core.complaints import message_of
from tasks.core.context import Context
from tasks.core.errors import OperationError
from tasks.core.merge import Merged, MergePlan
from tasks.reports import publish


@task(cache_policy=NO_CACHE)
def publish_plan(context: Context, plan: MergePlan, command: str) -> str:
    """Publish what a restore into a live database would do; return the verdict.

    Raises:
        OperationError: the plan says why it cannot be done.
    """
    verdict = merge.plan_verdict(plan)
    publish(
        f"{context.name}-restore-plan", verdict, merge.plan_report(plan, context.zone, command), merge.change_rows(plan.changes)
    )
    if plan.refusals:
        raise OperationError(verdict)
    return verdict


@task(cache_policy=NO_CACHE)
def publish_merged(context: Context, plan: MergePlan, merged: Merged, undo: str) -> str:
    """Publish what a restore into a live database did, and tell it as an event; return the verdict."""
    verdict = merge.merged_verdict(plan, merged)
    publish(f"{context.name}-restore", verdict, merge.merged_report(plan, merged, undo), merge.change_rows(plan.changes))
    _emit(context, "done", {"verdict": verdict, "set": plan.backup, "undo": undo})
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
