"""A healthy database is green; every kind of damage turns exactly the checks red that are about it, and the run with them."""

import json
import shutil
import threading
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from prefect.artifacts import Artifact
from prefect.logging import disable_run_logger
from psycopg import sql

from deployments import local
from deployments.example import YEARS
from deployments.local import LocalServer
from flows.checks import integrity_check
from tasks.checks.integrity import WITNESSES, run_checks
from tasks.checks.report import frame
from tasks.core.checks.definition import CHECKS_FILE, Finding, Verdict
from tasks.core.checks.partitions import PARTITIONS
from tasks.core.context import CONTEXT_FILE, parse_context, read_context_folder
from tasks.core.context_keys import PartitionRule
from tasks.core.errors import BadInput, OperationError
from tasks.core.postgres.programs import Running
from tasks.run import site
from tasks.run.run import Run
from tests.support.database import execute, server_of
from tests.support.example import CONTEXT, DATABASE, TABLES
from tests.support.findings import SUMMER, check
from tests.support.servers import drop_databases
from tests.support.world import World, new_world

FILES = read_context_folder(site.CONTEXTS / CONTEXT)
DEFINITION = parse_context(FILES[CONTEXT_FILE], "")
OBJECTS, ROWS, CHANGED = WITNESSES
THERE = "tables and views exist"
SOON, LATER = "partitions of policy_violations for the next 30 days", "partitions of policy_violations for the next year"
KEYS_TO_USERS = {
    "key organization_members.organization_members_user_fkey", "key team_members.team_members_user_fkey",
    "key team_leaders.team_leaders_user_fkey", "key policy_violations.policy_violations_resolver_fkey",
}  # fmt: skip


def stale(*views: str) -> set[str]:
    """Name the checks that say that views are not as their tables are."""
    return {f"view mv_{view} is current" for view in views}


ALL_VIEWS = stale("user_allocation_summary", "team_statistics", "unit_statistics")


@dataclass(frozen=True)
class Damage:
    """What a superuser does to a database, and what the checks say of it; `quietly` no trigger and no key sees it."""

    name: str
    statements: tuple[str, ...]
    failed: Set[str]
    warned: Set[str] = frozenset()
    quietly: bool = True
    alone: bool = False

    def do(self, connection: psycopg.Connection) -> None:
        if self.quietly:
            connection.execute("SET session_replication_role = replica")
        for statement in self.statements:
            assert connection.execute(statement).rowcount != 0, f"nothing was damaged by {statement}"


def rows(name: str, statement: str, failed: Set[str], warned: Set[str] = frozenset(), *, alone: bool = False) -> Damage:
    return Damage(name, (statement,), failed, warned, alone=alone)


def objects(name: str, statement: str, failed: Set[str], warned: Set[str] = frozenset()) -> Damage:
    return Damage(name, (statement,), failed, warned, quietly=False)


A_TEAM = "(SELECT min(id::text)::uuid FROM teams WHERE status = 'active')"
LAST_TEAM = "(SELECT max(id::text)::uuid FROM teams WHERE status = 'active')"
A_LEAF_UNIT = """(SELECT min(id::text)::uuid FROM organization_units u WHERE parent_unit_id IS NOT NULL
                  AND NOT EXISTS (SELECT FROM organization_units c WHERE c.parent_unit_id = u.id))"""
A_GRANDCHILD = "(SELECT min(id::text)::uuid FROM organization_hierarchies WHERE depth = 2)"
ITS_MEMBERS = "(SELECT count(*) FROM team_members m WHERE m.team_id = t.id AND m.status = 'active')"

DAMAGES = [
    # Rows that are gone.
    rows("all eleven tables emptied", f"TRUNCATE {', '.join(TABLES)}", {ROWS, PARTITIONS}, ALL_VIEWS, alone=True),
    rows("one table emptied", "DELETE FROM policy_scopes", {ROWS}, alone=True),
    rows("one leaf emptied", "TRUNCATE policy_violations_2023", {ROWS, PARTITIONS}),
    rows("a third of the closure gone",
         "DELETE FROM organization_hierarchies WHERE id IN (SELECT id FROM organization_hierarchies ORDER BY id "
         "LIMIT (SELECT count(*) / 3 FROM organization_hierarchies))",
         {ROWS, "closure_against_tree"}),
    rows("a row of the closure gone",
         f"DELETE FROM organization_hierarchies WHERE id = {A_GRANDCHILD}",
         {"closure_against_tree"}, {ROWS}),
    rows("the users gone", "DELETE FROM users", {*KEYS_TO_USERS, "policy_scope_user"}, {"violation_user"}, alone=True),
    # Rows that contradict each other.
    rows("member_count of a unit", f"UPDATE organization_units SET member_count = member_count + 1 WHERE id = {A_LEAF_UNIT}",
         {"unit_member_count"}),
    rows("member_count of a team", f"UPDATE teams SET member_count = member_count - 1 WHERE id = {A_TEAM}", {"team_member_count"}),
    rows("leader_count of a team", f"UPDATE teams SET leader_count = 0 WHERE id = {LAST_TEAM}", {"team_leader_count"}),
    Damage(
        "a user allocated above 2.0",
        (
            "UPDATE team_members SET allocation_rate = 1.0 WHERE status = 'active' AND user_id = (SELECT user_id FROM "
            "team_members WHERE status = 'active' GROUP BY user_id ORDER BY count(*) DESC, user_id LIMIT 1)",
            "INSERT INTO team_members (team_id, user_id, allocation_rate) SELECT t.id, u.user_id, 0.01 FROM (SELECT user_id "
            "FROM team_members WHERE status = 'active' GROUP BY user_id ORDER BY count(*) DESC, user_id LIMIT 1) AS u, teams t "
            "WHERE NOT EXISTS (SELECT FROM team_members m WHERE m.team_id = t.id AND m.user_id = u.user_id) "
            "AND t.status = 'active' LIMIT 1",
            f"UPDATE teams t SET member_count = {ITS_MEMBERS}",
        ),
        {"user_allocation"}, ALL_VIEWS, alone=True,
    ),
    Damage(
        "an active team without leader",
        (
            f"UPDATE team_leaders SET status = 'inactive' WHERE team_id = {A_TEAM} AND status = 'active'",
            f"UPDATE teams SET leader_count = 0 WHERE id = {A_TEAM}",
        ),
        {"team_has_leader"}, stale("team_statistics"),
    ),
    rows("a unit whose parent is gone",
         f"UPDATE organization_units SET parent_unit_id = gen_random_uuid() WHERE id = {A_LEAF_UNIT}",
         {"unit_has_its_parent", "closure_against_tree", "key organization_units.organization_units_parent_fkey"}),
    *(
        rows(f"the root of an organization is {kind}",
             f"UPDATE organizations o SET root_unit_id = ({unit}) WHERE id = (SELECT min(organization_id::text)::uuid "
             "FROM organization_units)",
             {"organization_root_unit"})
        for kind, unit in (
            ("none", "NULL"),
            ("another's", "SELECT id FROM organization_units WHERE organization_id <> o.id AND parent_unit_id IS NULL LIMIT 1"),
            ("no root", "SELECT id FROM organization_units WHERE organization_id = o.id AND parent_unit_id IS NOT NULL LIMIT 1"),
        )
    ),
    rows("a closure row to no unit",
         "INSERT INTO organization_hierarchies (ancestor_unit_id, descendant_unit_id, depth) "
         f"VALUES ({A_LEAF_UNIT}, gen_random_uuid(), 1)",
         {"hierarchy_has_its_units", "closure_against_tree",
          "key organization_hierarchies.organization_hierarchies_descendant_fkey"}),
    rows("a depth of the closure",
         f"UPDATE organization_hierarchies SET depth = 3 WHERE id = {A_GRANDCHILD}",
         {"closure_against_tree"}),
    *(
        rows(f"the scope of a policy on no {kind}",
             f"UPDATE policy_scopes SET target_type = '{kind}', target_id = gen_random_uuid() "
             f"WHERE id = (SELECT id FROM policy_scopes ORDER BY id OFFSET {number} LIMIT 1)",
             {"policy_scope_user" if kind == "user" else "policy_scope_target"})
        for number, kind in enumerate(("organization", "unit", "team", "user"))
    ),
    *(
        rows(f"a violation by no {kind}",
             f"UPDATE policy_violations SET target_type = '{kind}', target_id = gen_random_uuid() "
             f"WHERE id = (SELECT id FROM policy_violations ORDER BY id OFFSET {number} LIMIT 1)",
             set() if kind in ("team", "user") else {"violation_target"},
             {PARTITIONS, f"violation_{kind}"} if kind in ("team", "user") else {PARTITIONS})
        for number, kind in enumerate(("organization", "unit", "team", "user"), start=1)
    ),
    rows("a violation of no rule",
         "UPDATE policy_violations SET rule_id = gen_random_uuid() WHERE id = (SELECT min(id::text)::uuid FROM policy_violations)",
         {"key policy_violations.policy_violations_rule_fkey"}, {PARTITIONS}),
    rows("a stale view", f"UPDATE teams SET name = name || '!' WHERE id = {A_TEAM}", set(),
         stale("team_statistics")),
    # Objects; docs/reliability.md has many more.
    objects("a view dropped", "DROP MATERIALIZED VIEW mv_user_allocation_summary", {OBJECTS, THERE}),
    objects("a table dropped", "DROP TABLE policy_scopes CASCADE", {OBJECTS, THERE, "policy_scope_target", "policy_scope_user"}),
    objects("the leaf for now detached", "ALTER TABLE policy_violations DETACH PARTITION policy_violations_2027", {OBJECTS, SOON}),
    objects("the keys of a leaf not enforced", "ALTER TABLE policy_violations_2023 DISABLE TRIGGER ALL",
            {"triggers enabled", CHANGED}),
    objects("a constraint not proven", "ALTER TABLE teams ADD CONSTRAINT positive CHECK (member_count >= 0) NOT VALID", {CHANGED},
            {"constraints proven"}),
    objects("foreign keys of another context's table not enforced", "ALTER TABLE users DISABLE TRIGGER ALL",
            {"triggers enabled", CHANGED}),
    objects("a comment lost", "COMMENT ON TABLE organizations IS NULL", set(), {CHANGED}),
]  # fmt: skip


@pytest.fixture(scope="module")
def healthy(
    source: LocalServer, target: LocalServer, prefect_api: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """The example database and one backup of it; tests damage copies."""
    folder = tmp_path_factory.mktemp("checked")
    world = new_world(source, target, prefect_api, folder)
    world.backup()
    yield world
    drop_databases(source)


@pytest.fixture
def copy(healthy: World) -> Iterator[World]:
    """A copy of the healthy database for a test to damage, under a name that no other test has."""
    name = f"copy_{datetime.now(UTC):%H%M%S%f}"
    with healthy.source.connect() as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER consulting_owner")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(DATABASE)))
    yield replace(healthy, database=name, extra={"PGDATABASE": name})
    with healthy.source.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def checks_of(world: World, text: str, *, user: str = "backup_reader", timeout_seconds: float = 60) -> dict[str, Finding]:
    """Run the checks of a file of one's own."""
    run = Run("integrity_check", CONTEXT, "3f9c", SUMMER, world.folder, Running())
    with disable_run_logger():
        found = run_checks.fn(
            server_of(world, user), world.database, run, DEFINITION, {CHECKS_FILE: text}, timeout_seconds, SUMMER
        )  # fmt: skip
    return {one.check: one for one in found}


def named(findings: list[Finding], *, fails: bool) -> set[str]:
    """Name the checks that fail a run, or those that are remarkable and do not."""
    return {one.check for one in findings if one.is_remarkable and one.fails is fails}


def test_a_healthy_database_is_green(healthy: World) -> None:
    findings = check(healthy)
    assert named(findings, fails=True) == set()
    assert named(findings, fails=False) == {LATER}
    assert len({one.check for one in findings}) == len(findings)
    assert {one.check for one in findings} >= {*WITNESSES, PARTITIONS, THERE, SOON, *KEYS_TO_USERS, *ALL_VIEWS}
    assert sum(one.check.startswith("key ") for one in findings) == 21


def side_by_side(damages: Iterable[Damage]) -> list[list[Damage]]:
    """Put damages together that turn different checks red, so that one run shows each; those that leave no rows come alone."""
    groups = list[list[Damage]]()
    for damage in damages:
        mine = damage.failed | damage.warned
        fits = (group for group in groups if not any(mine & (other.failed | other.warned) or other.alone for other in group))
        group = None if damage.alone else next(fits, None)
        if group is None:
            groups.append([damage])
        else:
            group.append(damage)
    return groups


@pytest.mark.parametrize("damages", side_by_side(DAMAGES), ids=lambda damages: f"{len(damages)} from {damages[0].name}")
def test_damages_side_by_side_turn_their_checks_red(copy: World, damages: list[Damage]) -> None:
    for damage in damages:
        with copy.connect() as connection:
            damage.do(connection)
    findings = check(copy)
    assert named(findings, fails=True) == {check for damage in damages for check in damage.failed}
    assert named(findings, fails=False) == {LATER}.union(*(damage.warned for damage in damages))


def test_what_offends_is_counted_and_at_most_five_are_shown(copy: World) -> None:
    with copy.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        wrong = connection.execute("UPDATE teams SET member_count = member_count + 1").rowcount
        connection.execute("TRUNCATE governance_rules, policy_scopes, policy_violations")
    findings = {one.check: one for one in check(copy)}
    found = findings["team_member_count"]
    assert (found.offending, len(found.sample)) == (wrong, 5)
    assert all({word.split("=")[0] for word in one.split(", ")} == {"team_id", "member_count", "counted"} for one in found.sample)
    assert (findings[ROWS].offending, len(findings[ROWS].sample)) == (8, 5)
    assert "public.policy_scopes: 0 of 100 rows left" in findings[ROWS].sample
    shown = frame(findings.values())
    assert list(shown.columns) == ["check", "severity", "offending rows", "sample keys", "verdict", "note", "seconds"]
    assert set(shown["check"][:2]) == {"team_member_count", ROWS}, "what failed comes first"
    assert shown["sample keys"].str.count("; ").max() == 4


@pytest.mark.parametrize(
    ("instant", "failed", "warned"),
    [
        (datetime(2026, 10, 1, tzinfo=UTC), set(), set()),
        (datetime(2027, 6, 1, tzinfo=UTC), set(), {LATER}),
        # The year ends in Tokyo, where the timestamps are from, nine hours before it ends in Greenwich.
        (datetime(2027, 12, 1, 14, 59, 59, tzinfo=UTC), set(), {LATER}),
        (datetime(2027, 12, 1, 15, tzinfo=UTC), {SOON}, {LATER}),
        (datetime(2028, 2, 1, tzinfo=UTC), {SOON}, {LATER}),
        (datetime(2020, 12, 15, tzinfo=UTC), {SOON}, set()),
    ],
)
def test_leaves_for_the_time_to_come(healthy: World, instant: datetime, failed: set[str], warned: set[str]) -> None:
    findings = check(healthy, instant)
    assert (named(findings, fails=True), named(findings, fails=False)) == (failed, warned)


def test_partitions_of_two_levels(copy: World) -> None:
    with copy.connect() as connection:
        connection.execute("CREATE TABLE events (at timestamp, region text) PARTITION BY RANGE (at)")
        bounds = "FOR VALUES FROM ('2027-01-01') TO ('2028-01-01') PARTITION BY LIST (region)"
        connection.execute(f"CREATE TABLE events_2027 PARTITION OF events {bounds}")
        connection.execute("CREATE TABLE events_2027_jp PARTITION OF events_2027 FOR VALUES IN ('jp')")
    rule = PartitionRule(table="events", column="at", period="year", name="events_{year}", keep="1 year", hold=None)
    definition = DEFINITION.model_copy(update={"tables": [*DEFINITION.tables, "events"], "partitions": [rule]})
    run = Run("integrity_check", CONTEXT, "3f9c", SUMMER, copy.folder, Running())
    with disable_run_logger():
        findings = run_checks.fn(server_of(copy, "backup_reader"), copy.database, run, definition, FILES, 60, SUMMER)
    assert {one.check: one.verdict for one in findings if "of events" in one.check} == {
        "partitions of events for the next 30 days": Verdict.OK, "partitions of events for the next year": Verdict.WARNING,
    }  # fmt: skip


def test_a_default_partition_is_no_leaf_for_now(copy: World) -> None:
    with copy.connect() as connection:
        connection.execute("CREATE TABLE policy_violations_rest PARTITION OF policy_violations DEFAULT")
    assert named(check(copy, datetime(2028, 2, 1, tzinfo=UTC)), fails=True) == {SOON}


def test_without_the_users_what_needs_them_is_not_run(copy: World) -> None:
    with copy.connect() as connection:
        connection.execute("DROP TABLE users CASCADE")
    found = {one.check: one for one in check(copy)}
    for name in ("policy_scope_user", "violation_user"):
        assert (found[name].verdict, found[name].note) == (
            Verdict.NOT_RUN,
            "public.users of another context does not exist in this database",
        )


def test_a_database_without_our_tables_is_red(healthy: World) -> None:
    healthy.source.create_database("bare", "consulting_owner")
    found = {one.check: one for one in check(replace(healthy, database="bare"))}
    assert found[THERE].offending == len(TABLES) + len(ALL_VIEWS)
    assert found[ROWS].verdict is Verdict.OK, "of what is not there no rows were lost"
    assert {THERE, OBJECTS, SOON, "team_has_leader"} <= {one.check for one in found.values() if one.fails}
    shown = {one.check: len(one.sample) for one in found.values() if one.check != THERE}
    assert max(shown.values()) == shown[OBJECTS] == 5


def test_of_what_is_missing_five_are_shown(copy: World) -> None:
    with copy.connect() as connection:
        connection.execute(sql.SQL("DROP TABLE {} CASCADE").format(sql.SQL(", ").join(map(sql.Identifier, TABLES))))
    found = {one.check: one for one in check(copy)}
    assert len(found[THERE].sample) == 5


# Checks of a file that cannot be trusted.


ONE = "-- check: {}\n-- severity: error\n{};\n"
AROUND = ONE.format("before", "SELECT id FROM teams WHERE false") + "{}" + ONE.format("after", "SELECT id FROM teams WHERE false")


def test_a_check_that_takes_too_long_is_a_finding_and_the_others_go_on(healthy: World) -> None:
    found = checks_of(healthy, AROUND.format(ONE.format("slow", "SELECT pg_sleep(60)")), timeout_seconds=1)
    assert (found["slow"].verdict, found["slow"].note) == (Verdict.BROKEN, "canceling statement due to statement timeout")
    assert found["slow"].fails and 1 <= found["slow"].seconds < 30
    assert {one.check for one in found.values() if one.fails} == {"slow"}
    assert list(found)[1:4] == ["before", "slow", "after"] and len(found) > 20


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1) AS x; DROP TABLE teams CASCADE; --",
        "SELECT 1) AS x; COMMIT; DROP TABLE teams CASCADE; SELECT * FROM (SELECT 1",
        "SELECT 1) AS x; ROLLBACK; --",
        "DELETE FROM teams RETURNING id",
        "WITH gone AS (DELETE FROM policy_violations RETURNING id) SELECT * FROM gone",
        "SELECT 1) AS x), gone AS (DELETE FROM policy_violations RETURNING id) SELECT * FROM (SELECT id FROM gone",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "SELECT lo_create(4711)",
        "SELECT rebuild_hierarchy(id, NULL) FROM organization_units",
        "SELECT id FROM nothing_of_that_name",
        "SELECT 1 / 0 AS never",
        "SELECT id FROM teams /* not closed",
        "SELEC 1",
    ],
)
def test_a_check_that_is_no_query_is_a_finding_and_changes_nothing(copy: World, query: str) -> None:
    before = counts(copy)
    # As a role that may change the tables, so that it is not its want of rights that saves them.
    found = checks_of(copy, AROUND.format(ONE.format("bad", query)), user="backup_restorer")
    assert found["bad"].verdict is Verdict.BROKEN and found["bad"].note
    assert {one.check for one in found.values() if one.fails} == {"bad"}
    assert counts(copy) == before


def counts(world: World) -> dict[str, int]:
    with world.connect() as connection:
        names = connection.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
        statement = sql.SQL("SELECT count(*) FROM {}")
        found = [(name, connection.execute(statement.format(sql.Identifier(name))).fetchone()) for (name,) in names.fetchall()]
        found.append(("large objects", connection.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone()))
        return {name: row[0] for name, row in found if row}


def test_a_query_is_taken_as_it_is_written(healthy: World) -> None:
    text = ONE.format("signs", "SELECT '{}' AS a, '%s' AS b, 1 AS b FROM teams WHERE name NOT LIKE '100%' -- with a comment")
    found = checks_of(healthy, text)["signs"]
    assert (found.verdict, found.offending) == (Verdict.FAILED, 50)
    assert found.sample[0] == "a={}, b=%s, b=1"


def test_a_locked_table_holds_nothing_up(copy: World) -> None:
    with copy.connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE governance_rules IN ACCESS EXCLUSIVE MODE")
        found = checks_of(copy, AROUND.format(ONE.format("locked", "SELECT id FROM governance_rules")), timeout_seconds=1)
    assert found["locked"].verdict is Verdict.BROKEN
    assert found["after"].verdict is Verdict.OK


@pytest.mark.long
def test_a_locked_view_holds_nothing_up(copy: World) -> None:
    with copy.connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE teams IN ACCESS EXCLUSIVE MODE")
        found = checks_of(copy, AROUND.format(""), timeout_seconds=1)
    assert found["before"].verdict is Verdict.BROKEN
    assert found["key governance_rules.governance_rules_policy_fkey"].verdict is Verdict.OK


@pytest.mark.long
def test_a_locked_table_does_not_hold_up_the_witnesses(copy: World) -> None:
    with copy.connect() as connection:
        connection.execute("BEGIN; LOCK TABLE governance_rules IN ACCESS EXCLUSIVE MODE")
        # Only so that a check that waits for ever fails here: the lock is held for as long as the check takes.
        release = threading.Timer(300, connection.execute, ["ROLLBACK"])
        release.start()
        found = {one.check: one.verdict for one in check(copy, timeout_seconds=1)}
        assert release.is_alive()
        release.cancel()
    assert found[ROWS] is Verdict.BROKEN


def test_hidden_rows_are_no_rows_that_are_well(copy: World) -> None:
    with copy.connect() as connection:
        connection.execute("ALTER TABLE teams ENABLE ROW LEVEL SECURITY")
    found = {one.check: one for one in check(copy)}
    assert found["team_has_leader"].verdict is Verdict.BROKEN
    assert found["team_has_leader"].note == 'query would be affected by row-level security policy for table "teams"'


def test_a_wrong_file_is_named(healthy: World) -> None:
    with pytest.raises(BadInput, match=r"^bc-004/checks.sql: check a has no valid severity"):
        checks_of(healthy, "-- check: a\nSELECT 1")


def test_a_database_that_is_not_there(healthy: World) -> None:
    with pytest.raises(BadInput, match='cannot connect to database "nowhere"'):
        check(replace(healthy, database="nowhere"))


# Rows of other contexts that refer here.


REVIEWS = "key bc005.reviews.reviews_team_fkey of another context"
OTHERS = (
    "CREATE SCHEMA bc005",
    "CREATE TABLE bc005.reviews (id int PRIMARY KEY, team_id uuid CONSTRAINT reviews_team_fkey REFERENCES teams)",
    "INSERT INTO bc005.reviews SELECT row_number() OVER (), id FROM teams",
)
ORPHANED = (
    "SET session_replication_role = replica",
    "UPDATE bc005.reviews SET team_id = gen_random_uuid() WHERE id <= 3",
    "RESET session_replication_role",
)


def test_others_rows_that_refer_to_nothing_fail_with_their_number(copy: World) -> None:
    execute(copy, *OTHERS)
    assert {one.check: one.verdict for one in check(copy)}[REVIEWS] is Verdict.OK
    execute(copy, *ORPHANED)
    found = {one.check: one for one in check(copy)}[REVIEWS]
    assert found.fails and found.offending == 3
    assert found.sample[0].startswith("id=")


def test_orphans_of_a_key_that_was_never_proven_are_a_warning(copy: World) -> None:
    execute(copy, *OTHERS, "ALTER TABLE bc005.reviews DROP CONSTRAINT reviews_team_fkey", *ORPHANED)
    key = "CONSTRAINT reviews_team_fkey FOREIGN KEY (team_id) REFERENCES teams NOT VALID"
    execute(copy, f"ALTER TABLE bc005.reviews ADD {key}")
    found = {one.check: one for one in check(copy)}[REVIEWS]
    assert (found.verdict, found.offending) == (Verdict.WARNING, 3)


@pytest.fixture
def narrow(copy: World) -> Iterator[str]:
    """A login that may read the context and nothing of others."""
    with copy.connect() as connection:
        connection.execute(sql.SQL("CREATE ROLE narrow LOGIN PASSWORD {}").format(sql.Literal(copy.source.password)))
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO narrow; GRANT pg_read_all_stats TO narrow")
        connection.execute("GRANT EXECUTE ON FUNCTION pg_control_system(), pg_control_checkpoint() TO narrow")
    yield "narrow"
    with copy.connect() as connection:
        connection.execute("DROP OWNED BY narrow; DROP ROLE narrow")


@pytest.mark.long
def test_others_rows_that_may_not_be_looked_at_are_not_said_to_be_well(copy: World, narrow: str) -> None:
    execute(copy, *OTHERS)
    store = Path(shutil.copytree(copy.store_folder, copy.folder / f"with reviews {copy.database}"))
    with_reviews = replace(copy, store={"BACKUP_STORE": str(store)})
    with_reviews.backup()
    execute(copy, *ORPHANED)
    found = {one.check: one for one in check(with_reviews, user=narrow)}
    assert found[REVIEWS].verdict is Verdict.NOT_RUN and not found[REVIEWS].fails
    assert found[REVIEWS].note == "not checked: permission denied for schema bc005"
    execute(copy, "DELETE FROM bc005.reviews")
    found = {one.check: one for one in check(with_reviews, user=narrow)}
    assert found["rows of bc005.reviews"].verdict is Verdict.NOT_RUN
    assert found["rows of bc005.reviews"].note.startswith("not checked: ")
    found = {one.check: one for one in check(with_reviews)}
    assert found[CHANGED].fails and "table of another context bc005.reviews: rows was [some], is [none]" in found[CHANGED].sample
    assert "rows of bc005.reviews" not in found


# The newest backup as witness.


def witnesses(world: World, store: str) -> list[tuple[str, Verdict, str]]:
    found = check(world, store=store)
    assert {one.check for one in found if one.fails} <= {*WITNESSES, PARTITIONS}
    return [(one.check, one.verdict, one.note) for one in found if one.check in WITNESSES]


def test_before_the_first_backup_nothing_is_compared(healthy: World) -> None:
    store = healthy.folder / "empty"
    store.mkdir()
    note = f"no backup set of the context in {store}"
    assert witnesses(healthy, str(store)) == [(name, Verdict.NOT_RUN, note) for name in WITNESSES]


def test_a_store_that_is_not_there_is_a_finding(healthy: World) -> None:
    note = "the store's folder /nowhere/at/all does not exist; mount or create it, or correct BACKUP_STORE"
    assert witnesses(healthy, "/nowhere/at/all") == [(name, Verdict.BROKEN, note) for name in WITNESSES]


@pytest.mark.long
def test_a_damaged_set_is_no_witness_and_an_older_one_is(copy: World) -> None:
    store = Path(shutil.copytree(copy.store_folder, copy.folder / "with a newer set"))
    with copy.connect() as connection:
        connection.execute("CREATE TABLE teams_of_old () INHERITS (teams)")
    newer = replace(copy, store={"BACKUP_STORE": str(store)})
    newer.backup()
    with copy.connect() as connection:
        connection.execute("DROP TABLE teams_of_old")
    assert named(check(newer), fails=True) == {OBJECTS}
    (store / CONTEXT / "daily" / newer.set_folders()[-1].name / "restore.sh").unlink()
    assert named(check(newer), fails=True) == set()


def test_a_store_of_damaged_sets_alone_is_not_said_to_be_empty(healthy: World) -> None:
    store = Path(shutil.copytree(healthy.store_folder, healthy.folder / "spoilt"))
    (manifest,) = store.glob(f"{CONTEXT}/daily/*/manifest.json")
    manifest.write_bytes(manifest.read_bytes()[:-9])
    assert all("damage" in note for _, _, note in witnesses(healthy, str(store)))


# The whole flow.


def published(world: World) -> tuple[str, set[str], set[str]]:
    """Return the verdict that was published last, and the checks that failed and warned in its table."""
    report, table = Artifact.get(f"{CONTEXT}-integrity"), Artifact.get(f"{CONTEXT}-integrity-checks")
    assert report and table and report.description == table.description
    assert report.description and f'database "{world.database}"' in report.description
    found = json.loads(table.data) if isinstance(table.data, str) else table.data
    assert isinstance(found, list)
    verdicts = {str(row["check"]): row["verdict"] for row in found}
    failed = {name for name, verdict in verdicts.items() if verdict in (Verdict.FAILED, Verdict.BROKEN)}
    failed_in_report = str(report.data).partition("## Failed\n")[2].partition("\n## ")[0]
    assert all(name in failed_in_report for name in failed)
    return report.description, failed, {name for name, verdict in verdicts.items() if verdict in (Verdict.WARNING, Verdict.NOT_RUN)}


@pytest.fixture
def today(copy: World) -> World:
    """A healthy copy with leaves for the years around today, because the flow asks the real clock."""
    now = datetime.now(UTC)
    with copy.connect() as connection:
        for year in range(now.year - 1, now.year + 3):
            if year not in YEARS:
                statement = sql.SQL("CREATE TABLE {} PARTITION OF policy_violations FOR VALUES FROM ({}) TO ({})")
                leaf = sql.Identifier(f"policy_violations_{year}")
                connection.execute(statement.format(leaf, f"{year}-01-01", f"{year + 1}-01-01"))
    return copy


def test_a_healthy_run(today: World) -> None:
    verdict = today.run(integrity_check, "backup_reader")
    assert verdict.startswith(f'PASS: database "{today.database}"')
    assert published(today) == (verdict, set(), set())


def test_a_run_over_damage_fails_after_it_was_published(today: World) -> None:
    damage = DAMAGES[0]
    assert isinstance(damage, Damage) and damage.name == "all eleven tables emptied"
    with today.connect() as connection:
        damage.do(connection)
    with pytest.raises(OperationError, match=r'^FAIL: database "copy_.*rows of the newest backup.* 16 offending'):
        today.run(integrity_check, "backup_reader")
    verdict, failed, warned = published(today)
    assert verdict.startswith("FAIL") and "2 FAILED, 3 warning" in verdict
    assert (failed, warned) == (damage.failed, damage.warned)


def test_a_warning_fails_no_run(today: World) -> None:
    with today.connect() as connection:
        connection.execute("UPDATE teams SET name = name || '!'")
    verdict = today.run(integrity_check, "backup_reader")
    assert published(today) == (verdict, set(), stale("team_statistics", "unit_statistics"))


@pytest.mark.long
def test_by_hand_a_red_run_ends_with_another_exit_code_than_0(today: World) -> None:
    with today.connect() as connection:
        connection.execute("ALTER TABLE teams DISABLE TRIGGER teams_updated")
    process = today.start("checks", "integrity_check", "backup_reader")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "OperationError: FAIL: " in said and "triggers enabled" in said
    assert published(today)[1:] == ({"triggers enabled", CHANGED}, set())


def test_a_check_that_cannot_be_run_fails_the_run_after_it_was_published(today: World, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = today.folder / "contexts" / CONTEXT
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        slow = ONE.format("slow", "SELECT pg_sleep(60)") if name == CHECKS_FILE else ""
        (folder / name).write_text(text + "\n" + slow, encoding="utf-8")
    monkeypatch.setattr(site, "CONTEXTS", folder.parent)
    with pytest.raises(OperationError, match="1 CANNOT BE RUN; slow: canceling statement due to statement timeout"):
        today.run(integrity_check, "backup_reader", timeout_seconds=2)
    assert published(today)[1:] == ({"slow"}, set())


@pytest.mark.long
def test_a_store_that_does_not_answer_fails_the_run_after_it_was_published(today: World, quick_retries: None) -> None:
    today.store = {
        "BACKUP_STORE": "s3://nowhere/at-all", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{local.free_port()}",
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "x", "AWS_MAX_ATTEMPTS": "1",
    }  # fmt: skip
    with pytest.raises(OperationError, match="4 CANNOT BE RUN; objects of the newest backup: s3://nowhere"):
        today.run(integrity_check, "backup_reader")
    assert published(today)[1:] == ({*WITNESSES, PARTITIONS}, set())


def test_before_the_first_backup_a_run_is_green(today: World) -> None:
    store = today.folder / "none yet"
    store.mkdir()
    today.store = {"BACKUP_STORE": str(store)}
    verdict = today.run(integrity_check, "backup_reader")
    assert "4 not run" in verdict
    assert published(today) == (verdict, set(), {*WITNESSES, PARTITIONS})
