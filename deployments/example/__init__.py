"""The example database, consulting_tool with made-up rows, for demo, tests and benchmark.

The schema and its rows are SQL files beside this module; here is the order in which they run. Rows
are loaded before keys, indexes, triggers and views are created, because of circular keys, and
because the triggers would count everything twice. Needs the roles of deployments/roles.sql and a
database in UTF8.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from psycopg import sql

TODAY = datetime(2026, 10, 31, tzinfo=UTC)
"""The latest time of any row in the example."""

YEARS = (2021, 2022, 2023, 2024, 2025, 2026, 2027)

logger = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
_TABLES = (
    "users",
    "organizations",
    "organization_units",
    "organization_hierarchies",
    "organization_members",
    "teams",
    "team_members",
    "team_leaders",
    "governance_policies",
    "governance_rules",
    "policy_scopes",
    "policy_violations",
)
_VIEWS = ("mv_user_allocation_summary", "mv_team_statistics", "mv_unit_statistics")
_SETTINGS = {
    "search_path": "public",
    "timezone": "UTC",
    "synchronous_commit": "off",
    "jit": "off",
    "maintenance_work_mem": "512MB",
    "work_mem": "64MB",
    # With these settings rows are inserted in the same order, whatever plan the server would
    # choose.
    "max_parallel_workers_per_gather": "0",
    "synchronize_seqscans": "off",
}


@dataclass(frozen=True)
class Year:
    """A year of violations: how many, detected from `first` to before `end`, about `step` apart."""

    year: int
    violations: int

    @property
    def leaf(self) -> str:
        """The name of the year's partition."""
        return f"policy_violations_{self.year}"

    @property
    def first(self) -> datetime:
        """Return the year's first instant."""
        return datetime(self.year, 1, 1, tzinfo=UTC)

    @property
    def upper_bound(self) -> datetime:
        """Return the instant after the year's last one."""
        return datetime(self.year + 1, 1, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """Return the instant before which the year's violations were detected."""
        return min(self.upper_bound, TODAY)

    @property
    def step(self) -> timedelta:
        """Return the time from one violation to the next."""
        return (self.end - self.first) / self.violations


def create_example(
    connection_info: str,
    *,
    scale: float = 1.0,
    violations_per_year: int = 10_000,
    years: Sequence[int] = YEARS,
    seed: int = 4,
) -> None:
    """Fill an empty database with the example's schema and rows.

    Equal arguments give equal rows, byte for byte. `connection_info` is a libpq connection string
    of an EMPTY database, for a superuser or a member of consulting_owner who may create in schema
    public. `scale` is the size of the small tables, 1.0 as in production (100 organizations); at
    least two organizations are made. A year in the future of TODAY gets an empty partition. After a
    failure, drop the database and start again.

    Raises psycopg.Error: among others UndefinedObject without the roles, DuplicateTable in a
    database with tables.
    """
    plan = [Year(year, violations_per_year) for year in years]
    with psycopg.connect(connection_info, autocommit=True, client_encoding="utf8") as conn:
        _become_owner(conn)
        _configure(conn, organizations=max(2, round(100 * scale)), seed=seed)
        _run(conn, "tables.sql", "vocabulary.sql", "small_tables.sql", "violation_cases.sql")
        for year in plan:
            _load_year(conn, year)
        _run(conn, "constraints.sql", "indexes.sql", "triggers.sql", "views.sql", "grants.sql")
        _analyze(conn)


def _become_owner(conn: psycopg.Connection) -> None:
    row = conn.execute("SELECT has_schema_privilege('consulting_owner', 'public', 'CREATE')").fetchone()
    if row != (True,):
        # Since 15 nobody but the database's owner may create in public.
        conn.execute("GRANT USAGE, CREATE ON SCHEMA public TO consulting_owner")
    conn.execute("SET ROLE consulting_owner")


def _configure(conn: psycopg.Connection, *, organizations: int, seed: int) -> None:
    settings = _SETTINGS | {"example.organizations": str(organizations), "example.seed": str(seed)}
    for name, value in settings.items():
        conn.execute("SELECT set_config(%s, %s, false)", (name, value))


def _run(conn: psycopg.Connection, *names: str) -> None:
    for name in names:
        logger.info("running %s", name)
        conn.execute((_FOLDER / name).read_bytes())


def _load_year(conn: psycopg.Connection, year: Year) -> None:
    logger.info("loading %s", year.leaf)
    conn.execute(
        sql.SQL("CREATE TABLE {} PARTITION OF policy_violations FOR VALUES FROM ({}) TO ({})").format(
            sql.Identifier(year.leaf), f"{year.first:%Y-%m-%d}", f"{year.upper_bound:%Y-%m-%d}"
        )
    )
    if year.violations and year.first < TODAY:
        conn.execute(_insert_violations(year))


def _insert_violations(year: Year) -> sql.Composed:
    return sql.SQL((_FOLDER / "violations.sql").read_text(encoding="utf-8")).format(
        leaf=sql.Identifier(year.leaf),
        year=year.year,
        violations=year.violations,
        first_instant=f"{year.first:%Y-%m-%d}",
        today=f"{TODAY:%Y-%m-%d}",
        step_microseconds=year.step // timedelta(microseconds=1),
    )


def _analyze(conn: psycopg.Connection) -> None:
    names = sql.SQL(", ").join(map(sql.Identifier, _TABLES + _VIEWS))
    conn.execute(sql.SQL("ANALYZE {}").format(names))
