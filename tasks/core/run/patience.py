"""How long a piece of work goes on in a network that fails: all its tries, pauses and requests together."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

PATIENCE_SECONDS = 300.0
# Longer than the client of a store repeats one request: what fails after so long a quiet is new trouble.
QUIET_SECONDS = 200.0


@dataclass
class Trouble:
    """Since when a piece of work has been failing, and when it did so last (seconds of the monotonic clock)."""

    since: float = -math.inf
    last: float = -math.inf

    def may_pass(self) -> bool:
        """Note that something failed just now; say whether it is worth another try."""
        clock = time.monotonic()
        if clock - self.last > QUIET_SECONDS:
            self.since = clock
        self.last = clock
        return clock - self.since < PATIENCE_SECONDS


_shared = ContextVar[Trouble | None]("trouble", default=None)


@contextmanager
def sharing(trouble: Trouble) -> Iterator[None]:
    """Let all that the block asks of the network have one patience."""
    token = _shared.set(trouble)
    try:
        yield
    finally:
        _shared.reset(token)


def is_shared() -> bool:
    """Say whether this is within such a block."""
    return _shared.get() is not None


def is_left() -> bool:
    """Note that the network failed just now; say whether to ask again. Outside of such a block it is nobody's to say."""
    trouble = _shared.get()
    return trouble is None or trouble.may_pass()
