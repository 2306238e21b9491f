"""The time limit for retries while the network fails: attempts, pauses and requests together."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

PATIENCE_SECONDS = 300.0
# Longer than a store's client repeats one request: a failure after such a pause begins a new
# series.
QUIET_SECONDS = 200.0


@dataclass
class Trouble:
    """The first and the last failure in a series (seconds of the monotonic clock)."""

    since: float = -math.inf
    last: float = -math.inf

    def may_pass(self) -> bool:
        """Record a failure; return whether to retry."""
        clock = time.monotonic()
        if clock - self.last > QUIET_SECONDS:
            self.since = clock
        self.last = clock
        return clock - self.since < PATIENCE_SECONDS


_shared = ContextVar[Trouble | None]("trouble", default=None)


@contextmanager
def sharing(trouble: Trouble) -> Iterator[None]:
    """Let all requests in the block share one time limit."""
    token = _shared.set(trouble)
    try:
        yield
    finally:
        _shared.reset(token)


def is_shared() -> bool:
    """Return whether this code runs within a block of `sharing`."""
    return _shared.get() is not None


def is_left() -> bool:
    """Record a network failure; return whether to retry: always outside of `sharing`."""
    trouble = _shared.get()
    return trouble is None or trouble.may_pass()
