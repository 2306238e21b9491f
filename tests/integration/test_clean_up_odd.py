"""Clean-ups of tables that are not as one would wish: odd keys, trees, triggers with a will of their own, users at work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flows.checks import integrity_check
from tasks.clean_up import delete
from tasks.clean_up import rules as clean_up_rules
from tasks.clean_up.rules import TRIAL_SECONDS
from tasks.core.errors import OperationError, StoreUnavailable
from tasks.sets import stage
from tests.support.clean_ups import (
    A_TEAM,
    GREEDY,
    ITEMS,
    OLD,
    acting,
    bring_back,
    clean_up,
    clean_up_sets,
    live,
    own,
    plan,
    report,
    rules,
)  # fmt: skip
from tests.support.contexts import edit_context
from tests.support.database import ask, count, execute
from tests.support.example import DATABASE
from tests.support.faults import wait_for
from tests.support.world import World

long = pytest.mark.long

# Deleting an item counts in its list.
LISTS = (
    "CREATE TABLE lists (id int PRIMARY KEY, items int)",
    "CREATE TABLE items (id int PRIMARY KEY, list_id int REFERENCES lists, ended date)",
    "CREATE FUNCTION count_down() RETURNS trigger LANGUAGE plpgsql AS $$ "
    "BEGIN UPDATE lists SET items = items - 1 WHERE id = OLD.list_id; RETURN NULL; END $$",
    "CREATE TRIGGER counts AFTER DELETE ON items FOR EACH ROW EXECUTE FUNCTION count_down()",
    "INSERT INTO lists SELECT n, 100 FROM generate_series(1, 100) AS n",
)


NAME = '"It""em\'s, ä"'


@pytest.mark.long
def test_keys_of_every_type_and_names_of_every_kind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    own(
        world, monkeypatch, {"table": "It\"em's, ä", "clock": "Ended At", "keep": "1 year"}, ["It\"em's, ä"],
        "CREATE TYPE mood AS ENUM ('a b', 'c,''\"\\d')", "CREATE DOMAIN word AS text CHECK (value <> '')",
        f'CREATE TABLE {NAME} (a char(5), b timestamptz, c bytea, d mood, e word, f numeric, g interval, h float8, "Key 1" text, '
        '"Ended At" timestamp(3), root int, held json, PRIMARY KEY (a, b, c, d, e, f, g, h, "Key 1"))',
        f"INSERT INTO {NAME} SELECT 'x ', '2020-01-01 00:00:00.123456+09'::timestamptz + n * interval '1 us', '\\x00ff5c', "
        "(enum_range(NULL::mood))[1 + n % 2], E'q\"\\'\\\\,{}\\n', CASE n % 3 WHEN 0 THEN 'NaN' ELSE 1.10 END, "
        "'1 mon 2 days 03:04:05', "
        "0.1::float8 + n / 3.0, E'\\\\ \\', \" NULL %', (CASE n % 4 WHEN 0 THEN '-infinity' WHEN 1 THEN '0044-01-01 BC' "
        "ELSE '2020-01-01 00:00:00.5' END)::timestamp, n, '{\"a\" : 1}' FROM generate_series(1, 50) AS n",
    )  # fmt: skip
    monkeypatch.setattr(clean_up_rules, "FOUND_ROWS", 17)
    monkeypatch.setattr(delete, "BATCH_ROWS", 5)
    before = ask(world, f"SELECT r::text FROM {NAME} AS r ORDER BY 1")
    clean_up(world)
    assert count(world, NAME) == 0
    (taken,) = clean_up_sets(world).values()
    assert len(taken) == 3
    for one in taken:
        bring_back(world, one["id"])
    assert ask(world, f"SELECT r::text FROM {NAME} AS r ORDER BY 1") == before


@long
@pytest.mark.parametrize("kind", ["int[]", "pair", "moods", "int4range"])
def test_keys_of_structured_types(world: World, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    value = {
        "int[]": "ARRAY[n, n + 1]", "pair": "ROW(n, 'x,\"')::pair", "moods": "ARRAY['a b', n::text]::moods",
        "int4range": "int4range(n, n + 3)",
    }[kind]  # fmt: skip
    own(
        world, monkeypatch, {"table": "items", "clock": "ended", "keep": "1 year"}, ["items"],
        "CREATE TYPE pair AS (a int, b text)", "CREATE DOMAIN moods AS text[]",
        f"CREATE TABLE items (k {kind} PRIMARY KEY, ended date)",
        f"INSERT INTO items SELECT {value}, '2020-01-01'::date FROM generate_series(1, 20) AS n",
        f"INSERT INTO items SELECT {value}, current_date FROM generate_series(21, 25) AS n",
    )  # fmt: skip
    monkeypatch.setattr(delete, "BATCH_ROWS", 7)
    before = ask(world, "SELECT r::text FROM items AS r ORDER BY 1")
    clean_up(world)
    assert count(world, "items") == 5
    (taken,) = clean_up_sets(world).values()
    for archived in taken:
        bring_back(world, archived["id"])
    assert ask(world, "SELECT r::text FROM items AS r ORDER BY 1") == before


@long
@pytest.mark.parametrize("rows", [900])
def test_a_long_chain_goes_in_one_run(world: World, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    own(
        world, monkeypatch, ITEMS, ["items"], "CREATE TABLE items (id int PRIMARY KEY, parent_id int REFERENCES items, ended date)",
        f"INSERT INTO items SELECT n, nullif(n - 1, 0), '2020-01-01' FROM generate_series(1, {rows}) AS n",
    )  # fmt: skip
    clean_up(world)
    assert count(world, "items") == 0
    for one in reversed(clean_up_sets(world)["items"]):
        bring_back(world, one["id"])
    assert count(world, "items") == rows


@long
def test_a_key_of_its_own_empties_no_row_that_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are archived; then one is refused, so that the other is tried alone."""
    own(
        world, monkeypatch, ITEMS, ["items"],
        "CREATE TABLE items (id int PRIMARY KEY, parent_id int REFERENCES items ON DELETE SET NULL, ended date)",
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN IF OLD.id = 2 THEN RAISE 'no'; END IF; RETURN OLD; END $$",
        "INSERT INTO items VALUES (1, NULL, '2020-01-01'), (2, 1, '2020-01-01'), (3, NULL, '2020-01-01')",
    )  # fmt: skip
    trigger = "CREATE TRIGGER keeps BEFORE DELETE ON items FOR EACH ROW EXECUTE FUNCTION keep()"
    with monkeypatch.context() as patch:
        acting(patch, "archive_rows", lambda: execute(world, trigger))
        clean_up(world)
    assert ask(world, "SELECT id, parent_id FROM items ORDER BY id") == [(1, None), (2, 1)]
    assert "items references this row" in report() and "refused by keep()" in report()


def test_what_would_go_unseen_is_refused_before(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_context(world, monkeypatch, clean_up=rules()[1:2], long_term={})
    execute(world, *GREEDY, f"ALTER DATABASE {DATABASE} SET track_counts = off")
    before = world.state()
    with pytest.raises(OperationError, match="track_counts is off"):
        clean_up(world)
    assert before.differences(world.state()) == []


@long
def test_a_trigger_that_empties_a_table_keeps_rows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_context(world, monkeypatch, clean_up=rules()[1:2], long_term={})
    execute(
        world,
        "CREATE FUNCTION empty() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ "
        "BEGIN TRUNCATE policy_scopes; RETURN NULL; END $$",
        "CREATE TRIGGER empties AFTER DELETE ON team_members FOR EACH ROW EXECUTE FUNCTION empty()",
    )  # fmt: skip
    before = world.state()
    clean_up(world)
    assert before.differences(world.state()) == []
    assert "a trigger truncates or alters public.policy_scopes" in report()


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["CREATE TABLE items (id int PRIMARY KEY, ended date)", "CREATE TABLE more (PRIMARY KEY (id)) INHERITS (items)"],
         "tables inherit from public.items"),
        (["CREATE TABLE items (a int NOT NULL, id int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY, ended date)"],
         "the primary key of public.items is generated"),
        (["CREATE TABLE items (id int, ended date)"], "public.items has no primary key"),
    ],
    ids=["inherited", "generated", "none"],
)  # fmt: skip
def test_keys_that_do_not_tell_rows_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, statements: list[str], said: str
) -> None:
    own(world, monkeypatch, ITEMS, ["items"], *statements)
    with pytest.raises(OperationError, match=said):
        plan(world)


@long
def test_rows_that_belong_by_a_condition_are_never_left_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_context(world, monkeypatch, clean_up=rules()[-1:], long_term={})
    team = ask(world, f"SELECT {A_TEAM}::text")[0][0]
    execute(
        world, "INSERT INTO policy_scopes (policy_id, target_type, target_id, status) "
        f"SELECT id, 'team', '{team}', 'active' FROM governance_policies ORDER BY id LIMIT 1",
    )  # fmt: skip
    with world.connect() as connection, connection.transaction():
        connection.execute(f"SELECT FROM policy_scopes WHERE target_id = '{team}' FOR UPDATE".encode())
        clean_up(world)
    assert ask(world, f"SELECT id::text FROM teams WHERE {OLD['teams']}") == [(team,)]
    assert "rows of policy_scopes that depend on this row are locked by other sessions" in report()
    clean_up(world)
    assert (count(world, "teams", OLD["teams"]), count(world, "policy_scopes", f"target_id = '{team}'")) == (0, 0)


@pytest.mark.long
def test_a_row_that_a_trigger_needs_holds_up_few_and_nobody_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    items = "INSERT INTO items SELECT n, 1 + n % 100, '2020-01-01' FROM generate_series(1, 300) AS n"
    own(world, monkeypatch, ITEMS, ["items", "lists"], *LISTS, items)
    with world.connect() as connection, connection.transaction():
        connection.execute("UPDATE lists SET items = items WHERE id = 8")
        with live(world, "UPDATE lists SET items = items WHERE id = 7") as waits:
            plan(world)
        # The trial's time, and one try that others were in the way of.
        assert max(waits) < 3 * delete.LOCK_SECONDS + 2 * TRIAL_SECONDS
        with live(world, "UPDATE lists SET items = items WHERE id = 7"):
            clean_up(world)
        assert "another session has locked this row, or rows that its triggers write" in report()
    left = count(world, "items")
    assert 3 <= left < 300
    clean_up(world)
    assert (count(world, "items"), ask(world, "SELECT DISTINCT items FROM lists")) == (0, [(97,)])


@contextmanager
def deadlock_timeout(world: World, value: str) -> Iterator[None]:
    """Let sessions that begin now look for deadlocks that late."""

    def change(statement: str, expected: str) -> None:
        with world.connect() as connection:
            connection.execute(statement.encode())
            connection.execute("SELECT pg_reload_conf()")
        wait_for(lambda: ask(world, "SHOW deadlock_timeout") == [(expected,)], 30, f"deadlock_timeout {expected}")

    ((before,),) = ask(world, "SHOW deadlock_timeout")
    change(f"ALTER SYSTEM SET deadlock_timeout = '{value}'", value)
    try:
        yield
    finally:
        change("ALTER SYSTEM RESET deadlock_timeout", before)


@long
def test_in_a_deadlock_it_gives_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [one.replace("BEGIN UPDATE", "BEGIN PERFORM pg_sleep(0.005); UPDATE") for one in LISTS]
    items = "INSERT INTO items SELECT n, 1 + n % 100, '2020-01-01' FROM generate_series(1, 400) AS n"
    own(world, monkeypatch, ITEMS, ["items", "lists"], *slow, items)
    # Nobody finds the deadlock but who gives way: not by the clock of a busy machine either.
    with (
        deadlock_timeout(world, "1min"),
        live(
            world, "UPDATE lists SET items = items WHERE id = 90", "SELECT pg_sleep(0.05)",
            "UPDATE lists SET items = items WHERE id = 3",
        ) as waits,
    ):  # fmt: skip
        plan(world)
    assert max(waits) < 60


@long
def test_a_check_that_is_deferred_is_asked_at_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item has a lead, which goes first; together both may go."""
    own(
        world, monkeypatch, ITEMS | {"children": ["leads"]}, ["items", "leads"],
        "CREATE TABLE items (id int PRIMARY KEY, ended date)",
        "CREATE TABLE leads (id int PRIMARY KEY, item_id int REFERENCES items)",
        "CREATE FUNCTION has_lead() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF EXISTS (SELECT FROM items WHERE id = OLD.item_id) AND NOT EXISTS (SELECT FROM leads WHERE item_id = OLD.item_id) "
        "THEN RAISE 'item % has no lead', OLD.item_id; END IF; RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER has_lead AFTER DELETE ON leads DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION has_lead()",
        "INSERT INTO items SELECT n, '2020-01-01' FROM generate_series(1, 3) AS n", "INSERT INTO leads SELECT n, n FROM items, "
        "LATERAL (SELECT id) AS i (n)",
    )  # fmt: skip
    clean_up(world)
    assert (count(world, "items"), count(world, "leads")) == (0, 0)


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@long
def test_what_was_done_is_told_whatever_comes_after(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    leaders, _, members, _ = rules()
    edit_context(world, monkeypatch, clean_up=[leaders], long_term={})
    old = count(world, "team_leaders", OLD["team_leaders"])
    with monkeypatch.context() as patch:
        patch.setattr(clean_up_rules, "finish_clean_up", failing(StoreUnavailable("it is away")))
        with pytest.raises(OperationError, match=rf"it is away.*{old} rows of public.team_leaders archived and deleted"):
            clean_up(world)
    assert count(world, "team_leaders", OLD["team_leaders"]) == 0
    clean_up(world)
    assert "was archived by a run that did not finish" in report()
    with monkeypatch.context() as patch:
        patch.setattr(stage, "stage_newest_good", failing(OSError(28, "No space left on device")))
        edit_context(world, monkeypatch, clean_up=[members], long_term={})
        with pytest.raises(OperationError, match="FAIL: organization_members: No space left on device; free some space"):
            clean_up(world)


@long
def test_an_unfinished_set_that_is_damaged_is_named_every_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_context(world, monkeypatch, clean_up=rules()[:1], long_term={})
    with monkeypatch.context() as patch:
        patch.setattr(stage, "stage_newest_good", failing(StoreUnavailable("it is away")))
        with pytest.raises(OperationError):
            clean_up(world)
    (folder,) = world.set_folders("clean-up")
    (file,) = (folder / "data").iterdir()
    file.chmod(0o600)
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    with pytest.raises(OperationError, match="is damaged"):
        clean_up(world)
    for _ in range(2):
        clean_up(world)
        assert f"{folder.name} is damaged, and no other set has the rows that its interrupted run deleted" in report()
    assert count(world, "team_leaders", OLD["team_leaders"]) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [({"condition": "status = 'inactive' -- left"}, ""), ({"keep": "5000 years"}, "is before the year 1; write a shorter period")],
)
def test_conditions_and_periods_as_people_write_them(
    world: World, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], said: str
) -> None:
    edit_context(world, monkeypatch, clean_up=[rules()[0] | change], long_term={})
    if said:
        with pytest.raises(OperationError, match=said):
            plan(world)
    else:
        old = count(world, "team_leaders", OLD["team_leaders"])
        assert plan(world).startswith(f"PLANNED, nothing touched: {old} rows of public.team_leaders")


@long
def test_what_was_archived_and_not_deleted_is_lost_when_it_goes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(
        world, "ALTER TABLE organization_members DISABLE TRIGGER USER",
        "UPDATE organization_members SET status = 'inactive', joined_at = '2019-01-01', left_at = '2020-01-01'",
        "ALTER TABLE organization_members ENABLE TRIGGER USER", "UPDATE organization_units SET member_count = 0",
    )  # fmt: skip
    edit_context(world, monkeypatch, clean_up=rules()[2:3], long_term={})
    world.backup()
    with monkeypatch.context() as patch:
        acting(patch, "archive_rows", lambda: execute(world, "UPDATE organization_members SET role_in_unit = 'x'"))
        clean_up(world)
    assert count(world, "organization_members") == 1000
    execute(world, "DELETE FROM organization_members")
    with pytest.raises(OperationError, match="rows of the newest backup"):
        world.run(integrity_check, "backup_restorer")
    with pytest.raises(OperationError, match="SUSPECT"):
        world.backup()


@long
def test_a_vacuum_that_cannot_be_done_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_context(world, monkeypatch, clean_up=rules()[:1], long_term={})
    monkeypatch.setattr(clean_up_rules, "LOCK_SECONDS", 0.1)
    holder, old = world.connect(), count(world, "team_leaders", OLD["team_leaders"])

    def hold() -> None:
        holder.execute("BEGIN; LOCK TABLE team_leaders IN SHARE UPDATE EXCLUSIVE MODE")

    acting(monkeypatch, "finish_clean_up", hold)
    assert clean_up(world).startswith(f"CLEANED UP: {old} rows of public.team_leaders archived and deleted")
    holder.close()
    assert "VACUUM of public.team_leaders failed: canceling statement due to lock timeout" in report()
