"""Texts that PostgreSQL spells otherwise once they were dumped and read again: they mean the same."""

import pytest

from flows.recovery import disaster_recovery, recovery_drill
from flows.restore import full_restore
from tests.support.database import execute
from tests.support.example import DATABASE
from tests.support.odd_schema import SET_UP, context
from tests.support.reports import report
from tests.support.world import World

pytestmark = [pytest.mark.long, pytest.mark.every_variant]

VIEWS = [
    "CREATE TABLE t (id int PRIMARY KEY, b int, v varchar(9) CHECK (v IN ('a', 'b')))", "INSERT INTO t VALUES (1, 2, 'a')",
    "CREATE VIEW v AS SELECT id, b FROM t UNION ALL SELECT id, NULL FROM t",
    "CREATE MATERIALIZED VIEW m AS SELECT id, b FROM t UNION ALL SELECT id, NULL FROM t",
    "CREATE VIEW w AS SELECT * FROM v UNION ALL SELECT id, NULL FROM m",
    "CREATE FUNCTION f() RETURNS TABLE (id int, b int) LANGUAGE sql BEGIN ATOMIC "
    "SELECT id, b FROM t UNION ALL SELECT id, NULL FROM t; END",
    "CREATE TABLE u (id int PRIMARY KEY, n bigint)",
    "CREATE VIEW x AS SELECT id, (SELECT count(*) FROM f()) AS n FROM u",
]  # fmt: skip
SURE = {"context": "bc-901", "in_place": True}


@pytest.mark.parametrize("any_version", [15, 16, 18], indirect=True)
def test_texts_that_a_dump_changes_are_compared_by_what_they_mean(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    execute(world, *SET_UP, *VIEWS)
    context(world, monkeypatch, ["t", "u"], views=["v", "m", "w", "x"])
    assert world.backup(context="bc-901").startswith("STORED")
    assert world.run(recovery_drill, "backup_restorer", context="bc-901").startswith("PASS")
    execute(world, "DROP SCHEMA odd CASCADE")
    assert world.run(disaster_recovery, "backup_restorer", context="bc-901").startswith("PASS")
    execute(world, "UPDATE odd.t SET b = 7")
    assert world.run(full_restore, "backup_restorer", dry_run=False, confirm_database=DATABASE, **SURE).startswith("RESTORED: ")
    assert "definition" not in report(world, "bc-901-restore")
    # What means something else is told still.
    execute(
        world, "CREATE OR REPLACE VIEW odd.v AS SELECT id, b FROM odd.t UNION ALL SELECT id, NULL FROM odd.t WHERE b > 1",
        "CREATE OR REPLACE FUNCTION odd.f() RETURNS TABLE (id int, b int) LANGUAGE sql BEGIN ATOMIC "
        "SELECT id, b FROM odd.t UNION ALL SELECT id, 7 FROM odd.t; END",
    )  # fmt: skip
    world.run(full_restore, "backup_restorer", **SURE)
    told = report(world, "bc-901-restore-plan")
    assert "view odd.v: definition was" in told and "function odd.f(): definition was" in told and "odd.w: " not in told
