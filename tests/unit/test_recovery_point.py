"""The watch over the recovery point, with a simulated clock: at no minute is the age above the objective unless a run was red."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.core.watch.recovery_point import RecoveryPoint, State, exposure, report, verdict

MIDNIGHT = datetime(2025, 11, 3, tzinfo=UTC)
RPO, EVERY = timedelta(hours=4), timedelta(minutes=15)
Works = Callable[[int], bool]


def point(age: timedelta | None, **more: Any) -> RecoveryPoint:
    newest: dict[str, Any] = {"newest": "bc-004_full_20251103_020000_3f9c", "taken": MIDNIGHT - age} if age is not None else {}
    return RecoveryPoint(MIDNIGHT, RPO, EVERY, **newest | more)


@dataclass
class Day:
    """Backups by schedule, and the watch's own; minutes count from the midnight before, when a backup was stored."""

    works: Works
    scheduled_works: Works
    duration: int = 5
    offset: int = 0
    stored: list[tuple[int, int]] = field(default_factory=lambda: [(0, -5)])
    runs: list[tuple[int, bool]] = field(default_factory=list)

    def newest(self, minute: int) -> int:
        """Return of which minute the newest state is that is stored by a minute."""
        return max(taken for taken, ended in self.stored if ended <= minute)

    def age(self, minute: int) -> int:
        return minute - self.newest(minute)

    def run(self, hours: int = 24) -> None:
        for minute in range(hours * 60):
            if minute % 240 == 0 and self.scheduled_works(minute):
                self.stored.append((minute, minute + self.duration))
            if minute % 15 == self.offset:
                self._watch(minute)

    def _watch(self, minute: int) -> None:
        seen, ended = self._look(minute), minute
        if seen.is_due and self.works(minute):
            ended = minute + self.duration
            self.stored.append((minute, ended))
            seen = self._look(ended)
        self.runs.append((ended, seen.state is State.KEPT))

    def _look(self, minute: int) -> RecoveryPoint:
        at, taken = (MIDNIGHT + timedelta(minutes=one) for one in (minute, self.newest(minute)))
        known = sorted((one for one in self.stored if one[1] <= minute), reverse=True)
        sets = [(MIDNIGHT + timedelta(minutes=state), MIDNIGHT + timedelta(minutes=ended)) for state, ended in known]
        exposed = exposure(sets, at - EVERY)
        return RecoveryPoint(at, RPO, EVERY, timedelta(minutes=self.duration), "a set", taken, exposed)

    def unseen(self, hours: int = 24) -> list[int]:
        """Return the minutes at which more would have been lost than is promised, though the last run before was green."""
        return [
            minute
            for minute in range(EVERY.seconds // 60, hours * 60)
            if self.age(minute) > 240 and [green for ended, green in self.runs if ended <= minute][-1]
        ]


def test_a_day_in_which_two_differentials_fail() -> None:
    day = Day(works=lambda _: True, scheduled_works=lambda minute: minute not in (8 * 60, 12 * 60))
    day.run()
    assert len(day.runs) == 96
    assert max(day.age(minute) for minute in range(24 * 60)) <= 240
    assert all(green for _, green in day.runs)


def test_a_day_in_which_nothing_works_for_a_while() -> None:
    def works(minute: int) -> bool:
        return not 7 * 60 <= minute < 13 * 60

    day = Day(works, works)
    day.run()
    assert day.unseen() == []
    first_red = next(ended for ended, green in day.runs if not green)
    assert day.age(first_red) <= 240
    assert day.runs[-1][1]


# Backups fail until a minute at which one would be stored too late by minutes.
@example(set(), [(205, 31)], 5, 0)
@example(set(), [(205, 31)], 5, 14)
@given(
    st.sets(st.integers(0, 24 * 60 - 1), max_size=40),
    st.lists(st.tuples(st.integers(0, 1400), st.integers(1, 400)), max_size=3),
    st.integers(1, 14),
    st.integers(0, 14),
)
def test_the_run_that_lets_it_pass_is_red(single: set[int], outages: list[tuple[int, int]], duration: int, offset: int) -> None:
    def works(minute: int) -> bool:
        return minute not in single and not any(start <= minute < start + length for start, length in outages)

    day = Day(works, works, duration, offset)
    day.run()
    assert day.unseen() == []


@given(st.integers(1, 14), st.integers(0, 14), st.integers(0, 95))
def test_one_failure_of_the_watch_is_made_good_by_the_next(duration: int, offset: int, failing: int) -> None:
    day = Day(lambda minute: minute // 15 != failing, lambda _: False, duration, offset)
    day.run()
    assert max(day.age(minute) for minute in range(24 * 60)) <= 240
    assert all(green for _, green in day.runs)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (point(timedelta(hours=1)), "PASS: bc-004_full_20251103_020000_3f9c, age 1:00:00 of 4:00:00"),
        (point(timedelta(hours=4)), "FAIL: .*: the age will exceed the RPO before the next run"),
        (point(timedelta(hours=4, seconds=1)), "FAIL: .*: a disaster now would lose more than the RPO allows"),
        (point(None), "FAIL: no set can be restored; the RPO is 4:00:00"),
        (point(-timedelta(hours=1)), "FAIL: .*: its state is dated in the future; set the clocks"),
        (point(timedelta(hours=3, minutes=44)), "PASS: .*"),
        (point(timedelta(hours=3, minutes=44, seconds=58)), "FAIL: .*: the age will exceed the RPO before the next run"),
        (point(timedelta(hours=1), suspect=True), "FAIL: .*, is SUSPECT: tables lost rows"),
        (
            point(timedelta(hours=1), exposed=timedelta(hours=4, seconds=1)),
            "FAIL: .*: a disaster just before it was stored would have lost 4:00:01",
        ),
        (point(timedelta(hours=1), exposed=timedelta(hours=4)), "PASS: .*"),
        (point(timedelta(hours=1), off_host=False), "PASS: .*, not off-host"),
        (point(timedelta(hours=1), damaged=["x"]), "PASS: .*, 1 newer or equally new sets are damaged"),
    ],
)
def test_verdicts(seen: RecoveryPoint, said: str) -> None:
    assert re.match(said, verdict(seen))
    text = report(seen, verdict(seen), ZoneInfo("Asia/Tokyo"))
    assert ("Nothing." in text) == verdict(seen).startswith("PASS")
