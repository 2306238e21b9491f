"""What is kept of a drill comes back as it was; what follows from several is arithmetic with the instants given."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.restore.drill import DrillRecord, carries_to_bytes, recovery_point_age
from tasks.core.sets.records import history, record_path
from tasks.core.values import parse_or_none
from tests.support.samples import INSTANT, drill

SECONDS = st.floats(min_value=0, max_value=1e6, allow_nan=False)
INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
RECORDS = st.builds(
    DrillRecord, instant=INSTANTS, run=st.text(max_size=8), set=st.none() | st.text(max_size=30), verdict=st.text(max_size=60),
    passed=st.booleans(), proven=st.booleans(), rto_seconds=SECONDS, rto_limit_seconds=SECONDS, rpo_seconds=st.none() | SECONDS,
    rpo_limit_seconds=SECONDS, database_bytes=st.none() | st.integers(min_value=0, max_value=10**14),
    rows=st.none() | st.integers(min_value=0), phases=st.dictionaries(st.text(max_size=10), SECONDS, max_size=4),
)  # fmt: skip


@given(RECORDS)
def test_what_is_kept_is_read(kept: DrillRecord) -> None:
    assert parse_or_none(DrillRecord, kept.model_dump_json().encode()) == kept


def test_what_a_later_release_adds_is_passed_over() -> None:
    assert parse_or_none(DrillRecord, json.dumps(json.loads(drill().model_dump_json()) | {"weather": "fine"}).encode()) == drill()


@pytest.mark.parametrize(
    "spoilt",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"instant": "2025-11-02T17:00:00Z"}', drill().model_dump_json().encode()[:-2],
        drill().model_dump_json().replace('"rto_seconds":48.0', '"rto_seconds":"soon"').encode(),
        drill().model_dump_json().replace("2025-11-02T17:00:00Z", "2025-13-02T17:00:00Z").encode(),
    ],
)  # fmt: skip
def test_a_spoilt_record_is_none(spoilt: bytes) -> None:
    assert parse_or_none(DrillRecord, spoilt) is None


def test_names_of_records_sort_by_instant() -> None:
    assert record_path("bc-004", drill()) == "bc-004/drills/20251102T170000Z_3f9c.json"
    instants = [INSTANT + timedelta(days=days) for days in (0, 1, 9, 40, 400)]
    paths = [record_path("bc-004", drill(instant=instant, run="ffff")) for instant in instants]
    assert paths == sorted(paths)


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 15_000_000_000),
        ({"rto_seconds": 14400.0}, 50_000_000),
        ({"rto_seconds": 28800.0}, 25_000_000),
        ({"rto_seconds": 0.0}, None),
        ({"proven": False}, None),
        ({"proven": False, "passed": False}, None),
        ({"passed": False}, 15_000_000_000),
        ({"database_bytes": None}, None),
        ({"database_bytes": 0}, None),
    ],
)
def test_how_far_it_carries(changes: dict[str, Any], size: int | None) -> None:
    assert carries_to_bytes(drill(**changes)) == size


@given(st.integers(min_value=1, max_value=10**13), st.floats(min_value=0.1, max_value=1e5), st.floats(min_value=1, max_value=1e5))
def test_the_limit_is_met_at_that_size(size: int, seconds: float, limit: float) -> None:
    carried = carries_to_bytes(drill(database_bytes=size, rto_seconds=seconds, rto_limit_seconds=limit))
    assert carried is not None
    assert (carried + 1) / size * seconds > limit * (1 - 1e-9)
    assert (carried - 1) / size * seconds < limit * (1 + 1e-9)


def test_the_last_drills_are_told_newest_first() -> None:
    drills = [drill(instant=INSTANT + timedelta(hours=hour), run=str(hour)) for hour in (3, 1, 4, 2)]
    assert [one.run for one in history(drills)[:3]] == ["4", "3", "2"]
    assert [one.run for one in history(iter(drills))] == ["4", "3", "2", "1"]
    assert history([]) == []


@pytest.mark.parametrize(
    ("later", "age"),
    [
        (timedelta(0), timedelta(0)),
        (timedelta(minutes=12, seconds=31), timedelta(minutes=12, seconds=31)),
        (timedelta(days=3), timedelta(days=3)),
        (timedelta(seconds=-1), timedelta(0)),
        (timedelta(days=-9), timedelta(0)),
    ],
)
def test_what_would_be_lost(later: timedelta, age: timedelta) -> None:
    assert recovery_point_age(INSTANT, INSTANT + later) == age


@given(INSTANTS, INSTANTS)
def test_nothing_is_lost_twice(snapshot: datetime, instant: datetime) -> None:
    age = recovery_point_age(snapshot, instant)
    assert age >= timedelta(0)
    assert age == timedelta(0) or snapshot + age == instant


def test_an_instant_without_its_zone_spoils_no_other_record() -> None:
    spoilt = parse_or_none(DrillRecord, drill().model_dump_json().replace("17:00:00Z", "17:00:00").encode())
    assert history(filter(None, [drill(), spoilt])) == [drill()]
