"""What changed in a table since a full backup, block by block of its file.

A row version that both snapshots see has not moved as long as the table has the same file (relfilenode): only a rewrite moves
rows (https://www.postgresql.org/docs/current/storage-page-layout.html). COPY reads blocks in order, so the rows
of a block are consecutive lines of what it sends. A full backup records how many rows each block had. A block that has as
many rows now, none of them younger than the full's oldest unfinished transaction, has the same rows: they are among those that
the full saw, and as many. Of every other block a differential takes all rows, and leaves out the full's lines.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

# At most this many counts are kept of a relation: the blocks of a larger one are counted in groups.
MOST_COUNTS = 1 << 16
# A relation has at most 2**32 blocks.
MOST_SHIFT = 32
ENDLESS = 1 << 62
# Two 64-bit numbers and a space.
MOST_LINE_CHARACTERS = 41
Lines = tuple[int, int]


@dataclass(frozen=True)
class BlockRows:
    """How many rows each group of 2**shift blocks held, from the first block on.

    An array, not a list: Prefect visits each element of the lists that a task gets.
    """

    shift: int
    rows: "array[int]"

    @classmethod
    def of(cls, shift: int, rows: Iterable[int]) -> Self:
        """Return these counts."""
        return cls(shift, array("L", rows))

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Self:
        """Return the counts in a JSON object.

        Raises:
            ValueError, KeyError, TypeError, OverflowError: it has no valid counts.
        """
        shift, rows = int(plain["shift"]), plain["rows"]
        if not 0 <= shift <= MOST_SHIFT or len(rows) > MOST_COUNTS:
            raise ValueError(f"{len(rows)} counts of 2**{shift} blocks each")
        return cls.of(shift, rows)

    @property
    def plain(self) -> dict[str, Any]:
        """The counts as a JSON object."""
        return {"shift": self.shift, "rows": self.rows.tolist()}


@dataclass(frozen=True)
class BaseBlocks:
    """A relation in a full backup: rows by block, and the oldest transaction that was unfinished then."""

    xmin: int
    counted: BlockRows


@dataclass(frozen=True)
class BlockState:
    """A group of blocks now: its number, all its rows, and those older than the full's snapshot."""

    number: int
    rows: int
    old: int


@dataclass(frozen=True)
class Changes:
    """Half-open runs of lines, counted from 0: `taken` of what COPY sends now, `left_out` of what the full has."""

    taken: list[Lines]
    left_out: list[Lines]

    @property
    def rows_taken(self) -> int:
        """Rows that a differential stores."""
        return sum(stop - start for start, stop in self.taken)


def shift_for(blocks: int) -> int:
    """Return how many bits of a block's number to drop so that a relation of so many blocks is counted in bounded memory."""
    return max(0, (max(blocks, 1) - 1).bit_length() - MOST_COUNTS.bit_length() + 1)


def find_changes(base: BlockRows, now: Iterable[BlockState]) -> Changes:
    """Compare the blocks of a relation with those that a full backup saw; states come in the order of blocks."""
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
    """Append a run of lines, or extend the last one."""
    if runs and runs[-1][1] == start:
        runs[-1] = (runs[-1][0], stop)
    elif start < stop:
        runs.append((start, stop))


class Chosen:
    """Picks runs of lines out of blocks of lines."""

    def __init__(self, runs: list[Lines]) -> None:
        self._runs = runs
        self._starts = [start for start, _ in runs]
        self._position = 0

    def of(self, lines: list[bytes]) -> list[bytes]:
        """Return those of the next lines that are in the runs."""
        first, after = self._position, self._position + len(lines)
        self._position = after
        chosen = list[bytes]()
        for start, stop in self._runs[max(0, bisect_right(self._starts, first) - 1) :]:
            if start >= after:
                break
            chosen += lines[max(start, first) - first : max(stop, first) - first]
        return chosen


def complement(runs: Iterable[Lines]) -> list[Lines]:
    """Return the lines that are in none of the runs, without an end."""
    gaps, position = list[Lines](), 0
    for start, stop in runs:
        _extend(gaps, position, start)
        position = stop
    return [*gaps, (position, ENDLESS)]


def render_lines(runs: Iterable[Lines]) -> str:
    """Return runs as text: on each line the numbers of the first and the last line of a run, counted from 1."""
    return "".join(f"{start + 1} {stop}\n" for start, stop in runs)


def parse_lines(text: bytes, most: int = ENDLESS) -> Iterator[Lines]:
    """Yield the runs of lines in a text, up to line `most`.

    Raises:
        ValueError: the text has no such runs.
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
