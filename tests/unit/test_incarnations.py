"""Which set is newer, and which are of another history: tables of cases, each a store as a listing would find it."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tasks.core.backup.report import backup_verdict
from tasks.core.backup.row_loss import CleanedUp, cleaned_since
from tasks.core.errors import BadInput
from tasks.core.sets.histories import (
    Adoption,
    Owner,
    adoption,
    find_dispute,
    forked,
    next_number,
    open_disputes,
    parse_owner,
    render_owner,
    sets_aside,
)
from tasks.core.sets.manifest import Incarnation, Manifest, SetAside, Snapshot
from tasks.core.sets.manifest_file import parse_manifest, render_manifest
from tasks.core.sets.name import Kind
from tasks.core.sets.order import newest_first
from tasks.core.sets.retention import StoredSet, plan
from tasks.core.watch.recovery_point import RecoveryPoint, State
from tasks.core.watch.recovery_point import verdict as watch_verdict
from tests.support import samples

ADDRESSES = {"P": "10.0.0.1:5432", "S": "10.0.0.2:5432", "R": "10.0.0.1:5432"}
# Which set a letter and a number name: who wrote it, and its number in the store.
FAR = timedelta(days=400)


def here(server: str, lsn: int = 1, **more: Any) -> Snapshot:
    """A snapshot of one of the servers, which are copies of one another; the clock has nothing to say."""
    life = Incarnation(started=f"start of {server}", address=ADDRESSES[server])
    return samples.snapshot(**{"lsn": f"0/{lsn:X}", "xmin": 700 + lsn, "incarnation": life} | more)


def taken(server: str, number: int, lsn: int | None = None, **more: Any) -> Manifest:
    manifest = {name: more.pop(name) for name in ("aside", "kind", "base") if name in more}
    snapshot = here(server, lsn or number, **more)
    # Names as short as these are no ids.
    named = {"id": f"{server}{number}", **manifest}
    return samples.manifest(number=number, snapshot=snapshot).model_copy(update=named)


def ids(manifests: list[Manifest]) -> str:
    return " ".join(one.id for one in newest_first(manifests, lambda one: one.snapshot, lambda one: one.number))


def old(name: str, hours: float, lsn: str = "0/1", **more: Any) -> Manifest:
    """A set of a release that gave no numbers."""
    snapshot = samples.snapshot(instant=samples.INSTANT + timedelta(hours=hours), lsn=lsn, **more)
    return samples.manifest(snapshot=snapshot).model_copy(update={"id": name})


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ([taken("P", 1), taken("P", 2)], "P2 P1"),
        # Within one life of a server its log decides, also where the set that was begun later was numbered first.
        ([taken("P", 4, lsn=9), taken("P", 5, lsn=8)], "P4 P5"),
        # Across lives, clusters and timelines it does not: a copy that is idle, or busy, is no newer for it.
        ([taken("P", 1, lsn=0x900), taken("S", 2, lsn=1), taken("P", 3, lsn=0x901)], "P3 S2 P1"),
        ([taken("P", 1, lsn=9), taken("R", 2, lsn=3)], "R2 P1"),
        ([taken("P", 1, timeline=7), taken("P", 2, lsn=1, timeline=8), taken("S", 3, system_identifier="8", lsn=1)], "S3 P2 P1"),
        # The clock was 400 days ahead once, or is behind now.
        ([taken("P", 1, instant=samples.INSTANT + FAR), taken("R", 2)], "R2 P1"),
        ([taken("P", 1), taken("R", 2, instant=samples.INSTANT - FAR)], "R2 P1"),
        # What an older release stored comes after all that; among itself as it was.
        ([old("a", 1), old("b", 2, lsn="0/2"), taken("P", 1)], "P1 b a"),
        ([old("a", 24 * 400), taken("P", 1)], "P1 a"),
        ([old("a", 5, lsn="0/1"), old("b", 3, lsn="0/2"), old("c", 4, system_identifier="8")], "c b a"),
    ],
)
def test_which_set_is_newer(sets: list[Manifest], said: str) -> None:
    assert ids(sets) == ids(sets[::-1]) == said


def test_a_set_that_was_set_aside_is_not_the_newest_for_being_further_on() -> None:
    sets = [taken("P", 1), taken("P", 2, lsn=0x900), taken("P", 3, lsn=3), taken("P", 4, lsn=4)]
    found = newest_first(sets, lambda one: one.snapshot, lambda one: one.number, lambda one: one.number == 2)
    assert [one.id for one in found] == ["P4", "P3", "P2", "P1"]


P1, P2, S2, P3, S3, R2 = (
    taken("P", 1), taken("P", 2), taken("S", 2, lsn=0x900), taken("P", 3), taken("S", 3, lsn=0x901), taken("R", 2),
)  # fmt: skip
# A server that is put back to its state of LSN 2, with all that is in its memory.
AHEAD = taken("P", 2, lsn=9)
OPEN = SetAside(why="two servers", since=2)


@pytest.mark.parametrize(
    ("sets", "now", "since"),
    [
        # A server that goes on, is restarted, recovered elsewhere, promoted, or put back to an older state, looks new.
        ([], here("P"), None),
        ([P1, P2], here("P", 3), None),
        ([P1], here("R", 1), None),
        ([P1], here("S", 0x900), None),
        ([P1, P2], here("R", 1), None),
        ([P1, P2], here("R", 1, timeline=2), None),
        ([P1, P2], here("S", 1, system_identifier="8"), None),
        ([old("a", 1), P1], here("P", 2), None),
        # One is back although another has written since.
        ([P1, S2], here("P", 3), 2),
        ([P1, S2, taken("R", 3)], here("S", 0x902), 3),
        ([P1, taken("S", 2, kind=Kind.ARCHIVE)], here("P", 3), 2),
        ([P1, S2, P2], here("P", 3), 2),
        ([P1, taken("S", 2, timeline=2)], here("P", 3), 2),
        # At two addresses, one server answers all the same.
        ([P1, taken("P", 2, incarnation=Incarnation(started="start of P", address="::1:5432"))], here("P", 3), None),
        # A standby writes nothing of its own.
        ([P1, taken("S", 2, standby=True)], here("P", 3), None),
        ([taken("S", 1, standby=True), P2], here("S", 3, standby=True), None),
        # A server is behind what it took itself: by its log, by its transactions.
        ([P1, AHEAD], here("P", 3), 2),
        ([P1, taken("P", 2, lsn=2, xmin=900)], here("P", 3), 2),
        ([P1, AHEAD], here("P", 3, timeline=2), None),
        ([P1, AHEAD], here("R", 3), None),
        # What was found before is found until somebody decides.
        ([P1, S2, taken("P", 3, aside=OPEN)], here("R", 9), 2),
    ],
)
def test_what_a_backup_finds(sets: list[Manifest], now: Snapshot, since: int | None) -> None:
    for listed in (sets, sets[::-1]):
        found = find_dispute(listed, [], now, next_number(sets, []))
        assert (found.since if found else None) == since
        assert found is None or found.before is None


def test_what_is_found_is_told() -> None:
    found = find_dispute([P1, S2], [], here("P", 3), 3)
    assert found
    assert found.why == (
        "two servers write here: S2 is from the server at 10.0.0.2:5432, started start of S, and the server at 10.0.0.1:5432, "
        "started start of P, which took P1 before that, takes backups again; "
        "find out which server has the right data, and run there: python -m deployments.register --adopt"
    )
    behind = find_dispute([P1, AHEAD], [], here("P", 3), 3)
    assert behind
    assert behind.why.startswith("the server at 10.0.0.1:5432, started start of P is behind P2, which it took itself (it is at 0/3")
    assert (found.by_start, behind.by_start) == (True, False)


FOUND = taken("P", 3, aside=OPEN)
BY_P = Adoption(since=2, number=3, started="start of P", rejected=["start of S"])
BY_S = Adoption(since=2, number=3, started="start of S", rejected=["start of P"])
BEHIND = SetAside(why="behind", since=2, by_start=False)
FORK = SetAside(why="forked", since=1, before=3)


@pytest.mark.parametrize(
    ("sets", "adopted", "aside"),
    [
        ([P1, S2], [], ""),
        ([P1, S2, FOUND], [], "S2 P3"),
        # And whatever comes until somebody decides; a long-term or archive set is never `latest` anyhow.
        ([P1, S2, FOUND, taken("R", 4), taken("P", 5, kind=Kind.ARCHIVE)], [], "S2 P3 R4"),
        ([old("a", 1), P1, S2, FOUND], [BY_P], "S2"),
        ([P1, S2, FOUND], [BY_S], "P3"),
        ([P1, S2, FOUND], [Adoption(since=2, number=3)], "S2 P3"),
        ([P1, S2, FOUND, taken("P", 4), taken("R", 5)], [BY_P], "S2"),
        # Who was not adopted writes in vain, until he is.
        ([P1, S2, FOUND, taken("P", 4), taken("S", 5)], [BY_P], "S2 S5"),
        ([P1, S2, FOUND, taken("P", 4), taken("S", 5)], [BY_P, BY_S.model_copy(update={"since": 4, "number": 5})], "S2 P4"),
        # A full that found that its history forked is good itself.
        ([P1, taken("P", 2), taken("P", 3, aside=FORK)], [], "P1 P2"),
        # What was found after an adoption is not decided by it.
        ([P1, S2, FOUND, taken("P", 4), taken("R", 5), taken("P", 6, aside=SetAside(why="again", since=5))], [BY_P], "S2 R5 P6"),
    ],
)
def test_which_sets_are_set_aside(sets: list[Manifest], adopted: list[Adoption], aside: str) -> None:
    for listed in (sets, sets[::-1]):
        assert sorted(sets_aside(listed, adopted)) == sorted(aside.split())


@pytest.mark.parametrize(
    ("sets", "adopted", "server", "decision"),
    [
        ([P1, P2], [], here("P", 3), None),
        ([P1, P2], [], here("S", 1, system_identifier="8"), None),
        ([P1, S2, FOUND], [], here("P", 4), BY_P),
        ([P1, S2, FOUND], [], here("S", 0x902), BY_S),
        # Also before a backup found it: the old server is taken back after a recovery elsewhere.
        ([P1, S2], [], here("P", 3), Adoption(since=2, number=2, started="start of P", rejected=["start of S"])),
        # Restarted meanwhile: it cannot be told from its start which sets were its own.
        ([P1, S2, FOUND], [], here("R", 4),
         Adoption(since=2, number=3, started="start of R", rejected=["start of P", "start of S"])),
        ([P1, AHEAD, taken("P", 3, aside=BEHIND)], [], here("P", 4), Adoption(since=2, number=3)),
        # The one that was not adopted is taken after all.
        ([P1, S2, FOUND, taken("P", 4)], [BY_P], here("S", 0x902),
         Adoption(since=4, number=4, started="start of S", rejected=["start of P"])),
        ([P1, S2, FOUND], [BY_P], here("S", 0x902), Adoption(since=4, number=3, started="start of S")),
        ([P1, S2, FOUND], [BY_P], here("P", 4), None),
    ],
)  # fmt: skip
def test_what_an_adoption_decides(
    sets: list[Manifest], adopted: list[Adoption], server: Snapshot, decision: Adoption | None
) -> None:
    assert adoption(sets, adopted, server) == decision
    after = [*adopted, *([decision] if decision else [])]
    number = next_number(sets, after)
    # The next set of that server counts, and finds nothing.
    assert find_dispute(sets, after, server, number) is None
    later = samples.manifest(number=number, snapshot=server).model_copy(update={"id": "later"})
    assert "later" not in sets_aside([*sets, later], after)
    assert open_disputes([*sets, later], after) == []


def test_who_was_not_adopted_is_told_so_and_harms_nobody() -> None:
    found = find_dispute([P1, S2, FOUND], [BY_P], here("S", 0x903), 4)
    assert found
    assert (found.since, found.before) == (4, 5)
    assert "another server was adopted" in found.why


def test_a_fork_sets_the_full_and_its_differentials_aside() -> None:
    assert forked([], P1, 5) is None
    assert forked(["public.teams"], old("a", 1), 5) is None
    found = forked(["public.teams", "public.scopes"], P1, 5)
    assert found
    assert (found.since, found.before) == (1, 5)
    assert "no row of public.teams, public.scopes counts as written since P1, but the rows differ" in found.why


def test_numbers_go_on_after_what_was_deleted() -> None:
    assert next_number([], []) == 1
    assert next_number([P1, old("a", 1)], []) == 2
    assert next_number([P1], [BY_P]) == 4


def test_owner_json_is_what_it_was_where_nothing_was_decided() -> None:
    assert render_owner(Owner(system_identifier="7")) == b'{"system_identifier": "7"}\n'
    assert parse_owner(b'{"system_identifier": 7, "more": 1}', "owner.json") == Owner(system_identifier="7")
    decided = Owner(system_identifier="7", adopted=[BY_P, Adoption(since=4, number=5)])
    assert parse_owner(render_owner(decided), "owner.json") == decided
    for spoilt in (b"", b"{}", b"[]", b'{"system_identifier": "7", "adopted": 5}'):
        with pytest.raises(BadInput, match=r"owner\.json does not name the cluster that writes sets here"):
            parse_owner(spoilt, "owner.json")


def test_a_manifest_of_an_older_release_is_read() -> None:
    body = json.loads(render_manifest(samples.manifest()))["manifest"]
    new = {"number", "aside"}, {"incarnation"}
    older = {name: value for name, value in body.items() if name not in new[0]}
    older["snapshot"] = {name: value for name, value in body["snapshot"].items() if name not in new[1]}
    read = Manifest.model_validate(older)
    assert (read.number, read.aside, read.snapshot.incarnation) == (None, None, None)
    whole = samples.manifest(number=3, aside=OPEN, snapshot=here("P"))
    assert parse_manifest(render_manifest(whole), "here") == whole


def test_what_was_cleaned_up_since_a_full_is_told_by_numbers() -> None:
    # The clock of the full was 400 days ahead.
    full = taken("P", 2, instant=samples.INSTANT + FAR)
    cleaned = [CleanedUp(samples.INSTANT, {"public.teams": 5}, number) for number in (1, 2, 3)]
    assert cleaned_since(full, cleaned) == {"public.teams": 10}
    assert cleaned_since(full, [CleanedUp(samples.INSTANT, {"public.teams": 5})]) == {}


ZONE = ZoneInfo("Asia/Tokyo")
RPO, EVERY = timedelta(hours=4), timedelta(minutes=15)


def test_the_watch_fails_while_newer_sets_are_set_aside_and_takes_no_more_of_them() -> None:
    seen = RecoveryPoint(samples.INSTANT, RPO, EVERY, newest="P1", taken=samples.INSTANT - timedelta(hours=1))
    assert (seen.state, seen.is_due) == (State.KEPT, False)
    aside = replace(seen, taken=samples.INSTANT - timedelta(days=1), aside=["two servers"], disputed=samples.INSTANT)
    assert (aside.state, aside.is_due) == (State.MISSED, False)
    assert watch_verdict(aside) == "FAIL: P1, age 24:00:00 of 4:00:00; 1 newer sets are SET ASIDE: two servers"
    # What a server writes that was not adopted is no state of ours: a differential is due as ever.
    assert replace(aside, disputed=None).is_due
    nothing = RecoveryPoint(samples.INSTANT, RPO, EVERY, aside=["two servers"], disputed=samples.INSTANT)
    assert watch_verdict(nothing).endswith("the RPO is 4:00:00; 1 newer sets are SET ASIDE: two servers")


def test_a_backup_that_finds_two_histories_says_so_first() -> None:
    said = backup_verdict(FOUND, 1, ZONE)
    assert said.startswith("SET ASIDE: P3, ")
    assert said.endswith(", but set aside, so that it is neither `latest` nor a base: two servers")
    said = backup_verdict(taken("P", 3, aside=FORK), 1, ZONE)
    assert said.startswith("STORED: P3, ")
    assert said.endswith(", but forked")


def test_nothing_is_pruned_while_it_is_disputed_which_sets_count() -> None:
    sets = [
        StoredSet(f"bc-004_full_2025010{day}_020000_0000", Kind.FULL, samples.INSTANT - FAR, restorable=day != 2, disputed=day == 2)
        for day in (3, 2, 1)
    ]
    decided = plan(sets, samples.INSTANT, ZONE, {Kind.FULL: "30 days"})
    said = "it is not decided yet to which history bc-004_full_20250102_020000_0000 belongs: nothing is pruned"
    assert [(one.expires, one.why) for one in decided] == [(False, said)] * 3
    decided = plan([replace(one, disputed=False) for one in sets], samples.INSTANT, ZONE, {Kind.FULL: "30 days"})
    assert [one.expires for one in decided] == [False, True, True]
