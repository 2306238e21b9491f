"""Real servers for the integration tests, and a small world in which each test backs up and recovers."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from psycopg import sql
from tenacity import BaseRetrying, wait_none

from deployments import local
from deployments.example import create_example
from deployments.local import LocalS3, LocalServer, wheel_bin
from deployments.login_blocks import LOGINS
from tasks import records, sets, sites
from tasks.core.context import CONTEXT_FILE
from tests.oracle import State, capture

PROJECT = Path(__file__).parents[2]
CONTEXT = "bc-004"
DATABASE = "consulting_tool"
TEMPLATE = "example_template"
SETTINGS = {"max_prepared_transactions": "10"}
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
TABLES = [
    "organizations", "organization_units", "organization_hierarchies", "organization_members", "teams", "team_members",
    "team_leaders", "governance_policies", "governance_rules", "policy_scopes", "policy_violations",
]  # fmt: skip
# The keys to users, which belongs to another context: the only difference that a recovery may leave.
OUTBOUND_KEYS = [
    "organization_members.organization_members_user_fkey", "policy_violations.policy_violations_resolver_fkey",
    "team_leaders.team_leaders_user_fkey", "team_members.team_members_user_fkey",
]  # fmt: skip


def prepare(server: LocalServer) -> LocalServer:
    """Make the least-privilege roles, with passwords, as an administrator would."""
    server.run_script(PROJECT / "deployments" / "roles.sql")
    server.allow_backup_logins()
    return server


def make_template(server: LocalServer, **sizes: Any) -> None:
    """Make the example database that every test gets a copy of."""
    server.create_database(TEMPLATE, "consulting_owner")
    create_example(server.conninfo(TEMPLATE), **({"scale": 0.1, "violations_per_year": 1000} | sizes))


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Let the flows that tests start be interrupted, even where a shell started the tests in its background: it ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def tell_the_rest() -> None:
    """Tell a Prefect server that will stop what this process still has for it; else the exit waits, and the next is not told."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all()


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    """A real Prefect server; flows run in this process and in others are recorded there."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with local.prefect_server() as url, temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield url
        tell_the_rest()


class Servers:
    """One server a major version, started when first asked for."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[int, LocalServer] = {}

    def __getitem__(self, major: int) -> LocalServer:
        if major not in self._running:
            if major == 15 and not (DEBIAN_15 / "postgres").exists():
                pytest.skip(f"PostgreSQL 15 of Debian is not in {DEBIAN_15}")
            server = self._stack.enter_context(local.postgres(DEBIAN_15 if major == 15 else wheel_bin(major), **SETTINGS))
            make_template(prepare(server))
            with server.connect() as connection:
                assert connection.info.server_version // 10000 == major
            self._running[major] = server
        return self._running[major]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """The servers of this module."""
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.fixture(scope="session")
def source() -> Iterator[LocalServer]:
    """The server that is backed up, PostgreSQL 18, with the example database as a template."""
    with local.postgres(**SETTINGS) as server:
        make_template(prepare(server))
        yield server


@pytest.fixture(scope="session")
def target() -> Iterator[LocalServer]:
    """An empty server to recover on, PostgreSQL 18."""
    with local.postgres() as server:
        yield prepare(server)


@pytest.fixture(scope="session")
def s3() -> Iterator[LocalS3]:
    """An S3 endpoint."""
    with local.s3() as endpoint:
        yield endpoint


@dataclass
class World:
    """One database, one store, one empty server, and the environment that leads the flows there."""

    source: LocalServer
    target: LocalServer
    folder: Path
    api: str
    store: dict[str, str]
    database: str = DATABASE
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def store_folder(self) -> Path:
        """The store, where it is a folder."""
        return Path(self.store["BACKUP_STORE"])

    def environment(self, server: LocalServer, user: str) -> dict[str, str]:
        """Return all that a flow is given."""
        return {
            **server.environment(user), **self.store, "BACKUP_STAGING": str(self.folder / "staging"),
            "PREFECT_API_URL": self.api, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", **self.extra,
        }  # fmt: skip

    def backup(self, user: str = "backup_reader", **parameters: Any) -> str:
        """Run daily_backup in this process; return its verdict."""
        from flows.backup import daily_backup

        return self._run(daily_backup, self.environment(self.source, user), parameters)

    def differential(self, user: str = "backup_reader", **parameters: Any) -> str:
        """Run differential_backup in this process; return its verdict."""
        from flows.backup import differential_backup

        return self._run(differential_backup, self.environment(self.source, user), parameters)

    def recover(self, user: str = "backup_restorer", **parameters: Any) -> str:
        """Run disaster_recovery onto the empty server in this process; return its verdict."""
        from flows.recovery import disaster_recovery

        return self._run(disaster_recovery, self.environment(self.target, user), parameters)

    def run(self, flow: Any, user: str, server: LocalServer | None = None, **parameters: Any) -> Any:
        """Run any flow in this process."""
        return self._run(flow, self.environment(server or self.source, user), parameters)

    def _run(self, flow: Any, environment: dict[str, str], parameters: dict[str, Any]) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("PG", "AWS_", "BACKUP_"))]:
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            return flow(**parameters)

    def start(
        self, module: str, flow: str, user: str, server: LocalServer | None = None, arguments: Sequence[str] = (), **extra: str
    ) -> "subprocess.Popen[str]":  # fmt: skip
        """Start a flow in a process of its own, as an operator would by hand."""
        kept = local.bare_environment()
        environment = kept | self.environment(server or self.source, user) | extra
        return subprocess.Popen(
            [sys.executable, "-m", f"flows.{module}", flow, *arguments], cwd=PROJECT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def connect(self, server: LocalServer | None = None) -> psycopg.Connection:
        """Open an autocommit superuser session in the source's database, or in another server's."""
        return (server or self.source).connect(self.database)

    def state(self, server: LocalServer | None = None, **how: Any) -> State:
        """Return what the independent oracle sees."""
        server = server or self.source
        return capture(server.conninfo(self.database), bin_dir=server.bin, tables=TABLES, **how)

    def assert_recovered(self, before: State, server: LocalServer | None = None) -> None:
        """Assert that the recovered database equals a state captured before, but for the keys to other contexts."""
        after = self.state(server or self.target)
        assert before.differences(after, ignore_foreign_keys=OUTBOUND_KEYS, views="recomputed") == []
        assert after.outside == ()

    def set_folders(self, kind: str = "daily") -> list[Path]:
        """Return the folders of all fulls, or of another kind of set, in a folder store, oldest first, finished or not."""
        return sorted(self.store_folder.glob(f"{CONTEXT}/{kind}/*"))


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


def copy_template(server: LocalServer, name: str = DATABASE) -> None:
    """Make a fresh copy of the example database."""
    with server.connect() as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER consulting_owner")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(TEMPLATE)))


def new_world(source: LocalServer, target: LocalServer, api: str, folder: Path) -> World:
    """Make a fresh copy of the example database, and an empty folder store."""
    (folder / "store").mkdir()
    copy_template(source)
    return World(source, target, folder, api, {"BACKUP_STORE": str(folder / "store")})


def edit_context(world: World, monkeypatch: pytest.MonkeyPatch, **keys: Any) -> None:
    """Let the flows of a test find the context with other keys than its folder has."""
    place = world.folder / "contexts" / CONTEXT
    if place.parent != sites.CONTEXTS:
        shutil.copytree(sites.CONTEXTS / CONTEXT, place)
    said = yaml.safe_load((place / CONTEXT_FILE).read_text("utf-8"))
    (place / CONTEXT_FILE).write_text(yaml.safe_dump(said | keys, allow_unicode=True), "utf-8")
    monkeypatch.setattr(sites, "CONTEXTS", place.parent)


def delete_blocks(*names: str) -> None:
    """Delete what a test registered, given as kind/name, connectors with those of their logins; what it did not is passed over."""
    logins = [f"{name}-{login}" for name in names if name.startswith("sqlalchemy-connector/") for login in LOGINS]
    with get_client(sync_client=True) as client:
        for name in (*names, *logins):
            try:
                document = Block.load(name)._block_document_id
            except ValueError:
                continue
            assert document
            # Prefect's client asks again where its server on SQLite is busy.
            client.delete_block_document(document)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder that the servers' account can reach."""
    with tempfile.TemporaryDirectory(prefix="backup-test-") as name:
        yield Path(name)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the store be asked as often as ever, without the pause between two tries."""
    for one in (*vars(sets).values(), *vars(records).values()):
        function = getattr(one, "fn", one)
        if isinstance(getattr(function, "retry", None), BaseRetrying):
            monkeypatch.setattr(function.retry, "wait", wait_none())


@dataclass(frozen=True)
class TwoSets:
    """A folder store with two good sets of different states, made once; tests work on copies of the folder."""

    folder: Path
    older: str
    newer: str
    before_older: State
    before_newer: State

    def copy(self, to: Path) -> Path:
        """Copy the store; return the copy."""
        return Path(shutil.copytree(self.folder, to))


@pytest.fixture(scope="session")
def two_sets(source: LocalServer, target: LocalServer, prefect_api: str) -> Iterator[TwoSets]:
    """Two backups of a database that changed in between; the database is gone again."""
    with tempfile.TemporaryDirectory(prefix="backup-test-") as name:
        world = new_world(source, target, prefect_api, Path(name))
        states = []
        for purpose in ("before the older", "before the newer"):
            with world.connect() as connection:
                connection.execute("UPDATE teams SET purpose = %s WHERE id = (SELECT min(id::text)::uuid FROM teams)", [purpose])
            states.append(world.state())
            world.backup()
        older, newer = world.set_folders()
        drop_databases(source)
        yield TwoSets(world.store_folder, older.name, newer.name, *states)


@pytest.fixture
def world(source: LocalServer, target: LocalServer, prefect_api: str, folder: Path) -> Iterator[World]:
    """A fresh copy of the example database, an empty folder store, an empty server."""
    yield new_world(source, target, prefect_api, folder)
    drop_databases(source)
    drop_databases(target)


@pytest.fixture
def s3_world(world: World, s3: LocalS3, folder: Path) -> World:
    """The same with a fresh prefix of the bucket as store."""
    world.store = s3.environment() | {"BACKUP_STORE": f"{s3.url}/{folder.name}"}
    return world


@pytest.fixture
def any_version(servers: Servers, prefect_api: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A world on one server, of the major version that the test names."""
    server = servers[request.param]
    yield new_world(server, server, prefect_api, folder)
    drop_databases(server)
