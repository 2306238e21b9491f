"""Real servers for the integration tests, and the worlds in which they back up and recover."""

import itertools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import botocore.session
import certifi
import pytest
from psycopg import sql
from tenacity import BaseRetrying, wait_none

from deployments import local
from deployments.local import LocalS3, LocalServer
from tasks.run import run, site
from tasks.run.run import Step
from tests.support import drawn_schemas
from tests.support.archives import ONE_YEAR_IS_DUE, RESOLVED
from tests.support.clock import at
from tests.support.contexts import write_context
from tests.support.database import execute
from tests.support.drawn_schemas import TwoServers
from tests.support.example import make_template
from tests.support.hostile_names import DATABASE_LEVEL, HOSTILE, NAMESPACE, ROLE, SCRIPT, Hostile
from tests.support.prefect_server import Runs, tell_the_rest
from tests.support.retention import FOREIGN, Kept
from tests.support.servers import CONTRIB, SETTINGS, SMALL, Servers, bin_of, drop_databases, prepare
from tests.support.world import TwoSets, World, new_world

# Half of the time that a Prefect server spends on a run is spent on records of its tasks, which no test reads here.
LEAN = {"PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED": "false", "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false"}


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Let the flows that tests start be interrupted, even where a shell started the tests in its background: it ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def runs_in_order() -> Iterator[None]:
    """Number the runs of this process: where two begin in one second, the ids of their sets tell which came first."""
    numbers = itertools.count(0x1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "new_run_id", lambda: f"{next(numbers):04x}")
        yield


@pytest.fixture(scope="session", autouse=True)
def services_read_once() -> Iterator[None]:
    """Let boto3's sessions share their descriptions of services: the tests open hundreds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", cache(botocore.session.create_loader))
        yield


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server; flows run in this process and in others are recorded there, their tasks are not."""
    from prefect.settings import (
        PREFECT_API_SSL_CERT_FILE,
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    # Each client of a flow reads the certificates, also for HTTP: all of them take 17 ms.
    certificate = tmp_path_factory.mktemp("prefect") / "certificate.pem"
    certificate.write_text("-----BEGIN CERTIFICATE-----" + certifi.contents().split("-----BEGIN CERTIFICATE-----")[1])
    with local.postgres(local.prefect_bin(), **SMALL) as beside, local.prefect_server(beside, **LEAN) as url:
        settings = {PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_API_SSL_CERT_FILE: str(certificate)}
        with temporary_settings(settings):
            yield url
            tell_the_rest()


@pytest.fixture(scope="module")
def recorder() -> Iterator[str]:
    """A Prefect server of this module, that records runs of tasks too."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    tell_the_rest()
    with local.prefect_server() as url, temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield url
        tell_the_rest()


@pytest.fixture
def runs(recorder: str) -> Runs:
    """The runs of tasks that a test makes."""
    return Runs(recorder)


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
    with local.postgres(**SMALL) as server:
        yield prepare(server)


@pytest.fixture(scope="session")
def s3() -> Iterator[LocalS3]:
    """An S3 endpoint."""
    with local.s3() as endpoint:
        yield endpoint


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder that the servers' account can reach."""
    with tempfile.TemporaryDirectory(prefix="backup-test-") as name:
        yield Path(name)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the store be asked as often as ever, with next to no pause between two tries."""
    tasks = [module for name, module in sys.modules.items() if name.startswith("tasks.")]
    for one in (member for module in tasks for member in vars(module).values()):
        function = getattr(one, "fn", one)
        if isinstance(getattr(function, "retry", None), BaseRetrying):
            monkeypatch.setattr(function.retry, "wait", wait_none())
        if isinstance(one, Step) and one.retries:
            monkeypatch.setattr(one, "retry_delay_seconds", 0.01)


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


@pytest.fixture
def resolved(world: World) -> World:
    """A database without 2021, in which no open violation holds a year."""
    execute(world, "DROP TABLE policy_violations_2021", RESOLVED)
    return world


@pytest.fixture
def old(resolved: World) -> Iterator[World]:
    """The same, when of its years 2022 alone is past retention."""
    with pytest.MonkeyPatch.context() as patch:
        at(patch, ONE_YEAR_IS_DUE)
        yield resolved


@pytest.fixture(scope="session")
def kept(source: LocalServer, target: LocalServer, prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """Two fulls, each with a differential, taken once; the database is gone again."""
    folder = tmp_path_factory.mktemp("kept")
    world = new_world(source, target, prefect_api, folder)
    for purpose in ("first", "second"):
        world.backup()
        execute(world, f"UPDATE teams SET purpose = '{purpose}' WHERE ctid = '(0,1)'")
        world.differential()
    before = world.state()
    drop_databases(source)
    for key in FOREIGN:
        (folder / "store" / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / "store" / key).write_bytes(os.urandom(100))
    yield Kept(folder / "store", before)


@pytest.fixture
def kept_world(source: LocalServer, target: LocalServer, prefect_api: str, folder: Path, kept: Kept) -> World:
    """A world of which only the store is looked at."""
    return World(source, target, folder, prefect_api, {"BACKUP_STORE": str(shutil.copytree(kept.folder, folder / "store"))})


@pytest.fixture
def hostile(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    """The awkward context, in a database of its own; its one foreign role exists in the source alone."""
    world.database = HOSTILE
    monkeypatch.setattr(site, "CONTEXTS", world.folder / "contexts")
    with world.source.connect() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(ROLE)))
        connection.execute("ALTER ROLE backup_reader BYPASSRLS")
    world.source.create_database(HOSTILE, "consulting_owner")
    world.source.run_script(SCRIPT, HOSTILE)
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


@pytest.fixture(scope="module", params=[CONTRIB], ids=["18"])
def two_servers(prefect_api: str, request: pytest.FixtureRequest) -> Iterator[TwoServers]:
    """A server to back up and one to recover on, with contrib; the role of drawn schemas is, from 16 on, in the first alone."""
    role = sql.Identifier(drawn_schemas.ROLE)
    with ExitStack() as stack:
        source, target = (stack.enter_context(local.postgres(bin_of(request.param), **SETTINGS)) for _ in range(2))
        for server in (source, target):
            with prepare(server).connect() as connection:
                # Row-level security may be forced.
                connection.execute("ALTER ROLE backup_reader BYPASSRLS")
                connection.execute("ALTER ROLE backup_restorer BYPASSRLS")
                if server is source or connection.info.server_version < 160000:
                    connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(role))
        yield TwoServers(source, target, prefect_api)
