"""Ranges of pages: together all of a table, each page once, and counts that add up to those of the whole."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.core.rows.file_blocks import MOST_COUNTS, BlockRows, shift_for
from tasks.core.rows.pages import page_ranges

SIZES = st.one_of(st.integers(0, 50), st.integers(MOST_COUNTS - 3, 5 * MOST_COUNTS), st.integers(1, 1 << 32))


@given(SIZES, st.integers(2, 3000))
def test_every_page_is_in_one_range(pages: int, parts: int) -> None:
    ranges = page_ranges(pages, parts)
    assert ranges[0].first == 0
    assert ranges[-1].end is None
    assert [chosen.end for chosen in ranges[:-1]] == [chosen.first for chosen in ranges[1:]]
    assert all(chosen.end is None or chosen.first < chosen.end for chosen in ranges)
    assert {chosen.shift for chosen in ranges} == {shift_for(pages)}
    assert all(chosen.first % (1 << chosen.shift) == 0 for chosen in ranges)
    groups = ((max(pages, 1) - 1) >> shift_for(pages)) + 1
    assert len(ranges) == min(parts, groups)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(2, 9), st.integers(0, 3))
def test_counts_of_ranges_add_up(rows: list[int], parts: int, grown: int) -> None:
    ranges = page_ranges(len(rows), parts)
    now = [*rows, *[1] * grown]
    counts = [
        BlockRows.of(0, [*[0] * chosen.first, *now[chosen.first : len(now) if chosen.end is None else chosen.end]])
        for chosen in ranges
    ]
    assert BlockRows.joined(counts) == BlockRows.of(0, now)
