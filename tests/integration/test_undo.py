"""A restore into a live database is undone exactly, or it is said beforehand what is not; in every mode, of every table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flows.restore as restoring
from deployments.local import LocalServer
from flows.restore import full_restore, table_restore
from tasks.core.errors import OperationError
from tasks.in_place import apply
from tests.support.copies import SEQUENCE, backed_up_once, copy_of
from tests.support.database import ask, execute, unlike
from tests.support.example import DATABASE
from tests.support.reports import newest_report
from tests.support.restores import safety_sets, undo
from tests.support.traffic import traffic
from tests.support.undone import COLUMNS, DAMAGES, ORPHANS, UNIQUE, Before, quietly, rows, taken
from tests.support.world import World, new_world

long = pytest.mark.long
ALL = "the whole context"
CONFIRMED = {"dry_run": False, "confirm_database": DATABASE}


@pytest.fixture(scope="module")
def backed_up(
    source: LocalServer, target: LocalServer, prefect_api: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A world with one backup, and its database as a template."""
    folder = tmp_path_factory.mktemp("undo")
    with backed_up_once(new_world(source, target, prefect_api, folder), *SEQUENCE) as world:
        yield world


@pytest.fixture
def copied(backed_up: World, folder: Path) -> Iterator[World]:
    """A copy of that world."""
    with copy_of(backed_up, folder) as world:
        yield world


def restore(world: World, table: str, mode: str, **more: Any) -> str:
    if mode == "in place":
        return str(world.run(full_restore, "backup_restorer", in_place=True, **{**CONFIRMED, **more}))
    return str(world.run(table_restore, "backup_restorer", table=table, mode=mode, **{**CONFIRMED, **more}))


def judge(world: World, damage: Before, mode: str, **more: Any) -> str:
    """Damage, restore and undo: all is as it was damaged, or the plan said what would not be. Return that report, if restored."""
    execute(world, *damage.statements)
    damaged = world.state()
    try:
        restore(world, damage.table, mode, **more)
    except OperationError as error:
        assert "REFUSED, nothing touched" in str(error)
        assert damaged.differences(world.state()) == []
        return ""
    if "## To undo it" not in newest_report(world):
        assert damaged.differences(world.state()) == []
        return ""
    restored, report = world.state(), newest_report(world, "bc-004-restore-plan")
    said = report.partition("## What an undo would not revert")[2].partition("##")[0]
    assert damage.left in said if said else (mode, more.get("objects")) != ("in place", "restore") or not damage.left
    try:
        undo(world)
    except OperationError as error:
        assert str(error).startswith("REFUSED, nothing touched: ")
        assert restored.differences(world.state(), views="recomputed") == []
        assert said
        assert damage.left in str(error)
    else:
        undone = world.state()
        assert undone.missing == damaged.missing
        left = [one for one in damaged.differences(undone, views="recomputed") if "nothing to compare with" not in one]
        assert (left != []) <= (said != ""), left
    return report


@long
@pytest.mark.parametrize("on_conflict", ["refuse", "skip"])
@pytest.mark.parametrize("mode", ["missing", "merge", "replace"])
@pytest.mark.parametrize("table", COLUMNS)
def test_rows(copied: World, table: str, mode: str, on_conflict: str) -> None:
    judge(copied, Before(table, table, rows(table)), mode, on_conflict=on_conflict)


@long
@pytest.mark.parametrize("on_conflict", ["refuse", "skip"])
@pytest.mark.parametrize("mode", ["missing", "merge", "replace"])
@pytest.mark.parametrize("table", UNIQUE)
def test_rows_whose_unique_values_others_have(copied: World, table: str, mode: str, on_conflict: str) -> None:
    """Where the others stay, the restore is refused, or these rows are skipped and the rest is restored."""
    report = judge(copied, Before(table, table, (*rows(table), *taken(table))), mode, on_conflict=on_conflict)
    assert bool(report) is (mode == "replace" or on_conflict == "skip")
    assert ("Rows that would be skipped" in report) is (mode != "replace" and on_conflict == "skip")


@long
@pytest.mark.parametrize("objects", ["plan", "restore"])
@pytest.mark.parametrize("mode", ["in place", "missing", "replace"])
@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_damages(copied: World, damage: Before, mode: str, objects: str) -> None:
    judge(copied, damage, mode, objects=objects)


SEVERAL = (
    *rows("teams"), "ALTER TABLE team_members DROP CONSTRAINT team_members_user_fkey", "DROP INDEX teams_active_key",
    "ALTER TABLE policy_scopes DROP CONSTRAINT policy_scopes_policy_fkey", *ORPHANS,
)  # fmt: skip


def in_place(world: World, backup: str = "latest") -> str:
    return restore(world, "", "in place", backup=backup)


@long
def test_undone_and_done_again_and_undone(copied: World) -> None:
    execute(copied, *SEVERAL)
    damaged = copied.state()
    assert in_place(copied).startswith("RESTORED: ")
    (before_restore,) = safety_sets(copied)
    restored = copied.state()
    assert undo(copied) == ["all"]
    assert unlike(damaged, copied.state()) == []
    # Its own undo is the restore, and what is undone twice is as it was.
    undo(copied)
    assert unlike(restored, copied.state()) == []
    in_place(copied, before_restore)
    assert unlike(damaged, copied.state()) == []
    assert "nothing was touched" in in_place(copied, before_restore)


@long
def test_undone_after_others_wrote(copied: World) -> None:
    execute(copied, *SEVERAL)
    damaged = copied.state()
    in_place(copied)
    execute(
        copied, *rows("governance_rules"), *rows("policy_scopes"),
        *quietly("teams", "UPDATE teams SET purpose = 'later', name = name || ' later'"),
        "CREATE INDEX later ON teams (purpose)", "ALTER INDEX later OWNER TO consulting_owner",
    )  # fmt: skip
    undo(copied)
    # What others made since is theirs.
    execute(copied, "DROP INDEX later")
    assert unlike(damaged, copied.state()) == []


@long
def test_what_was_not_restored_needs_no_undo(copied: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(copied, *SEVERAL)
    damaged = copied.state()
    with monkeypatch.context() as patch, pytest.raises(OperationError, match="ended"):
        patch.setattr(apply, "left_over", fails)
        in_place(copied)
    # Nothing, views among it.
    assert damaged.differences(copied.state()) == []
    (safety,) = safety_sets(copied)
    # Views are computed, and no row is written.
    assert "0 inserted, 0 updated, 0 deleted" in in_place(copied, safety)
    # Ended after the commit, before anything was told.
    with monkeypatch.context() as patch, pytest.raises(OperationError, match="ended"):
        patch.setattr(restoring, "publish_merged", fails)
        in_place(copied)
    assert damaged.differences(copied.state()) != []
    in_place(copied, safety_sets(copied)[-1])
    assert unlike(damaged, copied.state()) == []


def fails(*_: Any) -> Any:
    raise OperationError("it ended here")


@long
@pytest.mark.parametrize("mode", ["in place", "replace"])
def test_while_somebody_writes(copied: World, mode: str) -> None:
    """Rows are written that stay what they are: in the tables that are restored, and in others."""
    same = "UPDATE {0} SET {1} = {1} WHERE id IN (SELECT id FROM {0} ORDER BY random() LIMIT 3)"
    writing = [same.format("policy_violations", "severity"), same.format("policy_scopes", "status"), same.format("users", "id")]
    execute(copied, "ALTER TABLE policy_scopes DISABLE TRIGGER USER")
    damage = Before("lost", "policy_violations", rows("policy_violations"))
    with traffic(copied.connect, writing) as seen:
        judge(copied, damage, mode)
    assert seen.runs > len(writing)
    assert [one for one in seen.errors if "deadlock" not in one] == []


@long
def test_what_others_built_upon_is_not_dropped(copied: World) -> None:
    execute(copied, "DROP TABLE policy_scopes")
    in_place(copied)
    (safety,) = safety_sets(copied)
    restored = copied.state()
    execute(copied, "CREATE VIEW upon AS SELECT * FROM policy_scopes")
    with pytest.raises(
        OperationError, match=r"policy_scopes was created by the restore .*view public.upon depends on it; drop that"
    ):
        in_place(copied, safety)
    execute(copied, "DROP VIEW upon")
    assert unlike(restored, copied.state()) == []
    in_place(copied, safety)
    assert ask(copied, "SELECT to_regclass('policy_scopes')::text") == [(None,)]


@long
def test_where_nothing_was_there(copied: World) -> None:
    execute(copied, f"DROP TABLE {', '.join(COLUMNS)} CASCADE")
    functions = ask(copied, "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1")
    assert in_place(copied).startswith("RESTORED")
    undo(copied)
    assert ask(copied, "SELECT relname FROM pg_class WHERE relname LIKE 'policy%' OR relname LIKE 'mv_%'") == []
    after = ask(copied, "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1")
    assert after == functions
