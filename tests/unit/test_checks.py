"""A file of checks is understood, or the message names file, check and remedy; findings say what fails a run."""

import re
import string
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.backup.row_loss import archived_since, losses_between, lost_rows
from tasks.core.checks.definition import Check, Finding, Severity, Verdict, failures, judge, parse_checks, summary
from tasks.core.errors import BadInput
from tests.support.samples import manifest, relation, snapshot

SHIPPED = Path(__file__).parents[2] / "deployments" / "contexts" / "bc-004" / "checks.sql"
GOOD = "-- check: a\n-- severity: error\nSELECT 1;\n"


def one(text: str) -> Check:
    (found,) = parse_checks(text, "f")
    return found


# Files of checks.


def test_the_checks_that_are_shipped() -> None:
    checks = parse_checks(SHIPPED.read_text(encoding="utf-8"), "x")
    assert [check.name for check in checks] == [
        "unit_has_its_parent", "organization_root_unit", "hierarchy_has_its_units", "unit_member_count", "team_member_count",
        "team_leader_count", "user_allocation", "team_has_leader", "closure_against_tree", "policy_scope_target",
        "policy_scope_user", "violation_target", "violation_team", "violation_user",
    ]  # fmt: skip
    assert [check.name for check in checks if check.severity is Severity.WARNING] == ["violation_team", "violation_user"]
    assert {check.name: check.needs for check in checks if check.needs} == {
        "policy_scope_user": ("public.users",), "violation_user": ("public.users",),
    }  # fmt: skip
    for check in checks:
        assert check.about.endswith("."), check.name
        assert re.match(r"SELECT|WITH RECURSIVE", check.query) and ";" not in check.query, check.name


def test_all_that_a_check_says() -> None:
    text = "-- About the file.\n\n-- check: team_has_leader\n-- severity: warning\n-- needs: users, other.people\n-- A team\n"
    text += "-- has a leader.\nSELECT id\n-- in the middle\nFROM teams;\n\n"
    about, query = "A team has a leader.", "SELECT id\n-- in the middle\nFROM teams"
    assert one(text) == Check("team_has_leader", Severity.WARNING, query, about, ("users", "other.people"))


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("--check:a\n--severity:error\nSELECT 1", "SELECT 1"),
        ("--  check:  a  \n  --  severity:  error  \n\n SELECT 1 ;;\n\n", "SELECT 1"),
        (GOOD.replace("\n", "\r\n"), "SELECT 1"),
        ("-- check: a\n-- severity: error\nSELECT 1 -- why\n;", "SELECT 1 -- why"),
        ("-- check: a\n-- severity: error\nSELECT ';'", "SELECT ';'"),
        ("-- check: a\n-- severity: error\nSELECT '{}', '%s' LIKE '%'", "SELECT '{}', '%s' LIKE '%'"),
    ],
)
def test_spacing_and_semicolons(text: str, query: str) -> None:
    found = one(text)
    assert (found.name, found.severity, found.query) == ("a", Severity.ERROR, query)


@pytest.mark.parametrize("text", ["", "\n \n", "-- nothing yet\n"])
def test_a_file_without_checks(text: str) -> None:
    assert parse_checks(text, "f") == []


@pytest.mark.parametrize("name", ["team_has_leader", "rows of 2025", "v1.2-b", "会員の数", "a" * 81])
def test_names(name: str) -> None:
    assert one(f"-- check: {name}\n-- severity: error\nSELECT 1").name == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SELECT 1;\n" + GOOD, 'f: "SELECT 1;" belongs to no check; write "-- check: name" above it'),
        ("-- severity: error\nSELECT 1", 'f: "SELECT 1" belongs to no check; write "-- check: name" above it'),
        ("-- check: ?\n-- severity: error\nSELECT 1",
         'f: "?" is not a valid check name (letters, digits, spaces, dots, dashes); correct it'),
        ("-- check: a|b\n-- severity: error\nSELECT 1",
         'f: "a|b" is not a valid check name (letters, digits, spaces, dots, dashes); correct it'),
        ("-- check: -a\n-- severity: error\nSELECT 1",
         'f: "-a" is not a valid check name (letters, digits, spaces, dots, dashes); correct it'),
        (f"-- check: {'a' * 82}\n-- severity: error\nSELECT 1",
         f'f: "{"a" * 82}" is not a valid check name (letters, digits, spaces, dots, dashes); correct it'),
        ("-- check: a\nSELECT 1",
         'f: check a has no valid severity; write "-- severity: error" or "-- severity: warning" below its name'),
        ("-- check: a\n-- severity: fatal\nSELECT 1",
         'f: check a has no valid severity; write "-- severity: error" or "-- severity: warning" below its name'),
        ("-- check: a\n-- severity: error\n-- severity: warning\nSELECT 1",
         'f: check a has no valid severity; write "-- severity: error" or "-- severity: warning" below its name'),
        ("-- check: a\nSELECT 1\n-- severity: error\n",
         'f: check a has no valid severity; write "-- severity: error" or "-- severity: warning" below its name'),
        ("-- check: a\n-- severity: error\n",
         "f: check a has no query; write a SELECT of the offending rows, or remove the check"),
        ("-- check: a\n-- severity: error\n;\n",
         "f: check a has no query; write a SELECT of the offending rows, or remove the check"),
        ("-- check: a\n-- severity: error\n-- check: b\n-- severity: error\nSELECT 1",
         "f: check a has no query; write a SELECT of the offending rows, or remove the check"),
        (GOOD + GOOD, "f: duplicate check a; rename one of them"),
    ],
)  # fmt: skip
def test_a_wrong_file(text: str, said: str) -> None:
    with pytest.raises(BadInput) as error:
        parse_checks(text, "f")
    assert str(error.value) == said


def test_a_check_without_a_name() -> None:
    with pytest.raises(BadInput, match=r'^f: "" is not a valid check name'):
        parse_checks("-- check:\n-- severity: error\nSELECT 1", "f")


def test_a_comment_between_two_checks() -> None:
    first, _ = parse_checks(f"{GOOD}\n-- Now the teams.\n\n{GOOD.replace('check: a', 'check: b')}", "f")
    assert ";" not in first.query


NAMES = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=80)
LINES = st.lists(st.text("SELECT id_FROM'%{}", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=4)
CHECKS = st.lists(
    st.builds(
        Check, NAMES, st.sampled_from(Severity), LINES.map("\n".join), NAMES,
        st.lists(NAMES, max_size=3).map(tuple),
    ),
    unique_by=lambda check: check.name, max_size=5,
)  # fmt: skip


def written(check: Check) -> str:
    needs = f"-- needs: {', '.join(check.needs)}\n" if check.needs else ""
    return f"-- check: {check.name}\n-- severity: {check.severity}\n{needs}-- {check.about}\n{check.query};\n\n"


@given(CHECKS)
def test_what_is_written_is_read(checks: list[Check]) -> None:
    assert parse_checks("".join(map(written, checks)), "f") == checks


# Findings.


ERROR = Check("e", Severity.ERROR, "SELECT 1", "What it says.")
WARNING = Check("w", Severity.WARNING, "SELECT 1", "What it says.")


@pytest.mark.parametrize(
    ("check", "offending", "verdict", "note", "fails"),
    [
        (ERROR, 0, Verdict.OK, "", False),
        (WARNING, 0, Verdict.OK, "", False),
        (ERROR, 1, Verdict.FAILED, "What it says.", True),
        (WARNING, 1, Verdict.WARNING, "What it says.", False),
    ],
)
def test_offending_rows_mean(check: Check, offending: int, verdict: Verdict, note: str, *, fails: bool) -> None:
    found = judge(check, offending, ["id=1"][:offending], 0.5)
    assert found == Finding(check.name, check.severity, verdict, offending, ["id=1"][:offending], note, 0.5)
    assert (found.fails, found.is_remarkable) == (fails, bool(offending))


def test_a_note_is_said_instead() -> None:
    assert judge(ERROR, 0, [], note="why").note == "why"
    assert judge(ERROR, 3, [], note="why").note == "why"


@pytest.mark.parametrize("severity", Severity)
@pytest.mark.parametrize("verdict", Verdict)
def test_what_fails_a_run(severity: Severity, verdict: Verdict) -> None:
    found = Finding("c", severity, verdict)
    fails = severity is Severity.ERROR and verdict in (Verdict.FAILED, Verdict.BROKEN)
    assert found.fails is fails
    assert failures([found]) == ([found] if fails else [])
    assert found.is_remarkable is (verdict is not Verdict.OK)


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ([], "no checks"),
        ([Verdict.OK], "1 ok"),
        ([Verdict.WARNING, Verdict.OK, Verdict.FAILED, Verdict.OK, Verdict.FAILED], "2 ok, 2 FAILED, 1 warning"),
        (list(Verdict), "1 ok, 1 FAILED, 1 warning, 1 not run, 1 CANNOT BE RUN"),
    ],
)
def test_summaries(verdicts: list[Verdict], said: str) -> None:
    assert summary(Finding("c", Severity.ERROR, verdict) for verdict in verdicts) == said


FINDINGS = st.lists(st.builds(Finding, NAMES, st.sampled_from(Severity), st.sampled_from(Verdict)), max_size=8)


@given(FINDINGS)
def test_every_finding_is_counted_once(findings: list[Finding]) -> None:
    assert sum(map(int, re.findall(r"\d+", summary(findings)))) == len(findings)
    assert [found for found in findings if not found.fails] + failures(findings) == sorted(findings, key=lambda found: found.fails)


# Rows against those of a backup.


@pytest.mark.parametrize(
    ("before", "now", "allowed", "lost"),
    [
        (100, 100, 0.2, False),
        (100, 120, 0.2, False),
        (100, 80, 0.2, False),
        (100, 79, 0.2, True),
        (100, 0, 0.2, True),
        (0, 0, 0.2, False),
        (0, 5, 0.2, False),
        (1, 0, 0.2, True),
        (100, 99, 0.0, True),
        (100, 100, 0.0, False),
        (100, 1, 1.0, False),
        (100, 0, 1.0, True),
        (100, None, 0.2, False),
    ],
)
def test_lost_rows(before: int, now: int | None, allowed: float, *, lost: bool) -> None:
    counted = {} if now is None else {"public.teams": now}
    said = f"public.teams: {now} of {before} rows left"
    assert list(lost_rows([("public.teams", before)], counted, allowed)) == ([said] if lost else [])


def test_lost_rows_are_named_in_the_order_given() -> None:
    before = [("public.b", 1_000_000), ("public.a", 5), ("public.c", 3)]
    now = {"public.a": 0, "public.b": 1234, "public.c": 3}
    assert list(lost_rows(before, now, 0.2)) == ["public.b: 1,234 of 1,000,000 rows left", "public.a: 0 of 5 rows left"]


ROWS = st.integers(min_value=0, max_value=10**9)


@given(ROWS, ROWS, ROWS, st.floats(min_value=0, max_value=1))
def test_who_has_lost_more_is_named_too(before: int, some: int, more: int, allowed: float) -> None:
    fewer, most = sorted((some, more))
    named = [bool(list(lost_rows([("t", before)], {"t": count}, allowed))) for count in (fewer, most)]
    assert named[0] >= named[1]
    assert not list(lost_rows([("t", before)], {"t": before}, allowed))


def test_a_repair_of_several_lines() -> None:
    text = "-- check: a\n-- severity: error\n-- repair: UPDATE t\n-- repair: SET x = 1;\n-- It is.\nSELECT 1;\n"
    assert one(text) == Check("a", Severity.ERROR, "SELECT 1", "It is.", repair="UPDATE t SET x = 1")
    assert one(GOOD).repair == ""


LEAF = "policy_violations_2022"
TABLE = "public.policy_violations"
ROWS = [relation("policy_violations_2026", 3000, oid=4, parent=TABLE), relation(LEAF, 1000, oid=5, parent=TABLE)]


@pytest.mark.parametrize(
    ("archived", "hours", "lost"),
    [
        ({}, 1, False),
        ({}, -1, False),
        # Written to since it was archived: the newest rows are nowhere else.
        ({"rows": 900}, -1, True),
        ({"digest": "aa" * 16}, -1, True),
        # Archived after the backup: what was there is in the archive.
        ({"rows": 1100, "digest": "aa" * 16}, 1, False),
        # Another partition of that name.
        ({"oid": 6}, 1, True),
    ],
)
def test_what_was_archived_is_not_lost(archived: dict[str, Any], hours: int, lost: bool) -> None:
    previous = manifest(relations=ROWS)
    taken = snapshot(instant=previous.snapshot.instant + timedelta(hours=hours))
    archive = manifest(relations=[ROWS[1].model_copy(update=archived)], snapshot=taken)
    assert bool(losses_between(previous, ROWS[:1], 0.2, archived_since(previous, [archive]))) is lost
