"""Instants are read in the context's zone; periods are the calendar's."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.calendar import (
    MONTHS,
    before,
    is_instant,
    name_of_period,
    next_start,
    parse_instant,
    parse_period,
    start_of,
    starts_between,
)
from tasks.core.errors import BadInput

TOKYO = ZoneInfo("Asia/Tokyo")


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2025-11-03", datetime(2025, 11, 2, 15, tzinfo=UTC)),
        ("2025-11-03 14:00", datetime(2025, 11, 3, 5, tzinfo=UTC)),
        ("2025-11-03T14:00:30", datetime(2025, 11, 3, 5, 0, 30, tzinfo=UTC)),
        ("2025-11-03 14:00 JST", datetime(2025, 11, 3, 5, tzinfo=UTC)),
        ("2025-11-03 14:00 Asia/Tokyo", datetime(2025, 11, 3, 5, tzinfo=UTC)),
        ("2025-11-03 14:00 UTC", datetime(2025, 11, 3, 14, tzinfo=UTC)),
        ("2025-11-03 14:00 Europe/Berlin", datetime(2025, 11, 3, 13, tzinfo=UTC)),
        ("2025-11-03T14:00+09:00", datetime(2025, 11, 3, 5, tzinfo=UTC)),
        ("2025-11-03 14:00:00Z", datetime(2025, 11, 3, 14, tzinfo=UTC)),
    ],
)
def test_instants(text: str, instant: datetime) -> None:
    assert is_instant(text)
    assert parse_instant(text, TOKYO) == instant
    assert parse_instant(text, TOKYO).tzinfo


@pytest.mark.parametrize(
    "text",
    ["2025-13-01", "2025-11-03 25:00", "2025-11-03 JST", "2025-11-03 14:00 Nowhere/City", "2025-11-03 14:00 JST JST",
     "2025-11-03 14:00+09:00 UTC", "2025-02-29", "2025-11-03 noon", "2025-11-03 14:00 ../etc/passwd"],
)  # fmt: skip
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(BadInput, match=r'is not a valid timestamp.*; write for example "2025-11-03 14:00"'):
        parse_instant(text, TOKYO)


@pytest.mark.parametrize("text", ["latest", "", "bc-004_full_20251103_020000_3f9c", "/2025-11-03", "s3://b/2025-11-03"])
def test_what_nobody_means_as_an_instant(text: str) -> None:
    assert not is_instant(text)


@pytest.mark.parametrize(
    ("instant", "period", "earlier"),
    [
        ("2028-02-29 10:00", "1 year", "2027-02-28 10:00"),
        ("2028-02-29 10:00", "4 years", "2024-02-29 10:00"),
        ("2026-03-31 00:00", "1 month", "2026-02-28 00:00"),
        ("2026-01-15 05:00", "1 month", "2025-12-15 05:00"),
        ("2026-01-01 00:00", "3 years", "2023-01-01 00:00"),
        ("2026-01-01 00:00", "36 months", "2023-01-01 00:00"),
        ("2026-03-01 00:00", "30 days", "2026-01-30 00:00"),
        ("2026-03-01 00:00", "5 hours", "2026-02-28 19:00"),
        # In Greenwich it is still the old year.
        ("2026-01-01 08:59", "1 year", "2025-01-01 08:59"),
    ],
)
def test_periods(instant: str, period: str, earlier: str) -> None:
    now = parse_instant(instant, TOKYO).astimezone(UTC)
    assert before(now, period, TOKYO) == parse_instant(earlier, TOKYO)


def test_days_of_a_zone_with_summer_time_keep_the_time_of_day() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert before(parse_instant("2025-10-27 02:00", berlin), "2 days", berlin) == parse_instant("2025-10-25 02:00", berlin)


def test_what_is_no_period() -> None:
    with pytest.raises(BadInput, match='"3 weeks" is not a valid period; write for example'):
        before(datetime(2026, 1, 1, tzinfo=UTC), "3 weeks", TOKYO)


INSTANTS = st.datetimes(
    datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC),  # noqa: DTZ001 - the zone is added
)  # fmt: skip


@given(INSTANTS, st.integers(0, 20), st.sampled_from(["hour", "day", "month", "year"]))
def test_a_longer_period_never_ends_later(instant: datetime, count: int, unit: str) -> None:
    shorter, longer = (before(instant, f"{n} {unit}s", TOKYO) for n in (count, count + 1))
    assert longer <= shorter <= instant


@given(INSTANTS, st.integers(0, 20))
def test_a_year_is_twelve_months(instant: datetime, count: int) -> None:
    assert before(instant, f"{12 * count} months", TOKYO) == before(instant, f"{count} years", TOKYO)
    assert timedelta(days=365 * count) <= instant - before(instant, f"{count} years", TOKYO) <= timedelta(days=366 * count)


PERIODS = st.sampled_from(sorted(MONTHS))
ZONES = st.sampled_from([ZoneInfo("Asia/Tokyo"), ZoneInfo("UTC"), ZoneInfo("Europe/Berlin"), ZoneInfo("America/Sao_Paulo")])
INSTANTS = st.integers(0, 3_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@given(PERIODS, INSTANTS, ZONES)
def test_every_instant_lies_in_one_period(period: str, instant: datetime, zone: ZoneInfo) -> None:
    start = start_of(period, instant, zone)
    assert start <= instant < next_start(period, start)
    assert (start.day, start.hour, start.minute) == (1, 0, 0)
    assert start_of(period, start, zone) == start
    assert next_start(period, next_start(period, start), -1) == start


@given(PERIODS, INSTANTS, st.integers(0, 40), ZONES)
def test_periods_follow_each_other(period: str, instant: datetime, count: int, zone: ZoneInfo) -> None:
    first = start_of(period, instant, zone)
    starts = starts_between(period, first, next_start(period, first, count))
    assert len(starts) == count + 1
    assert [next_start(period, one) for one in starts[:-1]] == starts[1:]
    assert len({name_of_period("t_{year}_{month:02}", one) for one in starts}) == len(starts)


@pytest.mark.parametrize(
    ("period", "instant", "start"),
    [
        ("year", "2026-12-31 14:59 UTC", "2026-01-01"), ("year", "2026-12-31 15:00 UTC", "2027-01-01"),
        ("month", "2024-02-29 23:59", "2024-02-01"), ("quarter", "2024-03-31 23:59", "2024-01-01"),
        ("quarter", "2024-04-01", "2024-04-01"), ("month", "2024-02-29 15:00 UTC", "2024-03-01"),
    ],
)  # fmt: skip
def test_a_period_begins_at_midnight_in_the_zone(period: str, instant: str, start: str) -> None:
    assert start_of(period, parse_instant(instant, TOKYO), TOKYO) == parse_instant(start, TOKYO)


@given(PERIODS, INSTANTS)
def test_a_period_is_read_as_it_is_written(period: str, instant: datetime) -> None:
    start = start_of(period, instant, TOKYO)
    written = {"year": "{year}", "month": "{year}-{month:02}", "quarter": "{year}-Q{quarter}"}[period]
    assert parse_period(name_of_period(written, start), period, TOKYO) == start


@pytest.mark.parametrize(
    ("text", "period"), [("2023", "month"), ("2023-05", "year"), ("2023-13", "month"), ("23", "year"), ("2023-Q5", "quarter"),
                         ("", "year"), ("2023-05", "quarter"), ("2023-Q2", "month")],
)  # fmt: skip
def test_what_is_no_such_period(text: str, period: str) -> None:
    with pytest.raises(BadInput, match=f"is not a {period}; write for example 2023"):
        parse_period(text, period, TOKYO)
