"""Asking a person: the run pauses with a plan and a form, and nothing is locked or open meanwhile."""

from typing import Literal

from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.settings import PREFECT_API_URL
from pydantic import Field

from tasks.core.context import Context
from tasks.core.errors import BadInput, UnsafeTarget
from tasks.core.merge import MergePlan, plan_report

# A plan that nobody answers fails the run.
PATIENCE_SECONDS = 24 * 3600
POLL_SECONDS = 5


class Approval(RunInput):
    """What an operator says to a plan."""

    decision: Literal["abort", "proceed"] = "abort"
    database: str = Field(default="", description="to proceed, type the name of the database whose rows are changed")


def require_somebody_to_ask() -> None:
    """Refuse to ask where nobody could answer.

    Raises:
        BadInput: the run is not recorded on a Prefect server.
    """
    if not PREFECT_API_URL.value():
        raise BadInput(
            "require_approval asks in Prefect's UI, and this run is on no Prefect server; set PREFECT_API_URL, or leave "
            "require_approval away and say confirm_database"
        )


def ask(context: Context, plan: MergePlan) -> str:
    """Pause the run until an operator says what becomes of a plan; return the name of the database that he typed.

    Raises:
        UnsafeTarget: he aborts it.
    """
    form = Approval.with_initial_data(description=plan_report(plan, context.zone))
    answer = pause_flow_run(wait_for_input=form, timeout=PATIENCE_SECONDS, poll_interval=POLL_SECONDS)
    if answer is None or answer.decision != "proceed":
        raise UnsafeTarget("the plan was not approved")
    return answer.database
