"""What is in a set and what is not, and that whatever PostgreSQL allows comes back as it was."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg import sql

from tasks import sites
from tests.integration.conftest import World, drop_databases
from tests.oracle import State, capture, statements_of_all

HOSTILE = 'Feindliche "DB"; 日本'
NAMESPACE = 'Büro.Schema "x"'
ROLE = 'Rolle mit "Zitat"'
DATABASE_LEVEL = [
    "ALTER DATABASE {database} SET search_path = 'a, \"b', public, '', 'Büro'",
    "ALTER DATABASE {database} SET datestyle = 'German, DMY'",
    "ALTER DATABASE {database} SET bytea_output = 'escape'",
    "ALTER DATABASE {database} SET quote_all_identifiers = on",
    "ALTER DATABASE {database} SET array_nulls = off",
    "ALTER DATABASE {database} SET statement_timeout = '100ms'",
    "ALTER DATABASE {database} SET default_transaction_read_only = on",
    "ALTER DATABASE {database} SET app.angabe = 'it''s; \"x\"'",
    "ALTER DATABASE {database} CONNECTION LIMIT 50",
    "COMMENT ON DATABASE {database} IS E'Kommentar\\n\\'x\\''",
    "REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC",
    "GRANT CONNECT ON DATABASE {database} TO {role}, backup_reader",
    "GRANT TEMPORARY ON DATABASE {database} TO consulting_app WITH GRANT OPTION",
]


@dataclass(frozen=True)
class Hostile:
    """A context of its own in a database of its own, all of whose names are awkward."""

    world: World
    tables: list[str]
    views: list[str]

    def backup_and_recover(self) -> None:
        assert self.world.backup(context="bc-900").startswith("STORED")
        assert self.world.recover(context="bc-900").startswith("PASS")

    def state(self, *, of_target: bool) -> tuple[State, dict[str, str]]:
        server = self.world.target if of_target else self.world.source
        conninfo = server.conninfo(self.world.database)
        with server.connect(self.world.database) as connection:
            connection.execute("SET search_path = pg_catalog")
            tables, views = ([_spelled(connection, name) for name in names] for names in (self.tables, self.views))
        state = capture(conninfo, bin_dir=server.bin, tables=tables, views=views)
        return state, statements_of_all(conninfo, bin_dir=server.bin)

    def assert_equal(self, before: tuple[State, dict[str, str]]) -> None:
        after = self.state(of_target=True)
        assert before[0].differences(after[0], views="recomputed") == []
        names = sorted(before[1].keys() | after[1].keys())
        assert [(before[1].get(one), after[1].get(one)) for one in names if before[1].get(one) != after[1].get(one)] == []


def _spelled(connection: psycopg.Connection, name: str) -> str:
    row = connection.execute("SELECT format('%%I.%%I', %s::text, %s::text)::regclass::text", (NAMESPACE, name)).fetchone()
    assert row
    return str(row[0])


def write_context(folder: Path, **keys: object) -> None:
    """Write a context folder of the given keys."""
    place = folder / str(keys["name"])
    place.mkdir(parents=True)
    facts = {"title": "a test", "objectives": {"rto": "4 hours", "rpo": "4 hours"}, "time_zone": "UTC", "timestamps": "UTC"}
    (place / "context.yaml").write_text(yaml.safe_dump(facts | keys, allow_unicode=True), encoding="utf-8")


@pytest.fixture
def hostile(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    """The awkward context, in a database of its own; its one foreign role exists in the source alone."""
    world.database = HOSTILE
    monkeypatch.setattr(sites, "CONTEXTS", world.folder / "contexts")
    with world.source.connect() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(ROLE)))
        connection.execute("ALTER ROLE backup_reader BYPASSRLS")
    world.source.create_database(HOSTILE, "consulting_owner")
    world.source.run_script(Path(__file__).with_name("hostile.sql"), HOSTILE)
    with world.source.connect() as connection:
        for statement in DATABASE_LEVEL:
            connection.execute(sql.SQL(statement).format(database=sql.Identifier(HOSTILE), role=sql.Identifier(ROLE)))
    with world.connect() as connection:
        found = connection.execute(
            """SELECT c.relname, c.relkind FROM pg_class c WHERE c.relnamespace = %s::regnamespace
               AND c.relkind IN ('r', 'p', 'm', 'v') AND NOT c.relispartition
               AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) ORDER BY 1""",
            (sql.Identifier(NAMESPACE).as_string(),),
        ).fetchall()
    tables, views = ([name for name, kind in found if kind in kinds] for kinds in ("rp", "mv"))
    write_context(
        world.folder / "contexts", name="bc-900", database=HOSTILE, schema=NAMESPACE, tables=tables, views=views
    )  # fmt: skip
    yield Hostile(world, tables, views)
    for server in (world.source, world.target):
        drop_databases(server)
        with server.connect() as connection:
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(ROLE)))
            connection.execute("ALTER ROLE backup_reader NOBYPASSRLS")


def test_whatever_postgresql_allows_comes_back(hostile: Hostile) -> None:
    before = hostile.state(of_target=False)
    hostile.backup_and_recover()
    hostile.assert_equal(before)
