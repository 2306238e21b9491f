"""Artifacts for people, events for automations, and errors without row contents."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.events import Event, emit_event
from prefect.events.schemas.events import RelatedResource, Resource
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run

from tasks.core.errors import OperationError
from tasks.core.postgres.messages import message_of
from tasks.run.own_server import ALONE


def publish(key: str, verdict: str, text: str, rows: list[dict[str, Any]], of: str = "relations") -> None:
    """Publish a report and its table under their keys; the verdict is their description.

    The work itself is done: if Prefect's server does not answer, only the report is lost, with a
    warning.
    """
    try:
        create_markdown_artifact(key=key, markdown=text, description=verdict)
        if rows:
            create_table_artifact(key=f"{key}-{of}", table=rows, description=verdict)
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("Prefect's server did not accept the report %s: %s", key, " ".join(str(error).split()))
    get_run_logger().info("%s", verdict)


def emit(context: str, event: str, payload: dict[str, Any]) -> None:
    """Emit an event of a context; its resource is `bounded-context.NAME`."""
    emit_event(event=event, resource=_resource(context), payload=payload)


def deliver(context: str, event: str, payload: dict[str, Any], labels: dict[str, str], automation: str) -> str:
    """Emit an event for an automation that matches the labels.

    Return why the automation will not run, or "". Prefect's own emit_event sends in the background
    and does not report failures.
    """
    if ALONE in os.environ:
        return "no event could be sent, because there is no Prefect server"
    run = RelatedResource({"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"})
    message = Event(event=event, resource=Resource(_resource(context) | labels), payload=payload, related=[run])
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[message.model_dump(mode="json")])
            automations = client.read_automations_by_name(automation)
    except (httpx.HTTPError, PrefectException) as error:
        return f"no event could be sent, because Prefect's server did not accept it ({' '.join(str(error).split())})"
    if any(candidate.enabled for candidate in automations):
        return ""
    state = "off" if automations else "missing: python -m deployments.register"
    return f'the event was sent, but the automation "{automation}" that it should start is {state}'


def _resource(context: str) -> dict[str, str]:
    return {"prefect.resource.id": f"bounded-context.{context}", "prefect.resource.name": context}


@contextmanager
def explained() -> Iterator[None]:
    """Turn PostgreSQL's errors into OperationError, without details, which may quote rows.

    Raises:
        OperationError: PostgreSQL's message.
    """
    try:
        yield
    except psycopg.Error as error:
        raise OperationError(message_of(error)) from None
