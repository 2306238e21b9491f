"""Approval by an operator: the run pauses with a plan and a form, without locks or connections."""

import os
import secrets
from typing import Literal
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from pydantic import Field

from tasks.core.context import Context
from tasks.core.errors import BadInput, UnsafeTarget
from tasks.run.own_server import ALONE
from tasks.run.run import WORKERS_MARK

# After this time without an answer the run fails.
PATIENCE_SECONDS = 24 * 3600
POLL_SECONDS = 5


class Approval(RunInput):
    """The form with an operator's answer to a plan."""

    decision: Literal["abort", "proceed"] = "abort"
    database: str = Field(default="", description="to approve the plan, type the name of the database whose rows will be changed")


def required(context: Context) -> bool:
    """Return whether this run needs approval whatever its parameters are.

    It does if its context requires approval and a worker executes the run. Users who may only
    create runs cannot avoid the approval by their choice of parameters. Users who may change
    deployments can, because they can run any program as the worker.
    """
    return context.approval == "required" and WORKERS_MARK in os.environ


def required_unscheduled(context: Context) -> bool:
    """Return whether this run needs approval; scheduled ones, by their deployments, need none."""
    return required(context) and not _is_scheduled()


def _is_scheduled() -> bool:
    # Set by the server's scheduler only: the API does not accept it for a run.
    with get_client(sync_client=True) as client:
        creator = client.read_flow_run(UUID(str(flow_run.id))).created_by
    return creator is not None and creator.type == "SCHEDULE"


def require_somebody_to_ask() -> None:
    """Refuse to ask for approval where nobody could answer.

    Raises:
        BadInput: the run is not recorded on a Prefect server.
    """
    if not PREFECT_API_URL.value() or ALONE in os.environ:
        raise BadInput(
            "require_approval asks for approval in Prefect's UI, but no Prefect server records "
            "this run; set PREFECT_API_URL, or omit require_approval and pass confirm_database"
        )


def ask(plan: str) -> str:
    """Pause the run until an operator approves a plan (Markdown); return the database name typed.

    Raises:
        UnsafeTarget: the operator aborts it.
    """
    form = Approval.with_initial_data(description=plan)
    # The key is unpredictable, because a run could be created with earlier pauses and their
    # answers.
    key = secrets.token_hex(8)
    answer = pause_flow_run(wait_for_input=form, timeout=PATIENCE_SECONDS, poll_interval=POLL_SECONDS, key=key)
    if answer is None or answer.decision != "proceed":
        raise UnsafeTarget("the plan was not approved")
    return answer.database
