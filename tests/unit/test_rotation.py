"""Past partitions in turn, what differs in them, and what a check says of it."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.checks.definition import Verdict
from tasks.core.checks.partitions import PartitionFinding, RowDifferences, judge_partitions
from tasks.core.checks.rotation import TURN, Rotation
from tasks.core.rows.bag import RowBag

NOW = datetime(2026, 11, 3, 4, 30, tzinfo=UTC)
NAMES = ["a", "b", "c", "d"]
KEYED = st.dictionaries(st.integers(0, 30), st.sampled_from("xyz"))
ROWS = st.lists(st.sampled_from([b"1\tx\n", b"1\ty\n", b"2\tx\n", b"3\t\\N\n"]))


def bag(rows: list[bytes], key: list[int]) -> RowBag:
    made = RowBag()
    made.add(rows[:2], key)
    made.add(rows[2:], key)
    return made


@given(KEYED, KEYED)
def test_rows_are_told_apart_by_key(then: dict[int, str], now: dict[int, str]) -> None:
    before, after = ([b"%s\t%d\n" % (value.encode(), key) for key, value in rows.items()] for rows in (then, now))
    was, is_now = bag(before, [1]), bag(after, [1])
    changed = sum(then[key] != now[key] for key in then.keys() & now.keys())
    assert was.keys.beyond(is_now.keys) == len(then.keys() - now.keys())
    assert was.rows.beyond(is_now.rows) == len(then.keys() - now.keys()) + changed
    assert is_now.rows.beyond(was.rows) == len(now.keys() - then.keys()) + changed


@given(ROWS, ROWS)
def test_without_a_key_equal_rows_are_counted_off(then: list[bytes], now: list[bytes]) -> None:
    was, is_now = bag(then, []), bag(now, [])
    assert was.keys.beyond(is_now.keys) == was.rows.beyond(is_now.rows) == (Counter(then) - Counter(now)).total()


def test_a_key_of_several_columns_is_not_run_together() -> None:
    assert bag([b"1\t23\tx\n"], [0, 1]).keys.beyond(bag([b"12\t3\tx\n"], [0, 1]).keys) == 1


def test_those_tried_longest_ago_come_first() -> None:
    tried = {"a": NOW, "b": NOW - timedelta(days=2), "c": NOW - timedelta(days=1)}
    assert Rotation(tried=tried).ordered(NAMES, NOW) == ["d", "b", "c", "a"]


def test_a_time_to_come_is_not_believed() -> None:
    rotation = Rotation(tried={"b": NOW + timedelta(days=900)}, compared={"b": NOW + timedelta(days=900)})
    assert rotation.ordered(["a", "b"], NOW) in (["a", "b"], ["b", "a"])
    assert "b" in rotation.overdue(["b"], NOW)


def test_where_nothing_is_known_another_day_begins_with_another_one() -> None:
    firsts = {Rotation().ordered(NAMES, NOW + timedelta(days=day))[0] for day in range(len(NAMES))}
    assert firsts == {*NAMES}
    assert Rotation().ordered([], NOW) == []


@pytest.mark.parametrize("number", [1, 7, 20, 50])
def test_a_check_a_day_that_has_time_for_a_seventh_leaves_nothing_out(number: int) -> None:
    names, rotation = [f"p{place}" for place in range(number)], Rotation()
    share = -(-number // TURN.days)
    for day in range(TURN.days):
        instant = NOW + timedelta(days=day)
        chosen = rotation.ordered(names, instant)[:share]
        rotation = rotation.after(names, chosen, chosen, {}, instant)
    assert rotation.overdue(names, instant) == []
    assert rotation.overdue(names, instant + TURN + timedelta(hours=1)) == names


def test_of_what_is_gone_nothing_is_kept() -> None:
    rotation = Rotation(tried={"x": NOW}, compared={"x": NOW}, agreed={"x": "s"}).after(["a"], ["a"], [], {}, NOW)
    assert (rotation.tried, rotation.compared, rotation.agreed) == ({"a": NOW}, {}, {})
    assert rotation.last("a") == "never"


def test_the_set_that_it_agreed_with_is_forgotten_once_it_differs() -> None:
    rotation = Rotation(agreed=dict.fromkeys("abc", "s"))
    assert rotation.after(["a", "b", "c"], ["a", "b"], ["a", "b"], {"a": "t"}, NOW).agreed == {"a": "t", "c": "s"}


def differing(lost: int, changed: int, new: int, *, is_frozen: bool = False, cleaned: int = 0) -> PartitionFinding:
    return PartitionFinding(
        "p", is_frozen, rows=(9, 9 - lost + new), differences=RowDifferences(lost, changed, new), cleaned=cleaned
    )


UNTOLD = PartitionFinding("p", is_frozen=False, why="time", rows=(9, 9))


@pytest.mark.parametrize(
    ("partition", "verdict"),
    [
        (differing(1, 0, 0), Verdict.FAILED),
        (differing(1, 0, 0, cleaned=1), Verdict.OK),
        (differing(2, 0, 0, cleaned=1), Verdict.FAILED),
        (differing(0, 1, 0), Verdict.WARNING),
        (differing(0, 0, 1), Verdict.OK),
        (differing(0, 0, 1, is_frozen=True), Verdict.FAILED),
        (differing(0, 1, 0, is_frozen=True), Verdict.FAILED),
        (UNTOLD, Verdict.WARNING),
        (PartitionFinding("p", is_frozen=False, why="time", rows=(9, 8)), Verdict.FAILED),
        (PartitionFinding("p", is_frozen=True, why="time", rows=(9, 9)), Verdict.FAILED),
        (PartitionFinding("p", is_frozen=True, rows=(9, 9)), Verdict.OK),
        (PartitionFinding("p", is_frozen=True, why="time"), Verdict.NOT_RUN),
    ],
)
def test_how_grave_it_is(partition: PartitionFinding, verdict: Verdict) -> None:
    assert judge_partitions("s", [partition], [], 0, 5).verdict is verdict


def test_what_differs_does_not_hide_what_was_not_compared() -> None:
    waiting = PartitionFinding("q", is_frozen=False, why="time", last="2026-11-01")
    finding = judge_partitions("s", [UNTOLD, differing(1, 2, 3), waiting], ["q"], 1.5, 1)
    assert (finding.verdict, finding.offending, finding.seconds) == (Verdict.FAILED, 2, 1.5)
    assert finding.sample == ["p: 9 rows in the set, 11 now: 1 only in the set, 2 changed, 3 only in the database"]
    assert finding.note == (
        "if the change was on purpose, take a backup now; 2 of 3 partitions whose period is over were compared with s; "
        "not compared: time: q (last compared 2026-11-01); not compared within 7 days, raise `comparison_seconds`: q"
    )
    assert "; which ones differ is not known: time" in UNTOLD.line
