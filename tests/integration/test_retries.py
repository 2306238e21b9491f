"""What passes is tried again, in one place and for so long; what refuses, and what changes a database, never."""

import importlib
import logging
import pkgutil
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect import flow

import tasks
from deployments.local import LocalS3, LocalServer
from flows.watch import verify_backups
from tasks import steps
from tasks.core.errors import BadInput, OperationError, ServerUnavailable, StoreUnavailable
from tasks.core.run import patience
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.manifest_file import parse_manifest
from tasks.run import retries
from tasks.run.run import Step, step
from tests.support import PROJECT
from tests.support.example import CONTEXT
from tests.support.faults import FaultyProxy, wait_for
from tests.support.moments import make_big_row
from tests.support.prefect_server import Runs
from tests.support.servers import databases
from tests.support.stores import Asked, Front, Refusal, front_of
from tests.support.world import World

pytestmark = pytest.mark.usefixtures("quick_retries")
long = pytest.mark.long
SLOW_DOWN = Refusal(503, "SlowDown", "Please reduce your request rate.")
SECONDS = 60


@pytest.fixture
def front(s3: LocalS3) -> Iterator[Front]:
    with front_of(s3) as server:
        yield server


@pytest.fixture
def recorded(world: World, recorder: str, s3: LocalS3, front: Front, folder: Path) -> World:
    """A world whose store is S3 behind a server that refuses what it is told to, and whose tasks are recorded."""
    world.api = recorder
    world.store = s3.environment() | {
        "BACKUP_STORE": f"{s3.url}/{folder.name}", "AWS_ENDPOINT_URL": front.url, "AWS_MAX_ATTEMPTS": "1",
    }  # fmt: skip
    return world


def refuse_first(count: int, verb: str, part: str, refusal: Refusal = SLOW_DOWN) -> Callable[[Asked], Refusal | None]:
    """Refuse the first requests of a verb to the first object whose path has these words."""
    lock, chosen = threading.Lock(), list[str]()

    def refuse(asked: Asked) -> Refusal | None:
        path = asked.path.partition("?")[0]
        with lock:
            if asked.verb != verb or part not in path or len(chosen) == count or (chosen and chosen[0] != path):
                return None
            chosen.append(path)
            return refusal

    return refuse


def puts(front: Front) -> Counter[str]:
    return Counter(asked.path.partition("?")[0] for asked in front.requests if asked.verb == "PUT" and "/data/" in asked.path)


# What passes


def test_a_store_that_fails_twice_shows_retries_of_the_upload(
    recorded: World, front: Front, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # One of the last of its share.
    front.refuse = refuse_first(2, "PUT", "/data/team_leaders")

    assert recorded.backup().startswith("STORED")

    refused = {asked.path.partition("?")[0] for asked in front.refused}
    (share,) = (run for run in runs.named("store_relation") if run["run_count"] > 1)
    assert share["run_count"] == 3
    assert "AwaitingRetry" in runs.states(share)
    # What the share had done before was not done again, and what was dumped was not dumped again.
    dumped = Counter(re.findall(r"public\.(\w+): \d+ rows, \d+ bytes as", caplog.text))
    assert {*dumped.values()} == {1}
    assert {path: count for path, count in puts(front).items() if count > 1} == dict.fromkeys(refused, 3)


@long
def test_a_store_that_fails_twice_shows_retries_of_the_manifest(recorded: World, front: Front, runs: Runs) -> None:
    front.refuse = refuse_first(2, "PUT", "/manifest.json")
    assert recorded.backup().startswith("STORED")
    assert runs.counts("publish bc-004") == [3]


@long
def test_a_store_that_fails_twice_shows_retries_of_the_download(recorded: World, front: Front, runs: Runs) -> None:
    recorded.backup()
    front.refuse = refuse_first(2, "GET", "/data/")

    assert recorded.run(verify_backups, "backup_reader").startswith("PASS")

    assert runs.counts("fetch")[-1] == 3
    assert len(front.refused) == 2


def test_a_file_that_is_uploaded_by_hand_is_tried_again(recorded: World, front: Front, runs: Runs) -> None:
    file = recorded.folder / "notes.txt"
    file.write_text("what was found")
    front.refuse = refuse_first(2, "PUT", "/files/")
    assert recorded.run(steps.upload, "backup_reader", context=CONTEXT, file=file).endswith(f"{CONTEXT}/files/notes.txt")
    assert runs.counts("upload") == [3]


# One dump


@contextmanager
def slowed(server: LocalServer, world: World) -> Iterator[FaultyProxy]:
    """Lead a world to its server over a slow network, on which rows take their time."""
    with FaultyProxy("127.0.0.1", server.port) as proxy:
        world.extra = {"PGPORT": str(proxy.port)}
        proxy.throttle(4_000_000)
        yield proxy
        world.extra = {}


@contextmanager
def terminating(server: LocalServer, condition: str, proxy: FaultyProxy) -> Iterator[None]:
    """End a session of ours for which a condition holds, as an administrator would, as soon as there is one."""
    query = f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name LIKE 'bc-004 %' AND state = 'active' AND ({condition}) LIMIT 1"""
    ended = list[Any]()

    def end() -> None:
        with server.connect() as connection:
            wait_for(lambda: ended.extend(connection.execute(query.encode()).fetchall()) or ended, SECONDS, condition)
        proxy.pass_through()

    thread = threading.Thread(target=end)
    thread.start()
    yield
    thread.join()
    assert ended == [(True,)]


def manifests(world: World) -> list[Manifest]:
    return [
        parse_manifest((folder / "manifest.json").read_bytes(), str(folder), steps.find_store(CONTEXT).trust)
        for folder in world.set_folders()
    ]


@long
def test_a_dump_that_is_killed_is_taken_again_under_the_same_snapshot(world: World, recorder: str, runs: Runs) -> None:
    world.api = recorder
    make_big_row(world)
    before = world.state()
    large = "query LIKE 'COPY%TO STDOUT%' AND query LIKE '%policy_violations%' AND wait_event = 'ClientWrite'"

    with slowed(world.source, world) as proxy, terminating(world.source, large, proxy):
        assert world.backup().startswith("STORED")

    assert runs.counts("back up policy_violations")[-1] == 2
    assert len(runs.named("check_source")) == 1 == len(runs.named("dump_schema"))
    assert world.backup().startswith("STORED")
    (killed, undisturbed) = world.run(manifests, "backup_reader", world=world)
    digests = [
        {relation.qualified: (relation.rows, relation.digest) for relation in manifest.relations}
        for manifest in (killed, undisturbed)
    ]
    assert digests[0] == digests[1]
    # The first set is whole: it is what is restored.
    assert world.recover(backup=killed.id).startswith("PASS")
    world.assert_recovered(before)


def test_a_restore_that_fails_is_not_tried_again(world: World, recorder: str, runs: Runs) -> None:
    world.api = recorder
    make_big_row(world)
    world.backup()

    loading = "query LIKE 'COPY%FROM STDIN%'"
    with slowed(world.target, world) as proxy, terminating(world.target, loading, proxy), pytest.raises(OperationError):
        world.recover()

    assert {run["run_count"] for run in runs.named("load")} == {1}
    assert {run["state_type"] for run in runs.named("load")} >= {"FAILED"}
    assert databases(world.target) == set()


# What refuses


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(403, "AccessDenied", "Access Denied."),
        *(pytest.param(refusal, marks=long) for refusal in (Refusal(403, "QuotaExceeded"), Refusal(507, "InsufficientStorage"))),
    ],
    ids=lambda refusal: refusal.code,
)
def test_a_refusal_is_asked_about_once(recorded: World, front: Front, runs: Runs, refusal: Refusal) -> None:
    front.refuse = refuse_first(9, "PUT", "/data/", refusal)
    with pytest.raises(BadInput, match=refusal.code):
        recorded.backup()
    assert len(front.refused) == 1
    assert {*runs.counts("store_relation")} == {1}


def test_a_store_without_tls_is_asked_about_once(recorded: World, front: Front, runs: Runs) -> None:
    recorded.store["AWS_ENDPOINT_URL"] = front.url.replace("http:", "https:")
    with pytest.raises(BadInput, match="does not use TLS"):
        recorded.backup()
    assert runs.counts("check_source") == [1]


def test_repeatable_steps_are_those_that_the_documents_name() -> None:
    modules = [importlib.import_module(module.name) for module in pkgutil.walk_packages(tasks.__path__, "tasks.")]
    members = [member for module in modules for member in vars(module).items()]
    steps = {name: step for name, step in members if isinstance(step, Step) and step.retries}
    section = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8").split("(AwaitingRetry, run count):")[1]
    assert re.findall(r"`(\w+)`", section.partition(".")[0]) == sorted(steps)
    assert all(step.retry_condition_fn is retries.may_pass and step.retry_jitter_factor for step in steps.values())


# How long


def test_tries_do_not_multiply(recorded: World, front: Front) -> None:
    recorded.store["AWS_MAX_ATTEMPTS"] = "2"
    front.refuse = refuse_first(99, "PUT", "/data/")
    with pytest.raises(StoreUnavailable, match="SlowDown"):
        recorded.backup()
    assert len(front.refused) == 2 * retries.TRIES


def test_all_layers_give_up_when_patience_ends(recorded: World, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded.store["AWS_MAX_ATTEMPTS"] = "9"
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.0)
    front.refuse = refuse_first(99, "PUT", "/data/")
    with pytest.raises(StoreUnavailable, match="SlowDown"):
        recorded.backup()
    assert len(front.refused) == 1


def test_what_belongs_to_a_failed_run_is_not_tried_again(prefect_api: str) -> None:
    attempts = list[int]()
    given_up = threading.Event()

    @step(name="lose", repeatable=True)
    def lose() -> None:
        attempts.append(1)
        given_up.set()
        raise ServerUnavailable("lost")

    @flow
    def run_it() -> None:
        token = retries.abandoned.set(given_up)
        try:
            lose()
        finally:
            retries.abandoned.reset(token)

    with pytest.raises(ServerUnavailable):
        run_it()
    assert len(attempts) == 1
