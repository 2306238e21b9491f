"""Asking a person: the run pauses with a plan and a form, and nothing is locked or open meanwhile."""

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

# A plan that nobody answers fails the run.
PATIENCE_SECONDS = 24 * 3600
POLL_SECONDS = 5


class Approval(RunInput):
    """What an operator says to a plan."""

    decision: Literal["abort", "proceed"] = "abort"
    database: str = Field(default="", description="to proceed, type the name of the database whose rows are changed")


def required(context: Context) -> bool:
    """Say whether this run has to ask whatever its parameters say: its context demands that, and a worker started it.

    Who may create runs may give them any parameters; who may also create or change deployments runs any program as the worker, and
    nothing here holds him.
    """
    return context.approval == "required" and WORKERS_MARK in os.environ


def required_unscheduled(context: Context) -> bool:
    """Say the same of a run that its deployment's schedule may do unasked: what it does stands in the deployment."""
    return required(context) and not _is_scheduled()


def _is_scheduled() -> bool:
    # Prefect's server notes this where its schedules make runs; no parameter, and no field of a run that the API takes, is it.
    with get_client(sync_client=True) as client:
        creator = client.read_flow_run(UUID(str(flow_run.id))).created_by
    return creator is not None and creator.type == "SCHEDULE"


def require_somebody_to_ask() -> None:
    """Refuse to ask where nobody could answer.

    Raises:
        BadInput: the run is not recorded on a Prefect server.
    """
    if not PREFECT_API_URL.value() or ALONE in os.environ:
        raise BadInput(
            "require_approval asks in Prefect's UI, and this run is on no Prefect server; set PREFECT_API_URL, or leave "
            "require_approval away and say confirm_database"
        )


def ask(plan: str) -> str:
    """Pause the run until an operator says what becomes of a plan (Markdown); return the name of the database that he typed.

    Raises:
        UnsafeTarget: he aborts it.
    """
    form = Approval.with_initial_data(description=plan)
    # A key that nobody knows beforehand: a run can be created with pauses that have happened already, and with their answers.
    key = secrets.token_hex(8)
    answer = pause_flow_run(wait_for_input=form, timeout=PATIENCE_SECONDS, poll_interval=POLL_SECONDS, key=key)
    if answer is None or answer.decision != "proceed":
        raise UnsafeTarget("the plan was not approved")
    return answer.database
