"""Doing once more what may be done twice: asking a store that was silent, starting over when a snapshot moved."""

from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

from prefect import get_run_logger
from prefect.exceptions import MissingContextError
from tenacity import RetryCallState, retry, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_none, wait_random
from tenacity.wait import WaitBaseT

from tasks.core.errors import StoreUnavailable

P = ParamSpec("P")
T = TypeVar("T")


def again_on(
    error: type[Exception], tries: int, wait: WaitBaseT | None = None, between: Callable[[], object] = lambda: None
) -> Callable[[Callable[P, T]], Callable[P, T]]:  # fmt: skip
    """Let a piece of work be done so many times in all while it ends with this error; the last one is raised."""

    def prepare(call: RetryCallState) -> None:
        _tell(call)
        between()

    times = stop_after_attempt(tries)
    return retry(retry=retry_if_exception_type(error), stop=times, wait=wait or wait_none(), before_sleep=prepare, reraise=True)


def _tell(call: RetryCallState) -> None:
    assert call.outcome and call.next_action  # noqa: S101
    seconds, error = call.next_action.sleep, call.outcome.exception()
    # What is no flow (a registration, a kit) asks the store too.
    with suppress(MissingContextError):
        when = f"again in {seconds:.0f} s" if seconds else "once more"
        get_run_logger().warning("attempt %d: %s; %s", call.attempt_number, error, when)


# For what is done with the store and may be done twice: only its silence is worth another try.
persistent = again_on(StoreUnavailable, tries=4, wait=wait_exponential(multiplier=2) + wait_random(0, 2))
