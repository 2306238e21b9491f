"""One table restored: beside the live one, or rows of it into the live one, with what others have that depends on it."""

import json
import re
from typing import Any

import pytest

from flows.backup import list_backups
from flows.restore import table_restore
from tasks.core.errors import BadInput, OperationError, UnsafeTarget
from tasks.in_place import apply
from tasks.in_place.selection import read_condition
from tests.support.database import ask, execute, unlike
from tests.support.example import CONTEXT, DATABASE
from tests.support.reports import newest_report
from tests.support.restores import ALL, undo
from tests.support.world import World

long = pytest.mark.long

BROKEN_RULES = """
    SELECT (SELECT count(*) FROM teams t WHERE member_count <> (SELECT count(*) FROM team_members m
                                                               WHERE m.team_id = t.id AND m.status = 'active')),
           (SELECT count(*) FROM teams t WHERE leader_count <> (SELECT count(*) FROM team_leaders l
                                                               WHERE l.team_id = t.id AND l.status = 'active')),
           (SELECT count(*) FROM organization_units u WHERE member_count <>
              (SELECT count(*) FROM organization_members m WHERE m.unit_id = u.id AND m.status = 'active'))"""


def restore(world: World, table: str, mode: str, **more: Any) -> str:
    words = {"dry_run": False, "confirm_database": DATABASE} | more
    return str(world.run(table_restore, "backup_restorer", table=table, mode=mode, **words))


def rows_of(world: World, table: str, where: str = "true") -> set[str]:
    return {row[0] for row in ask(world, f"SELECT t::text FROM {table} t WHERE {where}")}


# Beside the live one


def test_beside_the_live_table(world: World) -> None:
    world.backup()
    before = world.state()
    kept = rows_of(world, "teams")
    execute(world, "UPDATE teams SET purpose = 'wrong'")
    damaged = world.state()
    said = str(world.run(table_restore, "backup_restorer", table="teams"))
    (name,) = re.findall(r'"public"."(teams_restored_\d{8}_\d{6})"', said)
    assert said.startswith(f"RESTORED: {len(kept)} rows of ")
    assert rows_of(world, name) == kept
    execute(world, f"DROP TABLE {name}")
    assert damaged.differences(world.state()) == []
    assert before.differences(world.state()) != []
    with pytest.raises(BadInput, match=r'table "users" is not in bc-004_full_\d+_\d+_\w+; name one of .*public.teams'):
        world.run(table_restore, "backup_restorer", table="users")
    world.run(table_restore, "backup_restorer", table="policy_violations")
    (partitioned,) = ask(world, "SELECT relname FROM pg_class WHERE relname LIKE 'policy_violations_restored_%' AND relkind = 'r'")
    assert rows_of(world, partitioned[0]) == rows_of(world, "policy_violations")
    with pytest.raises(BadInput, match=r"exists already; look at that table, then drop or rename it"):
        world.run(table_restore, "backup_restorer", table="policy_violations")


# Rows into the live one


@pytest.fixture
def stored(world: World) -> World:
    """A database with a backup of it; teams have members who do not lead."""
    world.backup()
    return world


def contents(world: World, *but: str) -> dict[str, set[str]]:
    """Return the rows of every table of the context but some."""
    return {name: rows_of(world, name) for name in ALL.split(", ") if name not in but}


LEAST = "SELECT id::text FROM team_members m WHERE NOT EXISTS (SELECT FROM team_leaders l WHERE l.member_id = m.id) ORDER BY id"


def test_rows_named_by_key_and_the_undo(stored: World) -> None:
    before = contents(stored)
    ids = [row[0] for row in ask(stored, f"{LEAST} LIMIT 6")]
    execute(
        stored, f"DELETE FROM team_members WHERE id IN ('{ids[0]}', '{ids[1]}')",
        f"UPDATE team_members SET role = 'wrong' WHERE id IN ('{ids[2]}', '{ids[3]}')",
    )  # fmt: skip
    damaged = contents(stored)
    assert restore(stored, "team_members", "missing", keys=[ids[0]]).endswith(tuple("0123456789s"))
    back = rows_of(stored, "team_members")
    assert back - damaged["team_members"] == {one for one in before["team_members"] if ids[0] in one}
    assert ask(stored, BROKEN_RULES) == [(0, 0, 0)]
    assert contents(stored, "team_members", "teams") == {k: v for k, v in damaged.items() if k not in ("team_members", "teams")}
    restore(stored, "team_members", "merge", keys=f"id <= '{ids[2]}'")
    assert rows_of(stored, "team_members", "role = 'wrong'") == {one for one in damaged["team_members"] if ids[3] in one}
    assert rows_of(stored, "team_members") - back == {one for one in before["team_members"] if ids[1] in one or ids[2] in one}
    undo(stored)
    assert rows_of(stored, "team_members") == back
    assert ask(stored, BROKEN_RULES) == [(0, 0, 0)]
    # Only the rows that the keys name are replaced, and what is in neither place is told.
    restore(stored, "team_members", "replace", keys=json.dumps([ids[3]]))
    assert rows_of(stored, "team_members", "role = 'wrong'") == {one for one in damaged["team_members"] if ids[2] in one}
    nobody = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(
        OperationError, match=r"neither bc-004_full_\S+ nor the database has a row of .*team_members with key number 1 of 1"
    ):
        restore(stored, "team_members", "missing", keys=[nobody])


@long
def test_undo_keeps_what_was_written_after_the_safety_set(stored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a table that only the repair writes: the safety set has to be taken again under the lock."""
    execute(stored, "DELETE FROM team_members m WHERE NOT EXISTS (SELECT FROM team_leaders l WHERE l.member_id = m.id)")
    carry_out = apply.carry_out

    def meanwhile(*arguments: Any, **more: Any) -> Any:
        execute(stored, "UPDATE teams SET purpose = 'in between'")
        return carry_out(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(apply, "carry_out", meanwhile)
        restore(stored, "team_members", "missing")
    assert undo(stored) == ["all"]
    assert ask(stored, "SELECT DISTINCT purpose FROM teams") == [("in between",)]


TEAM = "SELECT team_id::text FROM team_members WHERE status = 'active' GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 1"


@long
def test_parents_that_are_gone(stored: World) -> None:
    before = contents(stored)
    ((team,),) = ask(stored, TEAM)
    active = f"SELECT id::text FROM team_members WHERE team_id = '{team}' ORDER BY status = 'active' DESC, id"
    members = [row[0] for row in ask(stored, active)]
    execute(
        stored, "ALTER TABLE team_leaders DISABLE TRIGGER USER", f"DELETE FROM team_leaders WHERE team_id = '{team}'",
        f"DELETE FROM team_members WHERE team_id = '{team}'", f"DELETE FROM teams WHERE id = '{team}'",
        "ALTER TABLE team_leaders ENABLE TRIGGER USER",
    )  # fmt: skip
    damaged = contents(stored)
    gone = r"team_members needs 1 rows of public\.teams that are missing \(team_members_team_fkey: id\); pass include_parents"
    with pytest.raises(OperationError, match=gone):
        restore(stored, "team_members", "missing", keys=members[:1])
    assert contents(stored) == damaged
    said = restore(stored, "team_members", "missing", keys=members[:1], include_parents=True)
    assert "2 inserted" in said
    assert rows_of(stored, "team_members") - damaged["team_members"] == {x for x in before["team_members"] if members[0] in x}
    # The team has one member now, whatever it had.
    assert ask(stored, f"SELECT member_count, leader_count FROM teams WHERE id = '{team}'") == [(1, 0)]
    assert "team_member_count: 1 rows" in newest_report(stored)
    assert "check team_has_leader finds 1 more rows than before" in newest_report(stored)
    # The repair wrote too: everything of the safety set goes back together.
    assert undo(stored) == ["all"]
    assert contents(stored) == damaged


@long
def test_parents_of_another_context(stored: World) -> None:
    ((user,),) = ask(stored, "SELECT user_id::text FROM team_members m WHERE NOT EXISTS (SELECT FROM team_leaders l WHERE "
                             "l.user_id = m.user_id) ORDER BY 1 LIMIT 1")  # fmt: skip
    execute(
        stored, f"DELETE FROM team_members WHERE user_id = '{user}'", f"DELETE FROM organization_members WHERE user_id = '{user}'",
        f"UPDATE policy_violations SET resolved_by = NULL WHERE resolved_by = '{user}'", f"DELETE FROM users WHERE id = '{user}'",
    )  # fmt: skip
    damaged = contents(stored)
    said = r"needs 1 rows of public\.users that are missing \(.*: id\); public\.users belongs to another context: restore"
    for include_parents in (False, True):
        with pytest.raises(OperationError, match=said):
            restore(stored, "team_members", "replace", include_parents=include_parents)
    assert contents(stored) == damaged


@long
def test_children_that_would_lose_their_parent(stored: World) -> None:
    execute(
        stored, "INSERT INTO teams SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(), "
        "'name', 'newer'))).* FROM teams t LIMIT 1",
        "INSERT INTO team_members SELECT (jsonb_populate_record(m, jsonb_build_object('id', gen_random_uuid(), 'team_id', "
        "(SELECT id FROM teams WHERE name = 'newer'), 'allocation_rate', 0))).* FROM team_members m LIMIT 1",
    )  # fmt: skip
    damaged = contents(stored)
    with pytest.raises(OperationError, match=r"of public.team_members \(ON DELETE .*1 rows refer to rows that would be deleted"):
        restore(stored, "teams", "replace")
    assert contents(stored) == damaged
    assert restore(stored, "teams", "merge").startswith("RESTORED")


@long
@pytest.mark.parametrize(
    ("table", "mode", "damage"),
    [
        ("policy_scopes", "missing", "DROP TABLE policy_scopes"),
        ("teams", "replace", "DROP TABLE teams CASCADE"),
        ("policy_violations_2024", "merge", "DROP TABLE policy_violations_2024"),
        ("policy_violations", "replace", "DROP TABLE policy_violations_2024; TRUNCATE policy_violations_2023"),
        ("public.policy_violations_2023", "missing", "TRUNCATE policy_violations_2023"),
        ("policy_violations", "replace", "UPDATE policy_violations SET detected_at = detected_at + interval '1 year' "
                                         "WHERE tableoid = 'policy_violations_2023'::regclass"),
        ("organization_units", "merge", "UPDATE organization_units SET description = 'wrong'"),
        ("organization_hierarchies", "replace", "DELETE FROM organization_hierarchies WHERE depth > 0"),
        ("governance_rules", "replace", "ALTER TABLE governance_rules DISABLE TRIGGER USER; "
                                        "UPDATE governance_rules SET name = 'wrong'; "
                                        "ALTER TABLE governance_rules ENABLE TRIGGER USER"),
    ],
)  # fmt: skip
def test_a_table_or_partition_becomes_what_it_was(stored: World, table: str, mode: str, damage: str) -> None:
    before = stored.state()
    execute(stored, *damage.split("; "))
    assert unlike(before, stored.state()) != []
    assert restore(stored, table, mode).startswith(f"RESTORED: table {table}")
    assert unlike(before, stored.state()) == []


@long
def test_a_unit_that_came_back_has_its_place_in_the_hierarchy(stored: World) -> None:
    """Triggers would make other rows than those that went: the repair makes what is missing."""
    pairs = "SELECT ancestor_unit_id, descendant_unit_id, depth FROM organization_hierarchies ORDER BY 1, 2"
    before = ask(stored, pairs)
    ((unit,),) = ask(
        stored, "SELECT id::text FROM organization_units u WHERE parent_unit_id IS NOT NULL AND NOT EXISTS (SELECT FROM "
        "organization_units c WHERE c.parent_unit_id = u.id) AND NOT EXISTS (SELECT FROM organization_members m "
        "WHERE m.unit_id = u.id) AND NOT EXISTS (SELECT FROM teams t WHERE t.unit_id = u.id) LIMIT 1",
    )  # fmt: skip
    execute(
        stored, f"DELETE FROM organization_hierarchies WHERE descendant_unit_id = '{unit}'",
        f"DELETE FROM organization_units WHERE id = '{unit}'",
    )  # fmt: skip
    restore(stored, "organization_units", "missing", keys=[unit])
    assert ask(stored, pairs) == before


WRONG_KEYS: dict[str, Any] = {
    "syntax error": "id = = 1",
    'column "purpose" does not exist; write a condition on the key columns id alone': "purpose = 'wrong'",
    "cannot use subquery": "id IN (SELECT id FROM public.teams)",
    "may only call IMMUTABLE functions": "pg_terminate_backend(1) OR id IS NULL",
    "cannot insert multiple commands": "true); DROP TABLE public.users; SELECT (true",
    "InvalidTextRepresentation (22P02)": ["x"],
    "each with the same selection of the key columns id": [{"name": "x"}],
    "not a JSON list": "[1",
    "keys is empty": " ",
}


def test_wrong_keys(world: World) -> None:
    with world.connect() as connection:
        for expected, keys in WRONG_KEYS.items():
            with pytest.raises(BadInput) as refused:
                read_condition(connection, keys, ("public", "teams"), ["id"], "public")
            assert expected in str(refused.value)
        # Conditions that leave their brackets.
        for keys in ("true), ADD CHECK (false", "true) NOT VALID, ADD CHECK (false"):
            with pytest.raises(BadInput):
                read_condition(connection, keys, ("public", "teams"), ["id"], "public")


@long
def test_unknown_tables_and_wrong_keys_touch_nothing(stored: World) -> None:
    execute(stored, "UPDATE teams SET purpose = 'wrong'")
    damaged = contents(stored)
    for words in ({"table": "nothing"}, {"table": "teams; DROP TABLE users"}, {"keys": "purpose = 'wrong'"}):
        with pytest.raises(BadInput):
            restore(stored, **{"table": "teams", "mode": "replace"} | words)
    assert contents(stored) == damaged
    assert [row for row in stored.run(list_backups, "backup_reader", context=CONTEXT) if row["kind"] == "safety"] == []


@long
def test_chosen_rows_of_all_partitions_beside_the_live_ones(stored: World) -> None:
    found = ask(stored, "SELECT id::text, detected_at::text FROM policy_violations WHERE detected_at < '2023-01-10' LIMIT 3")
    keys = [{"id": one, "detected_at": then} for one, then in found]
    said = str(stored.run(table_restore, "backup_restorer", table="policy_violations", keys=keys))
    (name,) = re.findall(r'"public"."(\w+_restored_\d+_\d+)"', said)
    assert rows_of(stored, name) == {
        one for one in rows_of(stored, "policy_violations") if any(f"({key}," in one for key, _ in found)
    }  # fmt: skip
    execute(stored, f"DROP TABLE {name}")
    stored.run(table_restore, "backup_restorer", table="policy_violations", keys="detected_at < '2023-01-10'")
    assert rows_of(stored, name) == rows_of(stored, "policy_violations", "detected_at < '2023-01-10'")


@long
def test_beside_needs_create_and_nothing_else(stored: World) -> None:
    with stored.source.connect() as connection:
        connection.execute("CREATE ROLE looker LOGIN NOSUPERUSER")
    stored.source.allow_login("looker")
    try:
        with pytest.raises(BadInput, match=r"permission denied for schema public; run in database .*GRANT USAGE, CREATE ON SCHEMA"):
            stored.run(table_restore, "looker", table="teams")
        execute(stored, "GRANT CREATE ON SCHEMA public TO looker", "DROP TABLE policy_scopes")
        assert str(stored.run(table_restore, "looker", table="policy_scopes")).startswith("RESTORED")
    finally:
        execute(stored, "DROP OWNED BY looker")
        with stored.source.connect() as connection:
            connection.execute("DROP ROLE looker")


@long
def test_counters_are_right_after_rows_came_back(world: World) -> None:
    world.backup()
    before, members = contents(world, "teams"), rows_of(world, "team_members")
    assert ask(world, BROKEN_RULES) == [(0, 0, 0)]
    # With its triggers, which count down, and so that no leader refers to them.
    execute(world, "DELETE FROM team_members m WHERE NOT EXISTS (SELECT FROM team_leaders l WHERE l.member_id = m.id)")
    damaged = world.state()
    planned = str(world.run(table_restore, "backup_restorer", table="team_members", mode="missing"))
    assert planned.startswith("PLANNED, nothing touched: ")
    with pytest.raises(UnsafeTarget):
        restore(world, "team_members", "missing", confirm_database=None)
    assert damaged.differences(world.state()) == []
    assert restore(world, "team_members", "missing").startswith("RESTORED: table team_members")
    assert rows_of(world, "team_members") == members
    assert ask(world, BROKEN_RULES) == [(0, 0, 0)]
    # Without triggers, which would count twice.
    execute(world, "TRUNCATE team_members, team_leaders")
    restore(world, "team_members", "replace")
    restore(world, "team_leaders", "replace")
    assert ask(world, BROKEN_RULES) == [(0, 0, 0)]
    assert contents(world, "teams") == before


@long
@pytest.mark.parametrize("any_version", [16, 15], indirect=True)
def test_on_other_versions(any_version: World) -> None:
    before = any_version.state()
    any_version.backup()
    kept = contents(any_version)
    assert str(any_version.run(table_restore, "backup_restorer", table="policy_violations_2024")).startswith("RESTORED")
    execute(any_version, "DROP TABLE policy_violations_2024", "UPDATE policy_violations SET error_message = 'wrong'")
    assert restore(any_version, "policy_violations", "replace").startswith("RESTORED")
    ((team,),) = ask(any_version, TEAM)
    execute(
        any_version, "ALTER TABLE team_leaders DISABLE TRIGGER USER", f"DELETE FROM team_leaders WHERE team_id = '{team}'",
        f"DELETE FROM team_members WHERE team_id = '{team}'", f"DELETE FROM teams WHERE id = '{team}'",
        "ALTER TABLE team_leaders ENABLE TRIGGER USER",
    )  # fmt: skip
    restore(any_version, "team_members", "missing", keys=f"id IS NOT NULL AND id <> '{team}'", include_parents=True)
    restore(any_version, "team_leaders", "missing")
    assert contents(any_version) == kept
    left = [one for one in unlike(before, any_version.state()) if "policy_violations_2024_restored" not in one]
    assert left == []
