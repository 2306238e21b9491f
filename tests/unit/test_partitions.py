"""Which partitions are to be made, and which have had their time: decided by bounds and the calendar alone."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.calendar import MONTHS, next_start, parse_instant, start_of
from tasks.core.context_keys import PartitionRule
from tasks.core.partitions.timeline import (
    Partition,
    due_partitions,
    is_frozen,
    is_over,
    missing_partitions,
    parse_bound,
    spell_end,
)
from tasks.core.sets.thaw import TIERS, deadline, fitting_tier, possible_tier, usual_time
from tasks.core.sql.partitions import range_bound

TOKYO = ZoneInfo("Asia/Tokyo")
NAMES = {"year": "v_{year}", "month": "v_{year}_{month:02}", "quarter": "v_{year}q{quarter}"}


def rule(period: str = "year", keep: str = "3 years") -> PartitionRule:
    return PartitionRule.model_validate({"table": "v", "column": "at", "period": period, "name": NAMES[period], "keep": keep})


def partition(lower: str | None, upper: str | None, **more: Any) -> Partition:
    ends = [parse_instant(end, TOKYO) if end else None for end in (lower, upper)]
    return Partition(1, "public", f"v_{lower}", "", 0, None, *ends, **more)


def year(number: int) -> Partition:
    return partition(f"{number}-01-01", f"{number + 1}-01-01")


@pytest.mark.parametrize(
    ("there", "now", "ahead", "names"),
    [
        ([2025, 2026], "2026-12-01 04:00", 1, ["v_2027"]),
        ([2024, 2025], "2026-12-01 04:00", 1, ["v_2026", "v_2027"]),
        ([2023, 2025, 2026, 2027], "2026-12-01 04:00", 1, ["v_2024"]),
        ([], "2026-12-01 04:00", 1, ["v_2026", "v_2027"]),
        ([2026], "2026-12-01 04:00", 3, ["v_2027", "v_2028", "v_2029"]),
        ([2026], "2026-12-31 14:59 UTC", 0, []),
        ([2026], "2026-12-31 15:00 UTC", 0, ["v_2027"]),
        # What was archived is not made again, though an older one is still held.
        ([2020, 2024, 2025, 2026, 2027], "2026-12-01 04:00", 1, ["v_2023"]),
    ],
)
def test_now_the_next_and_what_was_missed(there: list[int], now: str, ahead: int, names: list[str]) -> None:
    found = missing_partitions(rule(), [year(one) for one in there], parse_instant(now, TOKYO), TOKYO, ahead)
    assert [one.name for one in found] == names


def test_what_covers_a_period_is_its_partition_whatever_its_name() -> None:
    now = parse_instant("2026-12-01", TOKYO)
    assert missing_partitions(rule(), [partition("2026-01-01", "2028-01-01")], now, TOKYO, 1) == []
    assert missing_partitions(rule(), [partition("2026-01-01", None)], now, TOKYO, 5) == []
    halves = [partition("2026-01-01", "2026-07-01"), partition("2026-07-01", "2027-01-01")]
    assert missing_partitions(rule(), halves, now, TOKYO, 0) == []
    assert len(missing_partitions(rule(), halves[1:], now, TOKYO, 0)) == 1
    (half,) = missing_partitions(rule(), [year(2026), partition("2027-01-01", "2027-07-01")], now, TOKYO, 1)
    assert half.name == "v_2027"
    (pending,) = missing_partitions(rule(), [partition("2026-01-01", "2027-01-01", detach_pending=True)], now, TOKYO, 0)
    assert pending.name == "v_2026"


@given(
    st.sampled_from(sorted(MONTHS)), st.integers(800_000_000, 2_800_000_000), st.integers(0, 4),
    st.sets(st.integers(-60, 3)), st.sampled_from(["1 year", "3 years", "18 months"]),
)  # fmt: skip
def test_properties(period: str, seconds: int, ahead: int, offsets: set[int], keep: str) -> None:
    now, chosen = datetime.fromtimestamp(seconds, UTC), rule(period, keep)
    current = start_of(period, now, TOKYO)
    starts = [next_start(period, current, offset) for offset in sorted(offsets)]
    there = [Partition(1, "public", str(one), "", 0, None, one, next_start(period, one)) for one in starts]
    found = missing_partitions(chosen, there, now, TOKYO, ahead)
    after = [*there, *(Partition(1, "public", one.name, "", 0, None, one.lower, one.upper) for one in found)]
    assert missing_partitions(chosen, after, now, TOKYO, ahead) == []
    assert not [one for one in found if any(other.overlaps(one.lower, one.upper) for other in there)]
    for count in range(ahead + 1):
        lower = next_start(period, current, count)
        assert [one for one in after if one.lower == lower and one.upper == next_start(period, lower)]
    # Nothing is made that the archive would take at once.
    assert not {one.name for one in due_partitions(chosen, after, now, TOKYO)} & {one.name for one in found}


@pytest.mark.parametrize(
    ("now", "leaving"),
    [
        ("2027-01-15 05:00", ["2022", "2023"]), ("2026-12-31 23:59", ["2022"]), ("2027-01-01 00:00", ["2022", "2023"]),
        ("2026-12-31 14:59 UTC", ["2022"]), ("2026-12-31 15:00 UTC", ["2022", "2023"]), ("2025-12-31", []),
    ],
)  # fmt: skip
def test_a_partition_has_had_its_time_by_its_upper_bound(now: str, leaving: list[str]) -> None:
    there = [year(number) for number in (2024, 2023, 2022, 2026)]
    found = due_partitions(rule(), there, parse_instant(now, TOKYO), TOKYO)
    assert [f"{one.lower:%Y}" for one in found] == leaving


def test_three_years_before_a_day_that_its_year_does_not_have() -> None:
    monthly = [partition("2021-02-01", "2021-03-01")]
    assert due_partitions(rule("month"), monthly, parse_instant("2024-02-29", TOKYO), TOKYO) == []
    assert due_partitions(rule("month"), monthly, parse_instant("2024-03-01", TOKYO), TOKYO) == monthly


def test_no_end_is_never_over() -> None:
    assert (
        due_partitions(
            rule(), [partition("2001-01-01", None), Partition(1, "a", "b", "DEFAULT", 0, is_default=True)], datetime.now(UTC), TOKYO
        )
        == []
    )


@given(
    st.integers(-60_000_000_000, 250_000_000_000),
    st.sampled_from(["date", "timestamp without time zone", "timestamp with time zone"]),
)
def test_bounds_are_read_as_they_are_spelled(seconds: int, kind: str) -> None:
    lower = start_of("month", datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds), TOKYO)
    upper = next_start("month", lower)
    spelled = [spell_end(one, kind, TOKYO) for one in (lower, upper)]
    assert parse_bound(range_bound(*spelled), TOKYO) == (lower, upper)


def test_bounds_without_an_end() -> None:
    assert parse_bound("FOR VALUES FROM (MINVALUE) TO ('2024-01-01 00:00:00')", TOKYO) == (None, parse_instant("2024-01-01", TOKYO))
    assert parse_bound(range_bound("2024-01-01", None), TOKYO) == (parse_instant("2024-01-01", TOKYO), None)


@pytest.mark.parametrize(
    "bound",
    ["FOR VALUES IN ('a')", "FOR VALUES FROM ('2024-01-01', 1) TO ('2025-01-01', 1)", "FOR VALUES FROM (1) TO (2)", "DEFAULT"],
)
def test_bounds_of_another_kind(bound: str) -> None:
    with pytest.raises(ValueError, match="is not a range"):
        parse_bound(bound, TOKYO)


@pytest.mark.parametrize("name", ["v", "v_{month:02}", "v_{yaer}", "v_{year", "x" * 60 + "{year}", "v_{year}_{0}"])
def test_names_that_do_not_tell_partitions_apart(name: str) -> None:
    with pytest.raises(ValueError, match=r"v|x"):
        PartitionRule(table="v", column="at", period="year", name=name, keep="3 years")


def test_the_tier_that_fits() -> None:
    assert fitting_tier(["GLACIER"], timedelta(hours=2)) == "Expedited"
    assert fitting_tier(["GLACIER"], timedelta(hours=6)) == "Standard"
    assert fitting_tier(["GLACIER"], timedelta(hours=12)) == "Bulk"
    assert fitting_tier(["GLACIER"], timedelta()) == "Expedited"
    # DEEP_ARCHIVE knows no hurry.
    assert fitting_tier(["DEEP_ARCHIVE"], timedelta(hours=2)) == "Standard"
    assert possible_tier(["DEEP_ARCHIVE", "GLACIER"], "Expedited") == "Standard"
    assert usual_time(["DEEP_ARCHIVE", "GLACIER"], "Expedited") == timedelta(hours=12)


@given(st.sets(st.sampled_from(["GLACIER", "DEEP_ARCHIVE"]), min_size=1), st.sampled_from(TIERS))
def test_nobody_waits_for_ever(classes: set[str], tier: Any) -> None:
    asked = datetime(2027, 1, 15, tzinfo=UTC)
    assert asked + usual_time(classes, tier) < deadline(asked, classes, tier) <= asked + timedelta(hours=97)


def test_a_partition_is_over_with_its_period_and_frozen_later() -> None:
    frozen = rule().model_copy(update={"frozen_after": "3 months"})
    for text, over, is_fixed in (
        ("2026-12-31 14:59 UTC", False, False), ("2026-12-31 15:00 UTC", True, False),
        ("2027-03-31 14:59 UTC", True, False), ("2027-03-31 15:00 UTC", True, True),
    ):  # fmt: skip
        now = parse_instant(text, TOKYO)
        assert (is_over(year(2026), now), is_frozen(frozen, year(2026), now, TOKYO)) == (over, is_fixed)
    assert not is_frozen(rule(), year(2020), now, TOKYO)
    assert not is_over(partition("2020-01-01", None), now)
    assert not is_over(partition("2020-01-01", "2021-01-01", strange="no period"), now)
