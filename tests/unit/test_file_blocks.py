"""Blocks that changed, and the lines that they stand for, against a model that knows every row."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.backup.differential import parse_block_rows, render_block_rows
from tasks.core.errors import DamagedSet
from tasks.core.rows.file_blocks import (
    MOST_COUNTS,
    BlockRows,
    BlockState,
    Chosen,
    complement,
    find_changes,
    parse_lines,
    render_lines,
    shift_for,
)

# Rows by block, each with the transaction that wrote it; the base saw what 10 and earlier ones wrote.
BASE_XMIN = 11
BLOCKS = st.lists(st.lists(st.integers(1, 10), max_size=4), max_size=12)


@dataclass
class Table:
    """A heap as COPY and the counts see it: a row is its place and its transaction."""

    blocks: list[list[tuple[int, int]]] = field(default_factory=list)

    @property
    def lines(self) -> list[bytes]:
        return [b"%d-%d\n" % row for block in self.blocks for row in block]

    def counted(self, shift: int) -> BlockRows:
        rows = [0] * (((len(self.blocks) - 1) >> shift) + 1 if self.blocks else 0)
        for number, block in enumerate(self.blocks):
            rows[number >> shift] += len(block)
        return BlockRows.of(shift, rows)

    def states(self, shift: int) -> list[BlockState]:
        groups = sorted({number >> shift for number, block in enumerate(self.blocks) if block})
        return [
            BlockState(group, len(rows), sum(wrote < BASE_XMIN for _, wrote in rows))
            for group in groups
            for rows in [[row for number, block in enumerate(self.blocks) if number >> shift == group for row in block]]
        ]


@given(BLOCKS, st.data(), st.integers(0, 3))
def test_what_is_kept_and_what_is_taken_are_the_rows_of_now(blocks: list[list[int]], data: st.DataObject, shift: int) -> None:
    unique = iter(range(10**6))
    base = Table([[(next(unique), wrote) for wrote in block] for block in blocks])
    now = Table()
    for block in base.blocks:
        kept = [row for row in block if data.draw(st.integers(0, 3))]
        new = [(next(unique), 20) for _ in range(data.draw(st.sampled_from([0, 0, 1])))]
        now.blocks.append(sorted(kept + new))
    now.blocks += [[(next(unique), 20)] for _ in range(data.draw(st.integers(0, 3)))]
    del now.blocks[len(now.blocks) - data.draw(st.integers(0, 2)) :]
    changes = find_changes(base.counted(shift), now.states(shift))
    taken = Chosen(changes.taken).of(now.lines)
    kept_lines = Chosen(complement(changes.left_out)).of(base.lines)
    assert sorted(kept_lines + taken) == sorted(now.lines)
    assert changes.rows_taken == len(taken)
    if now.blocks == base.blocks:
        assert (changes.taken, changes.left_out) == ([], [])


RUNS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=6).map(
    lambda steps: [
        (sum(map(sum, steps[:number])) + gap, sum(map(sum, steps[: number + 1]))) for number, (gap, _) in enumerate(steps)
    ]
)


@given(RUNS, st.lists(st.integers(0, 9)))
def test_lines_come_in_pieces_of_any_size(runs: list[tuple[int, int]], sizes: list[int]) -> None:
    lines = [b"%d" % number for number in range(sum(sizes))]
    expected = [line for number, line in enumerate(lines) if any(start <= number < stop for start, stop in runs)]
    chosen, rest, found = Chosen(runs), list(lines), list[bytes]()
    for size in sizes:
        found += chosen.of(rest[:size])
        rest = rest[size:]
    assert found == expected
    assert sorted(Chosen(complement(runs)).of(lines) + expected) == sorted(lines)


@given(RUNS)
def test_lines_are_read_as_they_were_written(runs: list[tuple[int, int]]) -> None:
    assert list(parse_lines(render_lines(runs).encode())) == runs


@pytest.mark.parametrize("text", [b"0 1\n", b"5 4\n", b"1 3\n3 5\n", b"1\n", b"x y\n", b"1 2 3\n"])
def test_lines_that_are_none(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        list(parse_lines(text))


@given(st.integers(0, 1 << 32))
def test_counts_stay_few(blocks: int) -> None:
    shift = shift_for(blocks)
    assert max(blocks - 1, 0) >> shift < MOST_COUNTS
    assert shift == 0 or blocks > MOST_COUNTS << (shift - 1)


def test_counts_are_read_as_they_were_written() -> None:
    blocks = {"public.teams": BlockRows.of(3, [1, 0, 70_000]), "public.空": BlockRows.of(0, [])}
    assert parse_block_rows(render_block_rows(blocks), "here") == blocks


@pytest.mark.parametrize("text", [b"", b"[]", b'{"a": 1}', b'{"a": {"shift": 0}}', b'{"a": {"shift": 0, "rows": [-1]}}'])
def test_counts_that_are_none(text: bytes) -> None:
    with pytest.raises(DamagedSet, match="here cannot be read"):
        parse_block_rows(text, "here")
