"""Rows whose unique values live rows hold that a restore leaves: seen in the plan, refused or skipped, and told by key."""

from typing import Any

import psycopg
import pytest

from flows.restore import table_restore
from tasks.core.errors import OperationError
from tasks.in_place import safety_set
from tests.support.database import ask, count, execute, unlike
from tests.support.example import DATABASE
from tests.support.reports import newest_report
from tests.support.restores import restore, undo
from tests.support.world import World

long = pytest.mark.long
NEW_IDS = "UPDATE policy_scopes SET id = gen_random_uuid() WHERE ctid IN (SELECT ctid FROM policy_scopes ORDER BY id LIMIT 3)"


def restore_table(world: World, **parameters: Any) -> str:
    words = {"table": "policy_scopes", "mode": "missing", "dry_run": False, "confirm_database": DATABASE} | parameters
    return str(world.run(table_restore, "backup_restorer", **words))


def test_a_unique_value_that_a_live_row_holds(world: World) -> None:
    world.backup()
    rows = count(world, "policy_scopes")
    ids = [row[0] for row in ask(world, "SELECT id::text FROM policy_scopes ORDER BY id LIMIT 3")]
    # Deleted first: a new id may be anywhere in the order, among the last five too.
    execute(world, "DELETE FROM policy_scopes WHERE id IN (SELECT id FROM policy_scopes ORDER BY id DESC LIMIT 5)", NEW_IDS)
    for words in ({"dry_run": True}, {}):
        with pytest.raises(OperationError, match=r"3 rows of public.policy_scopes \(policy_scopes_target_key\)") as refused:
            restore_table(world, **words)
        assert "on_conflict=skip" in str(refused.value)
        # Keys stand in the report alone.
        assert not any(one in str(refused.value) for one in ids)
    assert count(world, "policy_scopes") == rows - 5
    planned = newest_report(world, "bc-004-restore-plan")
    assert all(f"id = {one} of the set has the same value of policy_scopes_target_key" in planned for one in ids)
    verdict = restore_table(world, on_conflict="skip")
    assert verdict.startswith("RESTORED, BUT ROWS WERE SKIPPED: ")
    assert "5 inserted, 0 updated, 0 deleted, skipped: 3 rows of public.policy_scopes (policy_scopes_target_key)" in verdict
    assert all(one in newest_report(world).partition("Still to do")[2] for one in ids)
    assert count(world, "policy_scopes") == rows
    # There is nothing more to do, which is not the same as that nothing differs.
    again = restore_table(world, on_conflict="skip")
    assert again.startswith("RESTORED, BUT ROWS WERE SKIPPED: nothing was touched; skipped: 3 rows")


@long
def test_values_of_expressions_among_some_rows(world: World) -> None:
    execute(
        world, "CREATE UNIQUE INDEX teams_lower ON teams (lower(name), organization_id) WHERE team_type <> 'x'",
        "ALTER TABLE teams ADD COLUMN span int4range DEFAULT NULL",
        "ALTER TABLE teams ADD CONSTRAINT apart EXCLUDE USING gist (span WITH &&)",
        "UPDATE teams SET span = int4range(1, 10) WHERE id = (SELECT id FROM teams ORDER BY id LIMIT 1)",
    )  # fmt: skip
    world.backup()
    execute(
        world, "ALTER TABLE teams DISABLE TRIGGER USER",
        "UPDATE teams SET span = NULL WHERE span IS NOT NULL",
        "UPDATE teams SET span = int4range(5, 20) WHERE id = (SELECT id FROM teams ORDER BY id DESC LIMIT 1)",
        "ALTER TABLE teams ENABLE TRIGGER USER",
    )  # fmt: skip
    first = "id = (SELECT id::text::uuid FROM teams ORDER BY id LIMIT 1)"
    ((name,),) = ask(world, f"SELECT id::text FROM teams WHERE {first}")
    with pytest.raises(OperationError, match=r"1 rows of public.teams \(apart\)"):
        restore_table(world, table="teams", mode="merge", keys=[name])
    assert "skipped: 1 rows of public.teams (apart)" in restore_table(
        world, table="teams", mode="merge", keys=[name], on_conflict="skip"
    )


@long
@pytest.mark.parametrize("on_conflict", ["refuse", "skip"])
def test_an_application_writes_between_plan_and_restore(world: World, monkeypatch: pytest.MonkeyPatch, on_conflict: str) -> None:
    world.backup()
    execute(
        world, "CREATE TABLE gone AS SELECT * FROM policy_scopes ORDER BY id LIMIT 9",
        "DELETE FROM policy_scopes WHERE id IN (SELECT id FROM gone)",
    )  # fmt: skip
    rows, take_safety_set = count(world, "policy_scopes"), safety_set.take_safety_set

    def meanwhile(*arguments: Any) -> Any:
        execute(
            world, "INSERT INTO policy_scopes SELECT (jsonb_populate_record(g, jsonb_build_object('id', gen_random_uuid()))).* "
            "FROM gone AS g LIMIT 1",
        )  # fmt: skip
        return take_safety_set(*arguments)

    monkeypatch.setattr(safety_set, "take_safety_set", meanwhile)
    if on_conflict == "refuse":
        with pytest.raises(OperationError, match=r"is unchanged: 1 rows of public.policy_scopes \(policy_scopes_target_key\)"):
            restore_table(world)
        assert count(world, "policy_scopes") == rows + 1
    else:
        assert "8 inserted, 0 updated, 0 deleted, skipped: 1 rows" in restore_table(world, on_conflict="skip")
        assert count(world, "policy_scopes") == rows + 9


@long
def test_an_index_that_doubles_made_invalid(world: World) -> None:
    before = world.state()
    world.backup()
    execute(
        world, "ALTER TABLE teams DISABLE TRIGGER USER", "DROP INDEX teams_active_key",
        "INSERT INTO teams SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid()))).* "
        "FROM teams AS t WHERE status = 'active' LIMIT 4",
        "ALTER TABLE teams ENABLE TRIGGER USER",
    )  # fmt: skip
    with pytest.raises(psycopg.errors.UniqueViolation):
        execute(world, "CREATE UNIQUE INDEX CONCURRENTLY teams_active_key ON teams (organization_id, name) WHERE status = 'active'")
    damaged = world.state()
    assert restore(world).startswith("RESTORED: ")
    assert unlike(before, world.state()) == []
    # It forbids its rows while it is valid, which it was made by the restore: the plan says that it does not become INVALID again.
    assert "INVALID" in newest_report(world, "bc-004-restore-plan").partition("## What an undo would not revert")[2]
    undo(world)
    assert [one for one in unlike(damaged, world.state()) if "teams_active_key" not in one] == []
