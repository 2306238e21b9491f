"""Cold sets: asked for, waited for, and read when they can be; the endpoint keeps a thaw pending as Glacier does."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from flows.partitions import archive_partitions, reattach_partition
from flows.recovery import disaster_recovery
from tasks.core.errors import ColdObject, OperationError
from tasks.sets import thaw as sets_thaw
from tests.support import PROJECT
from tests.support.archives import RESOLVED, ROWS
from tests.support.database import ask, execute
from tests.support.example import CONTEXT, DATABASE
from tests.support.faults import wait_for
from tests.support.partitions import leaves
from tests.support.stores import Front, Handler, client_of
from tests.support.world import World

REFUSED = b"<Error><Code>InvalidObjectState</Code><Message>cold</Message></Error>"


class Glacier(Front):
    """An S3 endpoint before moto in which a thaw takes its time; `tiers` that are not to be had are refused."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.RequestHandlerClass = _Cold
        self.seconds, self.code = 4.0, 0
        self.busy: set[str] = set()
        self.asked: dict[str, tuple[float, str]] = {}
        self.too_early = 0
        self.thaw: Callable[[str, str], None] = lambda _bucket, _key: None

    def is_pending(self, path: str) -> bool:
        return path in self.asked and time.monotonic() - self.asked[path][0] < self.seconds


class _Cold(Handler):
    server: Glacier

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:  # noqa: N802
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        if not query.startswith("restore"):
            self._forward()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        tier = body.partition("<Tier>")[2].partition("<")[0]
        if self.server.code:
            self._answer(self.server.code, b"")
        elif tier in self.server.busy:
            self._answer(503, b"<Error><Code>GlacierExpeditedRetrievalNotAvailable</Code><Message>busy</Message></Error>")
        elif self.server.is_pending(path):
            self._answer(409, b"<Error><Code>RestoreAlreadyInProgress</Code><Message>patience</Message></Error>")
        else:
            self.server.asked[path] = (time.monotonic(), tier)
            self._answer(202, b"")

    def do_GET(self) -> None:  # noqa: N802
        path = urlsplit(self.path).path
        if self.server.is_pending(path):
            self.server.too_early += 1
            self._answer(403, REFUSED)
            return
        if path in self.server.asked:
            # From now on moto gives it, as it always would have.
            bucket, _, key = path[1:].partition("/")
            self.server.thaw(bucket, key)
        self._forward()


@pytest.fixture
def glacier(s3_world: World, s3: Any) -> Iterator[Glacier]:
    server = Glacier(s3.endpoint)
    done = set[str]()

    def thaw(bucket: str, key: str) -> None:
        if key not in done:
            done.add(key)
            client_of(s3).restore_object(Bucket=bucket, Key=key, RestoreRequest={"Days": 1})

    server.thaw = thaw
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    s3_world.store |= {"AWS_ENDPOINT_URL": server.url}
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def archived(s3_world: World, glacier: Glacier) -> World:
    execute(s3_world, "DROP TABLE policy_violations_2021", RESOLVED)
    s3_world.extra["rows"] = str(ask(s3_world, ROWS))
    s3_world.run(archive_partitions, "backup_restorer", dry_run=False, confirm_database=DATABASE)
    assert "2022" not in leaves(s3_world)
    return s3_world


def objects(world: World, s3: Any) -> dict[str, str]:
    prefix = f"{world.folder.name}/{CONTEXT}/archive/"
    found = client_of(s3).list_objects_v2(Bucket=s3.bucket, Prefix=prefix)["Contents"]
    return {one["Key"].rpartition("/")[2]: one["StorageClass"] for one in found}


@pytest.mark.long
def test_a_thaw_is_asked_for_and_waited_for(archived: World, glacier: Glacier, s3: Any) -> None:
    classes = objects(archived, s3)
    assert classes["policy_violations_2022.copy.zst"] == "GLACIER"
    assert {classes[name] for name in ("manifest.json", "schema.list", "schema.dump.zst")} == {"STANDARD"}
    glacier.busy = {"Expedited"}
    started = time.monotonic()
    archived.run(reattach_partition, "backup_restorer", year="2022", tier="Expedited")
    assert time.monotonic() - started > glacier.seconds
    assert str(ask(archived, ROWS)) == archived.extra["rows"]
    assert [tier for _, tier in glacier.asked.values()] == ["Standard"]
    assert "thaw.json" in objects(archived, s3)


@pytest.mark.long
def test_a_thaw_that_never_ends_is_said_so(archived: World, glacier: Glacier, monkeypatch: pytest.MonkeyPatch) -> None:
    glacier.seconds = 3600
    monkeypatch.setattr(sets_thaw, "deadline", lambda asked, *_: asked + timedelta(seconds=3))
    with pytest.raises(
        ColdObject, match=r"1 objects cannot be read although they were requested with tier Bulk at .*ask the store's"
    ):
        archived.run(reattach_partition, "backup_restorer", year="2022", tier="Bulk")
    # Asked for once; the next run waits for the same thaw.
    monkeypatch.undo()
    glacier.seconds = 1
    archived.run(reattach_partition, "backup_restorer", year="2022")
    assert [tier for _, tier in glacier.asked.values()] == ["Bulk"]
    assert str(ask(archived, ROWS)) == archived.extra["rows"]


@pytest.mark.long
def test_a_store_that_knows_no_thaw(archived: World, glacier: Glacier) -> None:
    glacier.code = 501
    with pytest.raises(OperationError, match="is cold, and this store does not support thawing"):
        archived.run(reattach_partition, "backup_restorer", year="2022")
    assert "2022" not in leaves(archived)


@pytest.mark.long
def test_a_recovery_from_cold_sets_alone_counts_the_wait(s3_world: World, glacier: Glacier, s3: Any) -> None:
    before = s3_world.state()
    s3_world.backup()
    client = client_of(s3)
    for one in client.list_objects_v2(Bucket=s3.bucket, Prefix=f"{s3_world.folder.name}/{CONTEXT}/daily/")["Contents"]:
        if "/data/" in one["Key"]:
            place = {"Bucket": s3.bucket, "Key": one["Key"]}
            client.copy_object(Bucket=s3.bucket, Key=one["Key"], CopySource=place, StorageClass="GLACIER")
    verdict = str(s3_world.run(disaster_recovery, "backup_restorer", s3_world.target))
    assert verdict.startswith("PASS")
    assert timedelta(seconds=glacier.seconds) < timedelta(**dict(zip(
        ("hours", "minutes", "seconds"), map(int, verdict.partition("RTO ")[2].partition(" ")[0].split(":")), strict=True
    )))  # fmt: skip
    assert {tier for _, tier in glacier.asked.values()} == {"Expedited"}
    s3_world.assert_recovered(before)


DEPLOY = """
import asyncio, sys
from prefect import flow
from prefect.runner import Runner

async def main():
    chosen = await flow.from_source(sys.argv[1], entrypoint="flows/partitions.py:reattach_partition")
    runner = Runner(query_seconds=1, limit=1)
    await runner.aadd_flow(chosen, name="thaw-test")
    await runner.start()

asyncio.run(main())
"""


@pytest.mark.long
def test_a_deployments_run_waits_without_its_process_and_goes_on(
    archived: World, glacier: Glacier, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = archived.environment(archived.source, "backup_restorer")
    # Glacier's hours are seconds here: what the run schedules itself by.
    code = (
        "from datetime import timedelta; from tasks.sets import thaw; from tasks.core.sets import thaw as core; "
        "core.USUAL['GLACIER']['Standard'] = timedelta(seconds=6)"
    )
    (archived.folder / "sitecustomize.py").write_text(code.replace("; ", "\n") + "\n")
    glacier.seconds = 5
    kept = {"PATH": "/usr/bin:/bin", "HOME": str(archived.folder), "PYTHONPATH": f"{archived.folder}:{PROJECT}"}
    runner = subprocess.Popen([sys.executable, "-c", DEPLOY, str(PROJECT)], cwd=PROJECT, env=kept | environment)
    try:
        with get_client(sync_client=True) as client:
            name = "reattach-partition/thaw-test"
            found: list[Any] = []

            def is_deployed() -> bool:
                try:
                    found.append(client.read_deployment_by_name(name))
                except ObjectNotFound:
                    return False
                return True

            wait_for(is_deployed, 60, "the deployment")
            run = client.create_flow_run_from_deployment(found[0].id, parameters={"year": "2022"})
            states = list[str]()

            def is_done() -> bool:
                state = client.read_flow_run(run.id).state
                if state and (not states or states[-1] != state.name):
                    states.append(state.name)
                return bool(state and state.is_final())

            wait_for(is_done, 120, "the run")
    finally:
        runner.terminate()
        runner.wait()
    assert "AwaitingThaw" in states
    assert states[-1] == "Completed", states
    assert str(ask(archived, ROWS)) == archived.extra["rows"]
