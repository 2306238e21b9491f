"""Names as the source resolves them: what its functions, views and checks call by bare names is found where it was there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.partitions import create_partitions
from flows.recovery import disaster_recovery, recovery_drill
from flows.restore import full_restore
from tasks.core.errors import OperationError
from tests.support import odd_schema
from tests.support.clock import at
from tests.support.database import execute
from tests.support.example import DATABASE
from tests.support.odd_schema import SET_UP
from tests.support.reports import report
from tests.support.restores import restore_by_hand
from tests.support.servers import CONTRIB, Servers, drop_databases
from tests.support.world import World, new_world

SCHEMAS = "odd", "public"
# Found by an application on the path of the database: neither in the context's schema, nor in `public`.
LIBRARY = [
    "CREATE SCHEMA lib AUTHORIZATION consulting_owner", "CREATE SCHEMA aside AUTHORIZATION consulting_owner",
    f"ALTER DATABASE {DATABASE} SET search_path = lib, public",
]  # fmt: skip
FUNCTIONS = [
    "CREATE FUNCTION lib.helper(v text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN lower(v); END'",
    "CREATE FUNCTION slug(v text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN helper(v); END'",
    "CREATE FUNCTION slug_too(v text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT helper(v)'",
    "CREATE FUNCTION tidy(v text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN slug(v); END'",
]
TABLES = [
    "CREATE DOMAIN word AS text CHECK (slug(VALUE) <> '')",
    "CREATE TABLE t (id int PRIMARY KEY, name text CHECK (slug_too(name) <> 'x'), w word DEFAULT 'W', "
    "s text GENERATED ALWAYS AS (slug(name)) STORED)",
    "CREATE TABLE p (w word, id int, n text, s text GENERATED ALWAYS AS (tidy(w || n)) STORED, PRIMARY KEY (w, id), UNIQUE (w, n)) "
    "PARTITION BY LIST (w)",
    "CREATE TABLE p_a PARTITION OF p FOR VALUES IN ('a')", "CREATE TABLE aside.p_b PARTITION OF p FOR VALUES IN ('b')",
    "INSERT INTO t (id, name) VALUES (1, 'One'), (2, 'Two')", "INSERT INTO p VALUES ('a', 1, 'x'), ('b', 1, 'y'), ('b', 2, 'z')",
    "CREATE VIEW v AS SELECT id, slug(w) AS slug FROM t",
]  # fmt: skip
# What servers since 17 make under a path of their own.
MAINTAINED = [
    "CREATE INDEX t_slug ON t (slug(name)) WHERE slug_too(name) <> 'z'", "CREATE STATISTICS t_slugs ON (slug(name)), id FROM t",
    "CREATE MATERIALIZED VIEW m AS SELECT id, slug_too(name) AS slug FROM t",
    "CREATE MATERIALIZED VIEW words AS SELECT word FROM ts_stat('SELECT to_tsvector(''simple'', name) FROM t')",
]  # fmt: skip
ROWS = {
    "t": "SELECT id, name, w, s FROM {}.t ORDER BY 1", "p": "SELECT w, id, n, s FROM {}.p ORDER BY 1, 2",
    "v": "SELECT id, slug FROM {}.v ORDER BY 1", "m": "SELECT id, slug FROM {}.m ORDER BY 1",
    "words": "SELECT word FROM {}.words ORDER BY 1",
}  # fmt: skip

# Rows that swap unique values are parked first.
DAMAGES = (
    "DROP VIEW v", "DELETE FROM p WHERE w = 'a'", "UPDATE p SET n = n || n", "UPDATE p SET n = translate(left(n, 1), 'yz', 'zy')",
    "UPDATE t SET name = 'Three'",
)  # fmt: skip


def make(
    world: World, monkeypatch: pytest.MonkeyPatch, schema: str, statements: list[str], views: list[str]
) -> list[str]:  # fmt: skip
    """Make the schema and its context; return the names of what has rows."""
    path = f"SET search_path = {schema}, lib, public, pg_catalog"
    first = SET_UP[0:1] if schema == "odd" else [f"GRANT CREATE ON SCHEMA {schema} TO consulting_owner"]
    execute(world, *first, *LIBRARY, "SET ROLE consulting_owner", path, *FUNCTIONS, *statements)
    odd_schema.context(world, monkeypatch, ["t", "p"], schema=schema, views=views)
    return ["t", "p", *views]


def rows(world: World, schema: str, names: list[str], database: str = DATABASE) -> list[object]:
    with world.source.connect(database) as connection:
        connection.execute(f"SET search_path = {schema}, lib, public, pg_catalog".encode())
        return [connection.execute(ROWS[name].format(schema).encode()).fetchall() for name in names]


def drop(world: World, schema: str) -> None:
    """Drop what the context has, and leave the database."""
    execute(
        world, *(f"DROP TABLE IF EXISTS {schema}.{name} CASCADE" for name in ("t", "p")), f"DROP DOMAIN {schema}.word",
        f"DROP FUNCTION {schema}.slug(text), {schema}.slug_too(text), {schema}.tidy(text), lib.helper(text)",
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.every_variant
@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("any_version", [15, 16, 18], indirect=True)
def test_bare_names_are_found_where_the_source_finds_them(
    any_version: World, monkeypatch: pytest.MonkeyPatch, schema: str
) -> None:  # fmt: skip
    world = any_version
    with world.connect() as connection:
        is_old = connection.info.server_version < 170000
    statements, views = (TABLES + MAINTAINED, ["v", "m", "words"]) if is_old else (TABLES, ["v"])
    names = make(world, monkeypatch, schema, statements, views)
    before = rows(world, schema, names)
    assert world.backup(context="bc-901").startswith("STORED")
    assert world.run(recovery_drill, "backup_restorer", context="bc-901").startswith("PASS")
    restore_by_hand(world, "by_hand", context="bc-901")
    assert rows(world, schema, names, "by_hand") == before
    world.run(full_restore, "backup_restorer", context="bc-901", target_database="beside")
    assert rows(world, schema, names, "beside") == before
    sure = {"context": "bc-901", "in_place": True, "dry_run": False, "confirm_database": DATABASE}
    execute(world, f"SET search_path = {schema}, lib, public", *DAMAGES)
    assert world.run(full_restore, "backup_restorer", **sure).startswith("RESTORED")
    assert rows(world, schema, names) == before
    drop(world, schema)
    assert world.run(disaster_recovery, "backup_restorer", context="bc-901").startswith("PASS")
    assert rows(world, schema, names) == before


@pytest.mark.long
def test_rows_move_out_of_a_default_partition_in_another_schema(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "2026-12-01T04:00+09:00")
    execute(
        world, SET_UP[0], *LIBRARY, "SET ROLE consulting_owner", "SET search_path = odd, lib, public", *FUNCTIONS,
        "CREATE TABLE sales (at date, w text, s text GENERATED ALWAYS AS (tidy(w)) STORED) PARTITION BY RANGE (at)",
        "CREATE TABLE aside.rest PARTITION OF sales DEFAULT", "INSERT INTO sales VALUES ('2027-02-01', 'A')",
    )  # fmt: skip
    rule = {"table": "sales", "column": "at", "period": "year", "name": "sales_{year}", "keep": "1 year"}
    odd_schema.context(world, monkeypatch, ["sales"], partitions=[rule])
    verdict = world.run(create_partitions, "backup_restorer", context="bc-901", move_default_rows=True)
    assert verdict == "PASS: created sales_2026, sales_2027"
    with world.connect() as connection:
        assert connection.execute("SELECT w, s FROM odd.sales_2027").fetchall() == [("A", "a")]


# What SQL has no way to write with a schema.
UNSPELLABLE = [
    "CREATE TABLE t (id int PRIMARY KEY, k lib.ltree CHECK (k IS DISTINCT FROM 'x.y'::lib.ltree), n int)",
    "CREATE TABLE p (id int PRIMARY KEY, k lib.ltree)", "INSERT INTO t VALUES (1, 'a.b', 5), (2, NULL, 6)",
    "INSERT INTO p VALUES (7, 'a.b'), (8, 'c')",
    "CREATE VIEW v AS SELECT id, slug FROM (SELECT t.id, nullif(k, 'q'::lib.ltree)::text AS slug FROM t JOIN p USING (k)) AS x",
    "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.n := 0; RETURN NEW; END'",
    "CREATE TRIGGER noted BEFORE UPDATE ON t FOR EACH ROW WHEN (OLD.k IS DISTINCT FROM NEW.k) EXECUTE FUNCTION noted()",
]  # fmt: skip
MENDED = MAINTAINED[-1].replace("VIEW words", "VIEW {0}.words").replace("FROM t'", "FROM {0}.t'")
TOLD = re.compile(r"; run (ALTER FUNCTION .* SET search_path = .*)")


def warnings(world: World) -> str:
    """Take a backup; return what its report warns of."""
    assert world.backup(context="bc-901").startswith("STORED")
    return report(world, "bc-901-backup").partition("## Warnings")[2].partition("\n## ")[0]


@pytest.mark.long
@pytest.mark.every_variant
@pytest.mark.parametrize("any_version", [15, CONTRIB], ids=["15", "18"], indirect=True)
def test_operators_that_cannot_be_written_with_a_schema(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_version
    execute(world, *LIBRARY, "CREATE EXTENSION ltree SCHEMA lib", SET_UP[0])
    execute(world, "SET ROLE consulting_owner", "SET search_path = odd, lib, public", *UNSPELLABLE)
    odd_schema.context(world, monkeypatch, ["t", "p"], views=["v"])
    expected = [(1, "a.b")]
    assert rows(world, "odd", ["v"]) == [expected]
    assert world.backup(context="bc-901").startswith("STORED")
    assert world.run(recovery_drill, "backup_restorer", context="bc-901").startswith("PASS")
    restore_by_hand(world, "by_hand", context="bc-901")
    assert rows(world, "odd", ["v"], "by_hand") == [expected]
    execute(world, "DROP TABLE odd.t, odd.p CASCADE", "DROP FUNCTION odd.noted()")
    assert world.run(disaster_recovery, "backup_restorer", context="bc-901").startswith("PASS")
    assert rows(world, "odd", ["v"]) == [expected]


@pytest.fixture
def to_newer(servers: Servers, prefect_api: str, folder: Path) -> Iterator[World]:
    """From a server of PostgreSQL 16 to one of 18."""
    yield new_world(servers[16], servers[18], prefect_api, folder)
    drop_databases(servers[16])
    drop_databases(servers[18])


@pytest.mark.long
@pytest.mark.every_variant
@pytest.mark.parametrize("schema", SCHEMAS)
def test_what_newer_servers_would_not_compute_is_told_the_same_night(
    to_newer: World, monkeypatch: pytest.MonkeyPatch, schema: str
) -> None:  # fmt: skip
    world = to_newer
    names = make(world, monkeypatch, schema, TABLES + MAINTAINED, ["v", "m", "words"])
    before = rows(world, schema, names)
    told = warnings(world)
    assert f"statistics {schema}.t_slugs" in told and f"index {schema}.t_slug," in told and f"view {schema}.m " in told
    with pytest.raises(OperationError, match="differs from the backup"):
        world.recover(context="bc-901")
    drop_databases(world.target)
    # What it says, mends it.
    remedies = TOLD.findall(told)
    assert len(remedies) == 2
    assert f"materialized view {schema}.words would fail" in told
    execute(world, *remedies, "SET ROLE consulting_owner", f"DROP MATERIALIZED VIEW {schema}.words", MENDED.format(schema))
    assert "would fail in PostgreSQL" not in warnings(world)
    assert world.recover(context="bc-901").startswith("PASS")
    world.source = world.target
    assert rows(world, schema, names) == before


@pytest.mark.long
@pytest.mark.parametrize("any_version", [18], indirect=True)
def test_an_index_that_the_server_itself_could_not_make_again(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world, index = any_version, "CREATE INDEX t_slug ON t (slug(name))"
    names = make(world, monkeypatch, "odd", [*TABLES[:4], index, MAINTAINED[1], *TABLES[4:]], ["v"])
    before = rows(world, "odd", names)
    remedies = TOLD.findall(warnings(world))
    assert len(remedies) == 1
    with pytest.raises(OperationError, match=r"index odd\.t_slug of odd\.t is missing"):
        world.run(recovery_drill, "backup_restorer", context="bc-901")
    execute(world, *remedies)
    assert "would fail in PostgreSQL" not in warnings(world)
    assert world.run(recovery_drill, "backup_restorer", context="bc-901").startswith("PASS")
    restore_by_hand(world, "by_hand", context="bc-901")
    assert rows(world, "odd", names, "by_hand") == before
