"""How far a phase of long work is: bytes moved of those expected, and what follows from them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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
