"""Where a recovery may find itself: the database there without our tables, with all of them empty, with rows in them."""

import re
from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from deployments.local import LocalServer
from flows.recovery import disaster_recovery, recovery_drill
from flows.restore import full_restore
from tasks.core.errors import BadInput, OperationError, UnsafeTarget
from tasks.restore import existing_database
from tests.support.example import DATABASE, OUTBOUND_KEYS
from tests.support.faults import wait_for
from tests.support.migrations import copy_to_target, give_users, migrate
from tests.support.oracle import State, statements_of_all
from tests.support.reports import report
from tests.support.variants import first_quick
from tests.support.world import TwoSets, World

TEN_USERS = "SELECT DISTINCT user_id FROM team_leaders ORDER BY 1 LIMIT 10"


def execute(world: World, *statements: str, server: LocalServer | None = None) -> None:
    with world.connect(server or world.target) as connection:
        for statement in statements:
            connection.execute(sql.SQL(statement))


def target_text(world: World) -> dict[str, str]:
    """Return all statements of the target database: what must not change when a recovery is refused or fails."""
    return statements_of_all(world.target.conninfo(DATABASE), bin_dir=world.target.bin)


@pytest.fixture
def stored(world: World, two_sets: TwoSets) -> World:
    """A world whose store has sets of the example database."""
    world.store = {"BACKUP_STORE": str(two_sets.copy(world.folder / "sets"))}
    return world


@pytest.fixture
def backed_up(stored: World) -> World:
    """The same with an empty database of the same name on the target."""
    stored.target.create_database(DATABASE, "consulting_owner")
    return stored


@pytest.fixture
def before(two_sets: TwoSets) -> State:
    """What was lost."""
    return two_sets.before_newer


def assert_equal(world: World, before: State, *, missing_keys: tuple[str, ...] = ()) -> None:
    """Assert that the target equals the source, keys to users included."""
    after = world.state(world.target)
    assert before.differences(after, ignore_foreign_keys=missing_keys, views="recomputed") == []


@pytest.mark.long
def test_there_without_our_tables(backed_up: World, before: State) -> None:
    give_users(backed_up)
    execute(backed_up, "CREATE TABLE of_another_context (id int PRIMARY KEY)", "INSERT INTO of_another_context VALUES (1)",
            "CREATE FUNCTION touch() RETURNS int LANGUAGE sql AS 'SELECT 1'")  # fmt: skip
    assert backed_up.recover().startswith("PASS: RTO 0:")
    with backed_up.connect(backed_up.target) as connection:
        assert connection.execute("SELECT count(*) FROM of_another_context").fetchall() == [(1,)]
        assert connection.execute("SELECT touch()").fetchall() == [(1,)]
        connection.execute("DROP FUNCTION touch()")
        connection.execute("DROP TABLE of_another_context")
    assert_equal(backed_up, before)
    assert "## Still to do\n\nNothing." in report(backed_up)


def test_there_and_empty_altogether(backed_up: World, before: State) -> None:
    assert backed_up.recover().startswith("PASS")
    assert_equal(backed_up, before, missing_keys=tuple(OUTBOUND_KEYS))
    assert report(backed_up).count("public.users does not exist") == len(OUTBOUND_KEYS)


@pytest.mark.long
def test_migrated_and_empty(backed_up: World, before: State) -> None:
    migrate(backed_up)
    assert backed_up.recover().startswith("PASS")
    assert_equal(backed_up, before)


@pytest.mark.long
def test_migrated_but_not_to_the_end(backed_up: World, before: State) -> None:
    migrate(backed_up)
    execute(backed_up, "DROP INDEX teams_unit_idx", "DROP TABLE policy_violations_2024", "DROP FUNCTION is_last_leader",
            "DROP TRIGGER teams_updated ON teams", "DROP MATERIALIZED VIEW mv_team_statistics",
            "ALTER TABLE teams DROP CONSTRAINT teams_unit_fkey")  # fmt: skip
    assert backed_up.recover().startswith("PASS")
    assert_equal(backed_up, before)


@pytest.mark.long
def test_what_the_application_made_meanwhile_stays(backed_up: World) -> None:
    migrate(backed_up)
    execute(backed_up, "CREATE INDEX made_by_the_application ON teams (purpose)",
            "ALTER TABLE teams DISABLE TRIGGER teams_updated", "ALTER TABLE team_members ENABLE ALWAYS TRIGGER team_members_count",
            "COMMENT ON CONSTRAINT teams_unit_fkey ON teams IS 'where it sits'",
            "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE TRIGGER touched BEFORE UPDATE ON policy_violations FOR EACH ROW EXECUTE FUNCTION touch()",
            "ALTER TABLE policy_violations_2024 DISABLE TRIGGER touched",
            "CREATE VIEW of_another_context AS SELECT count(*) FROM teams")  # fmt: skip
    text = target_text(backed_up)
    assert backed_up.recover().startswith("PASS")
    assert target_text(backed_up) == text
    assert "index public.made_by_the_application of public.teams was not in the source" in report(backed_up)
    assert "integrity checks failed" in report(backed_up)
    with backed_up.connect(backed_up.target) as connection:
        assert connection.execute("SELECT count FROM of_another_context").fetchall() == connection.execute(
            "SELECT count(*) FROM teams"
        ).fetchall() != [(0,)]  # fmt: skip


@pytest.mark.long
def test_keys_are_made_when_their_rows_are_there(backed_up: World, before: State) -> None:
    give_users(backed_up)
    execute(backed_up, "CREATE TABLE away AS SELECT * FROM users", "TRUNCATE users")
    with backed_up.connect() as connection:
        gone = [str(row[0]) for row in connection.execute(TEN_USERS)]
    with backed_up.connect(backed_up.target) as connection:
        connection.execute("INSERT INTO users SELECT * FROM away WHERE id <> ALL (%s)", [gone])
    assert backed_up.recover().startswith("PASS")
    told = report(backed_up)
    assert "rows refer to missing rows: " in told and any(f"user_id={user}" in told for user in gone)
    assert "foreign key policy_violations_resolver_fkey" not in told.split("Still to do")[1].split("\n## ")[0]

    resume = {"resume": "constraints"}
    with pytest.raises(OperationError, match=r"team_leaders_user_fkey of public.team_leaders: \d+ rows refer to missing rows"):
        backed_up.run(disaster_recovery, "backup_restorer", backed_up.target, **resume)
    assert "cannot" not in report(backed_up, "bc-004-foreign-keys")
    execute(backed_up, "INSERT INTO users SELECT * FROM away ON CONFLICT DO NOTHING", "DROP TABLE away")
    assert backed_up.run(disaster_recovery, "backup_restorer", backed_up.target, **resume).startswith("PASS: 21 of 21")
    assert_equal(backed_up, before)
    again = backed_up.run(disaster_recovery, "backup_restorer", backed_up.target, **resume)
    assert again.endswith("21 of 21 foreign keys exist, 0 created now")


@pytest.mark.long
def test_keys_that_a_backup_of_the_recovered_database_does_not_know(world: World) -> None:
    world.backup()
    with world.source.connect() as connection:
        connection.execute("DROP DATABASE consulting_tool WITH (FORCE)")
    world.run(disaster_recovery, "backup_restorer")
    world.backup()
    with pytest.raises(OperationError, match=r"17 of 21 foreign keys exist, 0 created now; .*public\.users does not exist"):
        world.run(disaster_recovery, "backup_restorer", resume="constraints")


@pytest.mark.long
def test_resume_after_a_recovery_onto_an_empty_server(stored: World, before: State) -> None:
    stored.recover()
    give_users(stored)
    verdict = stored.run(disaster_recovery, "backup_restorer", stored.target, resume="constraints")
    assert verdict == "PASS: 21 of 21 foreign keys exist, 4 created now"
    assert_equal(stored, before)


def test_resume_where_nothing_was_recovered(backed_up: World) -> None:
    with pytest.raises(BadInput, match=r'database "consulting_tool" has no table of .*; recover it first'):
        backed_up.run(disaster_recovery, "backup_restorer", backed_up.target, resume="constraints")


ONE_ROW = "INSERT INTO organizations (name, code, type) VALUES ('x', 'x', 'branch')"
REFUSED = {
    "a row in one table": ([ONE_ROW], UnsafeTarget, "it holds rows in 1 of 17 relations"),
    "a row in a partition that the set does not have": (
        [
            "CREATE TABLE policy_violations_2031 PARTITION OF policy_violations FOR VALUES FROM ('2031-01-01') TO ('2032-01-01')",
            "SET session_replication_role = replica",
            "INSERT INTO policy_violations SELECT * FROM jsonb_populate_record(NULL::policy_violations, jsonb_build_object("
            "'id', gen_random_uuid(), 'policy_id', gen_random_uuid(), 'rule_id', gen_random_uuid(), 'target_type', 'team',"
            "'target_id', gen_random_uuid(), 'error_message', 'x', 'severity', 'error', 'status', 'active',"
            "'detected_at', '2031-06-01',"
            "'created_at', '2031-06-01'))",
        ],
        UnsafeTarget,
        "it holds rows in 0 of 17 relations",
    ),
    "another column": (
        ["ALTER TABLE teams RENAME COLUMN purpose TO aim"], UnsafeTarget, "public.teams lacks purpose, has more: aim",
    ),
    "tables of somebody else": (
        ["ALTER TABLE teams OWNER TO postgres"], BadInput, 'may not fill the empty tables of postgres .* GRANT "postgres" TO',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("statements", "error", "said"), first_quick(1, REFUSED.values()), ids=REFUSED)
def test_refused_with_nothing_changed(backed_up: World, statements: list[str], error: type[Exception], said: str) -> None:
    migrate(backed_up)
    execute(backed_up, *statements)
    text, rows = target_text(backed_up), backed_up.state(backed_up.target).rows
    with pytest.raises(error, match=said):
        backed_up.recover()
    assert (target_text(backed_up), backed_up.state(backed_up.target).rows) == (text, rows)


def test_the_owner_may_not_create(backed_up: World) -> None:
    execute(backed_up, "ALTER SCHEMA public OWNER TO postgres", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with pytest.raises(BadInput, match='GRANT CREATE ON SCHEMA "public" TO "consulting_owner"'):
        backed_up.recover()


@pytest.mark.long
def test_a_function_of_that_name_that_does_something_else(backed_up: World) -> None:
    give_users(backed_up)
    execute(backed_up, "CREATE FUNCTION is_last_leader(team uuid, leader uuid) RETURNS boolean LANGUAGE sql AS 'SELECT false'",
            "ALTER FUNCTION is_last_leader OWNER TO consulting_owner")  # fmt: skip
    text = target_text(backed_up)
    with pytest.raises(OperationError, match=r"is unchanged: .*function public.is_last_leader\(uuid,uuid\) differs"):
        backed_up.recover()
    assert target_text(backed_up) == text


@pytest.mark.long
def test_rows_that_cannot_be_loaded(backed_up: World) -> None:
    migrate(backed_up)
    execute(backed_up, "ALTER TABLE policy_violations_2026 ADD CONSTRAINT never CHECK (severity = 'never')")
    text = target_text(backed_up)
    with pytest.raises(OperationError, match=r"loading public.policy_violations_2026: .*\"never\""):
        backed_up.recover()
    assert target_text(backed_up) == text


@pytest.mark.long
def test_somebody_reads_an_empty_table_for_long(backed_up: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(existing_database, "LOCK_WAIT_SECONDS", 1)
    migrate(backed_up)
    with psycopg.connect(backed_up.target.conninfo(DATABASE)) as reader:
        reader.execute("SELECT FROM teams")
        with pytest.raises(
            OperationError, match='database "consulting_tool" is unchanged: canceling statement due to lock timeout'
        ):
            backed_up.recover()
    assert backed_up.recover().startswith("PASS")


@pytest.mark.long
def test_kill_9_before_the_commit(backed_up: World, before: State) -> None:
    give_users(backed_up)
    ours = "SELECT relname FROM pg_class WHERE relname IN ('teams', 'organizations')"
    sessions = "SELECT FROM pg_stat_activity WHERE datname = 'consulting_tool' AND application_name LIKE 'bc-004 disaster%'"
    with psycopg.connect(backed_up.target.conninfo(DATABASE)) as holder, backed_up.target.connect() as watch:
        holder.execute("LOCK TABLE users IN ROW EXCLUSIVE MODE")
        # All rows are loaded and compared, and the recovery waits for the last lock.
        with backed_up.start("recovery", "disaster_recovery", "backup_restorer", backed_up.target) as flow:
            wait_for(lambda: watch.execute(f"{sessions} AND wait_event_type = 'Lock'").fetchall(), 60, "the last lock")
            flow.kill()
            flow.communicate()
        holder.rollback()
        wait_for(lambda: not watch.execute(sessions).fetchall(), 60, "the end of its session")
    with backed_up.connect(backed_up.target) as connection:
        assert connection.execute(ours).fetchall() == []
    assert backed_up.recover().startswith("PASS")
    assert_equal(backed_up, before)


def test_a_copy_never_goes_into_a_database_that_is_there(backed_up: World) -> None:
    with pytest.raises(UnsafeTarget, match="it exists and it has 0 of 17 relations"):
        backed_up.run(full_restore, "backup_restorer", backed_up.target, target_database=DATABASE)


@pytest.fixture
def broken(world: World) -> World:
    """A world whose source already broke a key within the context, and one to users, with its backup."""
    execute(
        world, "SET session_replication_role = replica",
        "UPDATE team_members SET team_id = gen_random_uuid() WHERE id = (SELECT min(id::text)::uuid FROM team_members)",
        "DELETE FROM users WHERE id = (SELECT user_id FROM team_leaders LIMIT 1)",
        server=world.source,
    )  # fmt: skip
    world.backup()
    return world


BROKEN_KEY = "team_members.team_members_team_fkey"
LEFT_OUT = '"team_members_team_fkey" of public.team_members: 1 rows refer to missing rows: '


@pytest.mark.long
def test_a_source_that_broke_its_own_key_comes_back_as_it_was(broken: World) -> None:
    before = broken.state()
    verdict = broken.recover()
    assert re.match(r"PASS: .*17 relations identical; .*; the source was already inconsistent \(\d checks\)$", verdict)
    assert_equal(broken, before, missing_keys=(*OUTBOUND_KEYS, BROKEN_KEY))
    inconsistent, to_do = (report(broken).split(f"## {title}")[1].split("\n## ")[0] for title in ("The source was", "Still to do"))
    assert "**key team_members.team_members_team_fkey** (FAILED): 1 offending" in inconsistent
    assert LEFT_OUT in to_do

    give_users(broken)
    with pytest.raises(OperationError, match=r"FAIL: 17 of 21 foreign keys exist, 1 created now; .*team_members_team_fkey"):
        broken.run(disaster_recovery, "backup_restorer", broken.target, resume="constraints")


@pytest.mark.long
def test_a_drill_of_such_a_source_passes(broken: World) -> None:
    verdict = broken.run(recovery_drill, "backup_restorer", broken.target)
    assert verdict.startswith("PASS: ") and "the source was already inconsistent" in verdict


@pytest.mark.long
@pytest.mark.parametrize("make", [give_users, migrate], ids=["without our tables", "with our tables empty"])
def test_such_a_source_into_a_database_that_is_there(broken: World, make: Callable[[World], None]) -> None:
    broken.target.create_database(DATABASE, "consulting_owner")
    before = broken.state()
    copy_to_target(broken, "--schema-only", *([] if make is migrate else ["--table=public.users"]))
    if make is migrate:
        execute(broken, "ALTER TABLE team_members DROP CONSTRAINT team_members_user_fkey",
                "ALTER TABLE team_leaders DROP CONSTRAINT team_leaders_user_fkey",
                "ALTER TABLE policy_violations DROP CONSTRAINT policy_violations_resolver_fkey",
                "ALTER TABLE organization_members DROP CONSTRAINT organization_members_user_fkey")  # fmt: skip
    copy_to_target(broken, "--data-only", "--table=public.users")
    assert broken.recover().startswith("PASS")
    assert_equal(broken, before, missing_keys=(*OUTBOUND_KEYS, BROKEN_KEY))
    assert LEFT_OUT in report(broken) and "team_leaders_user_fkey of public.team_leaders" in report(broken)


# What others have in that database


@pytest.mark.long
def test_a_sequence_of_others_never_goes_back(world: World) -> None:
    make = ["CREATE SEQUENCE shared", "ALTER SEQUENCE shared OWNER TO consulting_owner"]
    execute(world, *make, "ALTER TABLE governance_rules ADD number bigint DEFAULT nextval('shared')", server=world.source)
    world.backup()
    world.target.create_database(DATABASE, "consulting_owner")
    give_users(world)
    execute(world, *make, "SELECT setval('shared', 1000000)")
    assert world.recover().startswith("PASS")
    with world.connect(world.target) as connection:
        # The trial of writes takes a value or two, which no sequence gets back.
        assert connection.execute("SELECT last_value >= 1000000 FROM shared").fetchall() == [(True,)]


@pytest.mark.long
def test_a_schema_that_is_there_may_be_granted_to_others(backed_up: World) -> None:
    give_users(backed_up)
    execute(backed_up, "GRANT CREATE ON SCHEMA public TO backup_reader")
    assert backed_up.recover().startswith("PASS")
    assert "existed before the restore: schema public differs" in report(backed_up)


@pytest.mark.long
def test_the_remedy_for_an_owner_who_may_not_create_works(backed_up: World, before: State) -> None:
    give_users(backed_up)
    execute(backed_up, "ALTER SCHEMA public OWNER TO postgres", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    with pytest.raises(BadInput) as error:
        backed_up.recover()
    execute(backed_up, *re.findall(r"GRANT CREATE .*?;", str(error.value)))
    assert backed_up.recover().startswith("PASS")
    assert backed_up.state(backed_up.target).rows == before.rows


@pytest.mark.long
def test_a_partition_that_is_not_attached_is_no_place_for_rows(backed_up: World) -> None:
    migrate(backed_up)
    execute(backed_up, "ALTER TABLE policy_violations DETACH PARTITION policy_violations_2024")
    text = target_text(backed_up)
    with pytest.raises(
        OperationError, match=r"is unchanged: .*table public.policy_violations_2024 of .*policy_violations is missing"
    ):
        backed_up.recover()
    assert target_text(backed_up) == text


@pytest.mark.long
def test_a_key_of_a_newer_migration_that_the_rows_break_is_told(backed_up: World) -> None:
    migrate(backed_up)
    execute(backed_up, "ALTER TABLE policy_scopes ADD CONSTRAINT newer FOREIGN KEY (target_id) REFERENCES teams (id)")
    assert backed_up.recover().startswith("PASS")
    to_do = report(backed_up).split("## Still to do")[1].split("\n## ")[0]
    assert re.search(r"foreign key newer of public.policy_scopes: \d+ rows refer to missing rows", to_do)


@pytest.mark.long
def test_migrated_before_the_users_came_back(backed_up: World, before: State) -> None:
    copy_to_target(backed_up, "--schema-only")
    assert backed_up.recover().startswith("PASS")
    assert_equal(backed_up, before, missing_keys=tuple(OUTBOUND_KEYS))
    copy_to_target(backed_up, "--data-only", "--table=public.users")
    verdict = backed_up.run(disaster_recovery, "backup_restorer", backed_up.target, resume="constraints")
    assert verdict == "PASS: 21 of 21 foreign keys exist, 4 created now"
    assert_equal(backed_up, before)


@pytest.mark.long
def test_the_other_contexts_table_is_not_finished(backed_up: World) -> None:
    execute(backed_up, "CREATE TABLE users (id uuid)", "GRANT ALL ON users TO PUBLIC")
    assert backed_up.recover().startswith("PASS")
    assert report(backed_up).count('there is no unique constraint matching given keys for referenced table "users"') == 4


def test_what_rows_hold_is_in_no_message(backed_up: World) -> None:
    migrate(backed_up)
    execute(backed_up, "ALTER TABLE organizations ALTER name TYPE integer USING 0")
    with backed_up.connect() as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM organizations")]
    with pytest.raises(OperationError, match=r"loading public.organizations: InvalidTextRepresentation \(22P02\)") as error:
        backed_up.recover()
    assert not any(name in f"{error.value} {error.value.__cause__} {report(backed_up)}" for name in names)
