"""Another context is another folder: every flow works on a second one, of which nothing is in Python."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments import register
from deployments.local import LocalServer
from flows.backup import daily_backup, list_backups, long_term_backup
from flows.checks import integrity_check
from flows.partitions import archive_partitions, create_partitions, reattach_partition
from flows.recovery import disaster_recovery, recovery_drill
from flows.restore import full_restore, restore_cleaned_up, table_restore
from flows.retention import clean_up_old_data, prune_backups
from flows.views import refresh_views
from flows.watch import backup_report, verify_backups, watch_recovery_point
from tasks.core.context import CONTEXT_FILE, parse_context
from tasks.core.errors import OperationError
from tasks.core.run.clock import now
from tasks.run import site
from tests.support import PROJECT
from tests.support.blocks import delete_blocks, run_told_nothing
from tests.support.clock import at, later
from tests.support.database import ask, execute
from tests.support.example import CONTEXT, DATABASE
from tests.support.example import OUTBOUND_KEYS as KEYS_TO_USERS
from tests.support.migrations import give_users, migrate
from tests.support.oracle import State, capture, statements_of_all
from tests.support.reports import newest_report, report
from tests.support.restores import undo
from tests.support.servers import databases
from tests.support.world import World

long = pytest.mark.long

SECOND = "bc-005"
FOLDER = PROJECT / "tests" / "contexts"
DEFINITION = parse_context((FOLDER / SECOND / CONTEXT_FILE).read_text(encoding="utf-8"), SECOND)


def spelled(name: str) -> str:
    """Return a name of the context as SQL writes it."""
    return f"{DEFINITION.namespace}.{name}" if re.fullmatch("[a-z_]+", name) else f'{DEFINITION.namespace}."{name}"'


TABLES = [spelled(name) for name in DEFINITION.tables]
# To BC-003's users and to BC-004's teams and organizations: what a recovery by itself may leave out.
OUTBOUND_KEYS = [
    "performance.calibration_members.members_user_fkey", "performance.calibration_sessions.sessions_organization_fkey",
    "performance.evaluations.evaluations_evaluator_fkey", "performance.feedback_events.feedback_giver_fkey",
    "performance.goals.goals_team_fkey", "performance.goals.goals_user_fkey", "performance.promotions.promotions_team_fkey",
    "performance.promotions.promotions_user_fkey", "performance.review_cycles.cycles_organization_fkey",
    "performance.評価コメント.コメント の 著者",
]  # fmt: skip


def add_second(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Make a second context in the database of BC-004, and a folder for each."""
    contexts = world.folder / "contexts"
    shutil.copytree(site.CONTEXTS, contexts)
    shutil.copytree(FOLDER / SECOND, contexts / SECOND)
    monkeypatch.setattr(site, "CONTEXTS", contexts)
    monkeypatch.setattr(register, "CONTEXTS", contexts)
    world.source.run_script(FOLDER / f"{SECOND}.sql", world.database)
    return world


@pytest.fixture
def both(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The database of BC-004 with a second context in it, and a folder for each."""
    return add_second(world, monkeypatch)


@pytest.fixture
def stored(both: World) -> World:
    """The same with a backup of the second context."""
    both.backup(context=SECOND)
    return both


def state(world: World, server: LocalServer | None = None, database: str | None = None) -> State:
    """Return what the oracle sees of the second context."""
    server = server or world.source
    return capture(server.conninfo(database or world.database), bin_dir=server.bin, tables=TABLES)


def unlike(before: State, after: State, *missing_keys: str) -> list[str]:
    return before.differences(after, ignore_foreign_keys=missing_keys, views="recomputed")


def run(world: World, flow: Any, user: str = "backup_restorer", server: LocalServer | None = None, **parameters: Any) -> str:
    return str(world.run(flow, user, server, context=SECOND, **parameters))


def change(world: World, flow: Any, **parameters: Any) -> str:
    """Run a flow that changes live rows, and has to be told that this is meant."""
    return run(world, flow, dry_run=False, confirm_database=DATABASE, **parameters)


def test_lost_and_recovered(both: World) -> None:
    before, neighbours = state(both), both.state()
    assert both.backup(context=SECOND).startswith("STORED: bc-005_full_")
    assert both.recover(context=SECOND).startswith("PASS")
    after = state(both, both.target)
    assert unlike(before, after, *OUTBOUND_KEYS) == []
    assert after.outside == ()
    assert neighbours.differences(both.state()) == []
    # What is missing is told: the keys to three tables, and which.
    to_do = report(both, f"{SECOND}-recovery").split("## Still to do")[1].split("\n## ")[0]
    assert to_do.count("foreign key ") == len(OUTBOUND_KEYS)
    for table, keys in (("users", 6), ("teams", 2), ("organizations", 2)):
        assert to_do.count(f"to public.{table} (another context)") == keys


# Both contexts onto an empty server, in either order


def whole(world: World, server: LocalServer) -> dict[str, str]:
    """Return all that pg_dump prints of a database."""
    return statements_of_all(server.conninfo(DATABASE), bin_dir=server.bin)


def keys(world: World, server: LocalServer) -> list[tuple[str, str, str]]:
    """Return every key of both contexts; checks are spelled otherwise once they were restored, which the oracle knows."""
    with world.connect(server) as connection:
        connection.execute("SET search_path = pg_catalog")
        return connection.execute(
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) || CASE WHEN convalidated THEN '' ELSE '!' END "
            "FROM pg_constraint WHERE conrelid <> 0 AND connamespace IN ('public'::regnamespace, 'performance'::regnamespace) "
            "AND contype IN ('f', 'p', 'u', 'x') AND NOT (contype = 'f' AND conparentid <> 0) ORDER BY 1, 2"
        ).fetchall()


@long
@pytest.mark.parametrize("order", [(CONTEXT, SECOND), (SECOND, CONTEXT)], ids=" then ".join)
@pytest.mark.parametrize("users", ["before", "after"])
def test_both_onto_an_empty_server(both: World, order: tuple[str, str], users: str) -> None:
    before, source = {CONTEXT: both.state(), SECOND: state(both)}, whole(both, both.source)
    for context in order:
        both.backup(context=context)
    if users == "before":
        both.target.create_database(DATABASE, "consulting_owner")
        give_users(both)
    for context in order:
        assert both.recover(context=context).startswith("PASS")
    if users == "after":
        give_users(both)
    for context in order:
        made = both.run(disaster_recovery, "backup_restorer", both.target, context=context, resume="constraints")
        assert re.fullmatch(r"PASS: (\d+) of \1 foreign keys exist, \d+ created now", made)
    assert keys(both, both.target) == keys(both, both.source)
    assert whole(both, both.target) == source
    assert unlike(before[CONTEXT], both.state(both.target)) == []
    assert unlike(before[SECOND], state(both, both.target)) == []


@long
@pytest.mark.parametrize("order", [(CONTEXT, SECOND), (SECOND, CONTEXT)], ids=" then ".join)
def test_both_into_what_migrations_made(both: World, order: tuple[str, str]) -> None:
    """All tables are there and empty, with keys from one context to the other."""
    before, source = {CONTEXT: both.state(), SECOND: state(both)}, whole(both, both.source)
    for context in order:
        both.backup(context=context)
    both.target.create_database(DATABASE, "consulting_owner")
    migrate(both)
    for context in order:
        assert both.recover(context=context).startswith("PASS")
    for context in order:
        made = both.run(disaster_recovery, "backup_restorer", both.target, context=context, resume="constraints")
        assert made.startswith("PASS")
    assert keys(both, both.target) == keys(both, both.source)
    assert whole(both, both.target) == source
    assert unlike(before[CONTEXT], both.state(both.target)) == []
    assert unlike(before[SECOND], state(both, both.target)) == []


@long
@pytest.mark.parametrize("any_version", [16, 15, 18], indirect=True)
def test_another_major_version(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = add_second(any_version, monkeypatch)
    before = state(world)
    world.backup(context=SECOND)
    assert run(world, full_restore, target_database="beside").startswith("PASS")
    assert unlike(before, state(world, database="beside"), *OUTBOUND_KEYS) == []
    assert run(world, recovery_drill).startswith("PASS")
    execute(world, *[one for one in DAMAGE if "average_progress" not in one])
    assert change(world, full_restore, in_place=True).startswith("RESTORED")
    assert unlike(before, state(world)) == []
    assert run(world, refresh_views).startswith("REFRESHED")
    at(monkeypatch, "2026-12-15T03:00+09:00")
    assert change(world, clean_up_old_data).startswith("CLEANED UP")
    assert ask(world, DOOMED) == [(0, 0, 0, 0)]


@long
def test_each_alone_says_what_is_missing(both: World) -> None:
    for context, missing in ((CONTEXT, KEYS_TO_USERS), (SECOND, OUTBOUND_KEYS)):
        both.backup(context=context)
        (manifest,) = both.store_folder.glob(f"{context}/daily/*/manifest.json")
        # Each knows what the other looks after.
        assert json.loads(manifest.read_bytes())["manifest"]["warnings"] == []
        assert both.recover(context=context, target_database=f"only_{context}").startswith("PASS")
        told = report(both, f"{context}-recovery").split("## Still to do")[1].split("\n## ")[0]
        assert all(key.rpartition(".")[2] in told for key in missing)
        with pytest.raises(OperationError, match=r"FAIL: .*public\.users does not exist"):
            both.run(
                disaster_recovery, "backup_restorer", both.target, context=context, target_database=f"only_{context}",
                resume="constraints",
            )  # fmt: skip


# Rows, lost and brought back


# An application's session finds its tables by their bare names.
SESSION = "SET search_path = performance, public"
DAMAGE = [
    SESSION, 'DELETE FROM performance."Feedback 2026-03"', "UPDATE performance.goals SET title = 'wrong' WHERE number < 3000",
    "DELETE FROM performance.evaluation_scores WHERE score < 2", "TRUNCATE performance.change_log",
    "ALTER TABLE performance.goals DROP CONSTRAINT goals_team_fkey", 'DROP INDEX performance."Review Items by title"',
    'DROP TABLE performance."評価コメント"', "DROP FUNCTION performance.average_progress",
    "DROP MATERIALIZED VIEW performance.mv_a_ranking",
    "UPDATE performance.feedback_events SET happened_at = happened_at + interval '1 month' WHERE happened_at < '2026-01-10'",
]  # fmt: skip

# Views that read others are compared by what these hold.
REFRESHED = [f"REFRESH MATERIALIZED VIEW performance.mv_{name}" for name in ("goal_scores", "user_scores", "a_ranking")]


@long
def test_damage_in_place_is_undone(stored: World) -> None:
    before, neighbours = state(stored), stored.state()
    execute(stored, *DAMAGE)
    damaged = state(stored)
    assert run(stored, full_restore, in_place=True).startswith("PLANNED, nothing touched: ")
    assert dict(damaged.rows) == dict(state(stored).rows)
    assert change(stored, full_restore, in_place=True).startswith("RESTORED")
    assert unlike(before, state(stored)) == []
    assert neighbours.differences(stored.state()) == []


@long
def test_beside_and_the_undo(stored: World) -> None:
    before = state(stored)
    assert run(stored, full_restore, target_database="beside").startswith("PASS")
    assert unlike(before, state(stored, database="beside"), *OUTBOUND_KEYS) == []
    execute(stored, *DAMAGE[:5], *REFRESHED)
    damaged = state(stored)
    assert change(stored, full_restore, in_place=True).startswith("RESTORED")
    assert undo(stored, SECOND) == ["all"]
    assert unlike(damaged, state(stored)) == []


def rows(world: World, table: str) -> list[str]:
    return [row[0] for row in ask(world, f"SELECT r::text FROM performance.{table} r ORDER BY 1")]


ODD = '"Review Items"'


@pytest.mark.long
def test_an_oddly_named_table(stored: World) -> None:
    before, all_rows = state(stored), rows(stored, ODD)
    execute(
        stored, SESSION, f'DELETE FROM performance.{ODD} WHERE "Item No" = 533', f"UPDATE performance.{ODD} SET weight = 0.9 "
        'WHERE "Item No" = 540', f"INSERT INTO performance.{ODD} (template_id, \"Title; 題名\", weight) SELECT id, 'new', 0 "
        "FROM performance.review_templates ORDER BY id LIMIT 1",
    )  # fmt: skip
    said = run(stored, table_restore, table="Review Items")
    (name,) = re.findall(r'"performance"\.("Review Items_restored_\d{8}_\d{6}")', said)
    assert rows(stored, name) == all_rows
    execute(stored, f"DROP TABLE performance.{name}")
    assert change(stored, table_restore, table="Review Items", mode="missing", keys=[533]).startswith("RESTORED")
    merged = change(stored, table_restore, table="performance.Review Items", mode="merge", keys='"Item No" = 540')
    assert merged.startswith("RESTORED")
    assert len(rows(stored, ODD)) == len(all_rows) + 1
    assert change(stored, table_restore, table=ODD, mode="replace").startswith("RESTORED")
    assert rows(stored, ODD) == all_rows
    # Counters that triggers keep are mended by the repair of a check.
    assert unlike(before, state(stored)) == []


@pytest.mark.parametrize(
    ("table", "damage", "mode"),
    [
        pytest.param("Feedback 2026-03", 'DELETE FROM performance."Feedback 2026-03"', "missing", marks=long),
        pytest.param("feedback_events", "UPDATE performance.feedback_events SET tags = '{x}', payload = NULL", "merge", marks=long),
        pytest.param("change_log", "DELETE FROM performance.change_log WHERE what < 'line 3'", "replace", marks=long),
        pytest.param("goal_progress", "DELETE FROM performance.goal_progress WHERE percent < 40", "missing", marks=long),
        pytest.param("評価コメント", 'DROP TABLE performance."評価コメント"', "missing", marks=long),
        pytest.param("goals", "UPDATE performance.goals SET parent_goal_id = NULL, team_id = NULL", "replace", marks=long),
    ],
)
def test_one_table(stored: World, table: str, damage: str, mode: str) -> None:
    before = state(stored)
    execute(stored, SESSION, "SET session_replication_role = replica", damage)
    assert unlike(before, state(stored)) != []
    logged = rows(stored, "change_log")
    assert change(stored, table_restore, table=table, mode=mode).startswith("RESTORED")
    left = [one for one in unlike(before, state(stored)) if table == "change_log" or "change_log" not in one]
    assert left == []
    # No trigger fired.
    assert table == "change_log" or rows(stored, "change_log") == logged


@long
def test_rows_of_the_other_context_are_brought_by_nobody(stored: World) -> None:
    """A row whose team is gone cannot come back without it, and says so."""
    execute(
        stored, "UPDATE performance.goals SET team_id = NULL", "DELETE FROM performance.promotions p USING team_leaders l "
        "WHERE false", "ALTER TABLE performance.promotions DISABLE TRIGGER ALL", "ALTER TABLE teams DISABLE TRIGGER ALL",
        "DELETE FROM performance.promotion_steps", "DELETE FROM performance.promotions", "DELETE FROM teams",
        "ALTER TABLE teams ENABLE TRIGGER ALL", "ALTER TABLE performance.promotions ENABLE TRIGGER ALL",
    )  # fmt: skip
    before = state(stored)
    with pytest.raises(OperationError, match=r"public\.teams"):
        change(stored, table_restore, table="promotions", mode="missing", include_parents=True)
    assert before.differences(state(stored)) == []


@long
def test_what_bc_004_restores_acts_on_nothing_of_the_second(both: World) -> None:
    both.backup()
    execute(
        both, "INSERT INTO teams SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(), 'name', 'newer'))).* "
        "FROM teams t LIMIT 1", "UPDATE performance.goals SET team_id = (SELECT id FROM teams WHERE name = 'newer') "
        "WHERE number < 2000",
    )  # fmt: skip
    before = state(both)
    words = {"in_place": True, "dry_run": False, "confirm_database": DATABASE}
    with pytest.raises(OperationError, match=r"goals_team_fkey of performance\.goals \(ON DELETE SET NULL\): 100 rows refer"):
        both.run(full_restore, "backup_restorer", **words)
    assert before.differences(state(both)) == []
    assert str(both.run(full_restore, "backup_restorer", **words, accept_effects_on_others=True)).startswith("RESTORED")
    assert ask(both, "SELECT count(*) FROM performance.goals WHERE team_id IS NULL AND number < 2000") == [(100,)]


# Backups of every kind, and what becomes of them


def listed(world: World) -> dict[str, str]:
    """Return kind and state of each set by its id."""
    return {str(one["id"]): f"{one['kind']} {one['state']}" for one in world.run(list_backups, "backup_reader", context=SECOND)}


@long
def test_a_differential_in_time(stored: World) -> None:
    reader = {"user": "backup_reader"}
    # Within the objective of an hour.
    assert run(stored, watch_recovery_point, **reader).startswith("PASS: bc-005_full_")
    execute(stored, SESSION, *DAMAGE[2:4], *DAMAGE[-1:], "UPDATE performance.rating_scales SET icon = '\\x00' WHERE id = 2",
            "SELECT nextval('performance.goal_number')", *REFRESHED)  # fmt: skip
    before = state(stored)
    in_time = (now() + timedelta(minutes=40)).isoformat()
    said = run(stored, watch_recovery_point, **reader, as_of=in_time)
    assert "a differential was due: STORED: bc-005_differential_" in said
    assert run(stored, verify_backups, **reader, fraction=1.0).startswith("PASS")
    assert sorted(listed(stored).values()) == ["differential decoded", "full decoded"]
    assert run(stored, backup_report, **reader).startswith("30 days: 1 full, 1 differential, ")
    assert stored.recover(context=SECOND).startswith("PASS")
    assert unlike(before, state(stored, stored.target), *OUTBOUND_KEYS) == []


@long
def test_retention_of_its_own(stored: World) -> None:
    """Fulls for 14 days, differentials for 3, one long-term job for 7 years and one for 10; BC-004's sets are another matter."""
    stored.backup()
    stored.differential(context=SECOND)
    stored.backup(context=SECOND)
    for job in ("evaluations", "promotions"):
        assert run(stored, long_term_backup, "backup_reader", name=job).startswith(f"STORED: bc-005_{job}_")
    with pytest.raises(OperationError, match='no long-term job "violations"; it has: evaluations, promotions'):
        run(stored, long_term_backup, "backup_reader", name="violations")
    of_bc_004 = sorted(path.relative_to(stored.store_folder) for path in (stored.store_folder / CONTEXT).rglob("*"))

    def kept(**passed: float) -> list[str]:
        with later(**passed):
            run(stored, prune_backups, "backup_reader", dry_run=False)
        return sorted(kind for kind in listed(stored).values() if not kind.endswith("expired"))

    full, term = "full stored", "long-term stored"
    assert kept(days=2) == ["differential stored", full, full, term, term]
    assert kept(days=4) == [full, full, term, term]
    assert kept(days=15) == [full, term, term]
    assert kept(days=6.9 * 365.25) == [full, term, term]
    assert kept(days=7.1 * 365.25) == [full, term]
    assert kept(days=9.9 * 365.25) == [full, term]
    assert kept(days=10.1 * 365.25) == [full]
    assert of_bc_004 == sorted(path.relative_to(stored.store_folder) for path in (stored.store_folder / CONTEXT).rglob("*"))


@long
def test_a_long_term_set_is_restored(both: World) -> None:
    before = rows(both, ODD), rows(both, "promotion_steps")
    run(both, long_term_backup, "backup_reader", name="promotions")
    (backup,) = listed(both)
    execute(both, SESSION, f"UPDATE performance.{ODD} SET weight = 0", "DELETE FROM performance.promotion_steps")
    for table in ("Review Items", "promotion_steps"):
        assert change(both, table_restore, table=table, mode="replace", backup=backup).startswith("RESTORED")
    assert (rows(both, ODD), rows(both, "promotion_steps")) == before


@long
def test_a_drill(stored: World) -> None:
    assert run(stored, recovery_drill).startswith("PASS: RTO 0:")
    assert databases(stored.source) == {DATABASE}
    assert list(listed(stored).values()) == ["full drilled"]
    told = newest_report(stored, f"{SECOND}-drill")
    assert re.search(r"\| recovery time \(RTO\) \| 0:\d\d:\d\d \| 2:00:00 \|", told)
    for trigger, events in (("goals_updated", 1), ("progress_rolls_up", 3), ("Items, counted", 3), ("feedback_fingerprint", 2)):
        assert told.count(f"| {trigger} | ran |") == events


# Partitions by month


def leaves(world: World, table: str) -> dict[str, str]:
    """Return the bounds of a table's partitions by their names."""
    with world.connect() as connection:
        connection.execute("SET timezone = 'UTC'")
        return dict(
            connection.execute(
                "SELECT c.relname::text, pg_get_expr(c.relpartbound, c.oid) FROM pg_class c JOIN pg_inherits i "
                "ON i.inhrelid = c.oid WHERE i.inhparent = %s::regclass ORDER BY 1", [f"performance.{table}"],
            ).fetchall()
        )  # fmt: skip


@long
def test_partitions_are_made_by_month(both: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "2026-12-15T05:00+09:00")
    before, neighbours = state(both), both.state()
    execute(both, 'DROP TABLE performance."Feedback 2026-11"')
    assert run(both, create_partitions) == "PASS: created evaluations_2027_01, Feedback 2026-11, Feedback 2027-01"
    assert leaves(both, "evaluations")["evaluations_2027_01"] == "FOR VALUES FROM ('2027-01-01') TO ('2027-02-01')"
    bound = "FOR VALUES FROM ('2026-12-31 15:00:00+00') TO ('2027-01-31 15:00:00+00')"
    assert leaves(both, "feedback_events")["Feedback 2027-01"] == bound
    execute(both, "ALTER TABLE performance.evaluations DETACH PARTITION performance.evaluations_2027_01",
            'DROP TABLE performance.evaluations_2027_01, performance."Feedback 2027-01"')  # fmt: skip
    assert unlike(before, state(both)) == []
    assert neighbours.differences(both.state()) == []


@long
def test_partitions_are_archived_and_brought_back(both: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "2026-09-15T05:00+09:00")
    before, neighbours = state(both), both.state()
    old = ["Feedback 2026-01", "Feedback 2026-02"]
    planned = f"PLANNED, nothing touched: {', '.join(old)} would be archived and dropped"
    assert run(both, archive_partitions) == planned
    assert change(both, archive_partitions) == f"ARCHIVED: {', '.join(old)} archived and dropped"
    assert not set(old) & leaves(both, "feedback_events").keys()
    # An archive is no backup that the database could have lost something of.
    assert run(both, integrity_check, "backup_reader").startswith("PASS")
    for month in ("2026-02", "2026-01"):
        said = run(both, reattach_partition, year=month, table="feedback_events")
        assert said.startswith(f"ATTACHED: performance.Feedback {month} with ")
    assert before.differences(state(both)) == []
    assert neighbours.differences(both.state()) == []


@long
def test_a_month_that_rows_hold_or_a_key_needs_stays(both: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "2026-12-15T05:00+09:00")
    execute(both, *(f'DROP TABLE performance."Feedback 2026-{month:02}"' for month in range(1, 6)),
            "UPDATE performance.evaluations SET state = 'open' WHERE evaluated_on = '2026-01-15'")  # fmt: skip
    before = state(both)
    assert change(both, archive_partitions) == "ARCHIVED: evaluations_2026_01 archived, kept because of rows that hold it"
    execute(both, "UPDATE performance.evaluations SET state = 'closed'")
    before = state(both)
    with pytest.raises(OperationError, match=r"evaluations_2026_01 stays: .*scores_evaluation_fkey"):
        change(both, archive_partitions)
    assert before.differences(state(both)) == []


@long
def test_an_archived_month_beside_the_living(both: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "2026-08-15T05:00+09:00")
    kept = rows(both, '"Feedback 2026-01"')
    change(both, archive_partitions)
    said = run(both, reattach_partition, year="2026-01", table="feedback_events", mode="side-by-side")
    (name,) = re.findall(r'"performance"\.("Feedback 2026-01_restored_\d{8}_\d{6}")', said)
    assert rows(both, name) == kept


# Checks, blocks, stock tools


@pytest.mark.long
def test_checks_of_its_own(stored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "2026-10-31T05:00+09:00")
    assert run(stored, integrity_check, "backup_reader").startswith("PASS")
    execute(
        stored, "UPDATE performance.goals SET progress = 1 WHERE number = 1010", "UPDATE performance.evaluations e "
        "SET evaluator_id = g.user_id FROM performance.goals g WHERE g.id = e.goal_id AND g.number = 1020",
        "ALTER TABLE performance.goals DISABLE TRIGGER goals_updated", 'DROP TABLE performance."Feedback 2026-12"',
    )  # fmt: skip
    with pytest.raises(OperationError) as error:
        run(stored, integrity_check, "backup_reader")
    said = str(error.value)
    for check in ("goal_progress_average", "evaluated_by_another", "triggers enabled", "objects of the newest backup"):
        assert check in said


@pytest.fixture
def registered(both: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The second context as blocks alone: its folder is gone once it is registered."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in both.environment(both.source, "backup_restorer").items():
            patch.setenv(name, value)
        assert list(register.register(SECOND))
    shutil.rmtree(site.CONTEXTS / SECOND)
    yield both
    delete_blocks(f"bounded-context/{SECOND}", f"sqlalchemy-connector/{SECOND}", f"local-file-system/{SECOND}")


@long
def test_stock_tools_are_enough(stored: World) -> None:
    before = state(stored)
    (folder,) = stored.store_folder.glob(f"{SECOND}/daily/*")
    zstd = Path(shutil.which("zstd") or pytest.skip("the zstd program is not installed"))
    environment = stored.target.environment() | {"PATH": f"{stored.target.bin}:{zstd.parent}:/usr/bin:/bin"}
    argv = ["bash", str(folder / "restore.sh"), "by hand"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert unlike(before, state(stored, stored.target, "by hand"), *OUTBOUND_KEYS) == []


@long
def test_blocks_are_enough(registered: World) -> None:
    before = state(registered)
    assert run_told_nothing(registered, daily_backup, context=SECOND).startswith("STORED")
    assert run_told_nothing(registered, integrity_check, context=SECOND)
    assert run_told_nothing(registered, full_restore, context=SECOND, target_database="beside").startswith("PASS")
    assert unlike(before, state(registered, database="beside"), *OUTBOUND_KEYS) == []


# Views and old rows

# What hangs on goals that were deleted: their own goals, and so on.
DOOMED = """
WITH RECURSIVE doomed (id) AS (
    SELECT id FROM performance.goals WHERE deleted_at < '2026-10-15 00:00+09'
    UNION SELECT g.id FROM performance.goals g JOIN doomed d ON g.parent_goal_id = d.id)
SELECT (SELECT count(*) FROM doomed), (SELECT count(*) FROM performance.goal_progress WHERE goal_id IN (SELECT id FROM doomed)),
       (SELECT count(*) FROM performance.evaluations WHERE goal_id IN (SELECT id FROM doomed)),
       (SELECT count(*) FROM performance.feedback_events WHERE goal_id IN (SELECT id FROM doomed))"""


@long
def test_views_that_read_each_other(both: World) -> None:
    execute(both, "UPDATE performance.goals SET weight = 0.25 WHERE weight = 0.5")
    assert run(both, refresh_views).startswith("REFRESHED: ")
    after = state(both)
    assert len(after.views) == 4
    assert all(view.stored == view.recomputed for view in after.views.values())


def cleaned_up(world: World) -> list[tuple[str, dict[str, int]]]:
    """Return ids of the clean-up sets, oldest first, with the rows that each has of each table."""
    found = list[tuple[str, dict[str, int]]]()
    for path in sorted(world.store_folder.glob(f"{SECOND}/clean-up/*/manifest.json")):
        manifest, rows = json.loads(path.read_text("utf-8"))["manifest"], dict[str, int]()
        for one in manifest["relations"]:
            table = (one["parent"] or one["name"]).removeprefix("performance.")
            rows[table] = rows.get(table, 0) + one["rows"]
        found.append((manifest["id"], rows))
    return found


@long
def test_old_rows_go_and_come_back(both: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """From trees, partitions and tables with keys of several columns, by clocks of each type."""
    at(monkeypatch, "2026-12-15T03:00+09:00")
    before, neighbours = state(both), both.state()
    goals, progress, evaluations, feedback = ask(both, DOOMED)[0]
    old = "happened_at < '2026-07-15 00:00+09' AND tags = '{}'"
    other_feedback = ask(both, f"SELECT count(*) FROM performance.feedback_events WHERE {old}")[0][0]
    low = "reported_on < '2026-03-15' AND percent < 15 AND evidence IS NOT NULL"
    held = ask(both, f"SELECT count(*) FROM performance.goal_progress WHERE {low}")
    planned = run(both, clean_up_old_data)
    assert unlike(before, state(both)) == []
    done = change(both, clean_up_old_data)
    assert f"{goals} rows of performance.goals" in done and f"{goals} rows of performance.goals" in planned
    assert f"{held[0][0]} rows of goal_progress: held: evidence IS NOT NULL" in report(both, f"{SECOND}-clean-up")
    found = cleaned_up(both)
    (tree,) = [rows for _, rows in found if "goals" in rows]
    # What another rule took before is not there any more.
    assert (tree["goals"], tree["evaluations"]) == (goals, evaluations)
    assert sum(rows.get("feedback_events", 0) for _, rows in found) >= max(feedback, other_feedback)
    assert progress >= tree["goal_progress"] > 0 and min(rows.get("promotions", 1) for _, rows in found) > 0
    assert ask(both, f"SELECT count(*) FROM performance.feedback_events WHERE {old}") == [(0,)]
    assert ask(both, DOOMED) == [(0, 0, 0, 0)]
    for name, _ in reversed(found):
        assert change(both, restore_cleaned_up, backup=name).startswith("RESTORED")
    assert ask(both, DOOMED) == [(goals, progress, evaluations, feedback)]
    # Triggers computed what goals derive from rows that went, and wrote a log.
    derived = ("rows of performance.goals:", "rows of performance.change_log:")
    assert [one for one in unlike(before, state(both)) if not one.startswith(derived)] == []
    assert neighbours.differences(both.state()) == []
