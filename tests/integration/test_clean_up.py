"""Old rows go when they have had their time, archived first; what cannot go stays and is told, and holds up nothing else."""

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from deployments import local
from flows.backup import list_backups
from flows.checks import integrity_check
from flows.restore import full_restore, table_restore
from flows.retention import clean_up_old_data, prune_backups
from tasks.clean_up import delete
from tasks.clean_up import rules as clean_up_rules
from tasks.core.errors import BadInput, DamagedSet, OperationError, StoreUnavailable, UnsafeTarget
from tasks.sets import stage, upload
from tests.support import PROJECT
from tests.support.clean_ups import A_TEAM, GREEDY, OLD, acting, bring_back, clean_up, clean_up_sets, hang, plan, report, rules
from tests.support.clock import at, later
from tests.support.contexts import edit_context
from tests.support.database import ask, count, execute
from tests.support.example import CONTEXT, DATABASE
from tests.support.partitions import assert_nobody_waited
from tests.support.traffic import traffic
from tests.support.world import World

long = pytest.mark.long

# What another context has about teams.
HISTORY = (
    "CREATE TABLE team_performance_history (id int PRIMARY KEY, team_id uuid REFERENCES teams {action}); "
    f"INSERT INTO team_performance_history SELECT 1, {A_TEAM}"
)


def rows_of(manifest: dict[str, Any]) -> dict[str, int]:
    return {one["name"]: one["rows"] for one in manifest["relations"]}


def test_old_rows_go_and_come_back(world: World) -> None:
    hang(world)
    before = world.state()
    old = {table: count(world, table, condition) for table, condition in OLD.items()}
    assert all(old.values())
    planned = plan(world)
    leaders = old["team_leaders"] + 3 * old["teams"]
    assert planned.startswith(f"PLANNED, nothing touched: {leaders} rows of public.team_leaders, ")
    assert before.differences(world.state()) == []
    with pytest.raises(UnsafeTarget, match='refusing to delete rows of the live database "consulting_tool"'):
        clean_up(world, confirm_database="another")
    assert before.differences(world.state()) == []

    done = clean_up(world)
    assert done.removeprefix("CLEANED UP: ") == planned.removeprefix("PLANNED, nothing touched: ").replace(
        "would be archived and deleted", "archived and deleted"
    )
    assert [count(world, table, condition) for table, condition in OLD.items()] == [0, 0, 0, 0]
    found = clean_up_sets(world)
    assert list(found) == ["team_leaders", "team_members", "organization_members", "teams"]
    assert {table: rows_of(one)[table] for table, (one,) in found.items()} == old
    hanging = rows_of(found["teams"][0])
    assert hanging.keys() >= {"teams", "team_members", "team_leaders"} and hanging["team_members"] >= 6 * old["teams"]
    assert clean_up(world) == "CLEANED UP: no row archived and deleted"
    assert {table: len(some) for table, some in clean_up_sets(world).items()} == dict.fromkeys(found, 1)

    assert bring_back(world, found["teams"][0]["id"], dry_run=True).startswith("PLANNED, nothing touched: ")
    for table in ("teams", "organization_members", "team_members", "team_leaders"):
        bring_back(world, found[table][0]["id"])
    assert before.differences(world.state(), views="recomputed") == []


@long
def test_what_is_still_needed_stays_and_holds_up_nothing_else(world: World) -> None:
    """The three that stopped the old clean-up for ever (an active leader of an old member, a team without leader), and more."""
    member = ask(
        world, "SELECT m.id::text FROM team_members m JOIN teams t ON t.id = m.team_id AND t.deleted_at IS NULL "
        "WHERE m.status = 'inactive' AND m.left_at < '2023-01-01' ORDER BY m.id LIMIT 1",
    )[0][0]  # fmt: skip
    leader, team = ask(
        world, "SELECT l.id::text, l.team_id::text FROM team_leaders l JOIN teams t ON t.id = l.team_id "
        "WHERE l.removed_at < '2023-01-01' AND l.status = 'inactive' AND t.deleted_at IS NULL "
        "ORDER BY l.id LIMIT 1",
    )[0]  # fmt: skip
    execute(
        world,
        "ALTER TABLE team_leaders DISABLE TRIGGER USER",
        f"UPDATE team_leaders SET status = 'inactive', removed_at = now() WHERE team_id = '{team}' AND status = 'active'",
        f"INSERT INTO team_leaders (team_id, member_id, user_id, status, assigned_at) SELECT team_id, id, user_id, 'active', now() "
        f"FROM team_members WHERE id = '{member}' ON CONFLICT DO NOTHING",
        "ALTER TABLE team_leaders ENABLE TRIGGER USER",
        f"UPDATE teams SET status = 'active' WHERE id = '{team}'",
        HISTORY.format(action=""),
        "UPDATE teams t SET leader_count = (SELECT count(*) FROM team_leaders l WHERE l.team_id = t.id AND l.status = 'active')",
    )  # fmt: skip
    held = ask(world, f"SELECT {A_TEAM}::text")[0][0]
    old = {table: count(world, table, condition) for table, condition in OLD.items()}
    planned, plan_text = plan(world), report("clean-up-plan")
    done, text = clean_up(world), report()
    needed = "{}: public.{} references this row or a dependent row ({}) ({})"
    for said in (text, plan_text):
        assert needed.format("1 rows of team_members", "team_leaders", "team_leaders_member_fkey", member) in said
        assert f"refused by keep_last_leader(): team … would be left without an active leader ({leader}" in said
        key = "team_performance_history_team_id_fkey"
        assert needed.format("1 rows of teams", "team_performance_history", key, held) in said
    assert "old rows stay" in planned and "old rows stay" in done
    stays = json.loads(report("clean-up-rules"))
    left = {table: count(world, table, condition) for table, condition in OLD.items()}
    assert left == {row["rule"]: row["stay"] for row in stays}
    assert left["team_members"] == left["teams"] == 1 and left["organization_members"] == 0
    assert all(left[table] < rows for table, rows in old.items())
    assert count(world, "team_performance_history") == 1


@long
@pytest.mark.parametrize("action", ["ON DELETE CASCADE", pytest.param("ON DELETE SET NULL", marks=long)])
def test_keys_of_others_that_would_act_hold_rows_too(world: World, action: str) -> None:
    execute(world, HISTORY.format(action=action))
    clean_up(world)
    assert ask(world, f"SELECT count(*) FROM team_performance_history h JOIN teams t ON t.id = h.team_id WHERE {OLD['teams']}") == [
        (1,)
    ]
    assert "team_performance_history_team_id_fkey" in report()


@long
def test_keys_of_tables_that_may_not_be_read_hold_what_they_might_act_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_context(world, monkeypatch, long_term={})
    execute(
        world, "CREATE SCHEMA elsewhere", HISTORY.format(action="ON DELETE CASCADE"),
        "ALTER TABLE team_performance_history SET SCHEMA elsewhere", "DELETE FROM elsewhere.team_performance_history",
    )  # fmt: skip
    teams = count(world, "teams", OLD["teams"])
    execute(world, "REVOKE pg_read_all_data FROM backup_restorer")
    try:
        clean_up(world)
    finally:
        execute(world, "GRANT pg_read_all_data TO backup_restorer")
    assert count(world, "teams", OLD["teams"]) == teams
    assert 'this login cannot read them; GRANT SELECT ON elsewhere.team_performance_history TO "backup_loader"' in report()
    clean_up(world)
    assert count(world, "teams", OLD["teams"]) == 0


SILENT = (
    "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
    "CREATE TRIGGER keeps BEFORE DELETE ON team_members FOR EACH ROW EXECUTE FUNCTION keep()",
)


@long
@pytest.mark.parametrize(
    ("triggers", "said"),
    [(SILENT, "suppressed by a BEFORE DELETE trigger, on it or on a dependent row"),
     (GREEDY, "1 rows of public.policy_scopes would be deleted too, a table that the rule does not name; "
      "add public.policy_scopes to the rule's `children`")],
    ids=["keeps", "takes more"],
)  # fmt: skip
def test_triggers_that_do_otherwise_than_was_meant_keep_rows(world: World, triggers: tuple[str, ...], said: str) -> None:
    old, scopes = count(world, "team_members", OLD["team_members"]), count(world, "policy_scopes")
    execute(world, *triggers)
    clean_up(world)
    assert said in report(), report()
    assert (count(world, "team_members", OLD["team_members"]), count(world, "team_leaders", OLD["team_leaders"])) == (old, 0)
    assert count(world, "policy_scopes") >= scopes - 1


@pytest.mark.parametrize("step", [pytest.param(step, marks=long) for step in ("find_rows", "archive_rows")])
def test_a_row_that_changes_on_the_way_stays(world: World, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    edit_context(world, monkeypatch, clean_up=[rule for rule in rules() if rule["table"] == "team_leaders"])
    some = ask(world, f"SELECT id::text FROM team_leaders WHERE {OLD['team_leaders']} ORDER BY id LIMIT 2")
    (changed,), (back,) = some

    def act() -> None:
        execute(
            world, f"UPDATE team_leaders SET assigned_at = '2020-02-02' WHERE id = '{changed}'",
            f"UPDATE team_leaders SET removed_at = now() WHERE id = '{back}'",
        )  # fmt: skip

    with monkeypatch.context() as patch:
        acting(patch, step, act)
        clean_up(world)
    assert count(world, "team_leaders", f"id = '{back}'") == 1
    assert count(world, "team_leaders", "assigned_at = '2020-02-02'") == (1 if step == "archive_rows" else 0)
    if step == "archive_rows":
        reason = "1 rows of team_leaders: this row or a dependent row changed since it was archived, by another session"
        assert reason in report() and changed in report()
    clean_up(world)
    assert count(world, "team_leaders", OLD["team_leaders"]) == 0
    # The newest set has the row as it was at last.
    bring_back(world, clean_up_sets(world)["team_leaders"][-1]["id"])
    assert count(world, "team_leaders", "assigned_at = '2020-02-02'") == 1


@long
def test_what_comes_to_hang_on_a_row_on_the_way_keeps_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    team = ask(world, f"SELECT {A_TEAM}::text")[0][0]

    def act() -> None:
        execute(
            world, "INSERT INTO policy_scopes (policy_id, target_type, target_id, status) "
            f"SELECT id, 'team', '{team}', 'active' FROM governance_policies ORDER BY id LIMIT 1",
        )  # fmt: skip

    edit_context(world, monkeypatch, clean_up=[rule for rule in rules() if rule["table"] == "teams"])
    with monkeypatch.context() as patch:
        acting(patch, "archive_rows", act)
        clean_up(world)
    assert count(world, "teams", f"id = '{team}'") == 1
    clean_up(world)
    assert (count(world, "teams", OLD["teams"]), count(world, "policy_scopes", f"target_id = '{team}'")) == (0, 0)


@pytest.mark.long
def test_rows_that_others_work_on_are_passed_over(world: World) -> None:
    with world.connect() as connection, connection.transaction():
        key = connection.execute(
            f"SELECT id::text FROM team_leaders WHERE {OLD['team_leaders']} ORDER BY id LIMIT 1 FOR UPDATE".encode()
        ).fetchall()[0][0]
        with traffic(world.connect, ["UPDATE users SET name = name WHERE id = (SELECT id FROM users LIMIT 1)"]) as seen:
            clean_up(world)
    assert_nobody_waited(seen)
    assert ask(world, f"SELECT id::text FROM team_leaders WHERE {OLD['team_leaders']}") == [(key,)]
    clean_up(world)
    assert count(world, "team_leaders", OLD["team_leaders"]) == 0


@pytest.mark.parametrize(("found", "deleted"), [pytest.param(7, 3, marks=long), pytest.param(50, 100, marks=long)])
def test_many_rows_go_some_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch, found: int, deleted: int) -> None:
    hang(world)
    before = world.state()
    edit_context(world, monkeypatch, clean_up=[rule for rule in rules() if rule["table"] in ("teams", "team_leaders")])
    monkeypatch.setattr(clean_up_rules, "FOUND_ROWS", found)
    monkeypatch.setattr(delete, "BATCH_ROWS", deleted)
    planned = plan(world)
    assert "not known" not in planned
    clean_up(world)
    assert [count(world, table, OLD[table]) for table in ("team_leaders", "teams")] == [0, 0]
    sets_taken = clean_up_sets(world)
    assert all(rows_of(one)["team_leaders"] <= found + deleted for one in sets_taken["team_leaders"])
    for one in (*sets_taken["teams"], *sets_taken["team_leaders"]):
        bring_back(world, one["id"])
    assert before.differences(world.state(), views="recomputed") == []


DIE = """
import os, signal, sys
from tasks.clean_up import delete, rules, trial
where, step = sys.argv[1].split(".")
module = {"delete": delete, "rules": rules, "trial": trial}[where]
original = getattr(module, step)
count = [int(sys.argv[2])]
def die(*arguments, **more):
    found = original(*arguments, **more) if sys.argv[3] == "after" else None
    count[0] -= 1
    if not count[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return found if sys.argv[3] == "after" else original(*arguments, **more)
setattr(module, step, die)
from flows.retention import clean_up_old_data
clean_up_old_data(dry_run=False, confirm_database="consulting_tool")
"""
# A step, the how manieth time, and whether before or after it.
KILLS = [
    ("rules.find_rows", 1, "after"), ("rules.take_part", 1, "before"), ("rules.take_part", 1, "after"),
    ("rules.take_part", 4, "after"), ("rules._stage", 4, "after"), ("delete.remove", 2, "after"),
    ("trial._try_to_delete", 2, "after"), ("rules.finish_clean_up", 1, "before"), ("rules.finish_clean_up", 1, "after"),
    ("rules.finish_clean_up", 4, "before"), ("rules.vacuum", 1, "before"), ("rules.vacuum", 4, "after"),
]  # fmt: skip


@pytest.mark.parametrize(("step", "nth", "when"), [pytest.param(*one, marks=long) for one in KILLS])
def test_killed_it_loses_nothing_and_the_next_run_finishes(world: World, step: str, nth: int, when: str) -> None:
    hang(world)
    before = world.state()
    kept = local.bare_environment()
    environment = kept | world.environment(world.source, "backup_restorer")
    died = subprocess.run(
        [sys.executable, "-c", DIE, step, str(nth), when], cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    clean_up(world)
    assert [count(world, table, condition) for table, condition in OLD.items()] == [0, 0, 0, 0]
    found = clean_up_sets(world)
    folders = [world.store_folder / CONTEXT / "clean-up" / one["id"] for some in found.values() for one in some]
    assert all((folder / "cleaned-up.json").exists() for folder in folders)
    for table in ("teams", "organization_members", "team_members", "team_leaders"):
        for one in found[table]:
            bring_back(world, one["id"])
    assert before.differences(world.state(), views="recomputed") == []


FAILURES: dict[str, tuple[Any, str, Exception]] = {
    "the upload": (upload, "read_back", StoreUnavailable("no")),
    "the download": (stage, "require_list", DamagedSet("it is damaged")),
}


@long
@pytest.mark.parametrize("failure", FAILURES)
def test_what_fails_deletes_nothing(world: World, monkeypatch: pytest.MonkeyPatch, quick_retries: None, failure: str) -> None:
    module, name, error = FAILURES[failure]
    edit_context(world, monkeypatch, long_term={})
    before = world.state()

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        with pytest.raises(OperationError, match=f"FAIL: team_leaders: .*{error}"):
            clean_up(world)
    assert before.differences(world.state()) == []
    clean_up(world)
    assert [count(world, table, condition) for table, condition in OLD.items()] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        pytest.param({"table": "teams", "clock": "ended_at", "keep": "3 years"},
                     "teams: its `clock` column ended_at does not exist", marks=long),
        pytest.param({"table": "teams", "clock": "name", "keep": "3 years"},
                     "its `clock` column name is a character varying(200); name a column of", marks=long),
        ({"table": "teams", "clock": "deleted_at", "keep": "3 years", "condition": "no_such"}, 'column "no_such" does not exist'),
        pytest.param({"table": "teams", "clock": "deleted_at", "keep": "3 years", "children": ["governance_rules"]},
                     "governance_rules of context bc-004 has no foreign key to any of the rule's tables; add `where`", marks=long),
    ],
    ids=["no clock", "no time", "wrong condition", "no child"],
)  # fmt: skip
def test_a_rule_that_cannot_be_followed_stops_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch, rule: dict[str, Any], said: str
) -> None:
    edit_context(world, monkeypatch, clean_up=[rule, *rules()[:1]], long_term={})
    teams = count(world, "teams")
    for run in (plan, clean_up):
        with pytest.raises(OperationError) as error:
            run(world)
        assert said in str(error.value)
    assert (count(world, "team_leaders", OLD["team_leaders"]), count(world, "teams")) == (0, teams)


def test_who_may_not_delete_is_told(world: World) -> None:
    before = world.state()
    world.extra["BACKUP_LOADER_USER"] = "backup_reader"
    with pytest.raises(OperationError, match=r'"backup_reader".* member of pg_read_all_data'):
        world.run(clean_up_old_data, "backup_reader")
    assert before.differences(world.state()) == []


@pytest.mark.long
def test_some_of_them_come_back_with_what_hung_on_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hang(world)
    edit_context(world, monkeypatch, clean_up=rules()[-1:], long_term={})
    execute(
        world, "INSERT INTO policy_scopes (policy_id, target_type, target_id, status) "
        "SELECT p.id, 'team', t.id, 'active' FROM teams t "
        f"CROSS JOIN LATERAL (SELECT id FROM governance_policies ORDER BY id LIMIT 1) p WHERE {OLD['teams']}",
    )  # fmt: skip
    team, other = (row[0] for row in ask(world, f"SELECT id::text FROM teams WHERE {OLD['teams']} ORDER BY id LIMIT 2"))
    counted = " ".join(
        f"{word} (SELECT count(*) FROM {table} WHERE {column} = '{{0}}')"
        for word, table, column in (
            ("SELECT", "team_members", "team_id"), (",", "team_leaders", "team_id"), (",", "policy_scopes", "target_id")
        )
    )  # fmt: skip
    hanging = ask(world, counted.format(team))
    assert min(hanging[0]) > 0
    clean_up(world)
    assert ask(world, counted.format(team)) == [(0, 0, 0)]
    (one,) = clean_up_sets(world)["teams"]
    verdict = bring_back(world, one["id"], keys=[team])
    assert verdict.startswith(f"RESTORED: rows of teams from {one['id']} to database")
    assert (ask(world, counted.format(team)), count(world, "teams", f"id = '{team}'")) == (hanging, 1)
    assert (ask(world, counted.format(other)), count(world, "teams", OLD["teams"])) == ([(0, 0, 0)], 1)
    undo = report("restore").split("```\n")[1].removeprefix("python -m flows.restore ").replace("\\\n", " ").split()
    process = world.start("restore", undo[0], "backup_restorer", arguments=undo[1:])
    assert process.wait(timeout=300) == 0
    assert (ask(world, counted.format(team)), count(world, "teams", OLD["teams"])) == ([(0, 0, 0)], 0)
    # A row that is there is left as it is; one of a table alone comes back by the means of any other set.
    bring_back(world, one["id"], keys=f"id = '{team}'")
    execute(world, f"UPDATE teams SET purpose = 'another' WHERE id = '{team}'")
    assert bring_back(world, one["id"], keys=[team]).startswith("RESTORED: nothing differs")
    assert world.run(
        table_restore, "backup_restorer", table="teams", backup=one["id"], mode="missing", dry_run=False, confirm_database=DATABASE
    ).startswith("RESTORED: ")
    assert count(world, "teams", "purpose = 'another'") == 1
    world.run(table_restore, "backup_restorer", table="team_members", backup=one["id"])


@pytest.mark.long
def test_a_clean_up_set_is_never_taken_for_a_whole_one(world: World) -> None:
    clean_up(world)
    before = world.state()
    (one,) = clean_up_sets(world)["team_members"]
    words = {"dry_run": False, "confirm_database": DATABASE, "backup": one["id"]}
    for flow, more in ((full_restore, {"in_place": True}), (table_restore, {"table": "team_members", "mode": "replace"})):
        with pytest.raises(BadInput, match="has only rows that a clean-up deleted: mode replace would delete all others"):
            world.run(flow, "backup_restorer", **words, **more)
    with pytest.raises(
        OperationError, match=r"neither .* nor the database has a row of .*team_members with key number 1 of 1; correct keys"
    ):
        bring_back(world, one["id"], keys=["00000000-0000-0000-0000-000000000000"])
    world.backup()
    with pytest.raises(BadInput, match="backup latest: pass the id of the clean-up set that has the rows"):
        bring_back(world, "latest")
    (full,) = world.set_folders()
    with pytest.raises(BadInput, match="is not a clean-up set; name one"):
        bring_back(world, full.name)
    assert before.differences(world.state()) == []
    with pytest.raises(
        BadInput, match=r"has only some tables of the context \(team_members\), so it cannot be used for a disaster recovery"
    ):
        world.recover(backup=one["id"])
    assert world.recover().startswith("PASS")
    world.run(full_restore, "backup_restorer", backup=one["id"], target_database="beside")
    with world.source.connect("beside") as connection:
        rows = connection.execute("SELECT count(*) FROM team_members").fetchall()[0][0]
    assert rows == rows_of(one)["team_members"]


@pytest.mark.long
def test_cleaned_up_rows_are_not_lost_and_their_sets_stay(world: World) -> None:
    execute(
        world, "ALTER TABLE organization_members DISABLE TRIGGER USER",
        "UPDATE organization_members SET status = 'inactive', joined_at = '2019-01-01', left_at = '2020-01-01'",
        "ALTER TABLE organization_members ENABLE TRIGGER USER", "UPDATE organization_units SET member_count = 0",
    )  # fmt: skip
    world.backup()
    clean_up(world)
    assert count(world, "organization_members") == 0
    assert "FAILED" not in world.run(integrity_check, "backup_restorer")
    assert world.backup().startswith("STORED")
    with later(days=5000):
        assert str(world.run(prune_backups, "backup_restorer", dry_run=False)).startswith("PRUNED: ")
    kinds = [row["kind"] for row in world.run(list_backups, "backup_reader")]
    assert kinds.count("clean-up") == 4


@long
def test_the_long_term_backups_of_the_month_go_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def long_term_sets() -> list[str]:
        return [str(row["id"]) for row in world.run(list_backups, "backup_reader") if row["kind"] == "long-term"]

    plan(world)
    assert long_term_sets() == []
    clean_up(world)
    (first,) = long_term_sets()
    # By the seconds of when they began.
    assert first[-20:-5] <= min(one["id"][-20:-5] for some in clean_up_sets(world).values() for one in some)
    clean_up(world)
    assert long_term_sets() == [first]
    at(monkeypatch, "2099-01-01T03:00+09:00")
    with monkeypatch.context() as patch:
        # Its set is not of that month for a clock that is right: asked for again, it is taken again.
        patch.setattr(clean_up_rules, "clean_up", lambda *_: None)
        clean_up(world)
    assert len(long_term_sets()) == 2
