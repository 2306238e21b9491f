"""What a restore needs is asked before anything is made: all of it is told at once, with what to run; what can work, works."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from deployments import local
from flows.recovery import recovery_drill
from flows.restore import full_restore, table_restore
from tasks.core.errors import BadInput, OperationError
from tasks.restore import prerequisites
from tests.support.database import ask, execute
from tests.support.example import DATABASE
from tests.support.restores import restore_by_hand, safety_sets
from tests.support.servers import CONTRIB, drop_databases, prepare
from tests.support.surroundings import AS_OWNER, CONTEXT, ask_target, surround
from tests.support.world import World, new_world

long = pytest.mark.long
versions = pytest.mark.parametrize("any_version", [15, 16, CONTRIB], ids=["15", "16", "18"], indirect=True)
COPY = "copied"
AS_ADMINISTRATOR = "RESET ROLE"
REFUSES_TABLES = """CREATE FUNCTION public.no_change() RETURNS event_trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'not in office hours'; END $$"""


def backup(world: World) -> None:
    assert world.backup(context=CONTEXT).startswith("STORED")


def in_place(world: World, **more: Any) -> str:
    return str(world.run(full_restore, "backup_restorer", **({"context": CONTEXT, "in_place": True} | more)))


def restore(world: World, **more: Any) -> str:
    return in_place(world, dry_run=False, confirm_database=DATABASE, **more)


def into_copy(world: World) -> str:
    return str(world.run(full_restore, "backup_restorer", context=CONTEXT, target_database=COPY))


def refused(world: World, *facts: str) -> None:
    """See that the plan refuses, and so does what would carry it out, before its safety set."""
    for restoring in (in_place, restore):
        with pytest.raises(OperationError, match=r"^REFUSED, nothing touched: ") as caught:
            restoring(world)
        for fact in facts:
            assert fact in str(caught.value), caught.value
    assert safety_sets(world, CONTEXT) == []


@contextmanager
def roles(world: World, *names: str) -> Iterator[None]:
    """Have some roles on the source's server, and none of them, nor what they hold, on either server afterwards."""
    execute(world, *(f"CREATE ROLE {name}" for name in names))
    try:
        yield
    finally:
        for server in (world.source, world.target):
            with server.connect() as connection:
                for database in (DATABASE, COPY):
                    connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)".encode())
                for name in names:
                    connection.execute(f"DROP ROLE IF EXISTS {name}".encode())


# --- grants that others made ------------------------------------------------------------------------------------------------

GRANTED = [
    "GRANT USAGE ON SCHEMA odd TO lender WITH GRANT OPTION", "GRANT SELECT, UPDATE (v) ON t TO lender WITH GRANT OPTION",
    "CREATE FUNCTION odd.f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'", "REVOKE EXECUTE ON FUNCTION f FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION f TO lender WITH GRANT OPTION", "ALTER TABLE t ADD CHECK (odd.f(id) > 0)",
    f"{AS_ADMINISTRATOR}; SET ROLE lender", "GRANT USAGE ON SCHEMA odd TO \"bor;row\"",
    'GRANT SELECT, UPDATE (v) ON odd.t TO "bor;row" WITH GRANT OPTION', 'GRANT EXECUTE ON FUNCTION odd.f TO "bor;row"',
    f'{AS_ADMINISTRATOR}; SET ROLE "bor;row"', "GRANT SELECT ON odd.t TO consulting_app",
]  # fmt: skip
GRANTS = """SELECT a.grantor::regrole::text, a.grantee::regrole::text, a.privilege_type, a.is_grantable FROM (
    SELECT relacl AS acl FROM pg_class WHERE oid = 'odd.t'::regclass UNION ALL SELECT nspacl FROM pg_namespace WHERE nspname = 'odd'
    UNION ALL SELECT proacl FROM pg_proc WHERE proname = 'f' AND pronamespace = 'odd'::regnamespace
    UNION ALL SELECT attacl FROM pg_attribute WHERE attrelid = 'odd.t'::regclass) AS o CROSS JOIN LATERAL aclexplode(acl) AS a
    ORDER BY 1, 2, 3"""


def test_grants_by_others_come_back_as_theirs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with roles(world, "lender", '"bor;row"'):
        surround(world, monkeypatch, *GRANTED)
        before = ask(world, GRANTS)
        assert {"lender", '"bor;row"'} <= {row[0] for row in before}
        backup(world)
        assert world.recover(context=CONTEXT).startswith("PASS")
        assert ask_target(world, GRANTS) == before


@long
@versions
def test_grants_by_others_whom_nobody_may_become(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    with roles(world, "lender", '"bor;row"'):
        surround(world, monkeypatch, *GRANTED)
        before = ask(world, GRANTS)
        backup(world)
        # The lender is there already, and no login of ours is a member.
        assert into_copy(world).startswith("PASS")
        with world.source.connect(COPY) as connection:
            copied = connection.execute(GRANTS.encode()).fetchall()
        rights = {row[1:] for row in before}
        assert {row[1:] for row in copied} == rights and {row[0] for row in copied} == {"consulting_owner"}
        execute(world, "DROP TABLE odd.t CASCADE")
        assert in_place(world).startswith("PLANNED")
        assert restore(world).startswith("RESTORED")
        assert {row[1:] for row in ask(world, GRANTS)} == rights


@long
@versions
def test_grants_by_others_come_back_by_hand(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    with roles(world, "lender", '"bor;row"'):
        surround(world, monkeypatch, *GRANTED)
        backup(world)
        restore_by_hand(world, COPY, context=CONTEXT)
        with world.source.connect(COPY) as connection:
            assert connection.execute(GRANTS.encode()).fetchall() == ask(world, GRANTS)


# --- tablespaces and extensions ------------------------------------------------------------------------------------------------


@long
@versions
def test_tablespaces_that_are_closed(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    where = """SELECT relname, spcname FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace
        WHERE relnamespace = 'odd'::regnamespace ORDER BY 1"""
    parts = [
        "CREATE TABLE parts (id int) PARTITION BY RANGE (id)",
        "CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (9)",
    ]
    execute(world, "SET allow_in_place_tablespaces = on", "CREATE TABLESPACE \"She'lf\" LOCATION ''")
    closed = (
        'tablespace "She\'lf" may not be used by login "backup_loader"; run as a superuser: GRANT CREATE ON TABLESPACE "She\'lf"'
    )
    try:
        moved = [f'ALTER TABLE odd.{name} SET TABLESPACE "She\'lf"' for name in ("t", "part")]
        surround(world, monkeypatch, *parts, AS_ADMINISTRATOR, *moved, tables=["t", "parts"])
        backup(world)
        for restoring in (lambda: into_copy(world), lambda: world.run(recovery_drill, "backup_restorer", context=CONTEXT)):
            with pytest.raises(BadInput, match="(?s)" + closed.replace("(", "\\(")):
                restoring()
        assert not world.source.has_database(COPY)
        execute(world, "DROP TABLE odd.t CASCADE", "DROP TABLE odd.part")
        refused(world, closed)
        execute(world, 'GRANT CREATE ON TABLESPACE "She\'lf" TO consulting_owner')
        assert into_copy(world).startswith("PASS")
        assert restore(world).startswith("RESTORED")
        with world.source.connect(COPY) as connection:
            assert connection.execute(where.encode()).fetchall() == ask(world, where) == [("part", "She'lf"), ("t", "She'lf")]
    finally:
        with world.source.connect() as connection:
            for database in (DATABASE, COPY):
                connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)".encode())
            connection.execute('DROP TABLESPACE "She\'lf"')


WITH_BLOOM = (AS_ADMINISTRATOR, "CREATE EXTENSION bloom SCHEMA public", AS_OWNER, "CREATE INDEX ON odd.t USING bloom (v)")


@long
def test_all_that_a_server_lacks_is_told_at_once(servers: Any, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extension that no package brought, a right, and sessions; nothing was made."""
    contrib = servers[CONTRIB]
    (world.folder / "more").mkdir()
    world = new_world(contrib, world.target, world.api, world.folder / "more")
    surround(world, monkeypatch, *WITH_BLOOM)
    backup(world)
    world.extra = {"BACKUP_JOBS": "3"}
    with world.target.connect() as connection:
        connection.execute("ALTER ROLE backup_restorer NOCREATEDB; ALTER ROLE backup_loader CONNECTION LIMIT 1")
    try:
        with pytest.raises(BadInput) as caught:
            world.recover(context=CONTEXT)
    finally:
        drop_databases(contrib)
        with world.target.connect() as connection:
            connection.execute("ALTER ROLE backup_restorer CREATEDB; ALTER ROLE backup_loader CONNECTION LIMIT -1")
    for fact in ("extension bloom", "CREATEDB", 'ALTER ROLE "backup_loader" CONNECTION LIMIT'):
        assert fact in str(caught.value)
    assert not world.target.has_database(DATABASE)


@long
@pytest.mark.parametrize("any_version", [15, CONTRIB], ids=["15", "18"], indirect=True)
def test_an_extension_that_only_a_superuser_installs(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    surround(world, monkeypatch, *WITH_BLOOM)
    backup(world)
    with pytest.raises(
        BadInput, match='extension bloom is not trusted: login "backup_restorer" may not install it; restore as a sup'
    ):
        into_copy(world)
    execute(world, "DROP EXTENSION bloom CASCADE")
    refused(world, 'extension "bloom" of database', 'CREATE EXTENSION "bloom";')
    with world.source.connect() as connection:
        connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)".encode())
    with pytest.raises(BadInput, match="have a superuser run") as caught:
        world.recover(context=CONTEXT)
    # What it says is enough.
    made, installed = str(caught.value).partition("postgres: ")[2].split("; then in the new one: ")
    with world.source.connect() as connection:
        connection.execute(made.encode())
    with world.source.connect(DATABASE) as connection:
        connection.execute(installed.partition(" and recover")[0].encode())
        connection.execute(
            "GRANT CREATE ON SCHEMA public TO consulting_owner; GRANT CREATE ON DATABASE consulting_tool TO backup_loader"
        )
    assert world.recover(context=CONTEXT).startswith("PASS")


@long
@versions
def test_schemas_of_others_and_locks(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    with roles(world, "keeper"):
        surround(
            world, monkeypatch, AS_ADMINISTRATOR, "ALTER SCHEMA odd OWNER TO keeper", "GRANT ALL ON SCHEMA odd TO consulting_owner"
        )
        backup(world)
        with pytest.raises(
            BadInput, match=r'login "backup_restorer" may not give schema "odd" to "keeper"; run as admin.* GRANT "keep'
        ):
            into_copy(world)
        execute(world, "GRANT keeper TO backup_restorer")
        # So many tables that a server has no room for their locks take too long to make.
        with monkeypatch.context() as patch:
            patch.setattr(prerequisites, "MOST_LOCKS", 0)
            patch.setattr(prerequisites, "MORE_LOCKS", 0)
            with pytest.raises(BadInput, match=r"has room for [\d,]+ locks .* takes 1; run: ALTER SYSTEM SET max_locks_per_tra"):
                into_copy(world)
            refused(world, "has room for ", "takes 2; run: ALTER SYSTEM SET max_locks_per_transaction = ")
        assert into_copy(world).startswith("PASS")


@long
def test_a_collation_that_the_server_lacks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a locale that the source's operating system has."""
    renamed = "SET allow_system_table_mods = on; UPDATE pg_collation SET collname = '{}' WHERE collname = '{}'"
    surround(world, monkeypatch, 'ALTER TABLE t ADD COLUMN w text COLLATE "ucs_basic"')
    backup(world)
    with world.target.connect() as connection:
        connection.execute(renamed.format("other", "ucs_basic").encode())
    try:
        with pytest.raises(BadInput, match=r'collation pg_catalog."ucs_basic" does not exist on the server for UTF8'):
            world.recover(context=CONTEXT)
    finally:
        with world.target.connect() as connection:
            connection.execute(renamed.format("ucs_basic", "other").encode())
    assert not world.target.has_database(DATABASE)
    assert world.recover(context=CONTEXT).startswith("PASS")


def lose_database_with_extension(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back up a context with an extension in a schema of its own; then its database is new and empty."""
    in_schema = 'CREATE SCHEMA "ex t"; CREATE EXTENSION citext SCHEMA "ex t"; GRANT USAGE ON SCHEMA "ex t" TO PUBLIC'
    surround(world, monkeypatch, AS_ADMINISTRATOR, in_schema, AS_OWNER, 'ALTER TABLE odd.t ADD COLUMN c "ex t".citext')
    backup(world)
    with world.source.connect() as connection:
        connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)".encode())
    world.source.create_database(DATABASE, "consulting_owner")


@long
@pytest.mark.parametrize("any_version", [15, CONTRIB], ids=["15", "18"], indirect=True)
def test_an_extension_of_a_database_that_is_recovered_into(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its schema, which has nothing else of the context, is missing, or is another's, or the extension is in another schema."""
    world = any_version
    lose_database_with_extension(world, monkeypatch)
    execute(
        world, "CREATE SCHEMA odd AUTHORIZATION consulting_owner", f"REVOKE CREATE ON DATABASE {DATABASE} FROM consulting_owner"
    )
    with pytest.raises(BadInput, match=r'schema "ex t" of database .* is missing, and cannot be created by login "backup_loader"'):
        world.recover(context=CONTEXT)
    execute(world, "CREATE EXTENSION citext SCHEMA public")
    with pytest.raises(BadInput, match='schema "ex t" of database'):
        world.recover(context=CONTEXT)
    execute(world, 'CREATE SCHEMA "ex t"')
    with pytest.raises(BadInput, match=r'"public", but in "ex t" in the backup.*ALTER EXTENSION "citext" SET SCHEMA "ex t";'):
        world.recover(context=CONTEXT)
    execute(world, 'ALTER EXTENSION "citext" SET SCHEMA "ex t"', 'GRANT USAGE ON SCHEMA "ex t" TO PUBLIC')
    assert world.recover(context=CONTEXT).startswith("PASS")


@long
@pytest.mark.parametrize("any_version", [15, CONTRIB], ids=["15", "18"], indirect=True)
def test_a_schema_of_an_extension_that_the_loading_login_makes(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    lose_database_with_extension(world, monkeypatch)
    assert world.recover(context=CONTEXT).startswith("PASS")


# --- event triggers ------------------------------------------------------------------------------------------------------------


@long
@versions
@pytest.mark.parametrize("when", ["", "WHEN TAG IN ('ALTER TABLE')"])
def test_event_triggers_that_refuse(any_version: World, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    world = any_version
    counted = "CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
    surround(world, monkeypatch, counted, "CREATE TRIGGER counted BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION counted()")
    backup(world)
    execute(world, "UPDATE odd.t SET v = 'x'", REFUSES_TABLES)
    execute(world, f"CREATE EVENT TRIGGER office_hours ON ddl_command_start {when} EXECUTE FUNCTION public.no_change()")
    refused(world, "office_hours", "public.no_change()", 'ALTER EVENT TRIGGER "office_hours" DISABLE;')
    execute(world, "ALTER EVENT TRIGGER office_hours DISABLE")
    assert restore(world).startswith("RESTORED")


@long
def test_an_event_trigger_of_a_database_that_is_recovered_into(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    surround(world, monkeypatch)
    backup(world)
    world.target.create_database(DATABASE, "consulting_owner")
    with world.connect(world.target) as connection:
        connection.execute(REFUSES_TABLES.encode())
        connection.execute("CREATE EVENT TRIGGER office_hours ON ddl_command_end EXECUTE FUNCTION public.no_change()")
    with pytest.raises(BadInput, match=r"event triggers office_hours \(public.no_change\(\)\); .* ALTER EVENT TRIGGER"):
        world.recover(context=CONTEXT)
    with world.connect(world.target) as connection:
        connection.execute("ALTER EVENT TRIGGER office_hours DISABLE")
    assert world.recover(context=CONTEXT).startswith("PASS")


# --- rows that the live database would refuse ------------------------------------------------------------------------------------

LOOSE = [
    "CREATE DOMAIN positive AS int", "CREATE DOMAIN small AS positive CHECK (VALUE < 100)",
    "ALTER TABLE t ADD COLUMN n small DEFAULT -1",
    "ALTER DOMAIN positive ADD CONSTRAINT above CHECK (VALUE > 0) NOT VALID",
    "COMMENT ON CONSTRAINT above ON DOMAIN positive IS 'new'",
]  # fmt: skip
KEPT = """SELECT conname, convalidated, obj_description(oid, 'pg_constraint') FROM pg_constraint
    WHERE conname IN ('above', 'over') ORDER BY 1"""


@long
@versions
def test_rows_that_are_older_than_the_check_of_a_domain(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    surround(world, monkeypatch, *LOOSE)
    before, kept = ask(world, "SELECT * FROM odd.t ORDER BY 1"), ask(world, KEPT)
    backup(world)
    assert into_copy(world).startswith("PASS")
    for damage in ("UPDATE odd.t SET n = 1, v = 'x' WHERE id = 2", "DELETE FROM odd.t", "DROP TABLE odd.t"):
        execute(world, damage)
        assert in_place(world).startswith("PLANNED")
        assert restore(world).startswith("RESTORED")
        assert (ask(world, "SELECT * FROM odd.t ORDER BY 1"), ask(world, KEPT)) == (before, kept)
    assert str(world.run(table_restore, "backup_restorer", context=CONTEXT, table="t")).startswith("RESTORED")


@long
@versions
def test_rows_that_are_older_than_the_check_of_a_table(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    surround(
        world, monkeypatch, "ALTER TABLE t ADD COLUMN n int DEFAULT -1", "ALTER TABLE t ADD CONSTRAINT over CHECK (n > 0) NOT VALID"
    )
    before = ask(world, "SELECT * FROM odd.t ORDER BY 1")
    backup(world)
    # A row that nobody wrote since is no obstacle.
    execute(world, "INSERT INTO odd.t VALUES (3, 'c', NULL, 3)")
    assert restore(world).startswith("RESTORED")
    for one in safety_sets(world, CONTEXT):
        (folder,) = world.store_folder.glob(f"{CONTEXT}/safety/{one}")
        folder.rename(world.folder / one)
    execute(world, "DELETE FROM odd.t WHERE id = 1", "UPDATE odd.t SET n = 1, u = gen_random_uuid()")
    execute(world, "ALTER TABLE odd.t ALTER COLUMN u SET NOT NULL")
    refused(
        world, 'violates check constraint "over"', 'violates NOT NULL of column "u"', 'ALTER TABLE "odd"."t" DROP CONSTRAINT "over"'
    )
    execute(world, "ALTER TABLE odd.t DROP CONSTRAINT over, ALTER COLUMN u DROP NOT NULL")
    assert restore(world).startswith("RESTORED")
    assert ask(world, "SELECT * FROM odd.t ORDER BY 1") == before


@long
@versions
def test_checks_that_old_rows_break_in_a_database_that_is_recovered_into(
    any_version: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = any_version
    surround(world, monkeypatch, *LOOSE, "ALTER TABLE t ADD CONSTRAINT over CHECK (n > 0) NOT VALID")
    kept = ask(world, KEPT)
    backup(world)
    execute(world, "TRUNCATE odd.t")
    assert world.recover(context=CONTEXT).startswith("PASS")
    assert ask(world, KEPT) == kept
    assert ask(world, "SELECT n FROM odd.t") == [(-1,), (-1,)]


@long
@versions
def test_published_tables_without_identity(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    surround(
        world, monkeypatch, "CREATE TABLE k (id int, v text)", "INSERT INTO k VALUES (1, 'a'), (2, 'b')", AS_ADMINISTRATOR,
        "CREATE PUBLICATION inserts FOR TABLE odd.k WITH (publish = 'insert')", tables=["t", "k"],
    )  # fmt: skip
    backup(world)
    execute(world, "UPDATE odd.k SET v = 'x' WHERE id = 1", "CREATE PUBLICATION everything FOR ALL TABLES")
    refused(world, 'odd.k is published: cannot delete from table "k"', 'ALTER TABLE "odd"."k" REPLICA IDENTITY FULL;')
    execute(world, "ALTER TABLE odd.k REPLICA IDENTITY FULL")
    assert restore(world).startswith("RESTORED")


@long
@versions
def test_tables_of_many_columns(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    for name, number in (("w", 1598), ("x", 1599)):
        names = ", ".join(f"c{n} smallint" for n in range(number - 1))
        surround(
            world, monkeypatch, f"CREATE TABLE {name} (id int PRIMARY KEY, {names})",
            f"INSERT INTO {name} (id, c0) SELECT n, n FROM generate_series(1, 20) AS n", tables=["t", name],
        )  # fmt: skip
        before = ask(world, f"SELECT md5(x::text) FROM odd.{name} AS x ORDER BY id")
        backup(world)
        execute(world, f"UPDATE odd.{name} SET c1 = 7, c1500 = 7 WHERE id < 5", f"DELETE FROM odd.{name} WHERE id = 9")
        if name == "x":
            refused(world, "odd.x has 1599 columns", "side-by-side")
            assert str(world.run(table_restore, "backup_restorer", context=CONTEXT, table="x")).startswith("RESTORED")
        else:
            assert restore(world).startswith("RESTORED")
            assert ask(world, f"SELECT md5(x::text) FROM odd.{name} AS x ORDER BY id") == before
        execute(world, "DROP SCHEMA odd CASCADE; DROP SCHEMA beside CASCADE")
        for folder in (world.store_folder / CONTEXT, world.folder / "contexts"):
            folder.rename(world.folder / f"{folder.name} with {name}")


# --- sessions --------------------------------------------------------------------------------------------------------------------

LOGINS = ("backup_reader", "backup_restorer", "backup_loader")


@long
def test_limits_of_time_that_a_login_has_end_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index takes longer than any of them, and what works beside it waits as long."""
    slow = "CREATE FUNCTION odd.slow(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(3); RETURN n; END'"
    surround(world, monkeypatch, slow, "DELETE FROM t WHERE id = 2", "CREATE INDEX ON t (slow(id))", "CREATE INDEX ON t (v)")
    limits = ("statement", "transaction", "idle_session", "idle_in_transaction_session", "lock")
    try:
        for server in (world.source, world.target):
            with server.connect() as connection:
                for login in LOGINS:
                    for limit in limits:
                        connection.execute(f"ALTER ROLE {login} SET {limit}_timeout = '1s'".encode())
        world.extra = {"BACKUP_JOBS": "3"}
        backup(world)
        assert world.recover(context=CONTEXT).startswith("PASS")
    finally:
        for server in (world.source, world.target):
            with server.connect() as connection:
                for login in LOGINS:
                    connection.execute(f"ALTER ROLE {login} RESET ALL".encode())


@long
def test_a_server_with_too_few_connections(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with local.postgres(max_connections="12", max_wal_senders="0") as server:
        prepare(server)
        surround(world, monkeypatch)
        backup(world)
        world.extra = {"BACKUP_JOBS": "10"}
        with pytest.raises(
            BadInput, match=r"the server has \d connections for logins like backup_loader .max_connections., .* BACKUP_JOBS"
        ):
            World(world.source, server, world.folder, world.api, world.store, extra=world.extra).recover(context=CONTEXT)
        assert not server.has_database(DATABASE)
