"""Kill -9 at each step: nothing half is listed, nothing survives, the next run succeeds; interrupts clean up themselves."""

import os
import signal
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from tasks.core.errors import OperationError
from tests.support import moments
from tests.support.example import DATABASE
from tests.support.faults import FaultyProxy, wait_for
from tests.support.moments import SECONDS, Gates, Started, listed_sets, make_big_row, staged, stored_keys
from tests.support.servers import databases
from tests.support.world import World

long = pytest.mark.long


@pytest.fixture
def held(s3_world: World) -> Iterator[Gates]:
    make_big_row(s3_world)
    with moments.gates(s3_world) as built:
        yield built


# Steps of a backup


def at_lock(held: Gates) -> None:
    holder = moments.hold_at_lock(held)
    held.release = holder.close


def at_dump(held: Gates) -> None:
    held.close("pg_dump")
    held.start("backup", held.backup)
    held.wait_for("pg_dump")


def at_rows(held: Gates) -> None:
    at_dump(held)
    held.source.throttle(400_000)
    held.open("pg_dump")
    wait_for(lambda: held.backend("state = 'active' AND query LIKE 'COPY%' AND wait_event = 'ClientWrite'"), SECONDS, "rows")
    held.source.hold()
    assert held.flow.child("tasks.core.rows.stream")


def at_upload(held: Gates) -> None:
    at_dump(held)
    held.store.hold()
    held.open("pg_dump")
    wait_for(lambda: "bytes as" in held.flow.said, SECONDS, "an upload")


def at_list(held: Gates) -> None:
    held.close("pg_restore")
    held.start("backup", held.backup)
    held.wait_for("pg_restore")


# Steps of a recovery


def at_download(held: Gates) -> None:
    held.store.throttle(1_000_000)
    held.start("recovery", "disaster_recovery")
    wait_for(lambda: [one for one in staged(held.world) if one.suffix == ".zst" and one.stat().st_size], SECONDS, "data")
    held.store.hold()


def at_schema(held: Gates) -> None:
    held.close("pg_restore", only="--dbname")
    held.start("recovery", "disaster_recovery")
    held.wait_for("pg_restore")


def at_load(held: Gates) -> None:
    at_schema(held)
    held.target.throttle(400_000)
    held.open("pg_restore")
    loading = "state = 'active' AND query LIKE 'COPY%FROM STDIN%' AND wait_event = 'ClientRead'"
    wait_for(lambda: held.backend(loading, held.world.target), SECONDS, "loading")
    held.target.hold()


def at_indexes(held: Gates) -> None:
    at_schema(held)
    held.target.throttle(400_000)
    held.open("pg_restore")
    wait_for(lambda: held.backend("query LIKE 'COPY%'", held.world.target), SECONDS, "loading")
    held.close("pg_restore", only="--dbname")
    held.target.pass_through()
    held.wait_for("pg_restore")


def at_comparison(held: Gates) -> None:
    at_indexes(held)
    held.target.throttle(400_000)
    held.open("pg_restore")
    reading = "state = 'active' AND query LIKE 'COPY%TO STDOUT%' AND wait_event = 'ClientWrite'"
    wait_for(lambda: held.backend(reading, held.world.target) and held.flow.child("tasks.core.rows.stream"), SECONDS, "comparison")
    held.target.hold()


# Victims


def flow(held: Gates) -> None:
    os.kill(held.flow.process.pid, signal.SIGKILL)


def program(word: str) -> Callable[[Gates], None]:
    def kill(held: Gates) -> None:
        pid = held.flow.child(word)
        assert pid, f"no {word} runs"
        os.kill(pid, signal.SIGKILL)

    kill.__name__ = word
    return kill


def session(name: str, condition: str, *, crash: bool = False) -> Callable[[Gates], None]:
    """End a session as an administrator would, or its backend with SIGKILL, which makes the server restart."""

    def kill(held: Gates) -> None:
        server = held.world.source if held.flow.process.args[2] == "flows.backup" else held.world.target
        pid = held.backend(condition, server)
        assert pid, f"no session is {name}"
        if crash:
            os.kill(pid, signal.SIGKILL)
            return
        with server.connect() as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", (pid,))

    kill.__name__ = f"{name} crash" if crash else name
    return kill


COORDINATOR = "backend_xmin IS NOT NULL AND state = 'idle in transaction' AND query NOT LIKE 'COPY%'"
WAITING = "wait_event_type = 'Lock'"
LOCKED = "state = 'idle in transaction'"
WORKER = "query LIKE 'COPY%'"
GUARD = "datname = 'postgres' AND state = 'idle'"

BACKUPS = [
    pytest.param(at_lock, flow, marks=long),
    pytest.param(at_lock, session("coordinator", WAITING), marks=long),
    pytest.param(at_dump, flow, marks=long),
    pytest.param(at_dump, program("pg_dump"), marks=long),
    pytest.param(at_dump, session("coordinator", LOCKED), marks=long),
    pytest.param(at_dump, session("coordinator", LOCKED, crash=True), marks=long),
    pytest.param(at_rows, flow),
    pytest.param(at_rows, program("tasks.core.rows.stream"), marks=long),
    pytest.param(at_rows, session("coordinator", COORDINATOR), marks=long),
    pytest.param(at_rows, session("worker", WORKER), marks=long),
    pytest.param(at_rows, session("worker", WORKER, crash=True), marks=long),
    pytest.param(at_upload, flow, marks=long),
    pytest.param(at_upload, session("coordinator", COORDINATOR), marks=long),
    pytest.param(at_list, flow, marks=long),
    pytest.param(at_list, program("pg_restore"), marks=long),
    pytest.param(at_list, session("coordinator", COORDINATOR), marks=long),
]
RECOVERIES = [
    pytest.param(at_download, flow, marks=long),
    pytest.param(at_schema, flow, marks=long),
    pytest.param(at_schema, program("pg_restore"), marks=long),
    pytest.param(at_load, flow, marks=long),
    pytest.param(at_load, session("worker", WORKER), marks=long),
    pytest.param(at_load, session("worker", WORKER, crash=True), marks=long),
    pytest.param(at_indexes, flow, marks=long),
    pytest.param(at_indexes, program("pg_restore"), marks=long),
    pytest.param(at_indexes, session("guard", GUARD), marks=long),
    pytest.param(at_comparison, flow, marks=long),
    pytest.param(at_comparison, program("tasks.core.rows.stream"), marks=long),
    pytest.param(at_comparison, session("worker", WORKER), marks=long),
]


def named(value: object) -> str:
    return (getattr(value, "__name__", "") or getattr(value, "name", "")).replace(" ", "-")


@pytest.mark.parametrize(("step", "victim"), BACKUPS, ids=named)
def test_backup_is_killed(held: Gates, step: Callable[[Gates], None], victim: Callable[[Gates], None]) -> None:
    world = held.world
    before = world.state()
    step(held)
    assert listed_sets(world) == []
    victim(held)
    held.open_all()
    code = end(held, step)
    # A backup that lost a helper may have started over and succeeded; what is listed is whole in any case.
    assert len(listed_sets(world)) == (code == 0)
    if victim is not flow and code:
        assert staged(world) == []
        assert_one_clear_error(held.flow)
    if code:
        assert world.backup().startswith("STORED")
    else:
        assert world.recover().startswith("PASS")
        world.assert_recovered(before)
    assert staged(world) == []
    assert len(listed_sets(world)) == 1


@pytest.mark.parametrize(("step", "victim"), RECOVERIES, ids=named)
def test_recovery_is_killed(held: Gates, step: Callable[[Gates], None], victim: Callable[[Gates], None]) -> None:
    world = held.world
    before = world.state()
    world.backup()
    keys = stored_keys(world)
    step(held)
    assert DATABASE not in databases(world.target)
    victim(held)
    held.open_all()
    code = end(held, step)
    assert (DATABASE in databases(world.target)) == (code == 0)
    if victim is not flow and code:
        assert staged(world) == []
        assert_one_clear_error(held.flow)
    if code:
        assert world.recover().startswith("PASS")
    else:
        world.assert_recovered(before)
    assert databases(world.target) == {DATABASE}
    assert staged(world) == []
    # A hold stays when its restore is killed; after a week it holds nothing.
    assert [key for key in stored_keys(world) if "/hold-" not in key] == keys


@long
@pytest.mark.parametrize("step", [at_lock, at_dump, at_rows, at_upload, at_list], ids=named)
def test_differential_is_killed(held: Gates, step: Callable[[Gates], None]) -> None:
    world, held.backup = held.world, "differential_backup"
    world.backup()
    make_big_row(world, megabytes=13)
    with world.connect() as connection:
        connection.execute("DELETE FROM policy_scopes WHERE id IN (SELECT id FROM policy_scopes LIMIT 10)")
    before, sets = world.state(), listed_sets(world)
    step(held)
    flow(held)
    held.open_all()
    end(held, step)
    assert listed_sets(world) == sets
    assert "differential" in world.differential()
    assert staged(world) == []
    assert world.recover().startswith("PASS")
    world.assert_recovered(before)


def assert_one_clear_error(started: Started) -> None:
    """Assert that the flow said itself what was wrong, without a traceback."""
    names = {one.__name__ for one in (OperationError, *OperationError.__subclasses__())}
    assert started.said.splitlines()[-1].partition(":")[0] in names, started.said[-3000:]
    assert "Traceback" not in started.said


def end(held: Gates, step: Callable[[Gates], None]) -> int:
    """Wait for the end of the flow and of all that it started."""
    if step is at_lock:
        held.release()
    code = held.flow.wait()
    held.flow.wait_until_gone()
    return code


@pytest.mark.parametrize(
    ("step", "number"),
    [
        pytest.param(at_lock, signal.SIGINT, marks=long),
        pytest.param(at_dump, signal.SIGTERM, marks=long),
        pytest.param(at_rows, signal.SIGINT, marks=long),
        pytest.param(at_list, signal.SIGTERM, marks=long),
        pytest.param(at_schema, signal.SIGTERM, marks=long),
        pytest.param(at_load, signal.SIGINT, marks=long),
        pytest.param(at_indexes, signal.SIGINT, marks=long),
        pytest.param(at_indexes, signal.SIGTERM, marks=long),
    ],
    ids=named,
)
def test_interrupt_cleans_up(held: Gates, step: Callable[[Gates], None], number: signal.Signals) -> None:
    world = held.world
    if step in (at_schema, at_load, at_indexes):
        world.backup()
    sets = listed_sets(world)
    step(held)
    held.flow.process.send_signal(number)
    # A network that is silent for ever has limits of its own; here it only was slow.
    held.source.pass_through()
    held.target.pass_through()
    assert held.flow.wait() != 0
    held.flow.wait_until_gone()
    assert staged(world) == []
    assert listed_sets(world) == sets
    assert databases(world.target) == set()


# Without a Prefect server the flow brings one along


def alone(held: Gates) -> Started:
    held.close("pg_dump")
    started = held.start("backup", "daily_backup", PREFECT_API_URL="", PREFECT_HOME=str(held.folder / "prefect"))
    held.wait_for("pg_dump")
    assert started.child("uvicorn"), "Prefect runs without a server of its own: this test is about nothing"
    return started


@long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_server_that_a_flow_brought_ends_with_it(held: Gates, number: signal.Signals) -> None:
    started = alone(held)
    os.kill(started.process.pid, number)
    assert started.wait() != 0
    started.wait_until_gone()
    assert listed_sets(held.world) == []
    if number != signal.SIGKILL:
        assert staged(held.world) == []


@long
def test_flow_without_a_server_passes_its_code_on(held: Gates) -> None:
    held.start("backup", "daily_backup", PREFECT_API_URL="", PREFECT_HOME=str(held.folder / "prefect"))
    assert held.flow.wait(150) == 0, held.flow.said
    assert len(listed_sets(held.world)) == 1
    held.flow.wait_until_gone()


@long
@pytest.mark.parametrize("ends", ["well", "badly"])
def test_the_server_dies_while_a_run_is_at_work(held: Gates, ends: str) -> None:
    """What the run came to is what is said, and the exit code; that nobody has a record of it is said too."""
    place = urlsplit(held.world.api)
    assert place.hostname and place.port
    with FaultyProxy(place.hostname, place.port) as proxy:
        held.close("pg_dump")
        held.start("backup", "daily_backup", PREFECT_API_URL=f"{proxy.url}/api", PREFECT_CLIENT_MAX_RETRIES="1")
        held.wait_for("pg_dump")
        proxy.refuse()
        if ends == "badly":
            held.store.refuse()
        held.open("pg_dump")
        assert held.flow.wait() == (0 if ends == "well" else 1), held.flow.said
    said = held.flow.said
    assert f"Prefect's server at {proxy.url}/api is gone (" in said and "Traceback" not in said, said
    assert len(listed_sets(held.world)) == (1 if ends == "well" else 0)
    assert ("STORED: " if ends == "well" else "StoreUnavailable: ") in said
    assert staged(held.world) == []
