"""Progress is what was moved of what is expected, never falls, and is whole only at the end."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.run.progress import ALMOST, Item, Progress, Tally, progress_line, progress_outcome

NOON = datetime(2025, 11, 3, 12, tzinfo=UTC)
TOKYO = ZoneInfo("Asia/Tokyo")


def line(seen: Progress, *, about: bool = False) -> str:
    return progress_line(seen, NOON, TOKYO, about=about)


def test_a_share_is_of_all_items() -> None:
    items = {"a": Item(300), "b": Item(100)}
    tally = Tally(items, began=10)
    items["a"].at(100)
    assert tally.look(12) == Progress(100, 400, 2, 0.25)
    assert tally.look(12).rate == 50


def test_a_byte_that_is_read_but_not_yet_stored_counts_half() -> None:
    item = Item(1000)
    item.read(500)
    assert item.moved == 250
    item.known(800)
    assert (item.expected, item.moved) == (800, 400)
    # Sent and read back: each byte of a file moves twice.
    item.sent(total=200, position=100)
    assert item.moved == 600
    item.sent(total=200, position=200)
    assert item.moved == item.expected == 800


def test_what_is_larger_than_expected_is_not_done_before_it_is_stored() -> None:
    items = {"a": Item(100)}
    items["a"].read(900)
    assert Tally(items, 0).look(1).share == 0.5


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3000)), max_size=30))
def test_a_share_never_falls_and_is_whole_only_at_the_end(reports: list[tuple[str, int]]) -> None:
    items = {"a": Item(1000), "b": Item(0)}
    tally, shares = Tally(items, 0), [0.0]
    for name, position in reports:
        items[name].at(position)
        shares.append(tally.look(1).share or 0.0)
    assert shares == sorted(shares)
    assert shares[-1] <= ALMOST
    tally.done = True
    assert tally.look(1).share == 1.0


def test_the_end_is_told_only_when_something_is_done() -> None:
    assert Progress(10, 1000, 60, 0.01).seconds_left is None
    assert Progress(250, 1000, 60, 0.25).seconds_left == 180
    assert Progress(0, 0, 60, None).seconds_left is None
    assert Progress(0, 1000, 0, 0.0).rate == 0


@pytest.mark.parametrize(
    ("seen", "about", "text"),
    [
        (Progress(0, 4e9, 0, 0.0), False, "0 B of 4.0 GB, 0.0%, 0 B/s"),
        (Progress(1e9, 4e9, 20, 0.25), False, "1.0 GB of 4.0 GB, 25.0%, 50.0 MB/s, expected end 2025-11-03 21:01:00 JST"),
        (Progress(1e9, 4e9, 20, 0.25), True, "1.0 GB of about 4.0 GB, 25.0%, 50.0 MB/s, expected end 2025-11-03 21:01:00 JST"),
        (Progress(0, 0, 130, None), False, "running for 0:02:10; the remaining time cannot be estimated"),
    ],
)
def test_what_is_said_on_the_way(seen: Progress, about: bool, text: str) -> None:
    assert line(seen, about=about) == text


def test_what_is_said_at_the_end() -> None:
    assert progress_outcome(Progress(4e9, 4e9, 80, 1.0), None) == "done: 4.0 GB, 50.0 MB/s, 80.0 s"
    assert progress_outcome(Progress(0, 0, 7, 1.0), None) == "done: 7.0 s"
    assert progress_outcome(Progress(1e9, 4e9, 20, 0.25), "why") == "stopped at 1.0 GB of 4.0 GB after 20.0 s: why"
    assert progress_outcome(Progress(0, 0, 7, None), "why") == "stopped after 7.0 s: why"
