"""The report of a recovery or a drill: instants and phases are given, the verdict is the first line, nothing is hidden."""

import base64
import re
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.checks.definition import Finding, Severity, Verdict
from tasks.core.context_keys import Contact
from tasks.core.database.objects import LeftOut
from tasks.core.report.charts import against_limit, bars
from tasks.core.restore.drill import DrillRecord
from tasks.core.restore.report import Purpose, RecoveryFacts, record_of, recovery_report, recovery_verdict
from tasks.core.restore.trigger_result import Exercise, Outcome, writes_to_do
from tasks.core.sets.manifest import Manifest
from tests.support.samples import INSTANT, manifest

SET = "bc-004_full_20251103_020000_3f9c"
STARTED = INSTANT + timedelta(minutes=12, seconds=31)
PHASES = {"choose and download": 5.5, "load rows": 30.0, "keys & <indexes>": 12.5}
REACHED = "RTO 0:00:48 of 4:00:00, RPO 0:12:31 of 4:00:00, 2 relations identical"
REHEARSED = f"set {SET}"
RESTORED = f'database "bc-004_drill_3f9c" from {SET}'
DIFFERENCES = ["public.teams: 2 rows, not 3", "index i is missing", "trigger t is missing", "view v is missing"]
WORN = Finding("team_has_leader", Severity.ERROR, Verdict.FAILED, 7, ["team_id=1"], "An active team has an active leader.")
STALE = Finding("view mv is current", Severity.WARNING, Verdict.WARNING, 1, ["team_id=2"], "Rows that a refresh would change.")
FINE = Finding("teams", Severity.ERROR, Verdict.OK)
RAN = Exercise("public.teams", "UPDATE", ["teams_updated"], Outcome.RAN, "")
BROKEN = Exercise("public.teams", "DELETE", ["keep", "count"], Outcome.FAILED, "function other() does not exist")
OTHERS = [Exercise(f"public.t{number}", "INSERT", [], Outcome.FAILED, "no") for number in range(3)]
BROKEN_LINE = "DELETE on public.teams (keep, count): function other() does not exist"
PROVEN: dict[str, Any] = {
    "purpose": Purpose.DRILL, "started": STARTED, "path": f"s3://b/bc-004/daily/{SET}", "phases": PHASES,
    "database": "bc-004_drill_3f9c", "proven": True, "database_bytes": 50_000_000, "zone": ZoneInfo("Asia/Tokyo"),
}  # fmt: skip


@cache
def sample() -> Manifest:
    return manifest()


def facts(**changes: Any) -> RecoveryFacts:
    return RecoveryFacts(**PROVEN | {"manifest": sample()} | changes)


def report(**changes: Any) -> str:
    one = facts(**changes)
    return recovery_report(one, recovery_verdict(one))


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, re.MULTILINE)


def section(text: str, title: str) -> str:
    return re.split(r"^## ", text.split(f"\n## {title}", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


# The verdict.


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, f"PASS: {REACHED}; {REHEARSED}"),
        ({"purpose": Purpose.RECOVERY, "database": "consulting_tool"},
         f'PASS: {REACHED}; database "consulting_tool" from {SET}'),
        ({"purpose": Purpose.COPY}, f"PASS: restored in 0:00:48, 2 relations identical; {RESTORED}"),
        ({"newest": False}, f"PASS: RTO 0:00:48 of 4:00:00, 2 relations identical; {REHEARSED}"),
        # An objective is reached if it is met to the second.
        ({"rto": timedelta(seconds=48), "rpo": timedelta(seconds=751)},
         f"PASS: RTO 0:00:48 of 0:00:48, RPO 0:12:31 of 0:12:31, 2 relations identical; {REHEARSED}"),
        # A state newer than the start of the run is not younger than nothing.
        ({"started": INSTANT - timedelta(hours=1)},
         f"PASS: RTO 0:00:48 of 4:00:00, RPO 0:00:00 of 4:00:00, 2 relations identical; {REHEARSED}"),
        # A missed objective fails a drill, but not a recovery, which says so; of a copy nothing was promised.
        ({"rto": timedelta(seconds=47)},
         f"FAIL: RTO missed, RTO 0:00:48 of 0:00:47, RPO 0:12:31 of 4:00:00, 2 relations identical; {REHEARSED}"),
        ({"rpo": timedelta(minutes=12)},
         f"FAIL: RPO missed, RTO 0:00:48 of 4:00:00, RPO 0:12:31 of 0:12:00, 2 relations identical; {REHEARSED}"),
        ({"rto": timedelta(0), "rpo": timedelta(0)},
         f"FAIL: RTO missed, RPO missed, RTO 0:00:48 of 0:00:00, RPO 0:12:31 of 0:00:00, 2 relations identical; {REHEARSED}"),
        ({"purpose": Purpose.RECOVERY, "rto": timedelta(0), "rpo": timedelta(0)},
         f"PASS: RTO 0:00:48 of 0:00:00, RPO 0:12:31 of 0:00:00, 2 relations identical; {RESTORED}; RTO and RPO missed"),
        ({"purpose": Purpose.RECOVERY, "rpo": timedelta(minutes=12), "newest": False},
         f"PASS: RTO 0:00:48 of 4:00:00, 2 relations identical; {RESTORED}"),
        ({"rpo": timedelta(0), "newest": False}, f"PASS: RTO 0:00:48 of 4:00:00, 2 relations identical; {REHEARSED}"),
        ({"purpose": Purpose.COPY, "rto": timedelta(0), "rpo": timedelta(0)},
         f"PASS: restored in 0:00:48, 2 relations identical; {RESTORED}"),
        # That the newest set could not be restored is what a drill is there to find.
        ({"passed_over": ["s3://b/newer: damaged"]}, f"FAIL: 1 newer sets passed over, {REACHED}; {REHEARSED}"),
        ({"passed_over": ["s3://b/newer: damaged", "s3://b/new: damaged"], "purpose": Purpose.RECOVERY},
         f"PASS: {REACHED}; {RESTORED}; 2 sets passed over"),
        # What differs from the backup is one thing, what the source had wrong already is another.
        ({"differences": DIFFERENCES, "proven": False},
         f"FAIL: 4 differences from the backup: {'; '.join(DIFFERENCES[:3])}"),
        ({"findings": [FINE, WORN, STALE]},
         f"PASS: {REACHED}; {REHEARSED}; the source was already inconsistent (1 checks)"),
        ({"findings": [WORN, WORN], "schema_was_there": True},
         f"PASS: {REACHED}; {REHEARSED}; integrity checks failed (2 checks)"),
        ({"findings": [FINE, STALE]}, f"PASS: {REACHED}; {REHEARSED}"),
        ({"exercises": [RAN, BROKEN]}, f"FAIL: 1 writes fail because of triggers, {REACHED}; {REHEARSED}"),
        # A database that is back is back, and does not pass if it takes no writes.
        ({"exercises": [RAN, BROKEN], "purpose": Purpose.COPY},
         f"RECOVERED, WRITES FAIL: public.teams: function other() does not exist; restored in 0:00:48, 2 relations identical; "
         f"{RESTORED}"),
        ({"exercises": [BROKEN, replace(BROKEN, event="INSERT"), *OTHERS], "purpose": Purpose.RECOVERY, "newest": False},
         f"RECOVERED, WRITES FAIL: public.teams: function other() does not exist; public.t0: no; public.t1: no; and 1 more; "
         f"RTO 0:00:48 of 4:00:00, 2 relations identical; {RESTORED}"),
        ({"exercises": [BROKEN], "purpose": Purpose.RECOVERY, "proven": False, "failure": "it is not"}, "FAIL: it is not"),
        ({"exercises": [RAN, OTHERS[0]]}, f"FAIL: 1 writes fail, {REACHED}; {REHEARSED}"),
        ({"exercises": [RAN, replace(BROKEN, outcome=Outcome.NOT_TRIED)]},
         f"PASS: {REACHED}; {REHEARSED}; 1 writes could not be tried"),
        # Failed before the end: nothing is said to be reached.
        ({"failure": "the disk is full", "proven": False}, "FAIL: the disk is full"),
        ({"failure": "no backup set", "proven": False, "manifest": None, "database": None, "phases": {}},
         "FAIL: no backup set"),
        ({"failure": "the session was lost", "rto": timedelta(0), "passed_over": ["x"]},
         f"FAIL: the session was lost, RTO 0:00:48 of 0:00:00, RPO 0:12:31 of 4:00:00, 2 relations identical; {REHEARSED}"),
    ],
)  # fmt: skip
def test_verdicts(changes: dict[str, Any], verdict: str) -> None:
    assert recovery_verdict(facts(**changes)) == verdict


def test_of_a_copy_nothing_was_promised() -> None:
    late = {"rto": timedelta(0), "rpo": timedelta(0)}
    assert facts(purpose=Purpose.COPY, **late).missed == []
    assert facts(purpose=Purpose.RECOVERY, **late).missed == facts(**late).missed == ["RTO", "RPO"]


@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("changes", [{"failure": "f"}, {"differences": ["d"]}, {"exercises": [BROKEN]}])
def test_no_restore_passes_with(purpose: Purpose, changes: dict[str, Any]) -> None:
    assert recovery_verdict(facts(purpose=purpose, **changes)).startswith(("FAIL: ", "RECOVERED, WRITES FAIL: "))
    assert facts(purpose=purpose, **changes).problems


@given(
    st.dictionaries(st.text("abc", min_size=1), st.floats(min_value=0, max_value=1e5)), st.integers(min_value=0, max_value=10**5)
)
def test_phases_sum_to_the_recovery_time(phases: dict[str, float], limit: int) -> None:
    one = facts(phases=phases, rto=timedelta(seconds=limit))
    assert one.rto_seconds == sum(phases.values())
    assert ("RTO" in one.missed) == (one.rto_seconds > limit) == recovery_verdict(one).startswith("FAIL")


# The report.


def test_a_good_report() -> None:
    text = report()
    assert text.startswith(f"# PASS\n\n**{REACHED}; {REHEARSED}**\n")
    assert headings(text) == [
        "Still to do", "Objectives", "Phases", "Relations, each compared by row count and digest, and identical",
    ]  # fmt: skip
    assert section(text, "Still to do").strip() == "Nothing."
    assert "| recovery time (RTO) | 0:00:48 | 4:00:00 | from the start of the run to the end of its last phase |" in text
    assert "| recovery point (RPO) | 0:12:31 | 4:00:00 | age of the state at the start of the run |" in text
    assert f"| set | `{SET}` |" in text and f"| path | `s3://b/bc-004/daily/{SET}` |" in text
    assert "| state of | 2025-11-03 02:00:00 JST |" in text
    assert "| source | PostgreSQL 18.1, database consulting_tool |" in text
    assert "Not off-host" not in text


def test_what_failed_comes_first() -> None:
    text = report(
        failure="the session was lost", differences=DIFFERENCES, exercises=[RAN, BROKEN], passed_over=["s3://b/newer: damaged"],
        findings=[FINE, WORN, STALE], to_do=["make the key"], removed=["bc-004_drill_0000"], off_host=False,
        contacts=[Contact(role="DBA責任者", reach="03-0000"), Contact(role="infra", reach="x")],
        records=[record_of(facts(), "r", "PASS: x")], manifest=manifest(warnings=["trigger t is DISABLED"]),
    )  # fmt: skip
    assert text.startswith("# FAIL\n\n**the session was lost")
    assert headings(text) == [
        "What failed", "Differences from the backup", "Writes that fail", "Newer sets that were passed over",
        "The source was already inconsistent (rows are those of the backup)", "Still to do", "Objectives",
        "Phases", "Integrity checks: 1 ok, 1 FAILED, 1 warning", "Test writes, with their triggers, rolled back",
        "Relations, each compared by row count and digest, and identical", "The last drills",
        "Databases that earlier runs left, and that were dropped",
        "Warnings of the backup", "Contacts",
    ]  # fmt: skip
    assert text.index("**Not off-host:** the store is a folder") < text.index("## What failed")
    for title, lines in {
        "What failed": ["the session was lost"],
        "Differences": DIFFERENCES,
        "Writes that fail": [BROKEN_LINE],
        "Newer sets": ["s3://b/newer: damaged"],
        "Still to do": ["make the key"],
        "Databases that": ["bc-004_drill_0000"],
        "Warnings": ["trigger t is DISABLED"],
        "Contacts": ["DBA責任者: 03-0000", "infra: x"],
    }.items():
        assert section(text, title).strip().split("\n\n")[-1] == "\n".join(f"- {line}" for line in lines)


def test_what_the_source_had_wrong_is_listed_apart() -> None:
    text = report(findings=[FINE, WORN, STALE])
    apart, checks = section(text, "The source was already inconsistent"), section(text, "Integrity checks")
    assert "**team_has_leader** (FAILED): 7 offending. An active team has an active leader.\n    - `team_id=1`\n    - …" in apart
    assert STALE.check in checks and WORN.check not in checks and STALE.check not in apart
    assert "Differences" not in text and "What failed" not in text
    # Where the schema was not restored, what is wrong may be its own.
    there = report(findings=[WORN], schema_was_there=True)
    assert WORN.check in section(there, "Integrity checks failed (rows are those of the backup)")
    assert "source was" not in there


@pytest.mark.parametrize("reached", range(len(PHASES) + 1))
def test_what_fails_in_a_phase_shows_the_phases_up_to_it(reached: int) -> None:
    phases = dict(list(PHASES.items())[:reached])
    text = report(failure="the disk is full", proven=False, phases=phases, **({} if reached else {"manifest": None}))
    rows = re.findall(r"^\| (.*?) \| .*? \|$", section(text, "Phases"), re.MULTILINE)
    assert rows == ["phase", "---", *phases, "**total**"]
    assert f"| **total** | {sum(phases.values()):.1f} s |" in text
    assert section(text, "What failed").strip().endswith("- the disk is full")
    assert ("Relations, the figures are those of the backup; equality was NOT proven" in headings(text)) is bool(reached)
    assert "found identical" not in text and "extrapolated" not in text


def test_a_set_that_somebody_chose_has_no_recovery_point() -> None:
    assert "recovery time (RTO)" in report(newest=False)
    assert "RPO" not in report(newest=False)


def test_the_load_of_each_relation_is_told() -> None:
    text = report(load_seconds={"public.policy_violations_2025": 130})
    assert "| public.teams | 3 | `0f0f0f0f0f0f…` | 1.5 KB | 0.0 s |" in text
    assert "| public.policy_violations_2025 | 1,000,000 | `0f0f0f0f0f0f…` | 1.5 KB | 0:02:10 |" in text


def test_triggers_are_told_one_by_one() -> None:
    text = section(report(exercises=[RAN, BROKEN]), "Test writes, with their triggers, rolled back")
    assert "| public.teams | UPDATE | teams_updated | ran |  |" in text
    assert "| public.teams | DELETE | keep, count | FAILED | function other() does not exist |" in text


def test_how_far_it_carries_is_said_to_be_extrapolated() -> None:
    text = section(report(), "Objectives")
    assert "The restored database takes 50.0 MB." in text
    assert "the RTO would be missed at about **15.0 GB**, 300 times as much. This is extrapolated from this run alone" in text


@pytest.mark.parametrize(
    "changes", [{"purpose": Purpose.COPY}, {"proven": False, "failure": "f"}, {"database_bytes": None}, {"phases": {}}]
)
def test_where_nothing_was_measured_nothing_is_extrapolated(changes: dict[str, Any]) -> None:
    assert "extrapolated" not in report(**changes)


# The last drills.


def past(days: int, verdict: str, **changes: Any) -> DrillRecord:
    then = facts(started=STARTED - timedelta(days=days), **changes)
    return record_of(then, f"{days:04}", verdict)


def test_the_history_is_a_table_and_a_picture() -> None:
    records = [
        past(0, "PASS: x"),
        past(1, "FAIL: RTO missed, y", phases={"all": 20_000}, newest=False),
        past(2, "FAIL: the disk is full", failure="f", proven=False, database_bytes=None),
    ]
    text = section(report(records=records), "The last drills")
    assert "| 2025-11-03 02:12:31 JST | 0:00:48 | 0:12:31 | 50.0 MB | PASS |" in text
    assert "| 2025-11-02 02:12:31 JST | 5:33:20 | - | 50.0 MB | FAIL |" in text
    assert "| 2025-11-01 02:12:31 JST | - | 0:00:00 | - | FAIL |" in text
    (picture,) = pictures(text)
    told = words(picture)
    assert "limit" in told
    # In the order of time, in the context's zone; what was not proven has no recovery time.
    assert [word for word in told if re.match(r"\d\d-\d\d ", word)] == ["11-02 02:12", "11-03 02:12"]


def test_a_history_without_a_proven_restore_has_no_picture() -> None:
    text = section(report(records=[past(1, "FAIL: x", failure="f", proven=False)]), "The last drills")
    assert "| FAIL |" in text
    assert pictures(text) == []


def test_what_is_kept_of_a_drill() -> None:
    kept = record_of(facts(rto=timedelta(hours=2), rpo=timedelta(hours=1)), "3f9c", "PASS: x")
    assert kept == DrillRecord(
        instant=STARTED, run="3f9c", set=SET, verdict="PASS: x", passed=True, proven=True, rto_seconds=48, rto_limit_seconds=7200,
        rpo_seconds=751, rpo_limit_seconds=3600, database_bytes=50_000_000, rows=1_000_003, phases=PHASES,
    )  # fmt: skip
    early = record_of(facts(manifest=None, proven=False, failure="f", database_bytes=None, phases={}), "3f9c", "FAIL: f")
    assert (early.set, early.rows, early.rpo_seconds, early.passed, early.proven) == (None, None, None, False, False)
    assert record_of(facts(rto=timedelta(0)), "3f9c", "FAIL: x").passed is False
    assert record_of(facts(rto=timedelta(0)), "3f9c", "FAIL: x").proven is True


# Pictures.


def pictures(text: str) -> list[ElementTree.Element]:
    """Decode the pictures of a markdown text; what is no well-formed SVG raises."""
    found = re.findall(r"!\[[^\]]+\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", text)
    assert len(found) == text.count("![")
    roots = [ElementTree.fromstring(base64.b64decode(one, validate=True)) for one in found]
    assert all(root.tag == "{http://www.w3.org/2000/svg}svg" for root in roots)
    return roots


def texts(picture: ElementTree.Element) -> list[ElementTree.Element]:
    return list(picture.iter("{http://www.w3.org/2000/svg}text"))


def words(picture: ElementTree.Element) -> list[str]:
    return ["".join(one.itertext()).strip() for one in texts(picture)]


def test_the_phases_are_a_picture_with_their_names_as_text() -> None:
    (picture,) = pictures(report())
    told = words(picture)
    assert [word for word in told if word in PHASES] == list(PHASES)
    heights = [float(one.attrib["y"]) for one in texts(picture) if "".join(one.itertext()).strip() in PHASES]
    assert heights == sorted(set(heights)), "the first phase is at the top"
    assert {"5.5 s", "30.0 s", "12.5 s", "seconds"} <= set(told)


def test_equal_phases_are_equal_pictures() -> None:
    assert bars("a", PHASES) == bars("a", PHASES)
    assert bars("a", PHASES) != bars("a", PHASES | {"load rows": 31.0})


def test_names_in_another_script_need_no_font() -> None:
    (picture,) = pictures(bars("a", {"索引": 1.0}))
    assert "索引" in words(picture)


@pytest.mark.parametrize("seconds", [0.04, 14_400, 1e6])
def test_any_time_can_be_drawn_against_the_limit(seconds: float) -> None:
    (picture,) = pictures(against_limit("a", [(STARTED, seconds, seconds <= 14_400)], 14_400))
    assert "limit" in words(picture)


# What a write that fails leaves to do.


@pytest.mark.parametrize(
    ("note", "remedy"),
    [
        ('relation "users" does not exist (42P01)', "public.users belongs to another context: recover that context too"),
        ('relation "audit.log" does not exist (42P01)',
         "create the objects that are not in the backup (see below): table audit.log;"),
        ("function unaccent(text) does not exist (42883)",
         "create the objects that are not in the backup (see below): table audit.log, extension lib;"),
        ("permission denied for schema x (42501)",
         "create the objects that are not in the backup (see below): table audit.log, extension lib;"),
    ],
)  # fmt: skip
def test_what_brings_back_what_a_write_needs(note: str, remedy: str) -> None:
    named = [
        LeftOut(name=name, why="the code of function f() names it", statements="") for name in ("table audit.log", "extension lib")
    ]
    other = LeftOut(name="publication p", why="it belongs to the whole database, not to the context", statements="")
    one = sample().model_copy(update={"by_hand": [*named, other]})
    (said,) = writes_to_do([RAN, replace(BROKEN, note=note)], one)
    assert said.startswith(f"DELETE on public.teams (keep, count): {note}; {remedy}")
    assert said.endswith("until then such writes fail")


def test_what_nobody_knows_the_name_of_is_told_all_the_same() -> None:
    (said,) = writes_to_do([BROKEN], sample())
    assert "or grant the missing privilege, that the error names: an extension, or an object of another context" in said
