"""What became of the backups of some days is arithmetic with instants; what a person should look at is said, and nothing else."""

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.calendar import before
from tasks.core.checks.definition import Finding, Severity, Verdict
from tasks.core.checks.record import CheckRecord, CheckResult, changes, results_of
from tasks.core.context_keys import Objectives, Retention
from tasks.core.sets.facts import ExpiryRecord, SetFacts
from tasks.core.sets.name import Kind
from tasks.core.sets.records import record_path, recorded_since
from tasks.core.values import parse_or_none
from tasks.core.watch.anomalies import anomalies, unusual_values
from tasks.core.watch.history import Overview
from tasks.core.watch.history_report import overview_report, overview_verdict, set_rows
from tasks.core.watch.known_sets import complete_since, known_sets
from tasks.core.watch.recovery_point import exposure, gaps
from tests.support.samples import drill

ZONE = ZoneInfo("Asia/Tokyo")
NOW = datetime(2025, 11, 3, 6, 45, tzinfo=ZONE).astimezone(UTC)
FOUR = timedelta(hours=4)


def ago(**how: float) -> datetime:
    return NOW - timedelta(**how)


def one_set(hours: float, kind: Kind = Kind.DIFFERENTIAL, minutes: float = 5, size: int = 1_000_000, **changes: Any) -> SetFacts:
    """A set of so many hours ago."""
    instant = ago(hours=hours)
    given: dict[str, Any] = {
        "id": f"bc-004_{kind}_{hours:08.2f}", "kind": kind, "state": "stored", "instant": instant, "bytes": size,
        "finished": instant + timedelta(minutes=minutes), "verified": ago(days=1),
    }  # fmt: skip
    return SetFacts(**given | changes)


def full(hours: float, **changes: Any) -> SetFacts:
    return one_set(hours, **{"kind": Kind.FULL, "size": 400_000_000} | changes)


def each(hours: float, days: int = 4, **changes: Any) -> list[SetFacts]:
    """A full each day and a differential each few hours."""
    fulls = [full(24 * day + 4.75, **changes) for day in range(days)]
    return fulls + [one_set(number * hours + 0.75, **changes) for number in range(round(days * 24 / hours))]


def result(verdict: Verdict = Verdict.OK, offending: int = 0, check: str = "a rule", **changes: Any) -> CheckResult:
    return CheckResult(**{"check": check, "severity": Severity.ERROR, "verdict": verdict, "offending": offending} | changes)


def check(hours: float, *results: CheckResult) -> CheckRecord:
    return CheckRecord(instant=ago(hours=hours), run="3f9c", verdict="PASS: x", results=[*results])


GOOD: dict[str, Any] = {"drill_records": [drill(instant=ago(days=2))], "check_records": [check(2, result()), check(26, result())]}


def overview(sets: Sequence[SetFacts], days: int = 3, **changes: Any) -> Overview:
    given: dict[str, Any] = {
        "context": "bc-004", "url": "s3://b", "off_host": True, "zone": ZONE, "objectives": Objectives(rto=FOUR, rpo=FOUR),
        "instant": NOW, "since": before(NOW, f"{days} days", ZONE), "days": days, "fulls_since": ago(days=900),
        "states_since": ago(days=900), "sets": sets,
    }  # fmt: skip
    return Overview(**given | GOOD | changes)


def verdict(seen: Overview) -> str:
    return overview_verdict(seen, anomalies(seen))


def report(seen: Overview) -> str:
    return overview_report(seen, verdict(seen), anomalies(seen))


# The recovery point over time


@pytest.mark.parametrize(
    ("states", "found"),
    [
        ([], []),
        ([(0, 1)], [(0, 10)]),
        ([(0, 1), (4, 5)], [(0, 5), (4, 10)]),
        # A full that takes long is overtaken by a differential, and closes no gap any more.
        ([(0, 1), (2, 8), (4, 5)], [(0, 5), (4, 10)]),
        # Nor does one of an older state, stored again; the order given does not matter.
        ([(4, 5), (3, 6), (0, 1)], [(0, 5), (4, 10)]),
        ([(4, 5), (4, 6), (0, 1)], [(0, 5), (4, 10)]),
    ],
)
def test_gaps(states: list[tuple[int, int]], found: list[tuple[int, int]]) -> None:
    def at(hour: int) -> datetime:
        return NOW + timedelta(hours=hour)

    told = gaps([(at(taken), at(stored)) for taken, stored in states], at(10))
    assert [(gap.taken, gap.until) for gap in told] == [(at(taken), at(until)) for taken, until in found]
    closed = [until - taken for taken, until in found[:-1]]
    assert exposure([(at(taken), at(stored)) for taken, stored in states], at(0)) == timedelta(hours=max(closed, default=0))


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 600)), min_size=1, max_size=30), st.integers(1, 5000))
def test_at_every_moment_it_is_the_newest_that_was_stored(sets: list[tuple[int, int]], ago_minutes: int) -> None:
    facts = [one_set(start / 60, minutes=took) for start, took in sets]
    seen, moment = overview(facts, days=5), ago(minutes=ago_minutes)
    stored = [one.instant for one in facts if one.instant and one.finished and one.finished <= moment]
    told = [gap for gap in seen.gaps if gap.stored <= moment < gap.until]
    assert [gap.taken for gap in told] == ([max(stored)] if stored else [])
    if told:
        (day,) = [one for one in seen.by_day if one.start.date() == moment.astimezone(ZONE).date()]
        assert day.worst and day.worst.age >= moment - told[0].taken


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (each(3.5), "RPO kept, worst gap 3:35:00"),
        ([*each(3.5)[:-1], full(200)], "RPO kept, worst gap 3:35:00"),
        ([full(30)], "RPO MISSED 1 time since 2025-11-02, worst gap 30:00:00"),
        ([full(90), full(60), full(3)], "RPO MISSED 2 times, worst gap 57:05:00"),
        # What is damaged, or was when it expired, brought nothing back; what has expired did.
        ([full(4), full(1, state="damaged")], "RPO kept since 2025-11-03, worst gap 4:00:00"),
        ([full(7.9), full(4, expired=True), full(1)], "RPO kept since 2025-11-02, worst gap 3:59:00"),
        ([full(7.9), full(4, expired=True, state="damaged"), full(1)], "RPO MISSED 1 time since 2025-11-02, worst gap 6:59:00"),
        ([full(1, state="damaged")], "RPO MISSED, nothing can be restored"),
        ([full(1, expired=True)], "RPO MISSED, nothing can be restored"),
        ([one_set(1, Kind.SAFETY)], "RPO MISSED, nothing can be restored"),
        # It is suspect, but a state.
        ([full(2, state="suspect")], "RPO kept since 2025-11-03, worst gap 2:00:00"),
        # A clock that is ahead makes no state newer than its manifest, and none of the future hides that there is no newer one.
        ([full(5, finished=ago(hours=6)), full(-3)], "RPO MISSED 1 time since 2025-11-03, worst gap 6:00:00"),
    ],
)
def test_the_recovery_point_in_the_verdict(sets: list[SetFacts], said: str) -> None:
    assert f"; {said}; " in verdict(overview(sets))


def test_what_expired_before_it_was_recorded_is_no_gap() -> None:
    """Differentials live for a week, fulls for a month: what is left of the days before are fulls alone."""
    left = [one for one in each(3.5, days=20) if one.kind is Kind.FULL or (one.instant and one.instant > ago(days=7))]
    assert "RPO MISSED" in verdict(overview(left, days=14))
    seen = overview(left, days=14, states_since=ago(days=7))
    assert "; RPO kept since 2025-10-27, worst gap 3:35:00; " in verdict(seen)
    assert "Known since 2025-10-27 06:45:00 JST: sets that expired before then are not recorded." in report(seen)
    # What is missing after that is missing.
    lost = overview(
        [one for one in left if one.instant and not ago(days=8) < one.instant < ago(days=6)], states_since=ago(days=7), days=14
    )
    assert "; RPO MISSED 1 time since 2025-10-27, worst gap 27:20:00; " in verdict(lost)


@pytest.mark.parametrize(
    ("first", "retention", "days"),
    [
        (0, Retention(), (30, 7)),
        (20, Retention(), (50, 27)),
        (0, Retention(daily="3 days", differential="5 days"), (3, 3)),
    ],
)
def test_since_when_all_are_known(first: int, retention: Retention, days: tuple[int, int]) -> None:
    assert complete_since(ago(days=first), retention, ZONE) == tuple(ago(days=one) for one in days)


def test_days_are_the_zones() -> None:
    seen = overview([*each(3.5), full(30.75, size=7)])
    # 31 hours before 06:45 is the day before the last, and 00:00 belongs to the day that begins.
    assert [f"{day.start:%m-%d %H:%M}" for day in seen.by_day] == ["11-03 00:00", "11-02 00:00", "11-01 00:00", "10-31 00:00"]
    assert [[one.bytes for one in day.sets].count(7) for day in seen.by_day] == [0, 1, 0, 0]
    assert sum(len(day.sets) for day in seen.by_day) == len(seen.taken)


def test_a_gap_over_midnight_is_told_as_far_as_it_had_come() -> None:
    text = report(overview([full(100), full(16.75), full(1.75)]))
    assert "| 2025-11-03 | 1 | 0 | 0 | 400.0 MB | 15:05:00 | 05:05 | **MISSED** |" in text
    assert "| 2025-11-02 | 1 | 0 | 0 | 400.0 MB | 83:20:00 | 14:05 | **MISSED** |" in text
    assert "| 2025-11-01 | 0 | 0 | 0 | 0 B | 69:15:00 | 24:00 | **MISSED** |" in text


def test_a_day_on_which_the_clock_is_put_back() -> None:
    berlin, instant = ZoneInfo("Europe/Berlin"), datetime(2025, 10, 27, 5, tzinfo=UTC)
    facts = SetFacts(
        id="x",
        kind=Kind.FULL,
        state="stored",
        instant=instant - timedelta(hours=31),
        finished=instant - timedelta(hours=31),
        bytes=1,
    )
    days = overview([facts], zone=berlin, instant=instant, since=instant - timedelta(days=2)).by_day
    # Midnight to midnight are 25 hours: 00:00 of the 26th is 22:00Z of the 25th, and the gap had begun at 22:00Z.
    assert [day.worst.age for day in days if day.worst] == [timedelta(hours=31), timedelta(hours=25)]


# What to look at


def looked_at(*sets: SetFacts, **changes: Any) -> list[str]:
    return [one.line.partition("\n")[0] for one in anomalies(overview(sets or each(3.5), **changes))]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"off_host": False}, ["the store is not off-host"]),
        ({"drill_records": []}, ["no drill in the last 35 days, no drill is recorded"]),
        ({"drill_records": [drill(instant=ago(days=36))]}, ["no drill in the last 35 days, the last drill was at 2025-09-28"]),
        ({"drill_records": [drill(instant=ago(days=34))]}, []),
        ({"drill_records": [drill(passed=False), drill()]}, ["the last drill did not pass"]),
        ({"drill_records": [drill(instant=ago(days=1)), drill(passed=False)]}, []),
        ({"objectives": Objectives(rto=timedelta(seconds=40), rpo=FOUR)}, ["the last drill did not pass, or would not pass with"]),
        ({"check_records": []}, ["no integrity check is recorded in these days"]),
        ({"check_records": [check(80, result())]}, ["no integrity check is recorded in these days"]),
        ({"check_records": [check(2, result(Verdict.FAILED, 3))]}, ["failing as of 2025-11-03 04:45:00 JST: 1 integrity check"]),
        ({"check_records": [check(2, result(Verdict.BROKEN, severity=Severity.WARNING))]}, []),
        ({"check_records": [check(2, result()), check(26, result(Verdict.FAILED, 3))]}, []),
    ],
)  # fmt: skip
def test_what_is_to_be_looked_at(changes: dict[str, Any], said: list[str]) -> None:
    found = looked_at(**changes)
    assert len(found) == len(said)
    assert all(one.startswith(start) for one, start in zip(found, said, strict=True))


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (each(3.5, verified=ago(days=9)), "no set was verified (decoded) for 9 days"),
        (each(3.5, verified=None), "no set was verified (decoded) yet"),
        ([*each(3.5), full(40, state="damaged", note="/x is missing")], "damaged: 1 set"),
        ([*each(3.5), full(40, state="damaged", instant=None, finished=None)], "damaged: 1 set"),
        ([*each(3.5), full(40, state="suspect")], "suspect: 1 set; find out"),
        ([*each(3.5), full(-1)], "dated in the future: 1 set; set the clocks"),
        ([*each(3.5), full(0.5, size=250_000_000)], "full backups are much larger or smaller"),
        ([*each(3.5), full(0.5, size=650_000_000)], "full backups are much larger or smaller"),
        ([*each(3.5), full(0.5, minutes=16)], "backups took more than 3 times as long"),
        ([*each(3.5, days=1), *map(one_set, range(24, 76, 3)), full(76)], "no full backup for more than 26:00:00: 1 time"),
        ([*map(one_set, range(1, 76, 3)), full(76)], "no full backup for more than 26:00:00: 1 time"),
    ],
)  # fmt: skip
def test_sets_to_look_at(sets: list[SetFacts], said: str) -> None:
    (found,) = looked_at(*sets)
    assert found.startswith(said)


@pytest.mark.parametrize(
    "more",
    [
        full(40, state="damaged", expired=True), full(100, state="suspect"), full(0.5, size=300_000_000), full(0.5, minutes=14),
        full(0.5, minutes=0.01), one_set(0.5, size=90_000_000), one_set(10, Kind.LONG_TERM, minutes=300),
    ],
)  # fmt: skip
def test_what_needs_no_look(more: SetFacts) -> None:
    assert looked_at(*each(3.5), more) == []


def test_cases_are_told_but_not_hundreds() -> None:
    many = [
        one_set(9, state="damaged", note="its base"),
        *(full(number, state="damaged", note=f"/{number} is missing") for number in range(10, 20)),
    ]
    (found,) = anomalies(overview([*each(3.5), *many]))
    assert found.line.split("\n")[1:] == [*(f"    - /{number} is missing" for number in range(10, 15)), "    - … and 6 more"]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1, 1, 9], {}),
        ([1, 1, 1, 9], {3: 1}),
        ([4, 4, 4, 2, 4], {3: 4}),
        # After some days it is usual.
        ([4, 4, 4, 9, 9, 9, 9, 9], {3: 4, 4: 4, 5: 4}),
        ([10.0 * 1.05**day for day in range(60)], {}),
    ],
)
def test_what_is_unusual_values(values: list[float], found: dict[int, float]) -> None:
    assert unusual_values(values, 2.0, 1 / 1.5) == found


# Integrity checks


@pytest.mark.parametrize(
    ("earlier", "later", "said"),
    [
        (result(), result(), []),
        (result(), result(Verdict.FAILED, 3), ["ok → FAILED, 3 offending"]),
        (result(Verdict.FAILED, 3), result(Verdict.FAILED, 4), ["FAILED, 3 offending → FAILED, 4 offending"]),
        (result(Verdict.FAILED, 3), result(), ["FAILED, 3 offending → ok"]),
        (result(Verdict.WARNING, 3, severity=Severity.WARNING), result(Verdict.WARNING, 4, severity=Severity.WARNING), []),
        (result(severity=Severity.WARNING), result(Verdict.WARNING, 4, severity=Severity.WARNING), ["ok → warning, 4 offending"]),
        (result(), result(check="another"), ["ok → no such check", "no such check → ok"]),
    ],
)
def test_checks_that_changed(earlier: CheckResult, later: CheckResult, said: list[str]) -> None:
    records = [check(2, later), check(26, earlier)]
    assert [one.line for one in changes(records)] == said


def test_of_a_check_no_key_of_a_row_is_kept() -> None:
    finding = Finding("a rule", Severity.ERROR, Verdict.FAILED, 2, ["4711"], "note of 4711", 1.5)
    kept = CheckRecord(instant=NOW, run="3f9c", verdict="FAIL: x", results=results_of([finding]))
    assert "4711" not in kept.model_dump_json()
    assert parse_or_none(CheckRecord, kept.model_dump_json().encode()) == kept
    assert record_path("bc-004", kept) == "bc-004/checks/20251102T214500Z_3f9c.json"


# Records


@pytest.mark.parametrize(("hours", "count"), [(0, 1), (1, 2), (2.5, 3), (3, 4), (9, 4)])
def test_records_of_a_time_and_the_last_before(hours: float, count: int) -> None:
    keys = [record_path("bc-004", check(one)) for one in (1, 2, 3, 4)]
    assert recorded_since(keys, ago(hours=hours)) == keys[:count]


def test_what_expired_is_known_and_what_came_back_is_there() -> None:
    gone = ExpiryRecord(instant=NOW, run="3f9c", sets=[one_set(200), one_set(201)])
    again = parse_or_none(ExpiryRecord, gone.model_dump_json().encode())
    assert again == gone
    known = known_sets([one_set(201, state="decoded"), full(1)], [gone, gone])
    assert {one.id: (one.verdict, one.state) for one in known} == {
        one_set(200).id: ("expired", "stored"), one_set(201).id: ("ok", "decoded"), full(1).id: ("ok", "stored"),
    }  # fmt: skip


# The report


def test_the_verdict_says_it_in_one_line() -> None:
    seen = overview([*each(3.5, days=31), one_set(50, Kind.SAFETY), full(31, expired=True)], days=30)
    assert verdict(seen) == (
        "30 days: 31 fulls, 206 differentials, 1 other set, 12.6 GB; RPO kept, worst gap 3:35:00; 1 drill passed; "
        "nothing to look at"
    )
    drills = [drill(instant=ago(days=1), passed=False), drill(instant=ago(days=2)), drill(instant=ago(days=50))]
    said = verdict(overview(each(3.5), off_host=False, drill_records=drills))
    assert said.endswith("; 1 drill passed, 1 drill FAILED; 2 things to look at")
    assert "; no drill; 1 thing to look at" in verdict(overview(each(3.5), drill_records=drills[2:]))


def test_an_empty_store_is_one_statement() -> None:
    seen = overview([], legacy=3)
    said = 'EMPTY: no backup set of context "bc-004" in s3://b (3 legacy files there); take one: `daily_backup`'
    assert verdict(seen) == said
    assert report(seen) == f"# EMPTY\n\n**{said.removeprefix('EMPTY: ')}**\n"
    assert set_rows(seen) == []


def test_the_report_has_the_evidence() -> None:
    sets = [*each(3.5), full(0.5, size=440_000_000), full(40, state="damaged", instant=None, finished=None, size=0, note="/x")]
    seen = overview(sets)
    text = report(seen)
    assert text.startswith(
        f"# 3 days\n\n**{verdict(seen).partition(': ')[2]}**\n\nFrom 2025-10-31 06:45:00 JST to 2025-11-03 06:45:00 JST"
    )
    titles = "What to look at, Objectives, Recovery point, Sets, Drills, Decoded and drilled, Integrity checks, Each day"
    assert re.findall("^## (.*)$", text, re.MULTILINE) == titles.split(", ")
    assert "| most that would have been lost (RPO) | 4:00:00 | 3:35:00 | at " in text
    assert "| longest recovery of a drill (RTO) | 4:00:00 | 0:00:48 | 1 proven drill |" in text
    assert "and is 440.0 MB (`bc-004_full_00000.50`): +10.0 %." in text
    assert "| full | 5 | 1.6 GB | 400.0 MB | 0:05:00 | 6 | 2.0 GB |" in text
    pictures = [base64.b64decode(one).decode() for one in re.findall(r"data:image/svg\+xml;base64,([^)]+)", text)]
    assert len(pictures) == 3
    assert ">limit<" in pictures[0] and ">hours<" in pictures[0]
    assert ">fulls<" in pictures[1] and ">differentials<" in pictures[1] and ">others<" not in pictures[1]
    assert any(">2025-11-01" in one or ">11-01" in one for one in pictures)


def test_rows_of_the_table() -> None:
    first, *_, last = set_rows(
        overview([*each(3.5), full(9, state="damaged", instant=None, finished=None, verified=None, note="n")])
    )
    assert first == {
        "id": "bc-004_differential_00000.75", "verdict": "ok", "state of": "2025-11-03 06:00:00 JST", "stored bytes": 1_000_000,
        "seconds": 300.0, "kind": "differential", "last checked": "stored 2025-11-02 06:45:00 JST", "note": "",
    }  # fmt: skip
    assert (last["verdict"], last["state of"], last["seconds"], last["last checked"], last["note"]) == (
        "damaged",
        "-",
        None,
        "never",
        "n",
    )
