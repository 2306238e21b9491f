"""How far a phase of long work is: bytes moved of those expected, what follows from them, and how it is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo

from tasks.core.report.markdown import duration, local_time, size

# Says how many bytes of one thing are moved by now, counted from its beginning.
Moved = Callable[[float], None]
# 100 % is said when the phase has ended, and not before.
ALMOST = 0.999
# From less than this nobody can tell when the end will be.
ENOUGH = 0.02


def unmeasured(_: float) -> None:
    """Take what nobody wants to know."""


@dataclass
class Item:
    """One thing that a phase moves: a single worker sets the numbers, whoever shows them may read them at any time."""

    expected: float
    moved: float = 0.0

    def at(self, position: float) -> None:
        """Say how much is moved by now: less than before where it is done again."""
        self.moved = position

    def read(self, position: float) -> None:
        """Say how much is read of what is stored afterwards: a byte counts half until it is stored."""
        self.expected = max(self.expected, position)
        self.moved = position / 2

    def known(self, expected: float) -> None:
        """Say how much it is, when it was read or need not be."""
        self.expected, self.moved = expected, expected / 2

    def sent(self, whole: float, position: float) -> None:
        """Say how much of what was read is stored, in bytes of the whole that the store takes."""
        self.moved = self.expected * (1 + position / whole) / 2


@dataclass(frozen=True)
class Look:
    """What was seen of a phase at one moment; `share` is None where it cannot be measured."""

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
        """How long the rest takes at that rate; None while too little is done to tell."""
        if self.share is None or self.share < ENOUGH:
            return None
        return self.seconds * (1 - self.share) / self.share


@dataclass
class Tally:
    """The items of a phase; its share never falls, and is 1 only when it has ended well. The clock is given."""

    items: Mapping[str, Item]
    began: float
    done: bool = False
    failure: str | None = None
    _highest: float = field(default=0.0, init=False)

    def look(self, clock: float) -> Look:
        """Return how far it is."""
        moved = sum(item.moved for item in self.items.values())
        expected = sum(max(item.expected, item.moved) for item in self.items.values())
        if expected:
            self._highest = max(self._highest, min(moved / expected, ALMOST))
        share = 1.0 if self.done else self._highest if expected else None
        return Look(moved, expected, clock - self.began, share)


def progress_line(seen: Look, now: datetime, zone: tzinfo, *, about: bool) -> str:
    """Return how far a phase is that goes on: bytes, share, rate and expected end, as far as they are known.

    With `about` the whole is not known before the end.
    """
    if seen.share is None:
        return f"for {duration(seen.seconds)} by now; how much is left cannot be measured"
    whole = f"{'about ' if about else ''}{size(round(seen.expected))}"
    parts = [f"{size(round(seen.moved))} of {whole}", f"{seen.share:.1%}", f"{size(round(seen.rate))}/s"]
    if seen.seconds_left is not None:
        parts.append(f"expected end {local_time(now + timedelta(seconds=seen.seconds_left), zone)}")
    return ", ".join(parts)


def progress_outcome(seen: Look, failure: str | None) -> str:
    """Return how a phase ended: what was moved, or where it stopped and why."""
    if failure is not None:
        stopped = f" at {size(round(seen.moved))} of {size(round(seen.expected))}" if seen.share is not None else ""
        return f"stopped{stopped} after {duration(seen.seconds)}: {failure}"
    moved = f"{size(round(seen.moved))}, {size(round(seen.rate))}/s, " if seen.expected else ""
    return f"done: {moved}{duration(seen.seconds)}"
