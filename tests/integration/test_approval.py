"""A restore that asks: paused with its plan, nothing locked meanwhile, and asked again when the plan is no longer true."""

import subprocess
from typing import Any

import httpx
import pytest

from flows.restore import full_restore
from tasks.core.errors import BadInput
from tests.support.database import ask, execute
from tests.support.example import DATABASE
from tests.support.faults import wait_for
from tests.support.moments import SECONDS
from tests.support.restores import safety_sets
from tests.support.world import World

long = pytest.mark.long


def start(world: World) -> "subprocess.Popen[str]":
    words = ["--in-place", "true", "--dry-run", "false", "--require-approval", "true"]
    return world.start("restore", "full_restore", "backup_restorer", arguments=words)


def paused(world: World, but: str = "") -> list[dict[str, Any]]:
    """Return the runs that wait for an answer, but not in a state that was answered already."""
    asked = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
    return [one for one in httpx.post(f"{world.api}/flow_runs/filter", json=asked).json() if one["state_id"] != but]


def answer(world: World, decision: str, database: str, but: str = "") -> str:
    """Answer the run that waits, as the form in the UI does; return the state that it was in."""
    wait_for(lambda: paused(world, but), SECONDS, "the question")
    (run,) = paused(world, but)
    said = {"run_input": {"decision": decision, "database": database}}
    # 503 is the server's own database being busy, as its answer says: try again.
    wait_for(lambda: _accepted(f"{world.api}/flow_runs/{run['id']}/resume", said), SECONDS, "the answer to be taken")
    return str(run["state_id"])


def _accepted(url: str, said: dict[str, Any]) -> bool:
    answered = httpx.post(url, json=said)
    assert answered.status_code == httpx.codes.SERVICE_UNAVAILABLE or answered.json()["status"] == "ACCEPT", answered.text
    return answered.is_success


def has_let_go(world: World) -> None:
    """Wait until neither a session nor a lock of the restore is left: a backend notices that its session was closed."""
    left = (
        "SELECT application_name, state FROM pg_stat_activity WHERE application_name LIKE 'bc-004 full_restore%' UNION ALL "
        "SELECT mode, NULL FROM pg_locks WHERE locktype = 'advisory'"
    )
    wait_for(lambda: not ask(world, left), SECONDS, "the end of sessions and locks")


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    said, _ = process.communicate(timeout=SECONDS)
    return process.returncode, said


@pytest.fixture
def damaged(world: World) -> World:
    world.backup()
    execute(world, "UPDATE teams SET purpose = 'wrong'")
    return world


@pytest.mark.long
def test_asked_and_asked_again_when_the_plan_changed(damaged: World) -> None:
    process = start(damaged)
    wait_for(lambda: paused(damaged), SECONDS, "the question")
    has_let_go(damaged)
    execute(damaged, "UPDATE team_members SET role = 'wrong'")
    first = answer(damaged, "proceed", DATABASE)
    wait_for(lambda: paused(damaged, first), SECONDS, "the second question")
    has_let_go(damaged)
    assert ask(damaged, "SELECT DISTINCT purpose FROM teams") == [("wrong",)]
    answer(damaged, "proceed", DATABASE, first)
    code, said = end(process)
    assert code == 0, said[-3000:]
    assert ask(damaged, "SELECT count(*) FROM teams WHERE purpose = 'wrong'") == [(0,)]
    assert ask(damaged, "SELECT count(*) FROM team_members WHERE role = 'wrong'") == [(0,)]


@long
@pytest.mark.parametrize(
    ("decision", "database", "expected"),
    [("abort", DATABASE, "the plan was not approved"), ("proceed", "another", 'pass confirm_database="consulting_tool"')],
)
def test_not_approved_is_not_done(damaged: World, decision: str, database: str, expected: str) -> None:
    before = damaged.state()
    process = start(damaged)
    answer(damaged, decision, database)
    code, said = end(process)
    assert code == 1
    assert expected in said
    assert before.differences(damaged.state()) == []
    assert safety_sets(damaged) == []
    has_let_go(damaged)


@pytest.mark.long
def test_nobody_to_ask_is_told_before_anything_is_done(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.run.approval.PREFECT_API_URL", type("Unset", (), {"value": staticmethod(lambda: None)}))
    with pytest.raises(BadInput, match="no Prefect server records this run"):
        world.run(full_restore, "backup_restorer", in_place=True, dry_run=False, require_approval=True)
