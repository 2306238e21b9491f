"""Reports say the verdict first and hide nothing."""

from zoneinfo import ZoneInfo

import pytest

from tasks.core.backup.report import backup_report, relation_rows
from tasks.core.checks.definition import Finding, Severity, Verdict
from tasks.core.checks.report import checks_report, checks_verdict, finding_line
from tasks.core.report import markdown
from tests.support.samples import manifest

ZONE = ZoneInfo("Asia/Tokyo")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (0.04, "0.0 s"), (119.94, "119.9 s"), (120, "0:02:00"), (3661.4, "1:01:01"), (90000, "1 day, 1:00:00")],
)
def test_durations(seconds: float, text: str) -> None:
    assert markdown.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00:00"), (0.4, "0:00:00"), (0.6, "0:00:01"), (48, "0:00:48"), (59.5, "0:01:00"), (3599.6, "1:00:00"),
        (3661.4, "1:01:01"), (14400, "4:00:00"), (90000, "25:00:00"), (360_000, "100:00:00"),
    ],
)  # fmt: skip
def test_objectives_are_told_by_the_clock(seconds: float, text: str) -> None:
    assert markdown.clock(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (1_500_000, "1.5 MB"), (2 * 10**12, "2.0 TB"), (10**16, "10000.0 TB")],
)
def test_sizes(count: int, text: str) -> None:
    assert markdown.size(count) == text


def test_instants_are_told_in_the_contexts_zone() -> None:
    assert markdown.local_time(manifest().snapshot.instant, ZONE) == "2025-11-03 02:00:00 JST"


def test_cells_do_not_break_a_table() -> None:
    text = markdown.table(["a", "b"], [("x|y", "line\nbreak")], right=[1])
    assert text == "| a | b |\n| --- | ---: |\n| x\\|y | line break |"


def test_a_section_without_lines_is_left_out_or_says_so() -> None:
    assert markdown.section("T", []) == ""
    assert markdown.section("T", [], "Nothing.\n") == "## T\n\nNothing.\n\n"
    assert markdown.section("T", ["a", "b"]) == "## T\n\n- a\n- b\n"


def test_a_backups_report() -> None:
    one = manifest(warnings=["trigger t is DISABLED"])
    text = backup_report(one, "s3://b/bc-004/daily/x", 12.34, ZONE, off_host=True)
    assert text.startswith("# STORED\n")
    assert one.id in text.split("\n")[2] and "1,000,003 rows" in text and "1 warnings" in text
    assert text.index("trigger t is DISABLED") < text.index("## Relations")
    assert "| public.policy_violations_2025 | 1,000,000 | `0f0f0f0f0f0f…` | 1.5 KB | 0.5 s |" in text
    assert "k of public.teams to public.users" in text
    assert "Not off-host" not in text
    assert "Not off-host" in backup_report(one, "/x", 1, ZONE, off_host=False)


def test_rows_of_the_table_artifact() -> None:
    first, second = relation_rows(manifest().relations, {"public.teams": 1.234})
    assert first == {
        "relation": "public.teams",
        "rows": 3,
        "stored bytes": 1500,
        "plain bytes": 2000,
        "seconds": 1.23,
        "digest": "0f" * 16,
    }
    assert second["seconds"] == 0
    assert relation_rows(manifest().relations)[0]["seconds"] == 0.5


# Integrity checks.


FINE = Finding("teams", Severity.ERROR, Verdict.OK, seconds=0.04)
FAILED = Finding("key", Severity.ERROR, Verdict.FAILED, 1234, ["id=1", "id=2"], "A row refers to nothing.", 130)
WARNED = Finding("view", Severity.WARNING, Verdict.WARNING, 1, ["id=3"], "It is stale.")
BROKEN = Finding("slow", Severity.ERROR, Verdict.BROKEN, note="canceling statement due to statement timeout")
LEFT = Finding("user", Severity.ERROR, Verdict.NOT_RUN, note="users of another context does not exist in this database")


@pytest.mark.parametrize(
    ("finding", "line"),
    [
        (FAILED, "**key** (FAILED): 1,234 offending. A row refers to nothing.\n    - `id=1`\n    - `id=2`\n    - …"),
        (WARNED, "**view** (warning): 1 offending. It is stale.\n    - `id=3`"),
        (BROKEN, "slow (CANNOT BE RUN): canceling statement due to statement timeout"),
        (LEFT, "user (not run): users of another context does not exist in this database"),
    ],
)
def test_a_finding_as_a_sentence(finding: Finding, line: str) -> None:
    assert finding_line(finding) == line


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ([], 'PASS: database "d", 0 integrity checks: no checks'),
        ([FINE, FINE], 'PASS: database "d", 2 integrity checks: 2 ok'),
        ([WARNED, FINE, LEFT], 'PASS: database "d", 3 integrity checks: 1 ok, 1 warning, 1 not run'),
        ([FINE, FAILED, WARNED], 'FAIL: database "d", 3 integrity checks: 1 ok, 1 FAILED, 1 warning'),
        ([FINE, BROKEN], 'FAIL: database "d", 2 integrity checks: 1 ok, 1 CANNOT BE RUN'),
    ],
)
def test_verdicts_of_integrity_checks(findings: list[Finding], verdict: str) -> None:
    assert checks_verdict("d", findings) == verdict


def test_a_report_of_integrity_checks_says_what_failed_first() -> None:
    findings = [FINE, WARNED, FAILED, LEFT, BROKEN]
    text = checks_report(checks_verdict("d", findings), findings)
    assert text.startswith('# FAIL\n\n**database "d", 5 integrity checks: ')
    lines = [text.index(f"\n- {finding_line(one)}\n") for one in (FAILED, BROKEN, WARNED, LEFT)]
    assert lines == sorted(lines)
    assert text.count("\n- ") == len(lines)
    headings = [text.index(f"\n## {one}\n") for one in ("Failed", "Worth knowing", "All checks")]
    assert headings[0] < lines[0] and lines[1] < headings[1] < lines[2] and lines[3] < headings[2]
    assert "| check | severity | offending | verdict |\n| --- | --- | ---: | --- |" in text
    assert "| teams | error | 0 | ok |" in text
    assert "| key | error | 1,234 | FAILED |" in text


def test_a_good_report_of_integrity_checks_has_the_table_alone() -> None:
    text = checks_report(checks_verdict("d", [FINE]), [FINE])
    assert text.startswith("# PASS\n") and "## All checks" in text
    assert "## Failed" not in text and "## Worth knowing" not in text
