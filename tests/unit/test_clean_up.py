"""Which old rows go, in which order, and how it is told."""

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.clean_up.outcome import CleanUp, Removed, clean_up_report, cutoff, groups, verdict
from tasks.core.context import CONTEXT_FILE, Context, parse_context
from tasks.core.context_keys import CleanUpRule
from tasks.core.errors import BadInput
from tests.support import PROJECT

FOLDER = PROJECT / "deployments" / "contexts" / "bc-004"
SHIPPED = parse_context((FOLDER / CONTEXT_FILE).read_text(encoding="utf-8"), CONTEXT_FILE)
TOKYO = ZoneInfo("Asia/Tokyo")
NAIVE, AWARE = "timestamp without time zone", "timestamp with time zone"


def rule(**keys: object) -> CleanUpRule:
    return CleanUpRule.model_validate({"table": "teams", "clock": "deleted_at", "keep": "3 years"} | keys)


@pytest.mark.parametrize(
    ("instant", "keep", "kind", "timestamps", "expected"),
    [
        ("2026-12-01T03:00+09:00", "3 years", NAIVE, "Asia/Tokyo", "2023-12-01 00:00:00"),
        ("2026-12-01T03:00+09:00", "3 years", NAIVE, "UTC", "2023-11-30 15:00:00"),
        ("2026-12-01T03:00+09:00", "3 years", AWARE, "UTC", "2023-12-01 00:00:00+09:00"),
        ("2026-12-01T03:00+09:00", "3 years", "date", "UTC", "2023-12-01"),
        # The day is that of the context's zone, not of the machine's.
        ("2026-11-30T18:00+00:00", "3 years", NAIVE, "Asia/Tokyo", "2023-12-01 00:00:00"),
        ("2026-11-30T14:59+00:00", "3 years", NAIVE, "Asia/Tokyo", "2023-11-30 00:00:00"),
        ("2028-02-29T03:00+09:00", "3 years", NAIVE, "Asia/Tokyo", "2025-02-28 00:00:00"),
        ("2028-02-29T03:00+09:00", "4 years", NAIVE, "Asia/Tokyo", "2024-02-29 00:00:00"),
        ("2026-03-31T03:00+09:00", "1 month", NAIVE, "Asia/Tokyo", "2026-02-28 00:00:00"),
    ],
)
def test_before_when_rows_are_old(instant: str, keep: str, kind: str, timestamps: str, expected: str) -> None:
    assert cutoff(rule(keep=keep), datetime.fromisoformat(instant).astimezone(UTC), kind, TOKYO, ZoneInfo(timestamps)) == expected


@pytest.mark.parametrize(
    ("references", "expected"),
    [
        ([], [[0], [1], [2]]),
        ([(2, 1), (1, 0), (2, 0)], [[2], [1], [0]]),
        ([(0, 0), (1, 0)], [[1], [0], [2]]),
        ([(0, 1), (1, 0), (2, 0)], [[2], [0, 1]]),
    ],
    ids=["none", "a chain", "one to itself", "a circle"],
)
def test_what_refers_goes_first(references: list[tuple[int, int]], expected: list[list[int]]) -> None:
    assert groups(range(3), references) == expected


PAIRS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)))


@given(pairs=PAIRS)
def test_any_order_has_each_table_once_and_children_first(pairs: list[tuple[int, int]]) -> None:
    found = groups(range(8), pairs)
    place = {table: number for number, group in enumerate(found) for table in group}
    assert sorted(table for group in found for table in group) == list(range(8))
    assert all(place[child] <= place[parent] for child, parent in pairs)
    # Who shares a group is in a circle with the others.
    for group in found:
        for table in group:
            reached = {table}
            for _ in range(8):
                reached |= {parent for child, parent in pairs if child in reached}
            assert {*group} <= reached


def test_what_was_done_is_told_by_rule_and_reason() -> None:
    done = CleanUp(rule(), "2023-12-01 00:00:00", sets=["bc-004_clean-up_20261201_030000_0000"])
    done.record(Removed(deleted={"public.teams": [("a",), ("b",)], "public.team_members": [("c",)]}))
    done.record(Removed(stays={"held: true": [(str(number),) for number in range(7)]}))
    said = verdict([done], planned=False)
    assert said == "CLEANED UP: 2 rows of public.teams, 1 rows of public.team_members archived and deleted; 7 old rows stay"
    text = clean_up_report(said, [done], ["a command"], planned=False)
    assert "- 7 rows of teams: held: true (0; 1; 2; 3; 4 …)" in text
    assert "| `teams` | deleted_at before 2023-12-01 | 2 of public.teams, 1 of public.team_members | 7 |" in text
    done.record(Removed(unsure={"refused": [("x",)]}))
    done.untried = 2
    assert verdict([done], planned=True).endswith("; 7 old rows stay; 3 old rows: not known")
    text = clean_up_report("PLANNED: x", [done], [], planned=True)
    assert "| 2 of public.teams, 1 of public.team_members, 3 not known | 7 |" in text
    assert text.split("## Not known")[1].split("\n\n")[1].splitlines() == [
        "- 1 rows of teams: refused (x)", "- 2 rows of teams: locked by other sessions; plan again when they are done",
    ]  # fmt: skip
    broken = CleanUp(rule(), problem="no such column")
    assert broken.fate(planned=True) == "not known" and broken.fate(planned=False) == "none"
    assert verdict([done, broken], planned=False).startswith("FAIL: teams: no such column; 2 rows of public.teams, ")
    assert verdict([], planned=True) == "PLANNED, nothing touched: no row would be archived and deleted"


def test_tables_of_rules_are_the_contexts_own() -> None:
    text = (FOLDER / CONTEXT_FILE).read_text(encoding="utf-8").replace("      - team_members\n", "      - team_mates\n")
    with pytest.raises(BadInput, match=r"x: clean_up names team_mates, which are not in `tables`"):
        parse_context(text, "x")


def kept(context: Context) -> dict[str, str]:
    """Return how long the rows of each table are kept, as the context's file says it."""
    periods = {one.table: one.keep for one in (*context.partitions, *context.clean_up)}
    return {table: periods.get(table, "for ever") for table in context.tables}


def test_the_documents_say_what_the_context_keeps() -> None:
    section = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8").split("### Old rows")[1].split("\n### ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if re.match(r"\| [a-z_]+ \|", line)
    ]
    said = {table: (period, since, archived) for table, period, since, archived in rows if table != "table"}
    assert {table: period.partition(",")[0] for table, (period, _, _) in said.items()} == kept(SHIPPED)
    clocks = {one.table: one.clock.spelled for one in SHIPPED.clean_up}
    assert {table: since.partition(",")[0] for table, (_, since, _) in said.items() if table in clocks} == clocks
    gone = {table for one in SHIPPED.clean_up for table in one.tables} | {one.table for one in SHIPPED.partitions}
    assert {table for table, (_, _, archived) in said.items() if archived == "yes"} == gone
    inactive = {one.table for one in SHIPPED.clean_up if one.condition == "status = 'inactive'"}
    assert {table for table, (_, since, _) in said.items() if since.endswith(", inactive ones")} == inactive
    # Teams that were deleted softly: the document's other tables with a soft delete are kept for ever.
    hanging = {one.table: one.tables[1:] for one in SHIPPED.clean_up}
    assert hanging["teams"] == ["team_members", "team_leaders", "policy_scopes"]
