"""The operator's day on a real Prefect server with a real worker: schedules, runs, alarms, kills, and no password anywhere.

One server for all tests of this file, in order. Its passwords are full of what breaks quoting, and are looked for at the end.
"""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID
from zoneinfo import ZoneInfo

import boto3
import pytest
from cronsim import CronSim
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.events import emit_event
from prefect.exceptions import PrefectHTTPStatusError
from prefect.server.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Running, Scheduled
from psycopg.sql import SQL, Identifier, Literal

from deployments import deployed, local
from deployments.automations import HEARTBEAT
from deployments.local import LocalS3, LocalServer
from deployments.register import read_context, require_block, save_alarms
from tasks.core.run.clock import now
from tasks.core.sets.name import COLD_CLASSES
from tests.support.example import CONTEXT, DATABASE, copy_template
from tests.support.faults import shim, wait_for
from tests.support.prefect_server import Hook, tell_the_rest
from tests.support.servers import drop_databases

pytestmark = [pytest.mark.long, pytest.mark.every_variant]

JST = ZoneInfo("Asia/Tokyo")
MARK = "MARKED-7f3a"
DATABASE_SECRET = f"""{MARK} d'b" p@ss%2F:/?#[] $HOME `id` \\ 秘密のパスワード"""
STORE_SECRET = f"""{MARK} s3'k"ey @%41+/= 秘密"""
POOL = "operators"
START_SECONDS = 180
# In the folder of the worker's PYTHONPATH: a run's process waits as long as it is told to.
SLOW_START = """\
import os, sys, time
from pathlib import Path

hold, parent = Path(__file__).with_name("start.hold"), os.getppid()
if any(word.startswith("prefect.") and word.endswith("engine") for word in sys.orig_argv) and hold.exists():
    while hold.exists():
        hold.with_suffix(".reached").touch()
        time.sleep(0.1)
    if os.getppid() != parent:
        # It goes with its worker, as on a machine that fails.
        os._exit(1)
"""
BY_NAME = {one["name"]: one for one in deployed.declared(CONTEXT)}


@dataclass
class Operated:
    """A database, a store, a Prefect server where the context is registered, and what a worker there is given."""

    source: LocalServer
    s3: LocalS3
    folder: Path
    api: str
    prefect: LocalServer
    given: dict[str, str]
    stack: ExitStack
    leaked: set[str] = field(default_factory=set)

    @property
    def staging(self) -> Path:
        """Where the worker's runs have their private folders."""
        return self.folder / "staging"

    def start_server(self) -> None:
        """Start Prefect's server; what it keeps beside its database is where it was before."""
        self.stack.enter_context(local.prefect_server(self.prefect, urlsplit(self.api).port, self.folder / "server"))

    def kill_server(self) -> None:
        """Kill Prefect's server, as a machine that fails does, and start it again."""
        words = f"-m prefect server start --host {local.HOST} --port {urlsplit(self.api).port}"
        for pid in [pid for pid, found in command_lines() if words in found]:
            os.kill(pid, signal.SIGKILL)
        self.start_server()

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker; what it says is added to the worker's log."""
        with local.prefect_worker(self.api, POOL, self.given, self.folder / f"worker-{datetime.now(JST):%H%M%S%f}.log") as process:
            yield process

    def hold(self) -> None:
        """Let the next pg_dump wait."""
        for name in ("go", "reached"):
            (self.folder / f"pg_dump.{name}").unlink(missing_ok=True)

    def release(self) -> None:
        """Let pg_dump go on."""
        (self.folder / "pg_dump.go").touch()

    def is_held(self) -> bool:
        """Say whether a pg_dump waits."""
        return (self.folder / "pg_dump.reached").exists()

    @contextmanager
    def slow_start(self) -> Iterator[Path]:
        """Let the process of a run wait before it begins; give the file that is there once one waits."""
        hold, reached = self.folder / "start.hold", self.folder / "start.reached"
        hold.touch()
        try:
            yield reached
        finally:
            hold.unlink()
            reached.unlink(missing_ok=True)

    def at_work(self) -> list[str]:
        """Return what processes were started with that have this place's worker or its programs in their environment."""
        return [words for _, words in command_lines() if f"--pool {POOL} " in f"{words} " or str(self.folder) in words]

    def stored(self) -> list[str]:
        """Return the names and the contents of all objects in the store."""
        given = self.s3.environment()
        with closing(
            boto3.client(
                "s3", endpoint_url=self.s3.endpoint, aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"], region_name=given["AWS_DEFAULT_REGION"],
            )
        ) as client:  # fmt: skip
            keys = [one["Key"] for one in client.list_objects_v2(Bucket=self.s3.bucket)["Contents"]]
            return [f"{key} {content(client, self.s3.bucket, key)}" for key in keys]

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """Return what the database says."""
        with self.source.connect(DATABASE) as connection:
            return connection.execute(text.encode()).fetchall()


def register(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m deployments.register` as an operator would, in an environment that has nothing else."""
    kept = local.bare_environment()
    argv = [sys.executable, "-m", "deployments.register", "--work-pool", POOL, *words]
    return subprocess.run(
        argv, env=kept | environment, cwd=deployed.PROJECT, capture_output=True, text=True, check=False, timeout=600
    )


@contextmanager
def looking_at_processes(leaked: set[str]) -> Iterator[None]:
    """Look at what the machine's processes were started with, again and again, for a secret."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            leaked.update(words for _, words in command_lines() if MARK in words)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def command_lines() -> Iterator[tuple[int, str]]:
    """Return the processes of this machine, and what each was started with."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield int(path.parent.name), path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            # It is gone already.
            continue


@pytest.fixture(scope="module")
def operated(source: LocalServer) -> Iterator[Operated]:
    """Everything that an operator has, registered, with a store that is S3."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backup-test-")))
        hook = stack.enter_context(ThreadingHTTPServer((local.HOST, 0), Hook))
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        stack.callback(hook.shutdown)
        s3, own = stack.enter_context(local.s3("operated")), stack.enter_context(local.postgres(local.prefect_bin()))
        bin_folder = shim(folder, source.bin, "pg_dump")
        (folder / "sitecustomize.py").write_text(SLOW_START)
        given = {
            "PG_BIN": str(bin_folder), "BACKUP_STAGING": str(folder / "staging"), "PREFECT_HOME": str(folder / "home"),
            "PYTHONPATH": str(folder),
        }  # fmt: skip
        it = Operated(source, s3, folder, f"http://{local.HOST}:{local.free_port()}/api", own, given, stack)
        it.start_server()
        # Prefect's worker of events stays with the server that it first told something.
        tell_the_rest()
        stack.enter_context(temporary_settings({PREFECT_API_URL: it.api}))
        stack.callback(tell_the_rest)
        it.release()
        stack.enter_context(looking_at_processes(it.leaked))
        make_database(stack, source)
        block = CustomWebhookNotificationBlock(
            name="ops", url=f"http://{local.HOST}:{hook.server_port}/", json_data={"text": "{{subject}} {{body}}"},
            allow_private_urls=True,
        )  # fmt: skip
        block.save("ops", overwrite=True)
        done = register(environment(it), "--notify", "custom-webhook/ops")
        assert done.returncode == 0, done.stdout + done.stderr
        yield it


def make_database(stack: ExitStack, source: LocalServer) -> None:
    """Make the database, for as long as the stack lasts, and give its logins a password that breaks whatever does not quote it."""
    copy_template(source)
    stack.callback(drop_databases, source)
    with source.connect() as connection:
        for login in ("backup_restorer", "backup_reader", "backup_loader"):
            connection.execute(SQL("ALTER ROLE {} PASSWORD {}").format(Identifier(login), Literal(DATABASE_SECRET)))
    stack.callback(source.allow_backup_logins)


def environment(it: Operated) -> dict[str, str]:
    """Return what the operator who registers has exported."""
    return {
        **it.source.environment("backup_restorer"), "PGPASSWORD": DATABASE_SECRET, "PGDATABASE": DATABASE, **it.s3.environment(),
        "AWS_SECRET_ACCESS_KEY": STORE_SECRET, "PREFECT_API_URL": it.api,
    }  # fmt: skip


@pytest.fixture
def client(operated: Operated) -> Iterator[SyncPrefectClient]:
    """The API."""
    with get_client(sync_client=True) as api:
        yield api


def start(client: SyncPrefectClient, name: str, **parameters: Any) -> UUID:
    """Create a run of a deployment."""
    deployment = client.read_deployment_by_name(f"{flow_of(name)}/{name}")
    return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id


def flow_of(name: str) -> str:
    """Return the name of a deployment's flow."""
    return str(BY_NAME[name]["entrypoint"].partition(":")[2].replace("_", "-"))


def state_of(client: SyncPrefectClient, run: UUID) -> str:
    """Return the name of a run's state."""
    state = client.read_flow_run(run).state
    assert state
    return state.name


def ended(client: SyncPrefectClient, run: UUID, seconds: float = 180) -> FlowRun:
    """Wait for the end of a run."""

    def final() -> FlowRun | None:
        found = client.read_flow_run(run)
        return found if found.state and found.state.is_final() else None

    found = wait_for(final, seconds, f"the end of run {run}")
    assert found
    return found


def said_about(name: str) -> list[str]:
    """Return what the webhook was told of runs whose name begins so."""
    return [one for one in Hook.said if name in one]


def test_registered_as_declared(operated: Operated) -> None:
    said = register(environment(operated), "--notify", "custom-webhook/ops", "--check")
    assert (said.returncode, said.stdout.strip()) == (0, "nothing differs")


def test_what_differs_is_said_and_mended(operated: Operated, client: SyncPrefectClient) -> None:
    watch = client.read_deployment_by_name("watch-recovery-point/bc-004-watch")
    client.pause_deployment(watch.id)
    client.delete_deployment(client.read_deployment_by_name("list-backups/bc-004-list").id)
    for one in client.read_automations_by_name("bc-004: run failed"):
        client.delete_automation(one.id)
    words = ("--notify", "custom-webhook/ops")
    other = environment(operated) | {"PGPASSWORD": f"{MARK} another", "BACKUP_STORE": f"{operated.s3.url}/else"}
    said = register(environment(operated), *words, "--check")
    assert said.returncode == 1
    assert said.stdout.splitlines() == [
        "deployment bc-004-watch: paused is True, not False", "deployment bc-004-list is missing",
        'automation "bc-004: run failed" is missing',
    ]  # fmt: skip
    refused = register(other, *words, "--check")
    assert refused.returncode == 1 and MARK not in refused.stdout + refused.stderr
    assert register(environment(operated), *words).returncode == 0
    client.resume_deployment(watch.id)
    assert register(environment(operated), *words, "--check").stdout.strip() == "nothing differs"


# Prefect makes no runs for later than that.
SCHEDULED_AHEAD = timedelta(days=95)


@pytest.mark.parametrize("name", [name for name, one in BY_NAME.items() if one.get("schedules")])
def test_a_schedules_next_three_instants(operated: Operated, client: SyncPrefectClient, name: str) -> None:
    started = datetime.now(JST)
    wanted = CronSim(BY_NAME[name]["schedules"][0]["cron"], started)
    instants = [next(wanted) for _ in range(3)]
    deployment = client.read_deployment_by_name(f"{flow_of(name)}/{name}")
    # As the server computes them ...
    (schedule,) = deployment.schedules
    assert asyncio.run(CronSchedule(**schedule.schedule.model_dump()).get_dates(3, started)) == instants
    # ... and as it made runs of them, where they are not too far.
    near = [instant for instant in instants if instant < started + SCHEDULED_AHEAD]
    by_name = DeploymentFilter(name=DeploymentFilterName(any_=[name]))

    def scheduled() -> set[datetime]:
        runs = client.read_flow_runs(deployment_filter=by_name, limit=200)
        return {run.expected_start_time for run in runs if run.auto_scheduled and run.expected_start_time}

    wait_for(lambda: scheduled() >= {*near}, 120, f"the runs of {name}")
    assert not {instant for instant in scheduled() if started < instant < instants[-1]} - {*near}


def test_a_backup_by_the_worker(operated: Operated, client: SyncPrefectClient) -> None:
    run = start(client, "bc-004-daily", label="triggered")
    with operated.worker():
        done = ended(client, run)
    assert done.state and done.state.name == "Completed"
    assert done.state.message and done.state.message.startswith("STORED")
    assert done.name.startswith("daily-backup bc-004 20") and done.name.endswith(" JST")
    left = client.read_artifacts(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
    assert {one.key for one in left} >= {"bc-004-backup", "bc-004-backup-relations"}
    assert {one.description for one in left if one.key == "bc-004-backup"} == {done.state.message}


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("bc-004-restore-table", {"table": "teams", "mode": "overwrite"}, "mode"),
        ("bc-004-restore-table", {}, "table"),
        ("bc-004-restore-in-place", {"on_schema_drift": "ignore"}, "on_schema_drift"),
        ("bc-004-report", {"days": 0}, "days"),
        ("bc-004-recover", {"resume": "everything"}, "resume"),
        ("bc-004-restore-in-place", {"dry_run": "perhaps"}, "dry_run"),
    ],
)
def test_a_bad_parameter_is_refused_at_creation(
    operated: Operated, client: SyncPrefectClient, name: str, parameters: dict[str, Any], said: str
) -> None:
    with pytest.raises(PrefectHTTPStatusError, match=said):
        start(client, name, **parameters)


def test_a_failing_run_is_told(operated: Operated, client: SyncPrefectClient) -> None:
    run = start(client, "bc-004-restore-copy", backup="bc-004_full_20200101_000000_abcd", target_database="nowhere")
    with operated.worker():
        done = ended(client, run)
    assert done.state and done.state.name == "Failed"
    told = wait_for(lambda: said_about(done.name), 60, "the alarm")
    assert "Failed" in told[0] and "bc-004_full_20200101_000000_abcd" in told[0]


def test_silence_is_told(operated: Operated, client: SyncPrefectClient) -> None:
    context, told = read_context(CONTEXT)[0], require_block("custom-webhook/ops")
    try:
        save_alarms(context, told, silence=timedelta(seconds=10))
        wait_for(lambda: said_about("no restorable state confirmed"), 120, "the dead man's alarm")
        # A watch that looks, and finds that all is well, ends the silence.
        save_alarms(context, told, silence=timedelta(seconds=90))
        with operated.worker():
            assert ended(client, start(client, "bc-004-watch")).state_name == "Completed"
    finally:
        save_alarms(context, told)


def test_the_same_job_twice_at_once(operated: Operated, client: SyncPrefectClient) -> None:
    operated.hold()
    with operated.worker():
        first = start(client, "bc-004-daily")
        wait_for(operated.is_held, START_SECONDS, "the backup")
        second, third = start(client, "bc-004-daily"), start(client, "bc-004-list")
        # One that has no limit is done while the second of the first kind waits.
        assert ended(client, third).state_name == "Completed"
        assert state_of(client, first) == "Running"
        assert state_of(client, second) in {"Scheduled", "Late", "Pending", "AwaitingConcurrencySlot"}
        operated.release()
        assert [ended(client, run).state_name for run in (first, second)] == ["Completed", "Completed"]


WAITING = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'bc-004 refresh%'"


def test_a_look_that_comes_again_soon_is_not_queued(operated: Operated, client: SyncPrefectClient) -> None:
    with operated.worker():
        with operated.source.connect(DATABASE) as holder, holder.transaction():
            holder.execute("LOCK TABLE teams IN ACCESS EXCLUSIVE MODE")
            first = start(client, "bc-004-refresh-team-statistics")
            wait_for(lambda: operated.query(WAITING), START_SECONDS, "the refresh to wait for the lock")
            assert ended(client, start(client, "bc-004-refresh-team-statistics")).state_name == "Cancelled"
        assert ended(client, first).state_name == "Completed"


DEAD_AFTER = timedelta(seconds=60)
LOCKS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"
ARCHIVABLE = """
    UPDATE policy_violations SET status = 'resolved', resolved_at = detected_at
    WHERE status = 'active' AND detected_at < '2024-01-01' RETURNING 1"""
NAMES = ("bc-004-daily", "bc-004-archive")
KILLED = [(number, name) for number in (signal.SIGTERM, signal.SIGKILL) for name in NAMES]


def test_workers_killed_in_the_midst(operated: Operated, client: SyncPrefectClient) -> None:
    context, told = read_context(CONTEXT)[0], require_block("custom-webhook/ops")
    operated.query(ARCHIVABLE)
    save_alarms(context, told, dead_after=DEAD_AFTER)
    try:
        waiting = wait_for_a_thaw(client)
        runs = [kill_in_the_midst(operated, client, number, name) for number, name in KILLED]
        for (number, _), run in zip(KILLED, runs, strict=True):
            if number == signal.SIGKILL:
                # Prefect's server keeps events in memory for a while: what it is told in its last second is lost.
                wait_for(partial(said_about, ended(client, run).name), 60, "the alarm")
        operated.kill_server()
        for (number, _), run in zip(KILLED, runs, strict=True):
            dead = ended(client, run, DEAD_AFTER.total_seconds() + 120)
            assert dead.state_name == "Crashed" and dead.state
            # A run that was ended with its worker says nothing any more; one that saw its worker go says so itself.
            assert (number == signal.SIGKILL) != ("no heartbeat" in str(dead.state.message))
            wait_for(partial(said_about, dead.name), 60, "the alarm")
        # One that gives its process back while it waits is not dead.
        assert state_of(client, waiting) == "AwaitingThaw"
        client.set_flow_run_state(waiting, Cancelled(), force=True)
    finally:
        operated.release()
        save_alarms(context, told)
    with operated.worker():
        assert [ended(client, start(client, name)).state_name for name in NAMES] == ["Completed"] * 2


def wait_for_a_thaw(client: SyncPrefectClient) -> UUID:
    """Make a run that was alive, and then gave its process back to wait for hours."""
    run = start(client, "bc-004-reattach")
    client.set_flow_run_state(run, Running(), force=True)
    resource = {"prefect.resource.id": f"prefect.flow-run.{run}"}
    tag = {"prefect.resource.id": f"prefect.tag.{CONTEXT}", "prefect.resource.role": "tag"}
    emit_event(HEARTBEAT, resource=resource, related=[tag])
    heard = {"filter": {"event": {"name": [HEARTBEAT]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}}
    wait_for(lambda: client.request("POST", "/events/filter", json=heard).json()["events"], 60, "the sign of life")
    client.set_flow_run_state(run, Scheduled(name="AwaitingThaw", scheduled_time=now() + timedelta(hours=3)), force=True)
    return run


def kill_in_the_midst(operated: Operated, client: SyncPrefectClient, number: signal.Signals, name: str) -> UUID:
    """Kill a worker whose run waits in pg_dump, and see that nothing of it goes on and nothing is locked; return the run."""
    operated.hold()
    with operated.worker() as worker:
        run = start(client, name)
        wait_for(operated.is_held, START_SECONDS, f"pg_dump of {name}")
        wait_for(lambda: operated.query(LOCKS), 60, "the lock")
        for pid in workers(worker.pid):
            os.kill(pid, number)
        wait_for(lambda: not operated.at_work(), 60, "the end of all processes")
        wait_for(lambda: not operated.query(LOCKS), 60, "the end of the lock")
    return run


WATCHED = "SELECT 1 FROM automation_bucket WHERE bucketing_key::text LIKE %s"
LONG_AGO = "UPDATE flow_run_state SET timestamp = timestamp - interval '5 minutes' WHERE flow_run_id = %s"
# The server keeps events in memory for a while; one that is lost with it is not looked at again.
KEPT = "SELECT 1 FROM events WHERE resource_id LIKE %s AND event = 'prefect.flow-run.Submitting'"


@contextmanager
def unscheduled(client: SyncPrefectClient) -> Iterator[None]:
    """Switch schedules off: a run that is due would begin in the worker that is killed, and hold its place when nobody looks."""
    active = [
        (deployment.id, schedule.id)
        for deployment in client.read_deployments()
        for schedule in deployment.schedules
        if schedule.active
    ]
    try:
        for deployment, schedule in active:
            client.update_deployment_schedule(deployment, schedule, active=False)
        yield
    finally:
        for deployment, schedule in active:
            client.update_deployment_schedule(deployment, schedule, active=True)


def kill_before_it_began(operated: Operated, client: SyncPrefectClient, name: str) -> FlowRun:
    """Kill a worker that has begun to start a run; return the run."""
    with unscheduled(client), operated.slow_start() as reached:
        run = start(client, name)
        with operated.worker() as worker:
            wait_for(reached.exists, START_SECONDS, f"the process of {name}")
            with operated.prefect.connect(local.PREFECT_DATABASE) as connection:
                wait_for(lambda: connection.execute(WATCHED, [f"%{run}%"]).fetchall(), 60, "the watch over the run")
                wait_for(lambda: connection.execute(KEPT, [f"%{run}"]).fetchall(), 60, "the event of its start")
            for pid in workers(worker.pid):
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not operated.at_work(), 60, "the end of all processes")
    left = client.read_flow_run(run)
    assert left.state and left.state.is_pending() and left.state.state_details.deployment_concurrency_lease_id
    return left


def lease_of(client: SyncPrefectClient, run: UUID) -> UUID:
    """Return what a run holds its place by."""
    state = client.read_flow_run(run).state
    assert state and state.state_details.deployment_concurrency_lease_id
    return state.state_details.deployment_concurrency_lease_id


# The one waits for its place, the other one is cancelled where there is none.
@pytest.mark.parametrize(("name", "meanwhile"), [("bc-004-daily", "Completed"), ("bc-004-watch", "Cancelled")])
@pytest.mark.parametrize("server_too", [False, True], ids=["worker", "worker and server"])
def test_killed_before_it_began(operated: Operated, client: SyncPrefectClient, name: str, meanwhile: str, server_too: bool) -> None:
    context, told = read_context(CONTEXT)[0], require_block("custom-webhook/ops")
    save_alarms(context, told, dead_after=DEAD_AFTER)
    try:
        run = kill_before_it_began(operated, client, name)
        if server_too:
            operated.kill_server()
            # As after the five minutes of the automation in use, which this test does not wait: within that time Prefect lets an
            # event follow another one, which a server that was started since has not seen.
            with operated.prefect.connect(local.PREFECT_DATABASE) as connection:
                connection.execute(LONG_AGO, [run.id])
        with operated.worker():
            second = start(client, name)
            assert ended(client, run.id, DEAD_AFTER.total_seconds() + 120).state_name == "Crashed"
            assert ended(client, second).state_name == meanwhile
            assert ended(client, start(client, name)).state_name == "Completed"
        wait_for(partial(said_about, run.name), 60, "the alarm")
    finally:
        save_alarms(context, told)


def test_a_place_that_nobody_holds_is_given_back(operated: Operated, client: SyncPrefectClient) -> None:
    """What was said of the run may be lost with the server; what it holds its place by is not, and ends by itself."""
    context, told = read_context(CONTEXT)[0], require_block("custom-webhook/ops")
    run = kill_before_it_began(operated, client, "bc-004-daily").id
    try:
        for one in client.read_automations_by_name(f"{CONTEXT}: run died"):
            client.delete_automation(one.id)
        client.renew_concurrency_lease(lease_of(client, run), 60)
        operated.kill_server()
        with operated.worker():
            assert ended(client, start(client, "bc-004-daily")).state_name == "Completed"
        assert state_of(client, run) in {"Pending", "Submitting"}
    finally:
        client.set_flow_run_state(run, Cancelled(), force=True)
        save_alarms(context, told)


def test_a_run_outlives_the_server(operated: Operated, client: SyncPrefectClient) -> None:
    operated.hold()
    with operated.worker():
        run = start(client, "bc-004-daily")
        wait_for(operated.is_held, START_SECONDS, "the backup")
        operated.kill_server()
        # The run asks for that every few minutes, and ends itself where it is refused.
        client.renew_concurrency_lease(lease_of(client, run), 300)
        operated.release()
        assert ended(client, run).state_name == "Completed"


def test_runs_that_came_while_nobody_was_there(operated: Operated, client: SyncPrefectClient) -> None:
    names = ("bc-004-daily", "bc-004-watch")
    first, second = [{name: start(client, name) for name in names} for _ in range(2)]
    wait_for(lambda: all(state_of(client, run) == "Late" for run in (*first.values(), *second.values())), 120, "them to be late")
    operated.kill_server()
    with operated.worker():
        came = [sorted(str(ended(client, runs[name]).state_name) for runs in (first, second)) for name in names]
    assert came == [["Completed", "Completed"], ["Cancelled", "Completed"]]


def workers(supervisor: int) -> list[int]:
    """Return the worker's process below its supervisor."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [int(pid) for pid in children]


def test_no_password_anywhere(operated: Operated, client: SyncPrefectClient) -> None:
    # However few tests ran before it.
    with operated.worker():
        ended(client, start(client, "bc-004-daily"))
    said = register({**environment(operated), "PGPASSWORD": f"{DATABASE_SECRET} wrong"}, "--notify", "custom-webhook/ops")
    assert said.returncode == 1 and "password authentication failed" in said.stderr
    shown = [said.stdout + said.stderr, *Hook.said, *operated.leaked]
    dumped = subprocess.run(
        [operated.prefect.bin / "pg_dump", "--dbname=prefect", "--data-only"],
        env={**os.environ, **operated.prefect.environment()}, capture_output=True, check=True,
    )  # fmt: skip
    files, stored = texts_below(operated.folder), operated.stored()
    assert files and stored
    shown += [dumped.stdout.decode(), *files, *stored]
    assert [text[max(0, text.index(MARK) - 200) :][:400] for text in shown if MARK in text] == []
    # What is looked for would be found: the worker's runs did log in with it.
    assert "Executing deployment step" in dumped.stdout.decode()


def content(client: Any, bucket: str, key: str) -> str:
    """Return the metadata of an object, and what it holds, unless it is too cold to be read."""
    head = client.head_object(Bucket=bucket, Key=key)
    body = b"" if head.get("StorageClass") in COLD_CLASSES else client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return f"{head['Metadata']} {body.decode(errors='replace')}"


def texts_below(folder: Path) -> list[str]:
    """Return the names and the contents of all files below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [f"{path}\n{path.read_bytes().decode(errors='replace')}" for path in files]
