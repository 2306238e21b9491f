"""While rows of the living are restored: who waits and who does not, what others keep, and failures that change nothing."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from flows.restore import full_restore
from tasks.core.errors import BadInput, OperationError, RestoreDiffers
from tasks.core.rows import stream
from tasks.in_place import apply, safety_set, write
from tests.support.database import ask, count, execute, unlike
from tests.support.example import DATABASE
from tests.support.faults import wait_for
from tests.support.moments import SECONDS
from tests.support.oracle import statements_of_all
from tests.support.reports import newest_report
from tests.support.restores import DAMAGE, plan, restore
from tests.support.world import World

long = pytest.mark.long

OTHERS = [
    "CREATE SCHEMA bc005",
    "CREATE TABLE bc005.reviews (id int PRIMARY KEY, team_id uuid REFERENCES teams, note text)",
    "CREATE TABLE bc005.notes (id int PRIMARY KEY, team_id uuid REFERENCES teams ON DELETE CASCADE, note text)",
    "CREATE TABLE bc005.links (id int PRIMARY KEY, team_id uuid REFERENCES teams ON DELETE SET NULL, note text)",
    "CREATE VIEW bc005.team_names AS SELECT t.id, t.name FROM public.teams t",
    "COMMENT ON VIEW bc005.team_names IS 'of others'", "GRANT SELECT ON bc005.team_names TO consulting_app",
    "CREATE PUBLICATION of_others FOR TABLE teams",
    *(f"INSERT INTO bc005.{name} SELECT row_number() OVER (), id, 'kept' FROM teams" for name in ("reviews", "notes", "links")),
]  # fmt: skip


def of_others(world: World) -> list[tuple[Any, ...]]:
    return ask(
        world,
        "SELECT t, md5(string_agg(r, '|' ORDER BY r)) FROM (SELECT 'reviews' AS t, x::text AS r FROM bc005.reviews x UNION ALL "
        "SELECT 'notes', x::text FROM bc005.notes x UNION ALL SELECT 'links', x::text FROM bc005.links x "
        "UNION ALL SELECT 'users', x::text FROM users x) AS all_of_them GROUP BY 1 ORDER BY 1",
    )


def schema_of_all(world: World) -> dict[str, str]:
    return statements_of_all(world.source.conninfo(world.database), bin_dir=world.source.bin)


@contextmanager
def at_comparison(world: World, act: Callable[[], object]) -> Iterator[None]:
    """Do something when everything is written and locked, and nothing committed."""
    read, done = stream.digest_relation, list[bool]()

    def acting(*arguments: Any) -> Any:
        if not done:
            done.append(True)
            act()
        return read(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "digest_relation", acting)
        yield
    assert done


def at_once(world: World, *statements: str) -> None:
    """Run statements of others, none of which may wait for long."""
    with world.connect() as connection:
        connection.execute("SET lock_timeout = '2s'")
        for statement in statements:
            print("AT ONCE", statement)
            connection.execute(statement.encode())


@long
def test_readers_and_others_do_not_wait(world: World) -> None:
    execute(world, *OTHERS)
    before, schema = world.state(), schema_of_all(world)
    world.backup()
    execute(world, *DAMAGE["rows deleted and changed"], *DAMAGE["unique values exchanged"], "UPDATE users SET name = name")
    kept = of_others(world)
    seen = list[str]()

    def act() -> None:
        tables = [row[0] for row in ask(world, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        at_once(world, *(f"SELECT count(*) FROM {name}" for name in tables), "SELECT count(*) FROM mv_team_statistics")
        at_once(
            world, "UPDATE users SET name = name", "UPDATE bc005.notes SET note = 'kept'",
            "INSERT INTO bc005.reviews SELECT -1, id, 'new' FROM teams ORDER BY id LIMIT 1",
            "DELETE FROM bc005.reviews WHERE id = -1",
        )  # fmt: skip
        with pytest.raises(psycopg.errors.LockNotAvailable):
            at_once(world, "UPDATE teams SET purpose = 'later' WHERE false")
        seen.append("all of them")

    with at_comparison(world, act):
        assert restore(world).startswith("RESTORED")
    assert seen == ["all of them"]
    assert unlike(before, world.state()) == []
    assert of_others(world) == kept
    assert schema_of_all(world) == schema


@long
def test_rows_that_others_refer_to(world: World) -> None:
    execute(world, *OTHERS)
    before = world.state()
    world.backup()
    execute(
        world,
        "INSERT INTO teams SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(), 'name', 'newer'))).* "
        "FROM teams t LIMIT 1",
        *(f"INSERT INTO bc005.{name} SELECT 1000, id, 'of the newer' FROM teams WHERE name = 'newer'"
          for name in ("reviews", "notes", "links")),
    )  # fmt: skip
    kept = of_others(world)
    for parameters in ({}, {"accept_effects_on_others": True}):
        with pytest.raises(OperationError, match=r"reviews.*\(ON DELETE NO ACTION\): 1 rows refer to rows that would be deleted"):
            plan(world, **parameters)
        with pytest.raises(OperationError, match=r"1 rows refer to rows that would be deleted"):
            restore(world, **parameters)
    execute(world, "DELETE FROM bc005.reviews WHERE id = 1000")
    with pytest.raises(OperationError, match=r"notes.*\(ON DELETE CASCADE\): 1 rows refer to .*accept_effects_on_others=true"):
        restore(world)
    execute(world, "INSERT INTO bc005.reviews SELECT 1000, id, 'of the newer' FROM teams WHERE name = 'newer'")
    assert of_others(world) == kept
    execute(world, "DELETE FROM bc005.reviews WHERE id = 1000")
    assert restore(world, accept_effects_on_others=True).startswith("RESTORED")
    assert unlike(before, world.state()) == []
    assert ask(
        world, "SELECT (SELECT count(*) FROM bc005.notes WHERE id = 1000), (SELECT team_id FROM bc005.links WHERE id = 1000)"
    ) == [(0, None)]


@long
def test_rows_that_came_after_the_plan(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(world, *OTHERS)
    world.backup()
    execute(world, "UPDATE teams SET purpose = 'wrong'")
    take_safety_set = safety_set.take_safety_set

    def meanwhile(*arguments: Any) -> str:
        execute(
            world,
            "INSERT INTO teams SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(), 'name', 'newer'))).* "
            "FROM teams t LIMIT 1",
            "INSERT INTO bc005.notes SELECT 1000, id, 'of the newer' FROM teams WHERE name = 'newer'",
        )  # fmt: skip
        return take_safety_set(*arguments)

    monkeypatch.setattr(safety_set, "take_safety_set", meanwhile)
    with pytest.raises(OperationError, match=r"is unchanged: .*\(ON DELETE CASCADE\): 1 rows refer to rows that would be deleted"):
        restore(world)
    assert ask(world, "SELECT note FROM bc005.notes WHERE id = 1000") == [("of the newer",)]


def fail(error: BaseException) -> None:
    raise error


def end_the_session(world: World) -> None:
    execute(
        world, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'bc-004 full_restore%' "
        f"AND datname = '{DATABASE}'",
    )  # fmt: skip


FAILURES: dict[str, tuple[Callable[[World], object], type[BaseException]]] = {
    "it differs": (lambda _: fail(RestoreDiffers("it differs")), RestoreDiffers),
    "interrupted": (lambda _: fail(KeyboardInterrupt()), KeyboardInterrupt),
    "the session is ended": (end_the_session, OperationError),
}


@pytest.mark.parametrize("failure", [pytest.param(one, marks=() if one == "the session is ended" else long) for one in FAILURES])
def test_a_failure_changes_nothing(world: World, failure: str) -> None:
    execute(world, *OTHERS)
    world.backup()
    execute(world, *DAMAGE["rows deleted and changed"], *DAMAGE["triggers switched"])
    damaged, schema, kept = world.state(), schema_of_all(world), of_others(world)
    act, error = FAILURES[failure]
    with at_comparison(world, lambda: act(world)), pytest.raises(error):
        restore(world)
    assert damaged.differences(world.state()) == []
    assert (schema_of_all(world), of_others(world)) == (schema, kept)
    # A session that was closed gives its lock back when its backend has noticed.
    wait_for(lambda: not ask(world, "SELECT FROM pg_locks WHERE locktype = 'advisory'"), SECONDS, "the locks to be given back")
    assert restore(world).startswith("RESTORED")


@long
def test_a_lock_that_is_not_to_be_had(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "LOCK_SECONDS", 1)
    world.backup()
    execute(world, *DAMAGE["rows deleted and changed"])
    damaged = world.state()
    with world.connect() as writer:
        writer.execute("SET application_name = 'a busy writer'")
        writer.execute("BEGIN")
        writer.execute("UPDATE teams SET purpose = purpose")
        said = r'database "consulting_tool" is unchanged: .* could not be locked within 1 s.*a busy writer .*RowExclusiveLock'
        with pytest.raises(OperationError, match=said):
            restore(world)
        writer.execute("ROLLBACK")
    assert damaged.differences(world.state()) == []


@long
@pytest.mark.parametrize("step", ["waiting", "written"])
def test_the_flow_is_killed(world: World, step: str) -> None:
    world.backup()
    execute(world, *DAMAGE["rows deleted and changed"])
    damaged = world.state()
    words = {"in_place": "true", "dry_run": "false", "confirm_database": DATABASE}
    arguments = [word for name, value in words.items() for word in (f"--{name.replace('_', '-')}", value)]
    # Readers of the users' rows make a writer of ours wait where it checks its keys: in the middle of the one statement.
    lock = "LOCK TABLE teams IN ROW EXCLUSIVE MODE" if step == "waiting" else "SELECT FROM users FOR UPDATE"
    with world.connect() as holder:
        holder.execute("BEGIN")
        holder.execute(lock.encode())
        started = world.start("restore", "full_restore", "backup_restorer", arguments=arguments)
        waiting = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'bc-004 full_restore%' AND wait_event_type = 'Lock'"
        wait_for(lambda: ask(world, waiting), SECONDS, "the wait")
        started.send_signal(signal.SIGKILL)
        started.wait()
        holder.execute("ROLLBACK")
    gone = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'bc-004 full_restore%'"
    wait_for(lambda: ask(world, gone) == [(0,)], SECONDS, "the end of its sessions")
    assert damaged.differences(world.state()) == []
    assert restore(world).startswith("RESTORED")


@long
def test_another_schema_is_refused_or_restored_in_common(world: World) -> None:
    world.backup()
    execute(
        world, "ALTER TABLE teams ADD COLUMN note text DEFAULT 'new'", "ALTER TABLE governance_policies DROP COLUMN description",
        "ALTER TABLE policy_scopes ALTER COLUMN target_type TYPE varchar(60)", "UPDATE teams SET purpose = 'wrong'",
    )  # fmt: skip
    with pytest.raises(OperationError) as refused:
        restore(world)
    for said in (
        "public.teams has a column note text that the set does not have",
        "public.governance_policies no longer has column description",
        "public.policy_scopes.target_type has type character varying(60), in the set character varying(50)",
    ):  # fmt: skip
        assert said in str(refused.value)
    assert ask(world, "SELECT DISTINCT purpose FROM teams") == [("wrong",)]
    assert restore(world, on_schema_drift="common-columns").startswith("RESTORED")
    assert ask(world, "SELECT count(*), count(note) FROM teams WHERE purpose <> 'wrong' OR purpose IS NULL") == ask(
        world, "SELECT count(*), count(*) FROM teams"
    )


@long
def test_what_stands_in_the_way_is_told_before_anything_is_touched(world: World) -> None:
    world.backup()
    execute(world, "ALTER TABLE policy_violations DETACH PARTITION policy_violations_2024",
            "CREATE TABLE other ()", "ALTER TABLE policy_violations_2024 INHERIT other")  # fmt: skip
    with pytest.raises(OperationError, match=r"policy_violations_2024 exists, but not as table of public.policy_violations"):
        plan(world)
    execute(
        world, "ALTER TABLE policy_violations_2024 NO INHERIT other",
        "ALTER TABLE policy_violations ATTACH PARTITION policy_violations_2024 "
        "FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
        "CREATE RULE gone AS ON DELETE TO teams DO INSTEAD NOTHING",
    )  # fmt: skip
    with pytest.raises(OperationError, match=r"public.teams has rules"):
        plan(world)
    execute(world, "DROP RULE gone ON teams", "ALTER TABLE teams OWNER TO postgres")
    with pytest.raises((BadInput, OperationError), match=r'login "backup_loader" is not a member of the owner of public.teams; '):
        plan(world)


@long
def test_a_login_that_owns_the_tables_and_nothing_else(world: World) -> None:
    execute(world, *OTHERS)
    with world.source.connect() as connection:
        connection.execute("CREATE ROLE lean LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE")
        connection.execute("GRANT consulting_owner TO lean")
    world.source.allow_login("lean")
    try:
        before = world.state()
        world.backup()
        execute(world, *DAMAGE["rows deleted and changed"])
        words = {"in_place": True, "dry_run": False, "confirm_database": DATABASE}
        assert str(world.run(full_restore, "lean", **words)).startswith("RESTORED")
        assert unlike(before, world.state()) == []
        # Rows of others that it may not look at could go: it has to be told that they may.
        execute(world, "INSERT INTO teams SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(), "
                       "'name', 'newer'))).* FROM teams t LIMIT 1")  # fmt: skip
        with pytest.raises(OperationError, match=r"\(ON DELETE CASCADE\): rows that this login may not count"):
            world.run(full_restore, "lean", **words)
        assert str(world.run(full_restore, "lean", accept_effects_on_others=True, **words)).startswith("RESTORED")
        assert unlike(before, world.state()) == []
    finally:
        with world.source.connect() as connection:
            connection.execute("DROP ROLE lean")


@long
@pytest.mark.parametrize("any_version", [16, 15], indirect=True)
def test_on_other_versions(any_version: World) -> None:
    before = any_version.state()
    any_version.backup()
    for damage in ("rows deleted and changed", "unique values exchanged", "a partition dropped", "a key and a check dropped"):
        execute(any_version, *DAMAGE[damage])
    assert restore(any_version).startswith("RESTORED")
    assert unlike(before, any_version.state()) == []


@long
def test_what_names_a_column_that_is_gone_is_left(world: World) -> None:
    """An index and a check of it went with it, and cannot be created without it."""
    world.backup()
    execute(world, "ALTER TABLE teams DROP COLUMN end_date", "UPDATE teams SET purpose = 'wrong'")
    verdict = restore(world, on_schema_drift="common-columns")
    assert verdict.startswith("RESTORED, BUT OBJECTS DIFFER")
    report = newest_report(world)
    for name in ("teams_dates_idx", "teams_dates_check"):
        assert re.search(rf"{name} of public.teams is missing; left: public.teams lacks columns that it names", report), report
    assert count(world, "teams", "purpose = 'wrong'") == 0
