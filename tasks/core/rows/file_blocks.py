"""Finding the rows of a table that changed since a full backup, block by block of the table's file.

A row version that both snapshots see has not moved as long as the table has the same file
(relfilenode): only a rewrite moves rows
(https://www.postgresql.org/docs/current/storage-page-layout.html). COPY reads blocks in order, so
the rows of a block are consecutive lines of its output. A full backup records how many rows each
block had. If a block now has the same number of rows, and none is younger than the oldest
transaction that was unfinished at the full backup, the rows are the same: each is one that the full
backup saw, and none is missing. Of every other block a differential stores all rows, and leaves out
the lines that the full backup has of it.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Self

# The greatest number of counts kept for a relation: in a larger one, blocks are counted in groups.
MOST_COUNTS = 1 << 16
# A relation has at most 2**32 blocks.
MOST_SHIFT = 32
ENDLESS = 1 << 62
# Two 64-bit numbers and a space.
MOST_LINE_CHARACTERS = 41
Lines = tuple[int, int]


@dataclass(frozen=True)
class BlockRows:
    """The number of rows in each group of 2**shift blocks, from the first block on.

    An array, not a list, because Prefect visits each element of lists passed to a task.
    """

    shift: int
    rows: "array[int]"

    @classmethod
    def of(cls, shift: int, rows: Iterable[int]) -> Self:
        """Return an object with the given counts."""
        return cls(shift, array("L", rows))

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Self:
        """Return the counts that a JSON object contains.

        Raises:
            ValueError, KeyError, TypeError, OverflowError: the object has no valid counts.
        """
        shift, rows = int(plain["shift"]), plain["rows"]
        if not 0 <= shift <= MOST_SHIFT or len(rows) > MOST_COUNTS:
            raise ValueError(f"{len(rows)} counts of 2**{shift} blocks each")
        return cls.of(shift, rows)

    @classmethod
    def joined(cls, ranges: Sequence[Self]) -> Self:
        """Return the counts of a relation of which each object has those of other blocks."""
        counts = zip_longest(*(blocks.rows for blocks in ranges), fillvalue=0)
        return cls.of(ranges[0].shift, map(sum, counts))

    @property
    def plain(self) -> dict[str, Any]:
        """The counts as a JSON object."""
        return {"shift": self.shift, "rows": self.rows.tolist()}


@dataclass(frozen=True)
class BaseBlocks:
    """A relation in a full backup: row counts by block, and the oldest unfinished transaction."""

    xmin: int
    counted: BlockRows


@dataclass(frozen=True)
class BlockState:
    """The current state of a group of heap pages.

    The group's number, the count of its rows, and the count of its rows older than the full
    backup's snapshot.
    """

    number: int
    rows: int
    old: int


@dataclass(frozen=True)
class Changes:
    """Half-open ranges of lines, counted from 0.

    `taken` are lines that COPY sends now, `left_out` lines of the full backup that are not
    inherited.
    """

    taken: list[Lines]
    left_out: list[Lines]

    @property
    def rows_taken(self) -> int:
        """The number of rows that a differential stores."""
        return sum(stop - start for start, stop in self.taken)


def shift_for(blocks: int) -> int:
    """Return how many low bits of block numbers to ignore, so that counts fit into memory."""
    return max(0, (max(blocks, 1) - 1).bit_length() - MOST_COUNTS.bit_length() + 1)


def find_changes(base: BlockRows, now: Iterable[BlockState]) -> Changes:
    """Compare the blocks of a relation with those in a full backup."""
    taken, left_out = list[Lines](), list[Lines]()
    states = {state.number: state for state in now}
    position = base_position = 0
    for number in range(max(len(base.rows), max(states, default=-1) + 1)):
        before = base.rows[number] if number < len(base.rows) else 0
        state = states.get(number, BlockState(number, 0, 0))
        if not state.rows == state.old == before:
            _extend(taken, position, position + state.rows)
            _extend(left_out, base_position, base_position + before)
        position, base_position = position + state.rows, base_position + before
    return Changes(taken, left_out)


def _extend(runs: list[Lines], start: int, stop: int) -> None:
    """Append a range of lines to `runs`, or extend the last range if they adjoin."""
    if runs and runs[-1][1] == start:
        runs[-1] = (runs[-1][0], stop)
    elif start < stop:
        runs.append((start, stop))


class Chosen:
    """Selects ranges of lines from blocks of lines."""

    def __init__(self, runs: list[Lines]) -> None:
        self._runs = runs
        self._starts = [start for start, _ in runs]
        self._position = 0

    def of(self, lines: list[bytes]) -> list[bytes]:
        """Return, of the next block of lines, the lines that are in the ranges."""
        first, after = self._position, self._position + len(lines)
        self._position = after
        chosen = list[bytes]()
        for start, stop in self._runs[max(0, bisect_right(self._starts, first) - 1) :]:
            if start >= after:
                break
            chosen += lines[max(start, first) - first : max(stop, first) - first]
        return chosen


def complement(runs: Iterable[Lines]) -> list[Lines]:
    """Return the ranges of lines between the given ranges; the last range has no end."""
    gaps, position = list[Lines](), 0
    for start, stop in runs:
        _extend(gaps, position, start)
        position = stop
    return [*gaps, (position, ENDLESS)]


def render_lines(runs: Iterable[Lines]) -> str:
    """Return ranges of lines as text, one a line: its first and last line, counted from 1."""
    return "".join(f"{start + 1} {stop}\n" for start, stop in runs)


def parse_lines(text: bytes, most: int = ENDLESS) -> Iterator[Lines]:
    """Yield the ranges of lines that a text contains, up to line `most`.

    Raises:
        ValueError: the text does not contain such ranges.
    """
    end = 0
    for line in text.splitlines():
        if len(line) > MOST_LINE_CHARACTERS:
            raise ValueError(f"a line of {len(line):,} characters")
        first, last = map(int, line.split())
        if not end < first <= last <= most:
            raise ValueError(f"lines {first} to {last} come after line {end}, of {most}")
        end = last
        yield first - 1, last
