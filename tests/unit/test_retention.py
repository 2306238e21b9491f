"""The plan of a pruning: what it never takes, and that it takes what has had its time."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.calendar import before
from tasks.core.sets.name import RULES, Kind
from tasks.core.sets.retention import Decision, StoredSet, is_ours, is_written_by_a_backup, missing_full, plan

ZONE = ZoneInfo("Asia/Tokyo")
NOW = datetime(2025, 12, 31, 2, 0, tzinfo=UTC)
PERIODS = {Kind.FULL: "30 days", Kind.DIFFERENTIAL: "7 days", Kind.SAFETY: "30 days", "violations": "2 months"}


def one(name: str, days: float, kind: Kind = Kind.FULL, **more: Any) -> StoredSet:
    return StoredSet(name, kind, NOW - timedelta(days=days), **more)


def expiring(*newest_first: StoredSet) -> list[str]:
    return [decision.set.id for decision in plan(newest_first, NOW, ZONE, PERIODS) if decision.expires]


def test_each_kind_has_its_own_time() -> None:
    sets = [one(f"full {days}", days, proven=days == 1) for days in range(1, 40)]
    sets += [one(f"diff {days}", days, Kind.DIFFERENTIAL, base=f"full {days}") for days in range(1, 10)]
    assert expiring(*sorted(sets, key=lambda one: str(one.instant), reverse=True)) == [
        "diff 8", "diff 9", *(f"full {days}" for days in range(31, 40))
    ]  # fmt: skip


def test_a_period_ends_on_the_calendar() -> None:
    assert expiring(one("newest", 1, proven=True), one("a", 30.001), one("b", 30)) == ["a"]


@pytest.mark.parametrize(
    ("sets", "why"),
    [
        ([one("a", 90)], "it is the newest state that can be restored"),
        ([one("b", 1), one("a", 90, proven=True)], "it is the newest full that was decoded or drilled"),
        ([one("b", 1, restorable=False), one("a", 90)], "it is the newest state that can be restored"),
        ([one("b", 1, Kind.DIFFERENTIAL, base="c"), one("a", 90)], "it is the newest full"),
        ([one("a", 90, Kind.DIFFERENTIAL, base="b", restorable=True)], "it is the newest state that can be restored"),
        ([one("c", 1, proven=True), one("b", 5, Kind.DIFFERENTIAL, base="a"), one("a", 90)], "b needs this set"),
        ([one("b", 1, suspect=True), one("a", 90)], "the newest set b is suspect: nothing is pruned"),
        ([one("b", 1, proven=True), one("a", 90, held=True)], "it is being read"),
        ([one("b", 1, proven=True), one("a", 90, keep_until=NOW + timedelta(days=1))], "to be kept until 2026-01-01 02:00 UTC"),
        ([one("b", 1, proven=True), StoredSet("a", Kind.FULL, None)], "its manifest cannot be read, so that its age is not known"),
    ],
)
def test_what_speaks_for_a_set(sets: list[StoredSet], why: str) -> None:
    decided = {decision.set.id: decision for decision in plan(sets, NOW, ZONE, PERIODS)}
    assert decided["a"] == Decision(sets[-1], expires=False, why=why)


def test_a_term_that_is_over_and_a_hold_that_is_gone_speak_for_nothing() -> None:
    assert expiring(one("b", 1, proven=True), one("a", 90, keep_until=NOW - timedelta(days=1))) == ["a"]


SETS = st.lists(
    st.builds(
        StoredSet,
        id=st.uuids().map("bc-004_violations_{}".format),
        kind=st.sampled_from(Kind),
        instant=st.none() | st.integers(0, 100).map(lambda days: NOW - timedelta(days=days, hours=1)),
        keep_until=st.none() | st.sampled_from([NOW - timedelta(days=3), NOW + timedelta(days=3)]),
        restorable=st.booleans(), proven=st.booleans(), suspect=st.booleans(),
        held=st.booleans(), pinned=st.booleans(),
    ),
    max_size=14,
)  # fmt: skip


@given(SETS, st.data(), st.sampled_from([0.0, 1.0]))
def test_properties(sets: list[StoredSet], data: st.DataObject, calm: float) -> None:
    fulls = [one.id for one in sets if one.kind is Kind.FULL]
    sets = [
        StoredSet(**{
            **vars(one), "suspect": one.suspect and not calm, "restorable": one.restorable and one.instant is not None,
            "base": data.draw(st.sampled_from(fulls)) if fulls and one.kind is Kind.DIFFERENTIAL else None,
        })
        for one in sets
    ]  # fmt: skip
    sets.sort(key=lambda one: str(one.instant or ""), reverse=True)
    decisions = plan(sets, NOW, ZONE, PERIODS)
    assert [decision.set for decision in decisions] == sets
    kept = [decision.set for decision in decisions if not decision.expires]
    gone = [decision.set for decision in decisions if decision.expires]

    whole = [one for one in sets if one.restorable and RULES[one.kind].may_be_latest]
    whole_fulls = [one for one in whole if one.kind is Kind.FULL]
    protected = [*whole[:1], *whole_fulls[:1], *[one for one in whole_fulls if one.proven][:1]]
    assert not [one for one in protected if one in gone]
    assert not {one.base for one in kept} & {one.id for one in gone}
    unread = [one for one in sets if one.kind is Kind.DIFFERENTIAL and one.instant is None]
    for one in gone:
        assert one.instant
        assert one.instant < before(NOW, PERIODS[one.sort], ZONE)
        assert not one.held
        assert not one.pinned
        assert not [other for other in unread if one.kind is Kind.FULL and other.id[-20:] > one.id[-20:]]
        assert not (one.keep_until and one.keep_until > NOW)
    newest = next((one for one in sets if one.instant and RULES[one.kind].may_be_latest), None)
    if newest and newest.suspect:
        assert gone == []
    else:
        # Whatever nothing speaks for has to go: a plan that keeps all is no plan.
        spoken_for = {one.id for one in protected} | {one.base for one in kept}
        for one in kept:
            old = one.instant and one.sort in PERIODS and one.instant < before(NOW, PERIODS[one.sort], ZONE)
            needed = one.kind is Kind.FULL and any(other.id[-20:] > one.id[-20:] for other in unread)
            said = one.held or one.pinned or one.id in spoken_for or needed or (one.keep_until and one.keep_until > NOW)
            assert not old or said
    # Planned again after it was done, there is nothing more to do.
    assert [one.id for one in kept] == [decision.set.id for decision in plan(kept, NOW, ZONE, PERIODS) if not decision.expires]


def test_long_term_sets_are_kept_as_long_as_their_job_says() -> None:
    ids = [f"bc-004_{job}_20251001_030000_0000" for job in ("violations", "books")]
    sets = [one("full", 1), *(StoredSet(name, Kind.LONG_TERM, NOW - timedelta(days=90)) for name in ids)]
    assert [(found.expires, found.why) for found in plan(sets, NOW, ZONE, PERIODS)][1:] == [
        (True, "older than 2 months"), (False, "sets of kind books are kept for ever"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("days", "rpo", "age"),
    [([1], 0, 2.0), ([1, 2, 3], 0, 2.0), ([1, 1.5, 2, 3], 0, 2.0), ([7, 14, 21, 60], 0, 8.0), ([1], 60, 3.5), ([], 0, None)],
)
def test_while_no_full_comes(days: list[float], rpo: float, age: float | None) -> None:
    def said(passed: float) -> str | None:
        fulls = [one(f"full {since}", since) for since in days] + [one("broken", 0, restorable=False), one("safe", 0, Kind.SAFETY)]
        return missing_full(fulls, NOW + timedelta(days=passed), timedelta(hours=rpo))

    if age is None:
        assert said(0) == "no full backup can be restored: nothing is pruned"
    else:
        assert said(age - days[0] - 0.01) is None
        assert f"at most {age:.1f} days are allowed between two" in str(said(age - days[0] + 0.01))


def test_kinds_without_a_period_are_kept() -> None:
    (decision,) = plan([one("a", 900)], NOW, ZONE, {})
    assert (decision.expires, decision.why) == (False, "sets of kind full are kept for ever")


@pytest.mark.parametrize(
    ("path", "ours"),
    [("data/teams.copy.zst", True), ("expired.json", True), ("hold-0a1f.json", True), ("drilled.json", True),
     ("damaged.json", True), ("pinned.json", False),
     ("data/other.copy.zst", False), ("bc-004_full_20251103.dump.gz", False), ("notes.txt", False)],
)  # fmt: skip
def test_what_belongs_to_a_set(path: str, ours: bool) -> None:
    assert is_ours(path, ["data/teams.copy.zst"]) == ours


@pytest.mark.parametrize(
    ("path", "ours"),
    [("data/teams.copy.zst", True), ("schema.dump.zst", True), ("context/checks.sql", True), ("hold-0a1f.json", True),
     ("data/teams.dump.gz", False), ("a.dump", False), ("data/deeper/file", False), ("manifest.json", False)],
)  # fmt: skip
def test_what_a_backup_writes(path: str, ours: bool) -> None:
    assert is_written_by_a_backup(path) == ours
