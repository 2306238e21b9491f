"""Tables that are partitioned by a text or a number that spells a period: made, archived, brought back, checked."""

import json
from contextlib import suppress
from typing import Any

import pytest
from prefect.artifacts import Artifact

from flows.checks import integrity_check
from flows.partitions import create_partitions
from tasks.core.errors import OperationError
from tests.support.archives import archive, reattach
from tests.support.clock import at
from tests.support.contexts import edit_context
from tests.support.database import ask, execute
from tests.support.example import TABLES
from tests.support.world import World

# Column type, strategy, period, how it is spelled; the values of old partitions; what is then made, and what is due.
SALES: dict[str, tuple[str, str, dict[str, str], list[tuple[str, str]], list[str], list[str], str]] = {
    "list of texts": (
        "text", "LIST", {"period": "month", "values": "{year}-{month:02}", "name": "sales_{year}_{month:02}", "keep": "1 month"},
        [("2026-08", "2026-09"), ("2026-09", "2026-10"), ("2026-11", "2026-12")], ["2026_12", "2027_01"], ["2026-08", "2026-09"],
        "2026-08",
    ),
    "range of integers": (
        "integer", "RANGE", {"period": "month", "values": "{year}{month:02}", "name": "sales_{year}_{month:02}", "keep": "1 month"},
        [("202608", "202609"), ("202609", "202610"), ("202611", "202612")], ["2026_12", "2027_01"], ["202608", "202609"], "2026-08",
    ),
    "range of texts": (
        "text", "RANGE",
        {"period": "quarter", "values": "{year}-Q{quarter}", "name": "sales_{year}_q{quarter}", "keep": "3 months"},
        [("2026-Q1", "2026-Q2"), ("2026-Q2", "2026-Q3")], ["2026_q3", "2026_q4", "2027_q1"], ["2026-Q1", "2026-Q2"], "2026-Q1",
    ),
    "list of bigints": (
        "bigint", "LIST", {"period": "year", "values": "{year}", "name": "sales_{year}", "keep": "1 year"},
        [("2023", "2024"), ("2024", "2025"), ("2025", "2026")], ["2026", "2027"], ["2023", "2024"], "2023",
    ),
    "list of varchars": (
        "varchar(7)", "LIST",
        {"period": "month", "values": "{year}-{month:02}", "name": "sales_{year}_{month:02}", "keep": "1 month"},
        [("2026-08", "2026-09"), ("2026-09", "2026-10"), ("2026-11", "2026-12")], ["2026_12", "2027_01"], ["2026-08", "2026-09"],
        "2026-08",
    ),
}  # fmt: skip
ROWS = "SELECT s::text FROM sales s ORDER BY 1"
LEAVES = (
    "SELECT c.relname::text, pg_get_expr(c.relpartbound, c.oid) FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid "
    "WHERE i.inhparent = 'sales'::regclass ORDER BY 1"
)


def old_name(value: str) -> str:
    return f"old_{value.replace('-', '_').lower()}"


def sales(world: World, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Have a table with old partitions, and a context that says how it is partitioned."""
    column_type, strategy, rule, there, *_ = SALES[kind]
    at(monkeypatch, "2026-12-01T04:00+09:00")
    partitions = [
        f"CREATE TABLE {old_name(lower)} PARTITION OF sales FOR VALUES "
        + (f"IN ('{lower}')" if strategy == "LIST" else f"FROM ('{lower}') TO ('{upper}')")
        for lower, upper in there
    ]
    rows = [f"INSERT INTO sales SELECT n, '{lower}', 'x' FROM generate_series(1, 20) AS n" for lower, _ in there]
    execute(
        world, "SET ROLE consulting_owner",
        f"CREATE TABLE sales (id int, period {column_type}, said text, PRIMARY KEY (id, period)) PARTITION BY {strategy} (period)",
        *partitions, "CREATE TABLE sales_rest PARTITION OF sales DEFAULT", *rows,
    )  # fmt: skip
    partition = {"table": "sales", "column": "period", **rule}
    edit_context(world, monkeypatch, tables=[*TABLES, "sales"], partitions=[partition], clean_up=[], long_term={}, views=[])


def create(world: World, **parameters: Any) -> str:
    return str(world.run(create_partitions, "backup_restorer", **parameters))


@pytest.mark.long
@pytest.mark.every_variant
@pytest.mark.parametrize("kind", SALES)
def test_made_archived_and_brought_back(world: World, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    sales(world, monkeypatch, kind)
    *_, made, due, period = SALES[kind]
    assert create(world) == f"PASS: created {', '.join(f'sales_{one}' for one in made)}"
    assert create(world) == "PASS: nothing was missing"
    rows, leaves = ask(world, ROWS), ask(world, LEAVES)
    going = ", ".join(map(old_name, due))
    assert archive(world, dry_run=True) == f"PLANNED, nothing touched: {going} would be archived and dropped"
    assert archive(world).endswith(f"{going} archived and dropped")
    assert len(ask(world, ROWS)) == len(rows) - 40
    said = reattach(world, year=period)
    assert said.startswith(f"ATTACHED: public.{old_name(due[0])} with 20 rows of") and said.endswith(", compared"), said
    second = period.replace("08", "09").replace("Q1", "Q2").replace("2023", "2024")
    assert reattach(world, year=second).endswith(", compared")
    assert (ask(world, ROWS), ask(world, LEAVES)) == (rows, leaves)


@pytest.mark.parametrize("kind", ["list of texts", pytest.param("range of integers", marks=pytest.mark.long)])
def test_the_current_period_is_made_and_rows_move_there(world: World, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    sales(world, monkeypatch, kind)
    value = "2027-01" if kind == "list of texts" else "202701"
    execute(world, f"INSERT INTO sales VALUES (1, '{value}', 'early')")
    missing = _partition_checks(world)
    assert {name: one["verdict"] for name, one in missing.items()} == {"next 30 days": "FAILED", "next month": "warning"}
    with pytest.raises(
        OperationError, match=r"^FAIL: created sales_2026_12; public.sales_2027_01 cannot be created: public.sales_rest has 1"
    ):
        create(world)
    assert create(world, move_default_rows=True) == "PASS: created sales_2027_01"
    assert ask(world, "SELECT said FROM ONLY sales_2027_01") == [("early",)]
    assert {one["verdict"] for one in _partition_checks(world).values()} == {"ok"}


def _partition_checks(world: World) -> dict[str, dict[str, Any]]:
    with suppress(OperationError):
        # What of it fails is looked at here.
        world.run(integrity_check, "backup_restorer")
    found = Artifact.get("bc-004-integrity-checks")
    assert found and isinstance(found.data, str)
    told = "partitions of sales for the "
    return {one["check"].removeprefix(told): one for one in json.loads(found.data) if one["check"].startswith(told)}


def test_what_the_file_cannot_say_stops_only_what_it_concerns(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sales(world, monkeypatch, "list of texts")
    execute(
        world, "SET ROLE consulting_owner", "CREATE TABLE odd PARTITION OF sales FOR VALUES IN ('before', 'after')",
        "CREATE TABLE by_hash (id int PRIMARY KEY) PARTITION BY HASH (id)",
    )  # fmt: skip
    rule = {"table": "sales", "column": "period", **SALES["list of texts"][2]}
    other = {"table": "by_hash", "column": "id", "period": "year", "name": "by_hash_{year}", "keep": "1 year"}
    edit_context(world, monkeypatch, partitions=[other, rule], tables=[*TABLES, "sales", "by_hash"])
    with pytest.raises(OperationError) as error:
        create(world)
    assert "created sales_2026_12, sales_2027_01; public.by_hash is not partitioned by range of id alone" in str(error.value)
    assert "or add `values`, the template for the periods that id spells" in str(error.value)
    with pytest.raises(OperationError) as error:
        archive(world, dry_run=True)
    assert "old_2026_08, old_2026_09 would be archived and dropped; public.by_hash stays: " in str(error.value)
