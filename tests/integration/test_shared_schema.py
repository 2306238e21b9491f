"""A context beside others: what it uses of a schema that is nobody's alone."""

from collections.abc import Iterator

import pytest

from flows.recovery import disaster_recovery, recovery_drill
from flows.restore import full_restore
from tests.support import odd_schema
from tests.support.database import ask, execute
from tests.support.example import DATABASE
from tests.support.reports import report
from tests.support.restores import restore_by_hand
from tests.support.servers import CONTRIB
from tests.support.world import World

pytestmark = [pytest.mark.long, pytest.mark.every_variant]

APP = [
    "CREATE SCHEMA app AUTHORIZATION consulting_owner", "GRANT CREATE ON SCHEMA public TO consulting_owner",
    "GRANT CREATE, USAGE ON SCHEMA public TO sibling", "COMMENT ON SCHEMA public IS 'everybody''s'", "SET ROLE consulting_owner",
    "CREATE FUNCTION public.new_id() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()'",
    "CREATE TABLE app.things (id uuid PRIMARY KEY DEFAULT public.new_id(), v text)",
    "INSERT INTO app.things (v) VALUES ('a'), ('b')",
]  # fmt: skip
# Explicitly, not as the database's owner.
MAY_CREATE = (
    "SELECT count(*) FROM pg_namespace n CROSS JOIN aclexplode(n.nspacl) AS a WHERE n.nspname = 'public' "
    "AND a.grantee = 'consulting_owner'::regrole AND a.privilege_type = 'CREATE'"
)  # fmt: skip
ROWS = "SELECT v, id FROM app.things ORDER BY 1"


@pytest.fixture
def beside_others(any_version: World) -> Iterator[World]:
    """A database in which another context may do things in `public`."""
    with any_version.source.connect() as connection:
        connection.execute("CREATE ROLE sibling NOLOGIN")
    yield any_version
    with any_version.source.connect() as connection:
        for name in (DATABASE, "by_hand", "beside"):
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute("DROP ROLE sibling")


@pytest.mark.parametrize("any_version", [15, CONTRIB], ids=["15", "18"], indirect=True)
def test_an_extension_that_several_use(beside_others: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = beside_others
    execute(
        world, "CREATE EXTENSION citext", *APP[:5], "CREATE TABLE app.things (id citext PRIMARY KEY, v public.citext)",
        "INSERT INTO app.things VALUES ('a', 'b')",
    )  # fmt: skip
    odd_schema.context(world, monkeypatch, ["things"], schema="app")
    assert world.backup(context="bc-901").startswith("STORED")
    assert world.run(recovery_drill, "backup_restorer", context="bc-901").startswith("PASS")


@pytest.mark.parametrize("owner", ["consulting_owner", "postgres"])
@pytest.mark.parametrize("any_version", [15, 16, 18], indirect=True)
def test_grants_that_others_hold_are_no_difference(beside_others: World, monkeypatch: pytest.MonkeyPatch, owner: str) -> None:
    world = beside_others
    execute(world, f"ALTER DATABASE {DATABASE} OWNER TO {owner}", *APP)
    odd_schema.context(world, monkeypatch, ["things"], schema="app")
    before = ask(world, ROWS)
    assert world.backup(context="bc-901").startswith("STORED")
    assert world.run(recovery_drill, "backup_restorer", context="bc-901").startswith("PASS")
    assert world.run(full_restore, "backup_restorer", context="bc-901", target_database="beside").startswith("PASS")
    restore_by_hand(world, "by_hand", context="bc-901")
    for name in ("beside", "by_hand"):
        with world.source.connect(name) as connection:
            assert connection.execute(ROWS.encode()).fetchall() == before
            # What the context's own roles may do there comes back.
            assert connection.execute(MAY_CREATE.encode()).fetchall() == [(1,)]
    execute(world, "REVOKE USAGE ON SCHEMA public FROM sibling", "UPDATE app.things SET v = 'c' WHERE v = 'a'")
    sure = {"context": "bc-901", "in_place": True, "dry_run": False, "confirm_database": DATABASE}
    assert world.run(full_restore, "backup_restorer", **sure).startswith("RESTORED")
    assert "schema public" not in report(world, "bc-901-restore")
    execute(world, "REVOKE CREATE ON SCHEMA public FROM consulting_owner")
    assert "schema public: privileges" in world.run(full_restore, "backup_restorer", context="bc-901", in_place=True)
    assert 'GRANT CREATE ON SCHEMA "public" TO "consulting_owner";' in report(world, "bc-901-restore-plan")
    execute(world, "GRANT CREATE ON SCHEMA public TO consulting_owner", "DROP TABLE app.things", "DROP FUNCTION public.new_id()")
    assert world.run(disaster_recovery, "backup_restorer", context="bc-901").startswith("PASS")
    assert ask(world, ROWS) == before


# All entries of such an archive are the context's, or hardly any.
PUBLIC = [
    "GRANT CREATE, USAGE ON SCHEMA public TO consulting_owner", "COMMENT ON SCHEMA public IS 'ours'", "SET ROLE consulting_owner",
    "CREATE TABLE public.things (id integer PRIMARY KEY, v text)", "INSERT INTO public.things VALUES (1, 'a')",
]  # fmt: skip


@pytest.mark.parametrize("others", [False, True], ids=["alone", "beside others"])
@pytest.mark.parametrize("any_version", [15, 18], indirect=True)
def test_what_owners_may_do_in_public_comes_back(any_version: World, monkeypatch: pytest.MonkeyPatch, others: bool) -> None:
    world = any_version
    world.database = "alone"
    world.source.create_database("alone", "consulting_owner")
    execute(world, *PUBLIC, *(["CREATE SCHEMA app", "CREATE TABLE app.others (id integer PRIMARY KEY)"] if others else []))
    odd_schema.context(world, monkeypatch, ["things"], schema="public", database="alone")
    assert world.backup(context="bc-901").startswith("STORED")
    assert world.run(recovery_drill, "backup_restorer", context="bc-901").startswith("PASS")
    restore_by_hand(world, "by_hand", context="bc-901")
    with world.source.connect("by_hand") as connection:
        assert connection.execute(MAY_CREATE.encode()).fetchall() == [(1,)]


@pytest.mark.parametrize("any_version", [15, CONTRIB], ids=["15", "18"], indirect=True)
def test_a_schema_of_others_for_extensions(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose it is there, nobody may say but a superuser: it is made, and stays the login's that makes it."""
    world = any_version
    execute(
        world, "CREATE SCHEMA extensions", "GRANT USAGE ON SCHEMA extensions TO consulting_owner",
        "CREATE EXTENSION citext SCHEMA extensions",
        "CREATE SCHEMA app AUTHORIZATION consulting_owner", "SET ROLE consulting_owner",
        "CREATE TABLE app.things (id extensions.citext PRIMARY KEY, v text)", "INSERT INTO app.things VALUES ('a', 'b')",
    )  # fmt: skip
    odd_schema.context(world, monkeypatch, ["things"], schema="app")
    assert world.backup(context="bc-901").startswith("STORED")
    assert world.run(recovery_drill, "backup_restorer", context="bc-901").startswith("PASS")
    assert world.run(full_restore, "backup_restorer", context="bc-901", target_database="beside").startswith("PASS")
    restore_by_hand(world, "by_hand", context="bc-901")
    for name, owner in (("beside", "backup_restorer"), ("by_hand", "postgres")):
        with world.source.connect(name) as connection:
            connection.execute("SET ROLE consulting_owner")
            assert connection.execute("SELECT v FROM app.things WHERE id OPERATOR(extensions.=) 'A'").fetchall() == [("b",)]
            said = connection.execute("SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'extensions'")
            assert said.fetchall() == [(owner,)]
