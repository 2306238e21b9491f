"""The duration of each phase of an operation."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Phases:
    """Seconds by phase, in order, without gaps: time between two phases counts for the later."""

    clock: Callable[[], float] = time.monotonic
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start the clock."""
        self._since = self.clock()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time up to the end of the block to a phase, also if the block fails."""
        try:
            yield
        finally:
            now = self.clock()
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
            self._since = now

    @property
    def total(self) -> float:
        """Seconds from the beginning to the end of the last phase: the sum of all phases."""
        return sum(self.seconds.values())
