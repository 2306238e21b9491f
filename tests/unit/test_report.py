"""Reports say the verdict first and hide nothing."""

from zoneinfo import ZoneInfo

import pytest

from tasks.core import report
from tests.unit.samples import manifest

ZONE = ZoneInfo("Asia/Tokyo")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (0.04, "0.0 s"), (119.94, "119.9 s"), (120, "0:02:00"), (3661.4, "1:01:01"), (90000, "1 day, 1:00:00")],
)
def test_durations(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (1_500_000, "1.5 MB"), (2 * 10**12, "2.0 TB"), (10**16, "10000.0 TB")],
)
def test_sizes(count: int, text: str) -> None:
    assert report.size(count) == text


def test_instants_are_told_in_the_contexts_zone() -> None:
    assert report.local_time(manifest().snapshot.instant, ZONE) == "2025-11-03 02:00:00 JST"


def test_cells_do_not_break_a_table() -> None:
    text = report.table(["a", "b"], [("x|y", "line\nbreak")], right=[1])
    assert text == "| a | b |\n| --- | ---: |\n| x\\|y | line break |"


def test_a_section_without_lines_is_left_out_or_says_so() -> None:
    assert report.section("T", []) == ""
    assert report.section("T", [], "Nothing.\n") == "## T\n\nNothing.\n\n"
    assert report.section("T", ["a", "b"]) == "## T\n\n- a\n- b\n"


def test_a_backups_report() -> None:
    one = manifest(warnings=["trigger t is DISABLED"])
    text = report.backup_report(one, "s3://b/bc-004/daily/x", 12.34, ZONE, off_host=True)
    assert text.startswith("# STORED\n")
    assert one.id in text.split("\n")[2] and "1,000,003 rows" in text and "1 warnings" in text
    assert text.index("trigger t is DISABLED") < text.index("## Relations")
    assert "| public.policy_violations_2025 | 1,000,000 | 1.5 KB | 0.5 s |" in text
    assert "k of public.teams to public.users" in text
    assert "Not off-host" not in text
    assert "Not off-host" in report.backup_report(one, "/x", 1, ZONE, off_host=False)


def test_a_good_recoverys_report() -> None:
    verdict = report.recovery_verdict(manifest(), "copy", 180, [])
    assert verdict.startswith(
        'PASS: database "copy" is back from bc-004_full_20251103_020000_3f9c in 0:03:00, 2 relations with 1,000,003'
    )
    text = report.recovery_report(manifest(), verdict, "p", {"data": 120, "keys": 60}, {}, [], [], [], ZONE)
    assert text.startswith("# PASS\n")
    assert "| **in all** | 0:03:00 |" in text
    assert "passed over" not in text and "Differences" not in text
    assert "## What a human still has to do\n\nNothing." in text


def test_a_bad_recoverys_report() -> None:
    differences = ["public.teams: 2 rows", "index i is missing"]
    verdict = report.recovery_verdict(manifest(), "copy", 1, differences)
    assert verdict.startswith("FAIL:") and "2 differences" in verdict
    text = report.recovery_report(
        manifest(), verdict, "p", {}, {}, differences, ["s3://b/newer is damaged"], ["make the key"], ZONE
    )
    assert text.startswith("# FAIL\n")
    for told in (*differences, "s3://b/newer is damaged", "make the key"):
        assert f"- {told}" in text


def test_rows_of_the_table_artifact() -> None:
    first, second = report.relation_rows(manifest().relations, {"public.teams": 1.234})
    assert first == {
        "relation": "public.teams",
        "rows": 3,
        "stored bytes": 1500,
        "plain bytes": 2000,
        "seconds": 1.23,
        "digest": "0f" * 16,
    }
    assert second["seconds"] == 0
    assert report.relation_rows(manifest().relations)[0]["seconds"] == 0.5
