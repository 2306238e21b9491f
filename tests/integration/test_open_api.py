"""A Prefect server with a login, where all of ours works and nothing else does; and one without, which passwords are kept from."""

import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from deployments import deployed, local
from deployments.local import LocalServer
from tasks.core.run.clock import now
from tests.support.blocks import NAMES, delete_blocks
from tests.support.example import CONTEXT, DATABASE, copy_template
from tests.support.faults import FaultyProxy, wait_for
from tests.support.prefect_server import Hook
from tests.support.servers import drop_databases
from tests.support.world import World

pytestmark = [pytest.mark.long, pytest.mark.every_variant]

# Of ASCII alone: to any other Prefect answers 500.
LOGIN = "operator:L0gin-5c1e #%:"
POOL = "closed"
SECONDS = 240
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class Closed:
    """A Prefect server that asks for a login, a context that is registered there, a worker."""

    source: LocalServer
    folder: Path
    api: str

    @cached_property
    def client(self) -> httpx.Client:
        """The API, with the login."""
        token = base64.b64encode(LOGIN.encode()).decode()
        return httpx.Client(base_url=self.api, headers={"Authorization": f"Basic {token}"}, timeout=60)

    @property
    def environment(self) -> dict[str, str]:
        """What the operator's shell has."""
        return {
            **self.source.environment("backup_restorer"), "PGDATABASE": DATABASE, "BACKUP_STORE": str(self.folder / "store"),
            "BACKUP_STAGING": str(self.folder / "staging"), "PREFECT_API_URL": self.api, "PREFECT_API_AUTH_STRING": LOGIN,
        }  # fmt: skip

    def run(self, *words: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        """Run a module of ours as an operator would."""
        return run(self.environment | extra, *words)

    def post(self, path: str, **body: Any) -> Any:
        """Ask the API for something."""
        answer = self.client.post(f"{self.api}/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> str:
        """Return the id of a deployment."""
        (found,) = self.post("deployments/filter", deployments={"name": {"any_": [name]}})
        return str(found["id"])

    def start(self, name: str, **body: Any) -> str:
        """Create a run of a deployment, as whoever has the API may."""
        return str(self.post(f"deployments/{self.deployment(name)}/create_flow_run", **body)["id"])

    def state(self, run_id: str) -> dict[str, Any]:
        """Return the state of a run."""
        state: dict[str, Any] = self.client.get(f"{self.api}/flow_runs/{run_id}").json()["state"]
        return state

    def rests(self, run_id: str) -> dict[str, Any]:
        """Wait until a run is at its end, or asks; return its state."""

        def resting() -> dict[str, Any] | None:
            state = self.state(run_id)
            return state if state["type"] in FINAL | {"PAUSED"} else None

        found = wait_for(resting, SECONDS, f"the end or the question of {run_id}")
        assert found
        return found


def run(environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *words], env=local.bare_environment() | environment, cwd=deployed.PROJECT, capture_output=True,
        text=True, check=False, timeout=600, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def closed(source: LocalServer) -> Iterator[Closed]:
    """Everything with a login, and a worker that has it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backup-test-")))
        (folder / "store").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFECT_SERVER_API_AUTH_STRING", LOGIN)
            api = stack.enter_context(local.prefect_server())
        copy_template(source)
        stack.callback(drop_databases, source)
        it = Closed(source, folder, api)
        hook = stack.enter_context(ThreadingHTTPServer((local.HOST, 0), Hook))
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        stack.callback(hook.shutdown)
        with temporary_settings({PREFECT_API_URL: api, PREFECT_API_AUTH_STRING: LOGIN}):
            url = f"http://{local.HOST}:{hook.server_port}/"
            block = CustomWebhookNotificationBlock(name="ops", url=url, json_data={"text": "{{subject}}"}, allow_private_urls=True)
            block.save("ops", overwrite=True)
        done = it.run("deployments.register", "--work-pool", POOL, "--notify", "custom-webhook/ops")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "answers without a login" not in done.stderr
        by_hand = it.run("flows.backup", "daily_backup")
        assert by_hand.returncode == 0, by_hand.stderr[-3000:]
        assert "this run is recorded on this machine only" not in by_hand.stderr
        given = {"PREFECT_API_AUTH_STRING": LOGIN, "BACKUP_STAGING": str(folder / "staging"), "PREFECT_HOME": str(folder / "home")}
        stack.enter_context(local.prefect_worker(api, POOL, given, folder / "worker.log"))
        yield it


# A server without a login; first, because the one with a login has the database to the end of this file


class Outside(FaultyProxy):
    """A way to a server of the loopback address from other machines, at the same port, as if it listened on 0.0.0.0."""

    def __init__(self, host: str, port: int) -> None:
        self.outside = _address_outside()
        super().__init__(host, port)

    def _bound(self, port: int) -> socket.socket:
        self.host = self.outside
        return super()._bound(port or self.upstream[1])


def _address_outside() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        # An address for documentation: nothing is sent, and the system says from where it would be.
        probe.connect(("192.0.2.1", 9))
        if not (address := str(probe.getsockname()[0])).startswith("127."):
            return address
    return pytest.skip("this machine has no address but the loopback's")


@pytest.fixture
def bare(world: World) -> Iterator[World]:
    """A world of which nothing is registered; what is, is deleted at the end."""
    delete_blocks(*NAMES)
    yield world
    delete_blocks(*NAMES)


def register(world: World, api: str, *words: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    environment = world.environment(world.source, "backup_reader") | {"PREFECT_API_URL": api, "PGDATABASE": DATABASE}
    return run(environment | extra, "deployments.register", "--work-pool", "open", *words)


def registered_blocks(world: World) -> list[str]:
    return [one["name"] for one in httpx.post(f"{world.api}/block_documents/filter", json={}).json() if one["name"] == CONTEXT]


def test_no_password_goes_to_an_api_that_everybody_reads(bare: World) -> None:
    port = int(bare.api.removesuffix("/api").rpartition(":")[2])
    with Outside("127.0.0.1", port) as outside:
        beyond = f"{outside.url}/api"
        # It answers others than this machine, by whichever address it is called here.
        for api in (beyond, bare.api, bare.api.replace("127.0.0.1", "localhost")):
            refused = register(bare, api)
            assert refused.returncode == 1
            assert f"UnsafeTarget: refusing to save passwords: Prefect's API at {beyond} answers without a login" in refused.stderr
            assert "PREFECT_SERVER_API_AUTH_STRING" in refused.stderr and "--allow-open-api" in refused.stderr
        assert registered_blocks(bare) == []
        assert list(bare.store_folder.iterdir()) == []
        allowed = register(bare, beyond, "--allow-open-api")
        assert allowed.returncode == 0, allowed.stderr
        assert f"warning: Prefect's API at {beyond} answers without a login: whoever reaches it" in allowed.stderr
        looked = register(bare, beyond, "--check")
        assert looked.stdout.strip().splitlines()[-1] == "nothing differs" or "nobody is notified" in looked.stdout
        assert "warning: Prefect's API" in looked.stderr


def test_on_this_machine_alone_it_is_only_said(bare: World) -> None:
    done = register(bare, bare.api)
    assert done.returncode == 0, done.stderr
    assert "every account of this machine can read the passwords" in done.stderr
    assert CONTEXT in registered_blocks(bare)
    in_clear = register(bare, bare.api, "--check", AWS_ENDPOINT_URL="http://192.0.2.9:9000", PGSSLMODE="disable")
    assert "warning" in in_clear.stderr and "192.0.2.9" not in in_clear.stderr


# A server with a login


def test_who_shows_no_login_is_told_nothing(closed: Closed) -> None:
    for path in ("admin/settings", "admin/version", "openapi.json"):
        assert httpx.get(f"{closed.api}/{path}").status_code in {401, 404}, path
    filters = ("block_documents", "flow_runs", "logs", "artifacts", "deployments")
    codes = {httpx.post(f"{closed.api}/{path}/filter", json={}).status_code for path in filters}
    codes |= {httpx.post(f"{closed.api}/{path}/filter", json={}, auth=("operator", "wrong")).status_code for path in filters}
    assert codes == {401}
    # The UI itself is there, and asks: all that it shows comes from the API.
    assert httpx.get(closed.api.removesuffix("/api"), follow_redirects=True).is_success
    refused = closed.run("deployments.register", "--check", PREFECT_API_AUTH_STRING="")
    assert refused.returncode == 1 and "401" in refused.stderr


def test_ours_works_with_the_login(closed: Closed) -> None:
    looked = closed.run("deployments.register", "--check")
    assert (looked.returncode, looked.stdout.strip()) == (0, "nothing differs"), looked.stdout + looked.stderr
    assert closed.rests(closed.start("bc-004-daily"))["message"].startswith("STORED")
    # The alarms: the server tells of a run that fails.
    failing = closed.start(
        "bc-004-restore-copy", parameters={"backup": "bc-004_full_20200101_000000_abcd", "target_database": "no"}
    )
    assert closed.rests(failing)["type"] == "FAILED"
    wait_for(lambda: [one for one in Hook.said if "Failed" in one], SECONDS, "the alarm")
    # What runs tell as events comes by a connection of its own, which asks for the login too.
    heard = {"event": {"prefix": ["prefect.flow-run."]}}
    assert closed.post("events/filter", filter=heard)["total"] > 0
    log = (closed.folder / "worker.log").read_text()
    assert "Unauthorized" not in log and LOGIN not in log


A11 = {"dry_run": False, "confirm_database": DATABASE}
IN_PLACE = {**A11, "in_place": True, "require_approval": False}
ANSWER = {"decision": "proceed", "database": DATABASE}


@pytest.fixture
def asking(closed: Closed) -> Iterator[Closed]:
    """The same where the context demands approvals, with something to restore and a partition that is due."""
    demand(closed, "required")
    with closed.source.connect(DATABASE) as connection:
        connection.execute("UPDATE teams SET purpose = 'wrong'")
    yield closed
    demand(closed, None)


def demand(closed: Closed, approval: str | None) -> None:
    """Change what the registered context says of approvals."""
    kind = closed.client.get(f"{closed.api}/block_types/slug/bounded-context").json()["id"]
    (block,) = closed.post("block_documents/filter", block_documents={"block_type_id": {"any_": [kind]}}, include_secrets=True)
    block["data"]["definition"]["approval"] = approval
    changed = closed.client.patch(f"{closed.api}/block_documents/{block['id']}", json={"data": block["data"]})
    assert changed.is_success, changed.text


def abort(closed: Closed, run_id: str) -> None:
    closed.post(f"flow_runs/{run_id}/resume", run_input={"decision": "abort", "database": ""})
    assert closed.rests(run_id)["type"] == "FAILED"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("bc-004-restore-in-place", IN_PLACE),
        ("bc-004-restore-table", {**A11, "table": "teams", "mode": "merge", "require_approval": False}),
        ("bc-004-archive", A11),
        ("bc-004-clean-up", A11),
    ],
)
def test_no_parameter_switches_the_question_off(asking: Closed, name: str, parameters: dict[str, Any]) -> None:
    """What the API lets a caller say of a run: its parameters, and fields that look as if a schedule had made it."""
    before = counts(asking)
    # A pause that has happened already, with its answer; and whatever a schedule's run has.
    forged: dict[str, Any] = {
        "empirical_policy": {"pause_keys": ["1"], "resuming": True}, "tags": ["auto-scheduled"],
        "idempotency_key": f"scheduled {asking.deployment(name)} forged {now()}",
        "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": (now() + timedelta(seconds=8)).isoformat()}},
    }  # fmt: skip
    runs = [asking.start(name, parameters=parameters)]
    if name == "bc-004-restore-in-place":
        runs.append(asking.start(name, parameters=parameters, **forged))
        asking.post(f"flow_runs/{runs[-1]}/input", key="paused-1-response", value=json.dumps(ANSWER))
    for run_id in runs:
        state = asking.rests(run_id)
        assert state["type"] == "PAUSED", state
        assert counts(asking) == before
        abort(asking, run_id)
    assert counts(asking) == before


def counts(closed: Closed) -> list[tuple[Any, ...]]:
    with closed.source.connect(DATABASE) as connection:
        return connection.execute(
            "SELECT (SELECT count(*) FROM teams WHERE purpose = 'wrong'), (SELECT count(*) FROM policy_violations), "
            "(SELECT count(*) FROM team_members)"
        ).fetchall()


def test_what_a_schedule_does_asks_nobody(asking: Closed) -> None:
    with asking.source.connect(DATABASE) as connection:
        connection.execute("UPDATE policy_violations SET status = 'resolved', resolved_at = detected_at WHERE status = 'active'")
    deployment = asking.deployment("bc-004-archive")
    start, end = now() - timedelta(days=400), now() - timedelta(days=1)
    asking.post(f"deployments/{deployment}/schedule", start_time=start.isoformat(), end_time=end.isoformat(), max_runs=1)
    asked = {"flow_runs": {"deployment_id": {"any_": [deployment]}, "expected_start_time": {"before_": end.isoformat()}}}
    runs = [one for one in asking.post("flow_runs/filter", **asked) if one["auto_scheduled"]]
    assert runs
    assert asking.rests(runs[0]["id"])["type"] == "COMPLETED"


def test_approved_it_is_done(asking: Closed) -> None:
    run_id = asking.start("bc-004-restore-in-place", parameters=IN_PLACE)
    assert asking.rests(run_id)["type"] == "PAUSED"
    asking.post(f"flow_runs/{run_id}/resume", run_input=ANSWER)
    wait_for(lambda: asking.state(run_id)["type"] in FINAL, SECONDS, "the restore")
    assert asking.state(run_id)["message"].startswith("RESTORED")


def test_by_hand_nothing_is_asked_that_was_not(asking: Closed) -> None:
    done = asking.run("flows.restore", "full_restore", "--in-place", "true", "--dry-run", "false", "--confirm-database", DATABASE)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "RESTORED" in done.stdout + done.stderr


def test_a_login_in_clear_is_warned_of(closed: Closed) -> None:
    port = int(closed.api.removesuffix("/api").rpartition(":")[2])
    with Outside("127.0.0.1", port) as outside:
        looked = closed.run("deployments.register", "--check", PREFECT_API_URL=f"{outside.url}/api")
        assert looked.returncode == 0, looked.stdout + looked.stderr
        assert f"the login of Prefect's API travels unencrypted to {outside.url}/api" in looked.stderr


def test_nothing_of_the_login_is_shown(closed: Closed) -> None:
    shown = [
        path.read_text(errors="replace") for path in closed.folder.rglob("*") if path.is_file() and path.suffix in {".log", ""}
    ]
    assert [text for text in shown if LOGIN in text] == []
    assert os.environ.get("PREFECT_SERVER_API_AUTH_STRING") is None
