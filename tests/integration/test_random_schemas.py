"""Whatever schema is drawn comes back as it was: from a full, from a full and a differential, and into the living."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, event, given, settings
from psycopg import sql

from deployments.local import LocalServer
from flows.restore import full_restore
from tasks import sites
from tasks.core.errors import BadInput, OperationError
from tests.conftest import EVERY_VARIANT
from tests.integration.conftest import World, drop_databases
from tests.integration.test_contents import write_context
from tests.oracle import State, ViewRows, capture, statements_of_all
from tests.random_schemas import Changes, Schema, Table, View, changes, ident, schemas

pytestmark = pytest.mark.long
ROLE = 'Rolle "zufällig"'
DATABASE = "zufällig"
CONTEXT = "bc-902"
DRAWN = schemas(role=ident(ROLE))
# Into tables that have rules nothing is restored: they would write other rows than are meant.
WITHOUT_RULES = schemas(role=ident(ROLE), rules=False)

# An example takes seconds, most of which are the database's; what failed can be run again by the blob that is printed.
HOW = settings(
    deadline=None, print_blob=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)  # fmt: skip
# The same schemas each time, so that a red run is due to a change; others with NEW_SCHEMAS=1, to look for what nobody knows.
SAME = "NEW_SCHEMAS" not in os.environ
thoroughly = settings(HOW, max_examples=40 if EVERY_VARIANT else 8, derandomize=SAME)
repeatedly = settings(HOW, max_examples=25 if EVERY_VARIANT else 5, derandomize=SAME)


@dataclass(frozen=True)
class Servers:
    """Where schemas are made and recovered."""

    source: LocalServer
    target: LocalServer
    api: str


@pytest.fixture(scope="module")
def two_servers(source: LocalServer, target: LocalServer, prefect_api: str) -> Iterator[Servers]:
    """A server to back up and one to recover on; the role that drawn schemas name is in the first alone."""
    role = sql.Identifier(ROLE)
    with source.connect() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(role))
    for server in (source, target):
        with server.connect() as connection:
            # Row-level security may be forced.
            connection.execute("ALTER ROLE backup_reader BYPASSRLS")
            connection.execute("ALTER ROLE backup_restorer BYPASSRLS")
    yield Servers(source, target, prefect_api)
    for server in (source, target):
        with server.connect() as connection:
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(role))
            connection.execute("ALTER ROLE backup_reader NOBYPASSRLS")
            connection.execute("ALTER ROLE backup_restorer NOBYPASSRLS")


@dataclass(frozen=True)
class Drawn:
    """A drawn schema in a database of its own."""

    world: World
    schema: Schema

    def execute(self, statements: Iterable[str], *, owner: bool = True, all_of_them: bool = True) -> None:
        """Run statements; of rows those that violate nothing."""
        passed_over: tuple[type[Exception], ...] = () if all_of_them else (psycopg.DatabaseError,)
        with self.world.connect() as connection:
            connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(self.schema.namespace)))
            if owner:
                connection.execute("SET ROLE consulting_owner")
            for statement in statements:
                with contextlib.suppress(*passed_over):
                    connection.execute(statement.encode())

    def make(self) -> None:
        """Make the schema and its rows."""
        self.execute(self.schema.spaces, owner=False)
        self.execute(self.schema.statements())
        # Row-level security may be forced on the owner.
        self.execute(self.schema.rows(), owner=False, all_of_them=False)
        self.execute(self.schema.finish())

    def change(self, drawn: Changes) -> None:
        """Change rows, as far as constraints allow."""
        self.execute(drawn.statements(self.schema, self.leaves()), owner=False, all_of_them=False)

    def leaves(self) -> list[str]:
        """Return the relations that hold rows."""
        with self.world.connect() as connection:
            connection.execute("SET search_path = pg_catalog")
            found = connection.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid >= 16384 ORDER BY 1")
            return [row[0] for row in found]

    def state(self, server: LocalServer) -> tuple[State, dict[str, str]]:
        """Return what the oracle sees, and all that pg_dump prints."""
        conninfo = server.conninfo(DATABASE)
        with server.connect(DATABASE) as connection:
            connection.execute("SET search_path = pg_catalog")
            tables, views = ([*self._spelled(connection, named)] for named in (self.schema.tables, self.schema.views))
        state = capture(conninfo, bin_dir=server.bin, tables=tables, views=views)
        return state, statements_of_all(conninfo, bin_dir=server.bin)

    def _spelled(self, connection: psycopg.Connection, named: Sequence[Table | View]) -> Iterator[str]:
        """Yield the names as the server spells them, of what is there."""
        for one in named:
            name = f"{ident(self.schema.namespace)}.{ident(one.name)}"
            for (spelled,) in connection.execute("SELECT to_regclass(%s)::text", [name]):
                if spelled is not None:
                    yield spelled

    def refresh(self) -> None:
        """Fill the materialized views with what they would show now."""
        self.execute(self.schema.refresh())

    def assert_equal(self, before: tuple[State, dict[str, str]], server: LocalServer, *, views: ViewRows = "recomputed") -> None:
        """Assert that a database is what it was."""
        after = self.state(server)
        names = sorted(before[1].keys() | after[1].keys())
        texts = [(before[1].get(one), after[1].get(one)) for one in names]
        said = [
            *before[0].differences(after[0], views=views),
            *(f"{old}\n->\n{new}" for old, new in texts if old != new),
        ]  # fmt: skip
        assert not said, "\n".join(said)


@contextlib.contextmanager
def made(servers: Servers, schema: Schema) -> Iterator[Drawn]:
    """Make a database with a drawn schema, a context file for it and an empty store, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="backup-test-") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        (folder / "store").mkdir()
        world = World(servers.source, servers.target, folder, servers.api, {"BACKUP_STORE": str(folder / "store")}, DATABASE)
        patch.setattr(sites, "CONTEXTS", folder / "contexts")
        write_context(
            sites.CONTEXTS, name=CONTEXT, database=DATABASE, schema=schema.namespace,
            tables=[table.name for table in schema.tables], views=[view.name for view in schema.views],
        )  # fmt: skip
        servers.source.create_database(DATABASE, "consulting_owner")
        try:
            drawn = Drawn(world, schema)
            drawn.make()
            yield drawn
        finally:
            for server in (servers.source, servers.target):
                drop_databases(server)


def comes_back(servers: Servers, schema: Schema) -> None:
    with made(servers, schema) as drawn:
        before = drawn.state(servers.source)
        assert drawn.world.backup(context=CONTEXT).startswith("STORED")
        assert drawn.world.recover(context=CONTEXT).startswith("PASS")
        drawn.assert_equal(before, servers.target)


def comes_back_changed(servers: Servers, schema: Schema, done: Changes) -> None:
    with made(servers, schema) as drawn:
        drawn.world.backup(context=CONTEXT)
        drawn.change(done)
        # What a view shows that reads a stale one, the oracle cannot compute.
        drawn.refresh()
        before = drawn.state(servers.source)
        said = drawn.world.differential(context=CONTEXT, accept_losses=True)
        event(f"differential: {'differential' in said}")
        assert drawn.world.recover(context=CONTEXT).startswith("PASS")
        drawn.assert_equal(before, servers.target)


def is_restored_in_place(servers: Servers, schema: Schema, done: Changes) -> None:
    with made(servers, schema) as drawn:
        with servers.source.connect() as connection:
            connection.execute(sql.SQL("GRANT TEMPORARY ON DATABASE {} TO backup_restorer").format(sql.Identifier(DATABASE)))
        before = drawn.state(servers.source)
        drawn.world.backup(context=CONTEXT)
        drawn.change(done)
        damaged = drawn.state(servers.source)
        try:
            said = drawn.world.run(
                full_restore, "backup_restorer", context=CONTEXT, in_place=True, dry_run=False, confirm_database=DATABASE
            )  # fmt: skip
        except (BadInput, OperationError) as refusal:
            event("in place: refused")
            # Rows that violate what was never validated cannot be written again.
            assert " violates " in str(refusal), refusal
            assert any(statement.endswith("NOT VALID") for statement in schema.finish())
            drawn.assert_equal(damaged, servers.source, views="stored")
        else:
            event(f"in place: {said.split(':')[0]}")
            drawn.assert_equal(before, servers.source)


@thoroughly
@given(schema=DRAWN)
def test_schemas_come_back(two_servers: Servers, schema: Schema) -> None:
    comes_back(two_servers, schema)


@repeatedly
@given(schema=DRAWN, done=changes())
def test_a_differential_of_a_schema_comes_back(two_servers: Servers, schema: Schema, done: Changes) -> None:
    comes_back_changed(two_servers, schema, done)


@repeatedly
@given(schema=WITHOUT_RULES, done=changes(dropping=True))
def test_a_schema_is_restored_in_place(two_servers: Servers, schema: Schema, done: Changes) -> None:
    is_restored_in_place(two_servers, schema, done)
