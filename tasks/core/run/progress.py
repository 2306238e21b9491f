"""The progress of a long phase: bytes moved and expected, rate, expected end, and its log lines."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo

from tasks.core.report.markdown import duration, local_time, size

# A callback with the number of bytes of an item moved so far.
Moved = Callable[[float], None]
# 100 % is reported only when the phase has ended.
ALMOST = 0.999
# Below this share the end cannot be estimated.
ENOUGH = 0.02


def unmeasured(_: float) -> None:
    """Ignore the progress."""


@dataclass
class Item:
    """A relation or file of a phase: one worker sets the numbers, other threads may read them."""

    expected: float
    moved: float = 0.0

    def at(self, position: float) -> None:
        """Set the bytes moved so far: less than before on a retry."""
        self.moved = position

    def read(self, position: float) -> None:
        """Set the bytes read so far; a byte that is read but not yet stored counts half."""
        self.expected = max(self.expected, position)
        self.moved = position / 2

    def known(self, expected: float) -> None:
        """Set the size, which is known once the item was read, or need not be read."""
        self.expected, self.moved = expected, expected / 2

    def sent(self, total: float, position: float) -> None:
        """Set how many of the `total` bytes are stored."""
        self.moved = self.expected * (1 + position / total) / 2


@dataclass(frozen=True)
class Progress:
    """The progress of a phase at one moment; `share` is None if it cannot be measured."""

    moved: float
    expected: float
    seconds: float
    share: float | None

    @property
    def rate(self) -> float:
        """Bytes a second since the phase began."""
        return self.moved / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The remaining seconds at that rate; None while too little is done to estimate it."""
        if self.share is None or self.share < ENOUGH:
            return None
        return self.seconds * (1 - self.share) / self.share


@dataclass
class Tally:
    """The items of a phase; its share never falls, and is 1 only when the phase has succeeded."""

    items: Mapping[str, Item]
    began: float
    done: bool = False
    failure: str | None = None
    _highest: float = field(default=0.0, init=False)

    def look(self, clock: float) -> Progress:
        """Return the progress at a time of the monotonic clock."""
        moved = sum(item.moved for item in self.items.values())
        expected = sum(max(item.expected, item.moved) for item in self.items.values())
        if expected:
            self._highest = max(self._highest, min(moved / expected, ALMOST))
        share = 1.0 if self.done else self._highest if expected else None
        return Progress(moved, expected, clock - self.began, share)


def progress_line(progress: Progress, now: datetime, zone: tzinfo, *, about: bool) -> str:
    """Return the progress of a running phase: bytes, share, rate and expected end, as far as known.

    With `about` the total is an estimate.
    """
    if progress.share is None:
        return f"running for {duration(progress.seconds)}; the remaining time cannot be estimated"
    total = f"{'about ' if about else ''}{size(round(progress.expected))}"
    parts = [f"{size(round(progress.moved))} of {total}", f"{progress.share:.1%}", f"{size(round(progress.rate))}/s"]
    if progress.seconds_left is not None:
        parts.append(f"expected end {local_time(now + timedelta(seconds=progress.seconds_left), zone)}")
    return ", ".join(parts)


def progress_outcome(progress: Progress, failure: str | None) -> str:
    """Return the outcome of a phase: bytes moved, or where it stopped and why."""
    if failure is not None:
        stopped = f" at {size(round(progress.moved))} of {size(round(progress.expected))}" if progress.share is not None else ""
        return f"stopped{stopped} after {duration(progress.seconds)}: {failure}"
    moved = f"{size(round(progress.moved))}, {size(round(progress.rate))}/s, " if progress.expected else ""
    return f"done: {moved}{duration(progress.seconds)}"
