"""A Prefect server for one run, if there is no other server: Prefect runs no flow without a server.

It listens on the loopback address, requires a login that only this process knows, and ends with
this process, even if that is killed. It logs to a file of its own.
"""

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_UI_URL,
    temporary_settings,
)

from tasks.core.errors import OperationError
from tasks.core.postgres.programs import kill, supervised
from tasks.core.run.folders import private_folder
from tasks.run.run import staging_base

HOST = "127.0.0.1"
# In the environment of a run on its own server: nobody could approve its plan.
ALONE = "BACKUP_WITHOUT_PREFECT_SERVER"
# The first start creates its database, which takes minutes on a busy machine.
START_SECONDS = 300
END_SECONDS = 10
POLL_SECONDS = 0.1
LOG = "server.log"
FOLDERS = re.compile(r"prefect-[0-9a-f]{8}")
# The last line of a traceback.
ERROR = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception)\b.*", re.MULTILINE)
REASON_CHARACTERS = 200
Environment = Mapping[str, str]


class _NotStarted(Exception):
    """Raised if the server did not start; the message has the reason."""


@contextmanager
def own_server(*, as_configured: bool) -> Iterator[str]:
    """Run a Prefect server for the block; yield a warning about its records, or "".

    Its database is the configured one or, unless `as_configured`, the file in PREFECT_HOME. If that
    is unusable, the database is in a private folder that is removed at the end.

    Raises:
        OperationError: no server can be started here.
    """
    home, warning = PREFECT_HOME.value(), ""
    with private_folder(staging_base(), f"prefect-{secrets.token_hex(4)}", FOLDERS) as folder, ExitStack() as stack:
        try:
            given = dict(os.environ) if as_configured else _with_database(home)
            stack.enter_context(_used(folder, given))
        except _NotStarted as first:
            warning = f"Prefect's own database in {home} cannot be used ({first}); this run is not recorded and cannot read blocks"
            try:
                stack.enter_context(_used(folder, _with_database(folder)))
            except _NotStarted as second:
                raise OperationError(
                    f"there is no Prefect server, and none can be started here: {second}; set "
                    "PREFECT_API_URL, or set BACKUP_STAGING to a folder with free space"
                ) from None
        yield warning


def _with_database(home: Path) -> Environment:
    """Return this environment with Prefect's home and database in a folder as its only settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {"PREFECT_HOME": str(home), "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect.db"}


@contextmanager
def _used(folder: Path, given: Environment) -> Iterator[None]:
    """Run a server for the block, and let this process use it."""
    login = f"run:{secrets.token_urlsafe(16)}"
    with _running(folder, given, login) as url:
        os.environ[ALONE] = "1"
        # Nobody could open a link to this server.
        settings = {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: login, PREFECT_API_KEY: None, PREFECT_UI_URL: ""}
        try:
            with temporary_settings(settings):
                try:
                    yield
                finally:
                    for worker in (APILogWorker, EventsWorker):
                        worker.drain_all(END_SECONDS)
        finally:
            del os.environ[ALONE]


@contextmanager
def _running(folder: Path, given: Environment, login: str) -> Iterator[str]:
    port = _free_port()
    command = ["--factory", "prefect.server.api.server:create_app", "--host", HOST, "--port", str(port), "--log-level", "error"]
    environment = _server_environment(given, login)
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            supervised([sys.executable, "-m", "uvicorn", *command, "--lifespan", "on"]),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    try:
        _wait(process, f"http://{HOST}:{port}/api", folder / LOG)
        yield f"http://{HOST}:{port}/api"
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Let the server finish writing the run's records, and end it."""
    assert process.stdin  # noqa: S101
    process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    kill(process)


def _server_environment(given: Environment, login: str) -> Environment:
    """Return the environment of a temporary server: no schedules, no telemetry."""
    ours = {
        "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1", "PREFECT_UI_ENABLED": "0", "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_API_AUTH_STRING": login,
    }  # fmt: skip
    return {name: value for name, value in given.items() if name != "PREFECT_API_URL"} | ours


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(timeout=START_SECONDS, trust_env=False) as client:
        while True:
            try:
                if client.get(f"{url}/health").is_success:
                    return
            except httpx.TransportError:
                pass
            if process.poll() is not None:
                raise _NotStarted(_reason(log) or f"its server ended with exit code {process.returncode}")
            if time.monotonic() > deadline:
                raise _NotStarted(f"its server did not answer within {START_SECONDS} s")
            # A starting server does not announce that it is ready.
            time.sleep(POLL_SECONDS)


def _reason(log: Path) -> str:
    """Return the last error in the server's log, in one line."""
    errors = ERROR.findall(log.read_text(errors="replace"))
    return " ".join(errors[-1].split())[:REASON_CHARACTERS] if errors else ""
