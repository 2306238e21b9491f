"""Retries of repeatable work after a store did not answer, or a schema changed under its snapshot.

Only one level retries at a time. Prefect repeats a repeatable step, and shows it (AwaitingRetry,
run count). A `persistent` function repeats itself outside of such a step, and leaves retries to it
inside. Below both, the store's client repeats single requests. All share one time limit
(tasks/core/run/patience.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from threading import Event
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import Task, get_run_logger
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.tasks import exponential_backoff
from tenacity import RetryCallState, retry, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_none, wait_random
from tenacity.wait import WaitBaseT

from tasks.core.errors import OperationError, ServerUnavailable, StoreUnavailable
from tasks.core.run.patience import Trouble, is_shared, sharing

P = ParamSpec("P")
T = TypeVar("T")
TRIES = 4
# Errors after which a retry may succeed; all others are raised at once.
PASSING = (StoreUnavailable, ServerUnavailable)
# Set when the work that a step is part of has failed.
abandoned = ContextVar[Event | None]("abandoned", default=None)
_troubles = dict[UUID, Trouble]()


def again_on(
    error: type[Exception],
    tries: int,
    wait: WaitBaseT | None = None,
    between: Callable[[], object] = lambda: None,
) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator that repeats a function after this error, `tries` calls in all."""

    def prepare(call: RetryCallState) -> None:
        _warn(call)
        between()

    times = stop_after_attempt(tries)
    return retry(retry=retry_if_exception_type(error), stop=times, wait=wait or wait_none(), before_sleep=prepare, reraise=True)


def _warn(call: RetryCallState) -> None:
    assert call.outcome and call.next_action  # noqa: S101
    seconds, error = call.next_action.sleep, call.outcome.exception()
    # Outside of flows (register, kit) Prefect has no run logger.
    with suppress(MissingContextError):
        when = f"again in {seconds:.0f} s" if seconds else "once more"
        get_run_logger().warning("attempt %d: %s; %s", call.attempt_number, error, when)


def persistent(work: Callable[P, T]) -> Callable[P, T]:
    """Return a function that repeats itself after StoreUnavailable; it must be repeatable."""
    tries = again_on(StoreUnavailable, TRIES, wait_exponential(multiplier=2) + wait_random(0, 2))(work)

    @wraps(tries)
    def persist(*words: P.args, **named: P.kwargs) -> T:
        if is_shared():
            return work(*words, **named)
        with sharing(Trouble()):
            return tries(*words, **named)

    return persist


@contextmanager
def attempt() -> Iterator[None]:
    """Limit an attempt of a repeatable step to the time that earlier ones left of the retry limit.

    Raises:
        OperationError: another part of the same work failed while this step waited.
    """
    context = TaskRunContext.get()
    if context is None or not context.task.retries or is_shared():
        # Called as a function, or within work that is itself repeated.
        yield
        return
    run, given_up = context.task_run, abandoned.get()
    trouble = _troubles.pop(run.id, Trouble())
    if given_up and given_up.is_set():
        raise OperationError("not retried: another part of this work has failed meanwhile")
    with sharing(trouble):
        try:
            yield
        except PASSING:
            if run.run_count <= context.task.retries:
                _troubles[run.id] = trouble
            raise


def may_pass(_: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether Prefect should repeat a step after an error."""
    trouble, given_up = _troubles.get(run.id), abandoned.get()
    if isinstance(state.data, PASSING) and trouble and not (given_up and given_up.is_set()) and trouble.may_pass():
        return True
    _troubles.pop(run.id, None)
    return False


# How Prefect repeats a step: about 2, 4 and 8 seconds after it failed.
REPEATED: dict[str, Any] = {
    "retries": TRIES - 1, "retry_delay_seconds": exponential_backoff(2), "retry_jitter_factor": 0.5, "retry_condition_fn": may_pass,
}  # fmt: skip
