"""What a plan promises can be done: rights are asked for before it is said, none of others. What others lost is told."""

from collections.abc import Iterator

import pytest

from flows.restore import full_restore, table_restore
from flows.retention import clean_up_old_data
from tasks.core.errors import BadInput, OperationError
from tests.support.damages import OTHERS
from tests.support.database import ask, execute, unlike
from tests.support.example import DATABASE
from tests.support.reports import newest_report
from tests.support.restores import plan, restore, undo
from tests.support.world import World

long = pytest.mark.long


@pytest.fixture
def lean(world: World) -> Iterator[World]:
    """A login that may do what the tables' owner may, and nothing else, beside tables that it may not read."""
    with world.source.connect() as connection:
        connection.execute("CREATE ROLE lean LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE")
        connection.execute("GRANT consulting_owner TO lean")
    world.source.allow_login("lean")
    execute(world, *OTHERS, "CREATE TABLE secret (id int, team_id uuid REFERENCES teams)", "REVOKE ALL ON secret FROM PUBLIC")
    yield world
    with world.source.connect() as connection:
        connection.execute("DROP ROLE lean")


@long
def test_in_place_needs_no_right_on_tables_of_others(lean: World) -> None:
    before = lean.state()
    lean.backup()
    execute(lean, "UPDATE teams SET purpose = 'wrong'")
    words = {"in_place": True, "dry_run": False, "confirm_database": DATABASE}
    assert str(lean.run(full_restore, "lean", **words)).startswith("RESTORED: ")
    assert unlike(before, lean.state()) == []


@long
def test_rows_that_only_come_back_need_no_replica_identity(world: World) -> None:
    execute(world, "ALTER TABLE policy_scopes REPLICA IDENTITY NOTHING", "CREATE PUBLICATION ours FOR TABLE policy_scopes, teams")
    before = world.state()
    world.backup()
    execute(world, "ALTER TABLE policy_scopes REPLICA IDENTITY DEFAULT", "DELETE FROM policy_scopes",
            "ALTER TABLE policy_scopes REPLICA IDENTITY NOTHING", "UPDATE teams SET purpose = 'wrong'")  # fmt: skip
    assert restore(world).startswith("RESTORED: ")
    assert unlike(before, world.state()) == []


@long
def test_rows_of_a_published_table_come_back_beside_unique_values_that_are_swapped(world: World) -> None:
    execute(
        world, "ALTER TABLE policy_scopes ADD label text UNIQUE", "ALTER TABLE teams ADD label text UNIQUE",
        "UPDATE teams SET label = id::text", "ALTER TABLE policy_scopes REPLICA IDENTITY NOTHING",
        "CREATE PUBLICATION ours FOR TABLE policy_scopes",
    )  # fmt: skip
    before = world.state()
    world.backup()
    execute(
        world, "ALTER TABLE policy_scopes REPLICA IDENTITY DEFAULT", "DELETE FROM policy_scopes",
        "ALTER TABLE policy_scopes REPLICA IDENTITY NOTHING", "ALTER TABLE teams DROP CONSTRAINT teams_label_key",
        "UPDATE teams t SET label = (SELECT o.label FROM teams o WHERE o.label > t.label ORDER BY 1 LIMIT 1)",
        "ALTER TABLE teams ADD CONSTRAINT teams_label_key UNIQUE (label)",
    )  # fmt: skip
    assert restore(world).startswith("RESTORED: ")
    assert unlike(before, world.state()) == []


@long
def test_a_table_made_again_has_the_policies_that_bind_its_owner(world: World) -> None:
    theirs = "CREATE POLICY theirs ON policy_scopes FOR INSERT WITH CHECK (EXISTS (SELECT FROM users))"
    execute(world, "ALTER TABLE policy_scopes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            "CREATE POLICY ours ON policy_scopes USING (true)", theirs)  # fmt: skip
    before = world.state()
    world.backup("postgres")
    execute(world, "DROP TABLE policy_scopes")
    assert "; 1 object not in the set (policy theirs on " in plan(world)
    verdict = restore(world)
    assert verdict.startswith("RESTORED") and "; 1 object not in the set (policy theirs on " in verdict
    assert "## Still to do: objects not in the set" in newest_report(world)
    assert ask(world, "SELECT relforcerowsecurity FROM pg_class WHERE relname = 'policy_scopes'") == [(True,)]
    execute(world, theirs)
    assert unlike(before, world.state()) == []


@long
def test_a_clean_up_is_not_planned_where_it_could_not_archive(lean: World) -> None:
    lean.backup()
    with pytest.raises(BadInput, match=r'role "lean" may not read .*secret.*GRANT pg_read_all_data TO "lean"'):
        lean.run(clean_up_old_data, "lean")


@long
def test_nothing_is_planned_where_what_is_missing_cannot_be_made(world: World) -> None:
    world.backup()
    execute(world, "DROP TABLE policy_scopes", "REVOKE CREATE ON SCHEMA public FROM consulting_owner, PUBLIC",
            "ALTER SCHEMA public OWNER TO postgres")  # fmt: skip
    lacking = r"schema public does not grant CREATE to .*GRANT CREATE ON SCHEMA public TO consulting_owner"
    with pytest.raises(OperationError, match=lacking):
        plan(world)


@long
def test_what_others_lost_is_told(world: World) -> None:
    execute(world, *OTHERS, "CREATE TABLE bc005.notes (review_id int REFERENCES bc005.reviews)",
            "INSERT INTO bc005.notes SELECT id FROM bc005.reviews")  # fmt: skip
    before = world.state()
    world.backup()
    execute(world, "TRUNCATE teams CASCADE")
    planned = plan(world)
    assert "not restored: bc005.notes, bc005.reviews of other contexts" in planned
    assert "bc005.reviews, which refers to public.teams, has no rows" in newest_report(world, "bc-004-restore-plan")
    verdict = restore(world)
    assert verdict.startswith("RESTORED, BUT OBJECTS DIFFER: ")
    assert "1 object (1 of them errors: table of another context bc005.reviews: rows) differ" in verdict
    assert "not restored: bc005.notes, bc005.reviews of other contexts" in verdict
    assert unlike(before, world.state()) == []


@long
def test_what_undoes_a_restore_is_not_mended_away(world: World) -> None:
    world.backup()
    execute(world, "DELETE FROM organization_hierarchies WHERE depth > 0")
    damaged = ask(world, "SELECT count(*) FROM organization_hierarchies")
    words = {"table": "organization_hierarchies", "mode": "missing", "dry_run": False, "confirm_database": DATABASE}
    assert str(world.run(table_restore, "backup_restorer", **words)).startswith("RESTORED: ")
    undo(world)
    assert ask(world, "SELECT count(*) FROM organization_hierarchies") == damaged
    assert "Repaired by checks" not in newest_report(world)
