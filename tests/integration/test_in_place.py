"""A restore into the live database happened, or it did not: rows, objects, and what others have."""

from typing import Any

import pytest

from flows.backup import differential_backup, list_backups
from flows.restore import full_restore
from tasks.core.errors import UnsafeTarget
from tests.integration.conftest import CONTEXT, DATABASE, World
from tests.oracle import State

long = pytest.mark.long


def execute(world: World, *statements: str) -> None:
    with world.connect() as connection:
        for statement in statements:
            connection.execute(statement.encode())


def ask(world: World, query: str) -> list[tuple[Any, ...]]:
    with world.connect() as connection:
        return connection.execute(query.encode()).fetchall()


def plan(world: World, **parameters: Any) -> str:
    return str(world.run(full_restore, "backup_restorer", in_place=True, **parameters))


def restore(world: World, **parameters: Any) -> str:
    return plan(world, **{"dry_run": False, "confirm_database": DATABASE} | parameters)


def safety_sets(world: World, context: str = CONTEXT) -> list[str]:
    return [str(row["id"]) for row in world.run(list_backups, "backup_reader", context=context) if row["kind"] == "safety"]


def unlike(before: State, after: State) -> list[str]:
    return before.differences(after, views="recomputed")


ALL = (
    "organizations, organization_units, organization_hierarchies, organization_members, teams, team_members, team_leaders, "
    "governance_policies, governance_rules, policy_scopes, policy_violations"
)
DAMAGE = {
    "rows deleted and changed": [
        "DELETE FROM policy_violations_2025 WHERE ctid < '(9,1)'", "UPDATE teams SET purpose = 'wrong'",
        "UPDATE policy_violations_2024 SET error_message = 'wrong' WHERE ctid < '(9,1)'",
    ],
    "rows inserted": [
        "INSERT INTO governance_policies SELECT (jsonb_populate_record(p, jsonb_build_object('id', gen_random_uuid(), "
        "'name', p.name || ' again'))).* FROM governance_policies p"
    ],
    "rows moved to another partition": [
        "UPDATE policy_violations SET detected_at = detected_at + interval '1 year' "
        "WHERE tableoid = 'policy_violations_2023'::regclass"
    ],
    "all tables empty": [f"TRUNCATE {ALL}"],
    "closure rows missing": ["DELETE FROM organization_hierarchies WHERE depth > 0"],
    "roots emptied": ["UPDATE organizations SET root_unit_id = NULL"],
    "a key and a check dropped": [
        "ALTER TABLE teams DROP CONSTRAINT teams_unit_fkey, DROP CONSTRAINT teams_dates_check",
        "ALTER TABLE policy_violations DROP CONSTRAINT policy_violations_resolved_check",
        "ALTER TABLE team_members DROP CONSTRAINT team_members_user_fkey",
    ],
    "triggers switched": ["ALTER TABLE team_leaders DISABLE TRIGGER USER"],
    "a table dropped": ["DROP TABLE policy_scopes"],
    "a table dropped that others refer to": ["DROP TABLE teams CASCADE"],
    "a partition dropped": ["DROP TABLE policy_violations_2024"],
    "a newer partition with rows": [
        "CREATE TABLE policy_violations_2030 PARTITION OF policy_violations FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')",
        "ALTER TABLE policy_violations_2030 OWNER TO consulting_owner",
        "UPDATE policy_violations SET detected_at = '2030-05-05' WHERE tableoid = 'policy_violations_2023'::regclass",
    ],
    "a view, an index and a function dropped": [
        "DROP MATERIALIZED VIEW mv_team_statistics",
        "DO $$ BEGIN EXECUTE (SELECT 'DROP INDEX ' || min(i.indexrelid::regclass::text) FROM pg_index i WHERE NOT i.indisunique "
        "AND i.indrelid = 'teams'::regclass); END $$",
        "DO $$ BEGIN EXECUTE (SELECT 'DROP FUNCTION ' || min(tgfoid::regprocedure::text) || ' CASCADE' FROM pg_trigger "
        "WHERE tgrelid = 'team_leaders'::regclass AND NOT tgisinternal); END $$",
    ],
    "unique values exchanged": [
        "BEGIN", "CREATE TEMP TABLE two ON COMMIT DROP AS SELECT id, code, lead(code) OVER w AS next, lag(code) OVER w AS last "
        "FROM organizations WINDOW w AS (ORDER BY id) LIMIT 2",
        "UPDATE organizations o SET code = o.code || '-' FROM two WHERE o.id = two.id",
        "UPDATE organizations o SET code = coalesce(two.last, two.next) FROM two WHERE o.id = two.id", "COMMIT",
        "CREATE TABLE pair AS SELECT id, row_number() OVER () AS n FROM (SELECT id FROM organization_hierarchies WHERE depth = 1 "
        "LIMIT 2) AS two",
        "UPDATE organization_hierarchies SET id = gen_random_uuid(), path = 'moved' WHERE id = (SELECT id FROM pair WHERE n = 1)",
        "UPDATE organization_hierarchies SET id = (SELECT id FROM pair WHERE n = 1) WHERE id = (SELECT id FROM pair WHERE n = 2)",
        "UPDATE organization_hierarchies SET id = (SELECT id FROM pair WHERE n = 2) WHERE path = 'moved'", "DROP TABLE pair",
    ],
    "a team deleted and made again": [
        "BEGIN", "ALTER TABLE team_members DISABLE TRIGGER USER", "ALTER TABLE team_leaders DISABLE TRIGGER USER",
        "CREATE TEMP TABLE old ON COMMIT DROP AS SELECT * FROM teams WHERE id = (SELECT team_id FROM team_members LIMIT 1)",
        "UPDATE teams SET name = name || '-' WHERE id IN (SELECT id FROM old)",
        "INSERT INTO teams SELECT (jsonb_populate_record(old, jsonb_build_object('id', gen_random_uuid()))).* FROM old",
        "UPDATE team_members SET team_id = (SELECT t.id FROM teams t JOIN old USING (organization_id, name)) "
        "WHERE team_id IN (SELECT id FROM old)",
        "UPDATE team_leaders SET team_id = (SELECT t.id FROM teams t JOIN old USING (organization_id, name)) "
        "WHERE team_id IN (SELECT id FROM old)",
        "DELETE FROM teams WHERE id IN (SELECT id FROM old)",
        "ALTER TABLE team_members ENABLE TRIGGER USER", "ALTER TABLE team_leaders ENABLE TRIGGER USER", "COMMIT",
    ],
}  # fmt: skip
# What does not get in each other's way is undone together.
TOGETHER = [
    ("a partition dropped",), ("unique values exchanged",),
    ("rows deleted and changed", "rows inserted", "closure rows missing"),
    ("roots emptied", "triggers switched", "a key and a check dropped", "rows moved to another partition"),
    ("all tables empty",), ("a table dropped",), ("a table dropped that others refer to",), ("a newer partition with rows",),
    ("a view, an index and a function dropped",), ("a team deleted and made again",),
]  # fmt: skip


def test_every_damage_is_undone() -> None:
    assert sorted(one for some in TOGETHER for one in some) == sorted(DAMAGE)


@long
@pytest.mark.parametrize(
    "damage", [pytest.param(one, marks=long if n > 1 else ()) for n, one in enumerate(TOGETHER)], ids=", ".join
)
def test_damage_is_undone(world: World, damage: tuple[str, ...]) -> None:
    before = world.state()
    world.backup()
    for one in damage:
        execute(world, *DAMAGE[one])
    assert unlike(before, world.state()) != []
    assert restore(world).startswith("RESTORED")
    left = unlike(before, world.state())
    # What is newer than the set stays, empty.
    assert [one for one in left if "policy_violations_2030" not in one] == []
    assert ask(world, "SELECT count(*) FROM policy_violations WHERE detected_at >= '2030-01-01'") == [(0,)]


def test_planned_confirmed_done_and_undone(world: World) -> None:
    before = world.state()
    world.backup()
    assert plan(world) == "PLANNED, nothing touched: nothing differs"
    execute(world, *DAMAGE["rows deleted and changed"], f"TRUNCATE {ALL.rpartition(',')[0].rpartition(',')[2]}")
    damaged = world.state()
    said = plan(world)
    assert said.startswith("PLANNED, nothing touched: ")
    with pytest.raises(UnsafeTarget, match='pass confirm_database="consulting_tool"'):
        restore(world, confirm_database="another")
    assert damaged.differences(world.state()) == []
    assert safety_sets(world) == []

    assert restore(world).startswith("RESTORED")
    assert unlike(before, world.state()) == []
    (safety,) = safety_sets(world)
    # It is no backup that anything else would take.
    assert "differential" in str(world.run(differential_backup, "backup_reader"))
    assert restore(world, backup=safety).startswith("RESTORED")
    assert unlike(damaged, world.state()) == []


@long
def test_a_differential_into_the_living(world: World) -> None:
    world.backup()
    execute(world, *DAMAGE["rows moved to another partition"])
    before = world.state()
    world.differential(accept_losses=True)
    execute(world, *DAMAGE["all tables empty"])
    assert restore(world).startswith("RESTORED")
    assert unlike(before, world.state()) == []
