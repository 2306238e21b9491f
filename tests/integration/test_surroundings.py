"""One address and one kind of session for everything, whatever the environment, a service file or the login says."""

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from deployments import local
from flows.checks import integrity_check
from flows.restore import full_restore, table_restore
from flows.views import refresh_views
from tasks.core.errors import BadInput, OperationError
from tasks.core.postgres.connection import Server, connect
from tasks.run import site
from tests.support.contexts import write_context
from tests.support.database import ask, execute
from tests.support.example import DATABASE
from tests.support.faults import wait_for
from tests.support.moments import SECONDS
from tests.support.servers import CONTRIB
from tests.support.world import World

long = pytest.mark.long
LOGINS = ("backup_reader", "backup_restorer")
SETTINGS = {
    "default_transaction_read_only": "on", "search_path": "public", "statement_timeout": "1ms", "lock_timeout": "1ms", "jit": "on",
    "role": "consulting_app", "client_encoding": "LATIN1", "DateStyle": "German", "idle_in_transaction_session_timeout": "1ms",
}  # fmt: skip
SESSION = "SELECT current_database(), current_setting('search_path'), current_setting('jit'), current_setting('role')"
OURS = ["pg_catalog,pg_temp", "off", "none"]


def service(world: World, **more: str) -> dict[str, str]:
    """Write a service file that leads to the source, and to another database there."""
    file = world.folder / "services"
    said = {"host": local.HOST, "port": str(world.source.port), "dbname": "postgres", "options": "-c jit=on"} | more
    file.write_text("".join(["[x]\n", *(f"{key}={value}\n" for key, value in said.items())]), "utf-8")
    return {"PGSERVICE": "x", "PGSERVICEFILE": str(file)}


@long
def test_a_service_file_that_names_another_database(world: World) -> None:
    before = world.state()
    world.extra = service(world) | {"PGDATABASE": DATABASE, "PGOPTIONS": "-c search_path=public", "PGCLIENTENCODING": "LATIN1"}
    assert world.backup().startswith("STORED")
    world.extra = {}
    assert world.recover().startswith("PASS")
    world.assert_recovered(before)


def test_a_service_that_is_not_there_is_told(world: World) -> None:
    world.extra = service(world) | {"PGSERVICE": "y"}
    with pytest.raises(BadInput, match=r'definition of service "y" not found'):
        world.backup()


def test_a_server_that_is_given_is_the_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says of another one, fills nothing in."""
    environment = service(world, hostaddr="127.0.0.9") | {"PGHOSTADDR": "127.0.0.9", "PGPORT": "1", "PGOPTIONS": "-c jit=on"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    said = {"host": local.HOST, "port": str(world.source.port), "user": "postgres", "password": world.source.password}
    server = Server(said, "a block")
    with connect(server, DATABASE, "a test") as connection:
        assert connection.execute(SESSION.encode()).fetchall() == [(DATABASE, *OURS)]
    psql = [str(world.source.bin / "psql"), "-XAtqF;", f"--dbname={DATABASE}", "-c", SESSION]
    given = {name: value for name, value in (local.bare_environment() | server.environment(DATABASE)).items() if value}
    done = subprocess.run(psql, env=given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ";".join((DATABASE, *OURS))
    # Nor its port, where none is given.
    monkeypatch.delenv("PGSERVICE")
    with pytest.raises(BadInput, match=r":5432\)"), connect(Server({"host": local.HOST}, "a block"), DATABASE, "a test"):
        pass


@pytest.fixture
def logins(world: World) -> Iterator[World]:
    """The logins, whose settings and limits are taken back."""
    yield world
    for server in (world.source, world.target):
        with server.connect() as connection:
            for login in LOGINS:
                connection.execute(f"ALTER ROLE {login} RESET ALL; ALTER ROLE {login} CONNECTION LIMIT -1".encode())


@long
def test_settings_of_a_login_reach_nothing(logins: World) -> None:
    for server in (logins.source, logins.target):
        with server.connect() as connection:
            for login in LOGINS:
                for name, value in SETTINGS.items():
                    connection.execute(f"ALTER ROLE {login} SET {name} = '{value}'".encode())
    execute(logins, "ALTER TABLE public.teams ADD COLUMN \"目的\" text DEFAULT '日本'", "COMMENT ON TABLE public.teams IS '組'")
    before = logins.state()
    assert logins.backup().startswith("STORED")
    assert logins.recover().startswith("PASS")
    logins.assert_recovered(before)


@long
def test_a_limit_of_connections_is_told_before_anything_is_touched(logins: World) -> None:
    logins.extra = {"BACKUP_JOBS": "4"}
    execute(logins, "ALTER ROLE backup_reader CONNECTION LIMIT 4")
    with pytest.raises(BadInput, match=r'ROLE "backup_reader" has CONNECTION LIMIT 4, \d are in use, and this run takes 4 more'):
        logins.backup()
    assert logins.set_folders() == []
    # A session that was closed counts until its backend has noticed.
    left = "SELECT FROM pg_stat_activity WHERE usename = 'backup_reader'"
    wait_for(lambda: not ask(logins, left), SECONDS, "the end of its sessions")
    execute(logins, "ALTER ROLE backup_reader CONNECTION LIMIT 6")
    assert logins.backup().startswith("STORED")
    with logins.target.connect() as connection:
        connection.execute("ALTER ROLE backup_loader CONNECTION LIMIT 3")
    with pytest.raises(BadInput, match=r'ALTER ROLE "backup_loader" CONNECTION LIMIT'):
        logins.recover()
    assert not logins.target.has_database(DATABASE)


# --- types of people's making, and what names things as they are called ---------------------------------------------------

CITEXT, WORDS = "CREATE EXTENSION citext", ["Alpha", "beta", "gamma"]
# What has to be there, the type, values of it, and what the key to it does; of words the first is the same in capitals.
TYPES = {
    "ltree": ("CREATE EXTENSION ltree", "ltree", ["a.b", "a.c", "b"], ""),
    "ltree in another schema": (
        "CREATE SCHEMA lib; GRANT USAGE ON SCHEMA lib TO PUBLIC; CREATE EXTENSION ltree SCHEMA lib; "
        f"ALTER DATABASE {DATABASE} SET search_path = lib, public", "lib.ltree", ["a.b", "a.c", "b"], "",
    ),
    "citext": (CITEXT, "citext", WORDS, "ON DELETE CASCADE"),
    "citext that follows": (CITEXT, "citext", WORDS, "ON DELETE CASCADE ON UPDATE CASCADE"),
    "a domain over citext": (f"{CITEXT}; CREATE DOMAIN public.word AS citext", "word", WORDS, ""),
    "a collation": (
        "CREATE COLLATION public.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "text COLLATE public.ci", WORDS, "ON DELETE CASCADE",
    ),
}  # fmt: skip


def odd_context(world: World, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    monkeypatch.setattr(site, "CONTEXTS", world.folder / "contexts")
    write_context(site.CONTEXTS, **({"name": "bc-902", "database": DATABASE, "schema": "odd", "tables": ["c", "r"]} | more))


@long
@pytest.mark.every_variant
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("any_version", [15, CONTRIB], ids=["15", "18"], indirect=True)
def test_keys_of_types_with_operators_of_their_own(any_version: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    world, (extension, kind, values, acts) = any_version, TYPES[name]
    if "icu" in extension and not ask(world, "SELECT FROM pg_collation WHERE collprovider = 'i' AND collnamespace = 11 OFFSET 1"):
        pytest.skip("this server is built without ICU")
    execute(
        world, *extension.split("; "), "CREATE SCHEMA odd AUTHORIZATION consulting_owner", "SET ROLE consulting_owner",
        f"CREATE TABLE odd.c (k {kind} PRIMARY KEY, v text)",
        f"CREATE TABLE odd.r (id int PRIMARY KEY, k {kind} REFERENCES odd.c {acts})",
        *(f"INSERT INTO odd.c VALUES ('{one}', 'v'); INSERT INTO odd.r VALUES ({n}, '{one}')" for n, one in enumerate(values)),
    )  # fmt: skip
    odd_context(world, monkeypatch)
    rows = "SELECT c.k::text, c.v, r.id FROM odd.c LEFT JOIN odd.r ON r.k::text = c.k::text ORDER BY 1"
    before = ask(world, rows)
    world.backup(context="bc-902")
    execute(world, "UPDATE odd.c SET v = 'w'", "DELETE FROM odd.r WHERE id = 1", f"DELETE FROM odd.c WHERE k = '{values[1]}'")
    sure = {"context": "bc-902", "dry_run": False, "confirm_database": DATABASE}

    def restore(flow: Any, **parameters: Any) -> str:
        return str(world.run(flow, "backup_restorer", **sure | parameters))

    assert restore(table_restore, table="c", mode="missing", keys=[{"k": values[1]}]).startswith("RESTORED")
    assert restore(table_restore, table="c", mode="merge", keys=f"k = '{values[0]}'").startswith("RESTORED")
    with pytest.raises(OperationError, match="with key number 1 of 1"):
        restore(table_restore, table="c", mode="merge", keys=[{"k": "nobody"}])
    assert ask(world, "SELECT count(*) FROM odd.c WHERE v = 'v'") == [(2,)]
    execute(world, f"DELETE FROM odd.c WHERE k = '{values[1]}'")
    assert restore(table_restore, table="r", mode="missing", include_parents=True).startswith("RESTORED")
    assert restore(full_restore, in_place=True).startswith("RESTORED")
    assert ask(world, rows) == before
    if values == WORDS:
        # Another spelling of the same key is a change of the row, not another row.
        execute(world, "UPDATE odd.c SET k = 'ALPHA' WHERE k::text = 'Alpha'")
        assert re.search(r": 0 inserted, [12] updated, 0 deleted", restore(full_restore, in_place=True))
        assert ask(world, rows) == before
    assert world.run(integrity_check, "backup_restorer", context="bc-902").startswith("PASS")


@long
@pytest.mark.parametrize("any_version", [16], indirect=True)
def test_a_view_and_a_column_that_name_things_as_they_are_called(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Since PostgreSQL 17 a view is computed under a path of PostgreSQL's own, and nobody has such a one."""
    execute(
        any_version, "CREATE SCHEMA odd AUTHORIZATION consulting_owner", f"ALTER DATABASE {DATABASE} SET search_path = odd, public",
        "SET ROLE consulting_owner", "SET search_path = odd, public", "CREATE TABLE c (id int PRIMARY KEY, v tsvector)",
        "INSERT INTO c VALUES (1, 'a b'), (2, 'b c')", "CREATE MATERIALIZED VIEW m AS SELECT * FROM ts_stat('SELECT v FROM c')",
        "CREATE FUNCTION helper(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2'",
        "CREATE FUNCTION twice(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN helper(n); END'",
        "CREATE TABLE r (id int PRIMARY KEY, n int, t int GENERATED ALWAYS AS (twice(n)) STORED)", "INSERT INTO r VALUES (1, 2)",
    )  # fmt: skip
    odd_context(any_version, monkeypatch, views=["m"])
    assert "REFRESHED: odd.m" in any_version.run(refresh_views, "backup_restorer", context="bc-902")
    any_version.backup(context="bc-902")
    execute(any_version, "SET search_path = odd, public", "UPDATE odd.r SET n = 7", "DELETE FROM odd.c WHERE id = 1")
    sure = {"context": "bc-902", "in_place": True, "dry_run": False, "confirm_database": DATABASE}
    assert any_version.run(full_restore, "backup_restorer", **sure).startswith("RESTORED")
    assert ask(any_version, "SELECT t FROM odd.r") == [(4,)]
    assert ask(any_version, "SELECT count(*) FROM odd.m") == [(3,)]
