"""`make up`: PostgreSQL with the example, a store, a Prefect server and a worker, on one machine.

Nothing else is needed. The data are kept in .local/up for the next `make up`. BACKUP_STORE and the
AWS variables may name another store than the folder in .local/up. Ctrl-C stops everything.
"""

import fcntl
import os
import subprocess
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, temporary_settings
from psycopg.sql import SQL, Identifier

from deployments import local
from deployments.demo import DATABASE, PROJECT, Story, make_source
from deployments.local import LocalServer
from tasks.core.run.folders import require_own

POOL = "backup"
FIRST = ("daily-backup/bc-004-daily", "recovery-drill/bc-004-drill", "integrity-check/bc-004-integrity",
         "backup-report/bc-004-report")  # fmt: skip
RUN_SECONDS = 1800


def main() -> None:
    """Start everything and wait for Ctrl-C."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--violations-per-year", type=int, default=10_000, help="rows in each of six yearly partitions")
    parser.add_argument("--port", type=int, default=4200, help="where Prefect's UI is served")
    parser.add_argument("--folder", type=Path, help="where everything is kept, instead of .local/up")
    arguments = parser.parse_args()
    local.stop_on_terminate()
    story = Story()
    try:
        with up(story, arguments.folder or state_folder(), arguments.violations_per_year, arguments.port):
            threading.Event().wait()
    except KeyboardInterrupt:
        story.say("everything is stopped; `make up` continues from here")


@contextmanager
def up(story: Story, folder: Path, violations_per_year: int, port: int) -> Iterator[str]:
    """Run everything for as long as the block lasts; yield the address of Prefect's UI.

    Raises:
        SystemExit: the servers run already, or one of them does not start.
    """
    folder = require_own(folder.resolve(), 0o711)
    with ExitStack() as stack:
        stack.enter_context(_alone(folder))
        with story.step("starting PostgreSQL 18"):
            server = stack.enter_context(local.postgres(local.prefect_bin(), kept=folder / "postgresql", fsync="on"))
            make_example(server, folder / "example-made", violations_per_year)
        with story.step("starting Prefect's server, with its own database on that PostgreSQL server"):
            api = stack.enter_context(local.prefect_server(server, _usable(port), folder / "prefect"))
            stack.enter_context(temporary_settings({PREFECT_API_URL: api}))
        # Keys that expire, and roles, are not in blocks.
        aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        environment = aws | server.environment("backup_restorer") | {
            "PREFECT_API_URL": api, "BACKUP_STORE": os.environ.get("BACKUP_STORE") or str(require_own(folder / "store"))
        }  # fmt: skip
        register(story, environment)
        worker_environment = aws | {"PG_BIN": str(server.bin), "BACKUP_STAGING": str(require_own(folder / "staging"))}
        stack.enter_context(local.prefect_worker(api, POOL, worker_environment, folder / "worker.log"))
        make_first(story)
        url = api.removesuffix("/api")
        story.say(
            f"[bold]Prefect's UI: {url}[/bold]   store: {environment['BACKUP_STORE']}   log of the worker: {folder / 'worker.log'}"
        )
        story.say(f"database: {psql(server)}; Ctrl-C stops everything")
        yield url


def psql(server: LocalServer) -> str:
    """Return the command that opens the database."""
    where = f"host={local.HOST} port={server.port} dbname={DATABASE} user=backup_restorer"
    return f'PGPASSWORD=$(cat {server.data.parent / "password"}) {server.bin / "psql"} "{where}"'


def state_folder() -> Path:
    """Return where everything is kept: .local/up, or /var/tmp if the server cannot access that."""
    if os.geteuid() == 0 and not all(path.stat().st_mode & 0o001 for path in PROJECT.parents):
        return Path("/var/tmp") / "backup-local-up"  # noqa: S108
    return PROJECT / ".local" / "up"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make sure that this runs only once."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"`make up` is running already (lock: {folder / 'lock'}); stop it first, with Ctrl-C")
        yield


def _usable(port: int) -> int:
    """Return the port if it is free, else another one."""
    try:
        httpx.get(f"http://{local.HOST}:{port}", timeout=2)
    except httpx.ConnectError:
        return port
    except httpx.HTTPError:
        pass
    return local.free_port()


def make_example(server: LocalServer, mark: Path, violations_per_year: int) -> None:
    """Create the example database unless the mark says so; drop an unfinished one first."""
    if mark.exists():
        return
    with server.connect() as connection:
        connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(DATABASE)))
    make_source(server, violations_per_year)
    mark.touch()


def register(story: Story, environment: dict[str, str]) -> None:
    """Register the context as an operator would.

    Raises:
        SystemExit: the registration failed; its output is printed.
    """
    with story.step(f"[bold]$ python -m deployments.register --work-pool {POOL}[/bold]"):
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "deployments.register", "--work-pool", POOL], cwd=PROJECT,
            env=local.bare_environment() | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout)


def make_first(story: Story) -> None:
    """Let the worker take a first backup, drill the recovery and report, unless that was done.

    Raises:
        SystemExit: one of these runs failed.
    """
    for name in FIRST:
        if was_done(name):
            continue
        with story.step(f"[bold]$ prefect deployment run {name}[/bold]"):
            run = cast(FlowRun, run_deployment(name, timeout=RUN_SECONDS, poll_interval=1, as_subflow=False))
        message = run.state.message if run.state else None
        story.say(f"{run.name}: {message}")
        if not (run.state and run.state.is_completed()):
            sys.exit(f"{name} did not complete")


def was_done(name: str) -> bool:
    """Return whether a deployment (flow/deployment) has ever completed a run."""
    deployment = DeploymentFilter(name=DeploymentFilterName(any_=[name.partition("/")[2]]))
    completed = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED])))
    with get_client(sync_client=True) as client:
        return bool(client.read_flow_runs(deployment_filter=deployment, flow_run_filter=completed, limit=1))


if __name__ == "__main__":
    main()
