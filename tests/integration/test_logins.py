"""Which login does what: the one whose sessions run the owner's code may do what he may, and no more, or nothing is begun."""

import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from deployments.local import HOST, LocalServer
from flows.partitions import archive_partitions
from flows.restore import full_restore, table_restore
from flows.retention import clean_up_old_data
from tasks.core import sql
from tasks.core.errors import BadInput, RestoreDiffers
from tasks.core.postgres.connection import Server, connect
from tasks.core.postgres.programs import Running
from tasks.database.locks import SPACE
from tasks.database.logins import find_loader, find_roles_login
from tasks.restore import compare
from tasks.run.run import Run
from tests.support import PROJECT
from tests.support.example import CONTEXT, DATABASE
from tests.support.servers import databases, drop_databases
from tests.support.world import World

OWNER = "consulting_owner"
OF_RUNS = "SELECT rolname FROM pg_roles WHERE rolname ~ '^backup_loader_'"


def server_of(server: LocalServer, user: str) -> Server:
    return Server({"host": HOST, "port": str(server.port), "user": user, "password": server.password}, "the test")


@contextmanager
def a_run(folder: Path) -> Iterator[Run]:
    with ExitStack() as until_end, disable_run_logger():
        yield Run("test", CONTEXT, "3f9c", datetime.now(UTC), folder, Running(), until_end=until_end)


def find(server: LocalServer, folder: Path, user: str = "backup_restorer", *owners: str, **how: Any) -> str:
    """Return the login that is found for the code of owners, after a look at what it may."""
    with a_run(folder) as run:
        login = find_loader(server_of(server, user), run, owners or (OWNER,), **how)
        with connect(login, "postgres", "test") as connection:
            beyond = connection.execute(sql.logins.BEYOND, {"owners": list(owners or (OWNER,))}).fetchall()
            assert beyond == [] or user == "postgres" == login.user
        return login.user


@pytest.fixture
def roles(target: LocalServer) -> Iterator[LocalServer]:
    """A server whose roles a test may change; afterwards they are as roles.sql makes them."""
    yield target
    with target.connect() as connection:
        connection.execute("REVOKE pg_read_all_data, consulting_app FROM backup_loader; DROP ROLE IF EXISTS operator, second_owner")
    target.run_script(PROJECT / "deployments" / "roles.sql")


def change(server: LocalServer, *statements: str) -> None:
    with server.connect() as connection:
        for statement in statements:
            connection.execute(statement.encode())


@pytest.mark.parametrize(
    ("statement", "beyond"),
    [
        ("ALTER ROLE backup_loader CREATEDB", "CREATEDB"),
        ("ALTER ROLE backup_loader CREATEROLE", "CREATEROLE"),
        ("ALTER ROLE backup_loader BYPASSRLS", "BYPASSRLS"),
        ("ALTER ROLE backup_loader SUPERUSER", "SUPERUSER"),
        ("GRANT pg_read_all_data TO backup_loader", "member of pg_read_all_data"),
        ("GRANT consulting_app TO backup_loader", "member of consulting_app"),
    ],
)
@pytest.mark.parametrize("user", ["backup_restorer", "postgres"])
def test_a_loader_that_may_more_is_refused_by_name(
    roles: LocalServer, folder: Path, user: str, statement: str, beyond: str
) -> None:  # fmt: skip
    assert find(roles, folder, user) == "backup_loader"
    change(roles, statement)
    with pytest.raises(
        BadInput, match=f'login "backup_loader" has more rights than consulting_owner.*: {beyond}; revoke these rights'
    ):
        find(roles, folder, user)


def test_without_a_loader_there_is_one_error_that_names_the_remedies(roles: LocalServer, folder: Path) -> None:
    change(roles, "ALTER ROLE backup_loader NOLOGIN")
    with pytest.raises(BadInput) as refused:
        find(roles, folder)
    said = str(refused.value)
    for word in (
        'login "backup_restorer" has more rights (CREATEDB',
        "\\password backup_loader",
        "BACKUP_LOADER_PASSWORD",
        "roles.sql",
    ):
        assert word in said
    change(roles, "ALTER ROLE backup_loader LOGIN; REVOKE consulting_owner FROM backup_loader")
    with pytest.raises(
        BadInput, match='may not create objects for consulting_owner; run as administrator: GRANT "consulting_owner"'
    ):
        find(roles, folder)


def test_who_may_make_roles_makes_a_login_for_the_run(roles: LocalServer, folder: Path) -> None:
    change(roles, "ALTER ROLE backup_loader NOLOGIN")
    with a_run(folder) as run:
        login = find_loader(server_of(roles, "postgres"), run, [OWNER])
        assert login.user.startswith("backup_loader_3f9c_")
        with connect(login, "postgres", "test") as connection:
            assert connection.execute(sql.logins.BEYOND, {"owners": [OWNER]}).fetchall() == []
            assert connection.execute(sql.logins.NOT_MEMBER_16, {"owners": [OWNER]}).fetchall() == []
    with roles.connect() as connection:
        assert connection.execute(OF_RUNS).fetchall() == []


def test_the_login_of_a_run_that_died_is_dropped_and_that_of_one_that_lives_is_not(roles: LocalServer, folder: Path) -> None:
    dead, alive, by_hand = "backup_loader_aaaa_00000001", "backup_loader_bbbb_00000002", "backup_loader_by_hand_00000003"
    change(roles, "ALTER ROLE backup_loader NOLOGIN", *(f"CREATE ROLE {name} LOGIN" for name in (dead, alive, by_hand)))
    with roles.connect() as keeper:
        keeper.execute("SELECT pg_advisory_lock(%s, %s)", [SPACE, zlib.crc32(alive.encode()) & 0x7FFFFFFF])
        find(roles, folder, "postgres")
        assert {row[0] for row in keeper.execute(OF_RUNS)} == {alive, by_hand}
    change(roles, f"DROP ROLE {alive}, {by_hand}")


def test_a_login_that_is_named_serves(roles: LocalServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(roles, "CREATE ROLE operator LOGIN IN ROLE consulting_owner", "ALTER ROLE operator PASSWORD 'another'")
    monkeypatch.setenv("BACKUP_LOADER_USER", "operator")
    with pytest.raises(BadInput, match='login "operator"'):
        find(roles, folder)
    monkeypatch.setenv("BACKUP_LOADER_PASSWORD", "another")
    assert find(roles, folder) == "operator"


def test_a_password_of_the_passfile_serves(roles: LocalServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(roles, "ALTER ROLE backup_loader PASSWORD 'its own'")
    with pytest.raises(BadInput):
        find(roles, folder)
    passfile = folder / "pgpass"
    passfile.touch(mode=0o600)
    passfile.write_text(f"{HOST}:{roles.port}:*:backup_loader:its own\n", "utf-8")
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    try:
        assert find(roles, folder) == "backup_loader"
    finally:
        roles.allow_login("backup_loader")


def test_an_operator_who_has_no_more_than_the_owner_serves_himself(roles: LocalServer, folder: Path) -> None:
    change(roles, "CREATE ROLE operator LOGIN IN ROLE consulting_owner")
    roles.allow_login("operator")
    assert find(roles, folder, "operator") == "operator"
    change(roles, "REVOKE consulting_owner FROM operator")
    # Where nothing is done for the owner, he needs not be one; else the login that is for it serves.
    assert find(roles, folder, "operator", acting=False) == "operator"
    assert find(roles, folder, "operator") == "backup_loader"


def test_objects_of_several_owners_need_a_member_of_each(roles: LocalServer, folder: Path) -> None:
    change(roles, "CREATE ROLE second_owner")
    with pytest.raises(BadInput, match=r'may not create objects for second_owner; .*GRANT "second_owner" TO "backup_loader"'):
        find(roles, folder, "backup_restorer", OWNER, "second_owner")
    change(roles, "GRANT second_owner TO backup_loader")
    assert find(roles, folder, "backup_restorer", OWNER, "second_owner") == "backup_loader"
    # Who loads for one context alone may not have the rights of another's owner.
    with pytest.raises(BadInput, match="member of second_owner"):
        find(roles, folder)


def test_an_owner_who_is_a_superuser_is_refused_unless_it_is_said_that_he_is_trusted(
    roles: LocalServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    for user in ("backup_restorer", "postgres"):
        with pytest.raises(BadInput, match=r"objects belong to superuser postgres: .*BACKUP_LOAD_AS_SUPERUSER"):
            find(roles, folder, user, "postgres", OWNER)
    # In a live database what is his will be refused by itself.
    assert find(roles, folder, "backup_restorer", "postgres", OWNER, is_live=True) == "backup_loader"
    monkeypatch.setenv("BACKUP_LOAD_AS_SUPERUSER", "postgres")
    assert find(roles, folder, "postgres", "postgres", OWNER) == "postgres"
    with pytest.raises(BadInput, match="belong to superuser"):
        find(roles, folder, "backup_restorer", "postgres", OWNER)


def test_roles_are_made_by_a_login_of_their_own(roles: LocalServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_run(folder) as run:
        found = find_roles_login(server_of(roles, "backup_restorer"), run)
        assert found and found.user == "backup_roles"
        change(roles, "ALTER ROLE backup_roles NOLOGIN")
        assert find_roles_login(server_of(roles, "backup_restorer"), run) is None
        monkeypatch.setenv("BACKUP_ROLES_USER", "backup_reader")
        with pytest.raises(BadInput, match='login "backup_reader" may not create roles'):
            find_roles_login(server_of(roles, "backup_restorer"), run)


def test_an_old_installation_is_brought_to_the_new_state(roles: LocalServer) -> None:
    change(roles, "ALTER ROLE backup_restorer CREATEROLE", "ALTER ROLE backup_restorer SET createrole_self_grant = 'set, inherit'")
    roles.run_script(PROJECT / "deployments" / "roles.sql")
    with roles.connect() as connection:
        rights = connection.execute("SELECT rolcreatedb, rolcreaterole, rolconfig FROM pg_roles WHERE rolname = 'backup_restorer'")
        assert rights.fetchall() == [(True, False, None)]


@pytest.mark.long
def test_what_an_empty_server_lacks_is_made_and_handed_over(world: World) -> None:
    change(world.source, "CREATE ROLE late_owner; GRANT late_owner TO backup_restorer, backup_loader")
    with world.connect() as connection:
        connection.execute("GRANT CREATE ON SCHEMA public TO late_owner; ALTER TABLE governance_rules OWNER TO late_owner")
    try:
        world.backup()
        assert world.recover().startswith("PASS")
        with world.connect(world.target) as connection:
            owner = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'governance_rules'::regclass"
            assert connection.execute(owner).fetchall() == [("late_owner",)]
            members = (
                "SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member "
                "WHERE m.roleid = 'late_owner'::regrole AND m.set_option ORDER BY 1"
            )
            assert [row[0] for row in connection.execute(members)] == ["backup_loader", "backup_restorer"]
    finally:
        for server in (world.source, world.target):
            for name in databases(server):
                with server.connect(name) as connection:
                    connection.execute("REASSIGN OWNED BY late_owner TO postgres; DROP OWNED BY late_owner")
            change(server, "DROP ROLE IF EXISTS late_owner")


@pytest.mark.long
def test_a_recovery_by_a_superuser_without_the_roles_leaves_no_login(world: World, roles: LocalServer) -> None:
    world.backup()
    change(roles, "ALTER ROLE backup_loader NOLOGIN")
    assert world.recover("postgres").startswith("PASS")
    with roles.connect() as connection:
        assert connection.execute(OF_RUNS).fetchall() == []


def test_the_reader_is_told_whose_work_a_restore_is(world: World) -> None:
    world.backup()
    with pytest.raises(BadInput, match='login "backup_reader" may not create databases; use login "backup_rest'):
        world.recover("backup_reader")


def test_another_login_keeps_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PGHOST", "db.example"), ("PGPORT", "6000"), ("PGUSER", "one"), ("PGPASSWORD", "secret")):
        monkeypatch.setenv(name, value)
    login = Server().as_login("two", None).conninfo("d")
    assert (login["host"], login["port"], login["user"], login["password"]) == ("db.example", "6000", "two", "")
    assert Server().as_login("two", "other").environment("d")["PGPASSWORD"] == "other"
    assert Server().as_login("two", "other").user == "two"


# Row-level security that holds for the owner too.

HIDE = """
ALTER TABLE teams ENABLE ROW LEVEL SECURITY; ALTER TABLE teams FORCE ROW LEVEL SECURITY;
CREATE POLICY few ON teams USING (name < 'M');
ALTER TABLE policy_violations ENABLE ROW LEVEL SECURITY; ALTER TABLE policy_violations FORCE ROW LEVEL SECURITY
"""
FORCED = "SELECT relname::text FROM pg_class WHERE relforcerowsecurity ORDER BY 1"
CONFIRMED = {"dry_run": False, "confirm_database": DATABASE}


@pytest.mark.parametrize(
    ("flow", "parameters"),
    [
        pytest.param(full_restore, {"in_place": True}, marks=pytest.mark.long),
        (full_restore, {"in_place": True, **CONFIRMED}),
        pytest.param(table_restore, {"table": "teams", "mode": "replace", **CONFIRMED}, marks=pytest.mark.long),
        pytest.param(clean_up_old_data, {}, marks=pytest.mark.long),
        (clean_up_old_data, CONFIRMED),
        pytest.param(archive_partitions, {}, marks=pytest.mark.long),
        pytest.param(archive_partitions, CONFIRMED, marks=pytest.mark.long),
    ],
)
def test_rows_that_policies_keep_from_the_owner_are_changed_by_nobody(hidden: World, flow: Any, parameters: dict[str, Any]) -> None:
    before = hidden.state()
    with pytest.raises(BadInput, match=r"forced on public\.policy_violations, public\.teams: .* public\.teams NO FORCE ROW LEVEL"):
        hidden.run(flow, "backup_restorer", **parameters)
    assert before.differences(hidden.state()) == []


@pytest.mark.long
def test_a_database_whose_policies_hold_for_the_owner_comes_back_with_them(
    hidden: World, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """The backup reads all rows, or says that it may not; what is restored is compared whole, and forced again in any case."""
    with hidden.connect() as connection:
        connection.execute("ALTER ROLE backup_reader NOBYPASSRLS")
        with pytest.raises(BadInput, match=r"would hide rows of public\.policy_violations, public\.teams from"):
            hidden.backup()
        connection.execute("ALTER ROLE backup_reader BYPASSRLS")
    hidden.backup()
    hidden.target.create_database(DATABASE, OWNER)
    for _ in ("into the one that is there", "into a new one"):
        verdict = hidden.recover()
        assert verdict.startswith("PASS") and "writes could not be tried" in verdict
        with hidden.connect(hidden.target) as connection:
            assert connection.execute(FORCED).fetchall() == [("policy_violations",), ("teams",)]
        drop_databases(hidden.target)

    def differ(*_: Any, **__: Any) -> list[str]:
        return ["it differs"]

    monkeypatch.setattr(compare, "compare_objects", differ)
    with pytest.raises(RestoreDiffers):
        hidden.recover()
    (kept,) = databases(hidden.target)
    with hidden.target.connect(kept) as connection:
        assert connection.execute(FORCED).fetchall() == [("policy_violations",), ("teams",)]


@pytest.fixture
def hidden(world: World) -> Iterator[World]:
    """A world with a backup, whose policies hold for the owner too since."""
    world.backup()
    with world.connect() as connection:
        connection.execute(HIDE)
        yield world
        connection.execute("ALTER ROLE backup_reader NOBYPASSRLS")
