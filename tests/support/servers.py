"""Servers of PostgreSQL, and what lies on them."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from psycopg import sql

from deployments import local
from deployments.local import LocalServer, wheel_bin
from tests.support import PROJECT
from tests.support.example import TEMPLATE, make_template

# Several servers run side by side, and their files are in memory as well.
SMALL = {"shared_buffers": "32MB", "min_wal_size": "32MB", "max_wal_size": "128MB"}
SETTINGS = SMALL | {"max_prepared_transactions": "10"}
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
# PostgreSQL 18 of a wheel that has the extensions of contrib, as Debian's 15 has.
CONTRIB = 1800


def prepare(server: LocalServer) -> LocalServer:
    """Make the least-privilege roles, with passwords, as an administrator would."""
    server.run_script(PROJECT / "deployments" / "roles.sql")
    server.allow_backup_logins()
    server.allow_login("postgres")
    return server


def databases(server: LocalServer) -> set[str]:
    """Return the databases of a server but those it came with."""
    with server.connect() as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1')")
        return {row[0] for row in rows} - {TEMPLATE}


def drop_databases(server: LocalServer) -> None:
    """Drop what a test left."""
    for name in databases(server):
        with server.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def bin_of(major: int) -> Path:
    """Return the programs of a major version, or of 18 with contrib; where Debian's 15 is not installed, the test is skipped."""
    if major == 15 and not (DEBIAN_15 / "postgres").exists():
        pytest.skip(f"PostgreSQL 15 of Debian is not in {DEBIAN_15}")
    places = {15: lambda: DEBIAN_15, CONTRIB: local.prefect_bin}
    return places.get(major, lambda: wheel_bin(major))()


class Servers:
    """One server a major version, and another with contrib, started when first asked for."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[int, LocalServer] = {}

    def empty(self, major: int) -> LocalServer:
        """Return another server of a version, which has nothing but the roles."""
        if -major not in self._running:
            self._running[-major] = prepare(self._stack.enter_context(local.postgres(bin_of(major), **SETTINGS)))
        return self._running[-major]

    def __getitem__(self, major: int) -> LocalServer:
        if major not in self._running:
            server = self._stack.enter_context(local.postgres(bin_of(major), **SETTINGS))
            make_template(prepare(server))
            with server.connect() as connection:
                assert connection.info.server_version // 10000 == (18 if major == CONTRIB else major)
            self._running[major] = server
        return self._running[major]
