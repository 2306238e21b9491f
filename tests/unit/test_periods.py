"""Periods that a partition column spells as text or as a number."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.core.calendar import next_start
from tasks.core.context_keys import PartitionRule
from tasks.core.partitions.periods import parse_spelled_bound, spell_instant, spell_period, spelled_between
from tasks.core.sql.partitions import list_bound, range_bound

TOKYO = ZoneInfo("Asia/Tokyo")
SPELLINGS = {
    "{year}": "year", "{year}-{month:02}": "month", "{year}{month:02}": "month", "{year}-Q{quarter}": "quarter",
    "{year}{quarter}": "quarter", "FY {year}": "year",
}  # fmt: skip


def start(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=TOKYO)


@pytest.mark.parametrize(
    ("bound", "template", "lower", "upper"),
    [
        ("FOR VALUES IN ('2024-03')", "{year}-{month:02}", "2024-03-01", "2024-04-01"),
        ("FOR VALUES IN (202412)", "{year}{month:02}", "2024-12-01", "2025-01-01"),
        ("FOR VALUES IN ('2024-03', '2024-01', '2024-02')", "{year}-{month:02}", "2024-01-01", "2024-04-01"),
        ("FOR VALUES FROM (202412) TO (202501)", "{year}{month:02}", "2024-12-01", "2025-01-01"),
        ("FOR VALUES FROM (202412) TO (202413)", "{year}{month:02}", "2024-12-01", "2025-01-01"),
        ("FOR VALUES FROM ('202401') TO ('202407')", "{year}{month:02}", "2024-01-01", "2024-07-01"),
        ("FOR VALUES FROM ('2024-Q4') TO ('2024-Q5')", "{year}-Q{quarter}", "2024-10-01", "2025-01-01"),
        ("FOR VALUES FROM (2024) TO (2025)", "{year}", "2024-01-01", "2025-01-01"),
        ("FOR VALUES FROM (MINVALUE) TO (2025)", "{year}", None, "2025-01-01"),
        ("FOR VALUES FROM (2025) TO (MAXVALUE)", "{year}", "2025-01-01", None),
    ],
)
def test_bounds(bound: str, template: str, lower: str | None, upper: str | None) -> None:
    found = parse_spelled_bound(bound, template, SPELLINGS[template], TOKYO)
    assert found == (start(lower) if lower else None, start(upper) if upper else None)


@pytest.mark.parametrize(
    ("bound", "template"),
    [
        ("FOR VALUES IN (NULL)", "{year}"), ("FOR VALUES IN ('2024', NULL)", "{year}"),
        ("FOR VALUES IN ('2022', '2024')", "{year}"),
        ("FOR VALUES IN ('2024-3')", "{year}-{month:02}"), ("FOR VALUES IN ('2024-13')", "{year}-{month:02}"),
        ("FOR VALUES IN ('2024-00')", "{year}-{month:02}"), ("FOR VALUES FROM (202400) TO (202401)", "{year}{month:02}"),
        ("FOR VALUES FROM (202413) TO (202502)", "{year}{month:02}"), ("FOR VALUES FROM (202401) TO (202414)", "{year}{month:02}"),
        ("FOR VALUES FROM ('2024-01', 1) TO ('2024-02', 1)", "{year}-{month:02}"),
        ("FOR VALUES WITH (modulus 2, remainder 0)", "{year}"),
        ("FOR VALUES IN ('A')", "{year}"), ("FOR VALUES IN (0000)", "{year}"), ("FOR VALUES IN (9999)", "{year}"),
        ("FOR VALUES IN ('2024'); DROP TABLE t; --')", "{year}"), ("FOR VALUES IN ('x2024-03')", "{year}-{month:02}"),
    ],
)  # fmt: skip
def test_what_is_no_period(bound: str, template: str) -> None:
    with pytest.raises(ValueError, match=r"spell|consecutive"):
        parse_spelled_bound(bound, template, SPELLINGS[template], TOKYO)


@given(template=st.sampled_from([*SPELLINGS]), year=st.integers(1000, 9000), month=st.integers(1, 12), count=st.integers(1, 30))
def test_what_is_spelled_is_read_as_it_was_meant(template: str, year: int, month: int, count: int) -> None:
    period = SPELLINGS[template]
    months = {"year": 12, "quarter": 3, "month": 1}[period]
    lower = datetime(year, (month - 1) // months * months + 1, 1, tzinfo=TOKYO)
    upper = next_start(period, lower, count)
    values = spelled_between(lower, upper, template, period, TOKYO)
    assert len(values) == count and values == sorted(values)
    assert parse_spelled_bound(list_bound(values), template, period, TOKYO) == (lower, upper)
    ends = [spell_period(one, template, TOKYO) for one in (lower, upper)]
    assert parse_spelled_bound(range_bound(*ends), template, period, TOKYO) == (lower, upper)


def rule(**keys: Any) -> PartitionRule:
    given = {"table": "t", "column": "c", "period": "month", "name": "t_{year}_{month:02}", "keep": "3 years"}
    return PartitionRule.model_validate(given | keys)


def test_the_period_of_an_instant_is_that_of_the_zone() -> None:
    last_hour = datetime.fromisoformat("2024-02-29T15:30:00+00:00")
    assert spell_instant(rule(values="{year}{month:02}"), last_hour, TOKYO) == "202403"
    assert spell_instant(rule(), last_hour, TOKYO) == "2024-02-29T15:30:00+00:00"


@pytest.mark.parametrize(
    "values", ["{year}", "{month:02}", "{month:02}-{year}", "{year}-{month}", "{day}", "'{year}", "{year}{month:x}", "x"]
)
def test_values_that_do_not_tell_periods_apart_in_order(values: str) -> None:
    with pytest.raises(ValidationError, match="values: "):
        rule(values=values)
