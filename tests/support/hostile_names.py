"""A context of its own in a database of its own, all of whose names are awkward."""

from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.support.oracle import State, capture, statements_of_all
from tests.support.world import World

SCRIPT = Path(__file__).with_suffix(".sql")
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

    def assert_equal(self, before: tuple[State, dict[str, str]], *, of_target: bool = True) -> None:
        after = self.state(of_target=of_target)
        assert before[0].differences(after[0], views="recomputed") == []
        names = sorted(before[1].keys() | after[1].keys())
        assert [(before[1].get(one), after[1].get(one)) for one in names if before[1].get(one) != after[1].get(one)] == []


def _spelled(connection: psycopg.Connection, name: str) -> str:
    row = connection.execute("SELECT format('%%I.%%I', %s::text, %s::text)::regclass::text", (NAMESPACE, name)).fetchone()
    assert row
    return str(row[0])
