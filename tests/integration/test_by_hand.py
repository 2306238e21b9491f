"""Runs by hand where Prefect's server is dead, half-dead or something else: they go on without it, and say so in one line."""

import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from deployments import local
from flows.backup import list_backups
from flows.command_line import _why_unusable
from tests.support.database import execute
from tests.support.faults import wait_for
from tests.support.world import TwoSets, World

PAGE = b"<!DOCTYPE html><html><title>Sign in</title></html>"
RECORDED_HERE = "this run is recorded on this machine only"


@dataclass(frozen=True)
class Answer:
    """What something that is no Prefect server, or no whole one, says to each request but to /health, and to that."""

    code: int
    body: bytes = b"{}"
    kind: str = "application/json"
    healthy: bool = True
    silent: bool = False


ANSWERS = {
    "a page": (Answer(200, PAGE, "text/html", healthy=False), "what answers there is no Prefect API"),
    "a page but for its health": (Answer(200, PAGE, "text/html"), "what answers there is no Prefect API"),
    "JSON of something else": (Answer(200, b'{"ok": true}'), "what answers there is no Prefect API"),
    "JSON of another shape": (Answer(200, b"[1]"), "what answers there is no Prefect API"),
    "520, which no standard has": (Answer(520), "it answers 520"),
    "401": (Answer(401), "it answers 401 Unauthorized: PREFECT_API_AUTH_STRING or PREFECT_API_KEY is missing or wrong"),
    "403": (Answer(403, PAGE, "text/html", healthy=False), "it answers 403 Forbidden: PREFECT_API_AUTH_STRING"),
    "404": (Answer(404), "it answers 404 Not Found"),
    "500 for all but health": (Answer(500), "it answers 500 Internal Server Error"),
    "502": (Answer(502, PAGE, "text/html", healthy=False), "it answers 502 Bad Gateway"),
    "silence for all but health": (Answer(200, silent=True), "timed out"),
}


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """Serve an answer to everything; give its address as that of an API."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if is_health := answer.healthy and self.path.endswith("/health"):
                code, body, kind = 200, b"true", "application/json"
            else:
                code, body, kind = answer.code, answer.body, answer.kind
            if answer.silent and not is_health:
                over.wait(120)
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Whoever gave up waiting has hung up."""

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/api"
    finally:
        over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home of Prefect for the runs of this module: its database takes longest to make."""
    return tmp_path_factory.mktemp("prefect")


def by_hand(world: World, module: str, flow: str, user: str, *arguments: str, **environment: str) -> str:
    """Run a flow to its end in a process of its own; return what it said, which has no traceback in it."""
    server = world.target if flow == "disaster_recovery" else None
    process = world.start(module, flow, user, server, arguments, PREFECT_FLOWS_HEARTBEAT_FREQUENCY="30", **environment)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert "Traceback" not in said and "--- Error" not in said, said
    return said


# --- is there one? ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ANSWERS if "silence" not in name])
def test_what_is_no_prefect_server_is_told(name: str) -> None:
    answer, reason = ANSWERS[name]
    with answering(answer) as url:
        told = why_unusable(url)
    assert reason in told and "\n" not in told


@pytest.mark.long
def test_a_server_that_is_silent_is_given_up() -> None:
    answer, reason = ANSWERS["silence for all but health"]
    with answering(answer) as url:
        assert reason in why_unusable(url)


def test_a_server_that_works_is_used(prefect_api: str) -> None:
    assert why_unusable(prefect_api) == ""
    assert why_unusable(prefect_api.removesuffix("/api")) == "it answers 404 Not Found"


def why_unusable(url: str) -> str:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}):
        return _why_unusable(url, list_backups)


# --- runs without it ----------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("name", ANSWERS)
def test_a_run_goes_on_without(world: World, home: Path, name: str) -> None:
    answer, reason = ANSWERS[name]
    with answering(answer) as url:
        said = by_hand(world, "backup", "list_backups", "backup_reader", PREFECT_API_URL=url, PREFECT_HOME=str(home))
    assert said.count(f"no Prefect server at {url} ({reason}") == said.count(RECORDED_HERE) == 1


@pytest.mark.long
def test_backup_and_recovery_beside_a_server_whose_database_is_gone(world: World, home: Path) -> None:
    """It says that it is well, and has nothing to record a run in."""
    before = world.state()
    with ExitStack() as stack:
        database = stack.enter_context(local.postgres(local.prefect_bin()))
        url = stack.enter_context(local.prefect_server(database))
        os.kill(int((database.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        wait_for(lambda: answers_so(url) >= 500, 30, "the server to miss its database")
        assert httpx.get(f"{url}/health").json() is True
        environment = {"PREFECT_API_URL": url, "PREFECT_HOME": str(home)}
        said = by_hand(world, "backup", "daily_backup", "backup_reader", **environment)
        assert said.count(f"no Prefect server at {url} (") == 1 and "STORED: " in said
        execute(world, "TRUNCATE teams CASCADE")
        said = by_hand(world, "recovery", "disaster_recovery", "backup_restorer", **environment)
        assert said.count(f"no Prefect server at {url} (") == 1 and "PASS: " in said
    world.assert_recovered(before)


def answers_so(url: str) -> int:
    return httpx.post(f"{url}/flows/filter", json={}, timeout=30).status_code


def spoil(home: Path) -> None:
    (home / "prefect.db").write_bytes(b"no database at all" * 100)


def make_newer(home: Path) -> None:
    """Make a database as a release of Prefect has it that this one does not know."""
    with sqlite3.connect(home / "prefect.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")


@pytest.mark.long
@pytest.mark.parametrize("state", ["below a file", "spoilt", "of a newer release", "a database that is gone"])
def test_prefects_own_records_cannot_be_used(world: World, folder: Path, state: str) -> None:
    home, environment = folder / "prefect", {}
    home.mkdir()
    if state == "below a file":
        home = folder / "file" / "prefect"
        home.parent.touch()
    elif state == "a database that is gone":
        environment["PREFECT_API_DATABASE_CONNECTION_URL"] = f"postgresql+asyncpg://x:y@127.0.0.1:{local.free_port()}/x"
    else:
        {"spoilt": spoil, "of a newer release": make_newer}[state](home)
    said = by_hand(world, "backup", "list_backups", "backup_reader", PREFECT_API_URL="", PREFECT_HOME=str(home), **environment)
    assert said.count(f"Prefect's own database in {home} cannot be used (") == 1
    assert said.count("this run is not recorded") == 1


@pytest.mark.long
def test_a_first_run_without_a_server_says_nothing_of_it(world: World, folder: Path, two_sets: TwoSets) -> None:
    """Neither what the server that it brings along phones home, nor that its database is locked for a moment."""
    two_sets.copy(folder / "copy")
    home = folder / "prefect"
    environment = {"PREFECT_API_URL": "", "PREFECT_HOME": str(home), "BACKUP_STORE": str(folder / "copy")}
    said = by_hand(world, "backup", "list_backups", "backup_reader", **environment)
    assert two_sets.newer in said
    assert not [line for line in said.splitlines() if "ERROR" in line or "WARNING" in line or "locked" in line or "http://" in line]
    with sqlite3.connect(home / "prefect.db") as connection:
        assert connection.execute("SELECT state_type FROM flow_run").fetchall() == [("COMPLETED",)]


@pytest.mark.long
def test_nobody_is_asked_where_nobody_could_answer(world: World, home: Path, two_sets: TwoSets, folder: Path) -> None:
    two_sets.copy(folder / "copy")
    environment = {"PREFECT_API_URL": "", "PREFECT_HOME": str(home), "BACKUP_STORE": str(folder / "copy")}
    words = ["--in-place", "true", "--dry-run", "false", "--require-approval", "true"]
    process = world.start("restore", "full_restore", "backup_restorer", None, words, **environment)
    said, _ = process.communicate(timeout=300)
    assert (
        process.returncode == 1
        and "require_approval asks for approval in Prefect's UI, but no Prefect server records this run" in said
    ), said
