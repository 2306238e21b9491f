"""One table restored in schemas with keys that act or refer to themselves, partitions that are gone, keys that are computed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from flows.restore import table_restore
from tasks.core.errors import OperationError
from tests.support.database import ask, execute
from tests.support.example import DATABASE
from tests.support.odd_schema import SET_UP, context, rows
from tests.support.reports import newest_report
from tests.support.restores import undo
from tests.support.world import World

pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Case:
    """A schema, what happens to it after its backup, what is restored, and what comes of it: a refusal, or rows of t and u."""

    schema: Sequence[str]
    damage: Sequence[str]
    table: str
    mode: str
    more: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    after: dict[str, list[str]] = field(default_factory=dict)


def tree(action: str) -> list[str]:
    return [
        f"CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES t ON DELETE {action}, v text)",
        "INSERT INTO t VALUES (1, NULL, 'a'), (2, 1, 'b')",
    ]


HALVES = [
    "CREATE TABLE t (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
    "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (3)", "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (3) TO (6)",
    "INSERT INTO t SELECT n, n FROM generate_series(0, 5) AS n",
]  # fmt: skip
PARENT = [
    "CREATE TABLE t (id int PRIMARY KEY, note text)", "CREATE TABLE u (id int PRIMARY KEY, p int REFERENCES t)",
    "INSERT INTO t VALUES (1, 'a note')", "INSERT INTO u VALUES (2, 1)",
]  # fmt: skip
BY_CODE = [
    "CREATE TABLE t (id int PRIMARY KEY, code text UNIQUE, p text REFERENCES t (code))",
    "INSERT INTO t VALUES (1, 'A', NULL), (2, 'B', 'A')",
]  # fmt: skip
CIRCLE = [
    "CREATE TABLE t (id int PRIMARY KEY, lead int)", "CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES t)",
    "ALTER TABLE t ADD FOREIGN KEY (lead) REFERENCES u ON DELETE SET NULL",
    "INSERT INTO t VALUES (1, NULL), (2, NULL)", "INSERT INTO u VALUES (1, 1), (2, 2)",
]  # fmt: skip
ID = "6f0c2d1e-0000-0000-0000-000000000000"
HIT = r"1 rows refer to rows that would be deleted"
CASES = {
    "children of the table itself would be deleted": Case(
        tree("CASCADE"), ["INSERT INTO t VALUES (10, NULL, 'new'), (11, 10, 'its child')"], "t", "replace", {"keys": ["10"]},
        rf"\(ON DELETE CASCADE\): {HIT}",
    ),
    "children of the table itself would be emptied": Case(
        tree("SET NULL"), ["INSERT INTO t VALUES (10, NULL, 'new'), (11, 10, 'its child')"], "t", "replace", {"keys": ["10"]},
        rf"\(ON DELETE SET NULL\): {HIT}",
    ),
    "a parent that is included would be emptied": Case(
        CIRCLE, ["DELETE FROM u WHERE id = 2", "DELETE FROM t WHERE id = 2", "INSERT INTO u VALUES (9, 1)",
                 "UPDATE t SET lead = 9 WHERE id = 1"],
        "u", "replace", {"include_parents": True}, rf"\(ON DELETE SET NULL\): {HIT}",
    ),
    "braces in a condition": Case(
        ["CREATE TABLE t (id uuid PRIMARY KEY)", f"INSERT INTO t VALUES ('{ID}')"], ["DELETE FROM t"], "t", "missing",
        {"keys": f"id = ANY ('{{{ID}}}')"}, after={"t": [f"({ID})"]},
    ),
    "a condition on what is no column of the table": Case(
        HALVES, ["DELETE FROM t WHERE id = 1"], "t", "replace", {"keys": "tableoid = 'odd.t1'::regclass"},
        r"may only call IMMUTABLE functions|no column",
    ),
    "a condition that means other rows tomorrow": Case(
        ["CREATE TABLE t (id int, at date, PRIMARY KEY (id, at))"], ["INSERT INTO t VALUES (1, '2020-01-01')"], "t", "replace",
        {"keys": "at < CURRENT_DATE"}, r"may only call IMMUTABLE functions",
    ),
    "a condition that cannot be computed": Case(
        ["CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)"], ["UPDATE t SET id = 2"], "t", "replace",
        {"keys": "1 / (id - id) = 1"}, r"DivisionByZero|division by zero",
    ),
    "chosen rows, and a partition that was dropped": Case(
        HALVES, ["DROP TABLE t2", "DELETE FROM t WHERE id = 1"], "t", "missing", {"keys": ["1"]},
        after={"t": ["(0,0)", "(1,1)", "(2,2)"]},
    ),
    "a table that the set does not have": Case(
        ["CREATE TABLE t (id int PRIMARY KEY)"], ["CREATE TABLE u (id int PRIMARY KEY)", "INSERT INTO u VALUES (1)"],
        "u", "replace",
        refused=r'u"? is not in bc-901_full',
    ),
    "a parent in the table itself": Case(
        tree("NO ACTION"), ["DELETE FROM t"], "t", "missing", {"keys": ["2"], "include_parents": True},
        after={"t": ["(1,,a)", "(2,1,b)"]},
    ),
    "a parent whose referenced value comes back by the same update": Case(
        BY_CODE, ["DELETE FROM t WHERE id = 2", "UPDATE t SET code = 'Z' WHERE id = 1"], "t", "merge",
        after={"t": ["(1,A,)", "(2,B,A)"]},
    ),
    "a parent with a column less": Case(
        PARENT, ["DELETE FROM u", "DELETE FROM t", "ALTER TABLE t DROP COLUMN note"], "u", "missing", {"include_parents": True},
        r"odd.t no longer has column note",
    ),
    "a check that is meant to be gone": Case(
        ["CREATE TABLE t (id int PRIMARY KEY, v int CONSTRAINT c CHECK (v > 0))", "INSERT INTO t VALUES (1, 1), (2, 2)"],
        ["ALTER TABLE t DROP CONSTRAINT c", "DELETE FROM t WHERE id = 2", "UPDATE t SET v = -1"], "t", "missing",
        after={"t": ["(1,-1)", "(2,2)"]},
    ),
    "a trigger whose function is gone": Case(
        ["CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)",
         "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
         "CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()"],
        ["DROP FUNCTION f() CASCADE", "DELETE FROM t"], "t", "missing", after={"t": ["(1)"]},
    ),
    "rows under a key that was never proven": Case(
        ["CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY, p int, v text)",
         "INSERT INTO u VALUES (2, 1, 'x')", "ALTER TABLE u ADD FOREIGN KEY (p) REFERENCES t NOT VALID"],
        ["UPDATE u SET v = 'y'"], "u", "merge", after={"u": ["(2,1,x)"]},
    ),
    "another table with its sequence is gone": Case(
        ["CREATE TABLE t (id serial PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY, v text)", "INSERT INTO u VALUES (2, 'x')"],
        ["DROP TABLE t", "UPDATE u SET v = 'y'"], "u", "merge", after={"u": ["(2,x)"]},
    ),
    "no primary key": Case(
        ["CREATE TABLE t (id int, v text)", "INSERT INTO t VALUES (1, 'a')"], ["UPDATE t SET v = 'b'"], "t", "missing",
        refused=r"odd.t has no primary key, so that mode missing would add the old version",
    ),
    "no primary key, replaced": Case(
        ["CREATE TABLE t (id int, v text)", "INSERT INTO t VALUES (1, 'a'), (1, 'a')"], ["UPDATE t SET v = 'b'"], "t", "replace",
        after={"t": ["(1,a)", "(1,a)"]},
    ),
}  # fmt: skip


def restore(world: World, table: str, mode: str, **more: Any) -> str:
    words = {"context": "bc-901", "dry_run": False, "confirm_database": DATABASE} | more
    return str(world.run(table_restore, "backup_restorer", table=table, mode=mode, **words))


@pytest.mark.parametrize("name", CASES)
def test_odd_schemas(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    case = CASES[name]
    execute(world, *SET_UP, *case.schema)
    context(world, monkeypatch, ["t", "u"] if "CREATE TABLE u " in " ".join(case.schema) else ["t"])
    world.backup(context="bc-901")
    execute(world, *SET_UP[1:], *case.damage)
    if "CREATE TABLE u " in " ".join(case.damage):
        context(world, monkeypatch, ["t", "u"])
    damaged = rows(world)
    if case.refused:
        with pytest.raises(OperationError, match=case.refused):
            restore(world, case.table, case.mode, **case.more)
        assert rows(world) == damaged
        return
    assert restore(world, case.table, case.mode, **case.more).startswith("RESTORED")
    for table, expected in case.after.items():
        assert [row[0] for row in ask(world, f"SELECT x::text FROM odd.{table} AS x ORDER BY 1")] == expected
    undo(world, "bc-901")
    assert rows(world) == damaged


def test_a_parent_in_the_table_itself_is_planned_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(world, *SET_UP, *tree("NO ACTION"))
    context(world, monkeypatch, ["t"])
    world.backup(context="bc-901")
    execute(world, "DELETE FROM odd.t")
    said = restore(world, "t", "missing", keys=["2"], include_parents=True, dry_run=True)
    assert said.startswith("PLANNED, nothing touched: 2 rows to insert, 0 to update, 0 to delete in 1 relations")


def test_a_computed_key_beside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(world, *SET_UP, "CREATE TABLE t (a int, b int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY)",
            "INSERT INTO t (a) VALUES (1), (2)")  # fmt: skip
    context(world, monkeypatch, ["t"])
    world.backup(context="bc-901")
    said = restore(world, "t", "side-by-side")
    (name,) = re.findall(r'"odd"."(t_restored_\d+_\d+)"', said)
    assert ask(world, f"SELECT x::text FROM odd.{name} AS x ORDER BY 1") == [("(1)",), ("(2)",)]
    assert "the table has no generated columns" in newest_report(world, "bc-901-restore")
