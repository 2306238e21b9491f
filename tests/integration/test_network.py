"""Faults between the flows and their servers, foreign stores, cold objects, and the locks between runs."""

import hashlib
import io
import os
import re
import select
import shutil
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prefect import flow
from prefect.artifacts import Artifact

from deployments.local import LocalS3, LocalServer
from flows.backup import daily_backup, list_backups
from flows.recovery import disaster_recovery
from tasks.core.backup.restore_script import describe_file
from tasks.core.errors import AlreadyExists, BadInput, OperationError, StoreUnavailable
from tasks.core.postgres.programs import Running
from tasks.core.run.clock import now
from tasks.core.sets.manifest import StoredObject
from tasks.core.sets.name import Kind, SetName
from tasks.database.locks import context_lock
from tasks.run.run import Run
from tasks.sets import upload as sets_upload
from tasks.store.address import StoreAddress, open_store
from tests.support.database import server_of
from tests.support.example import CONTEXT, DATABASE
from tests.support.faults import FaultyProxy, wait_for
from tests.support.servers import databases
from tests.support.stores import Front, client_of, credentials, fill, front_of
from tests.support.world import TwoSets, World

pytestmark = pytest.mark.usefixtures("quick_retries")
NAME = SetName(CONTEXT, Kind.FULL, "bc-004_full_20251103_020000_3f9c")


@pytest.fixture
def proxy(s3: LocalS3) -> Iterator[FaultyProxy]:
    """A proxy before the S3 endpoint; it passes everything until told otherwise."""
    place = urlsplit(s3.endpoint)
    assert place.hostname and place.port
    with FaultyProxy(place.hostname, place.port) as proxy:
        yield proxy


@pytest.fixture
def bucket(s3: LocalS3, folder: Path) -> str:
    """A fresh prefix of the bucket."""
    return f"{s3.url}/{folder.name}"


@pytest.fixture
def faulty(world: World, s3: LocalS3, proxy: FaultyProxy, bucket: str) -> World:
    """A world whose store is S3 behind the proxy."""
    world.store = s3.environment() | {"BACKUP_STORE": bucket, "AWS_ENDPOINT_URL": proxy.url, "AWS_MAX_ATTEMPTS": "2"}
    return world


def keys(s3: LocalS3, folder: Path) -> list[str]:
    pages = client_of(s3).get_paginator("list_objects_v2").paginate(Bucket=s3.bucket, Prefix=f"{folder.name}/")
    return [one["Key"].removeprefix(f"{folder.name}/") for page in pages for one in page.get("Contents", [])]


def manifests(s3: LocalS3, folder: Path) -> list[str]:
    return [key for key in keys(s3, folder) if key.endswith("manifest.json")]


# --- one object ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(folder: Path) -> Iterator[Run]:
    (folder / "run").mkdir(mode=0o700)
    running = Running()
    yield Run("test", CONTEXT, "3f9c", now(), folder / "run", running)
    running.stop(final=True)


@pytest.fixture
def large(run: Run) -> tuple[Path, StoredObject]:
    """A staged file that is uploaded in three parts."""
    file = run.folder / "large"
    file.write_bytes(os.urandom(40 << 20))
    return file, describe_file("data/large.copy.zst", file)


def behind(proxy: FaultyProxy, s3: LocalS3, bucket: str, **config: Any) -> StoreAddress:
    return StoreAddress(bucket, credentials(s3, proxy.url, **config))


@flow
def upload(address: StoreAddress, run: Run, stored: StoredObject, file: Path) -> StoredObject:
    """Upload one object as a backup does, with all its tries."""
    return sets_upload.upload(address, run, NAME, stored, file, "STANDARD")


@flow
def publish(address: StoreAddress, run: Run, manifest: Any) -> str:
    """Publish a manifest as a backup does, with all its tries."""
    return sets_upload.publish(address, run, NAME, manifest)


def test_one_reset_inside_an_upload_part(
    proxy: FaultyProxy, s3: LocalS3, bucket: str, run: Run, large: tuple[Path, StoredObject], prefect_api: str
) -> None:
    file, stored = large
    proxy.reset_after(6 << 20, once=True, direction="up")

    upload(behind(proxy, s3, bucket), run, stored, file)

    assert proxy.faults == 1
    target = io.BytesIO()
    assert open_store(StoreAddress(bucket, credentials(s3))).fetch(f"{NAME.folder}/{stored.path}", target) == stored.sha256
    assert not file.exists()


def test_every_connection_reset_names_the_object(
    proxy: FaultyProxy, s3: LocalS3, bucket: str, run: Run, large: tuple[Path, StoredObject], folder: Path, prefect_api: str
) -> None:
    file, stored = large
    proxy.reset_after(6 << 20, direction="up")

    with pytest.raises(StoreUnavailable, match=rf"{bucket}/{NAME.folder}/data/large\.copy\.zst: .*check the network"):
        upload(behind(proxy, s3, bucket, retries={"total_max_attempts": 2, "mode": "standard"}), run, stored, file)

    assert proxy.faults >= 4 * 2
    assert keys(s3, folder) == []


def test_the_network_gone_for_good_in_mid_upload(
    proxy: FaultyProxy, s3: LocalS3, bucket: str, run: Run, large: tuple[Path, StoredObject], folder: Path, prefect_api: str
) -> None:
    file, stored = large
    proxy.throttle(8 << 20)
    address = behind(proxy, s3, bucket, retries={"total_max_attempts": 2, "mode": "standard"})
    uploads = client_of(s3).list_multipart_uploads

    def cut() -> None:
        wait_for(lambda: uploads(Bucket=s3.bucket).get("Uploads"), 30, "the upload to begin")
        proxy.refuse()

    cutter = threading.Thread(target=cut)
    cutter.start()
    with pytest.raises(StoreUnavailable, match="large"):
        upload(address, run, stored, file)
    cutter.join()

    assert keys(s3, folder) == []
    for one in uploads(Bucket=s3.bucket).get("Uploads", []):
        client_of(s3).abort_multipart_upload(Bucket=s3.bucket, Key=one["Key"], UploadId=one["UploadId"])


def test_a_connection_that_goes_silent_is_given_up(
    proxy: FaultyProxy, s3: LocalS3, bucket: str, run: Run, large: tuple[Path, StoredObject], folder: Path, prefect_api: str
) -> None:
    file, stored = large
    impatient = {"read_timeout": 1, "connect_timeout": 1, "retries": {"total_max_attempts": 1, "mode": "standard"}}
    proxy.hold()
    began = time.monotonic()

    with pytest.raises(StoreUnavailable, match=r"large.*check the network"):
        upload(behind(proxy, s3, bucket, **impatient), run, stored, file)

    # With the client's own patience it would be two minutes.
    assert time.monotonic() - began < 100
    assert keys(s3, folder) == []


def test_no_wait_of_the_client_is_endless(s3: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    for address in (StoreAddress(s3.url), StoreAddress(s3.url, credentials(s3))):
        config = open_store(address)._client.meta.config
        assert (config.connect_timeout, config.read_timeout) == (10, 30)
        assert config.retries["total_max_attempts"] == 5
        assert config.request_checksum_calculation == "when_required"


def test_the_reply_to_a_completed_upload_lost(
    proxy: FaultyProxy, s3: LocalS3, bucket: str, run: Run, large: tuple[Path, StoredObject], prefect_api: str
) -> None:
    file, stored = large
    proxy.swallow_reply(rb"POST [^ ]*uploadId=")

    upload(behind(proxy, s3, bucket), run, stored, file)

    assert proxy.faults == 1
    found = open_store(StoreAddress(bucket, credentials(s3))).head(f"{NAME.folder}/{stored.path}")
    assert found and found.metadata["sha256"] == stored.sha256


def test_a_download_that_is_cut_goes_on_where_it_was_cut(proxy: FaultyProxy, s3: LocalS3, bucket: str, folder: Path) -> None:
    data = os.urandom(10 << 20)
    client_of(s3).put_object(Bucket=s3.bucket, Key=f"{folder.name}/large", Body=data)
    proxy.reset_after(3 << 20, direction="down")
    target = io.BytesIO()

    digest = open_store(behind(proxy, s3, bucket)).fetch("large", target)

    assert digest == hashlib.sha256(data).hexdigest()
    assert target.getvalue() == data
    assert proxy.faults >= 3


def test_a_download_that_never_gets_further_ends(proxy: FaultyProxy, s3: LocalS3, bucket: str, folder: Path) -> None:
    client_of(s3).put_object(Bucket=s3.bucket, Key=f"{folder.name}/large", Body=os.urandom(10 << 20))
    store = open_store(behind(proxy, s3, bucket, retries={"total_max_attempts": 1, "mode": "standard"}))
    # The head of a reply passes, no byte of the body does.
    proxy.reset_after(1000, direction="down")

    with pytest.raises(StoreUnavailable, match=f"{bucket}/large: .*check the network"):
        store.fetch("large", io.BytesIO())


def test_an_object_that_is_exchanged_during_its_download_is_not_mixed(
    proxy: FaultyProxy, s3: LocalS3, bucket: str, folder: Path
) -> None:
    client, key = client_of(s3), f"{folder.name}/large"
    client.put_object(Bucket=s3.bucket, Key=key, Body=b"a" * (10 << 20))

    class Exchanging(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() == 0:
                client.put_object(Bucket=s3.bucket, Key=key, Body=b"b" * (10 << 20))
            return super().write(data)

    proxy.reset_after(3 << 20, once=True, direction="down")
    with pytest.raises(StoreUnavailable, match="large"):
        open_store(behind(proxy, s3, bucket)).fetch("large", Exchanging())


def test_the_reply_to_our_own_manifest_lost(proxy: FaultyProxy, s3: LocalS3, bucket: str) -> None:
    store = open_store(behind(proxy, s3, bucket))
    proxy.swallow_reply(rb"PUT [^ ]*manifest\.json")

    store.create("x/manifest.json", b"ours", "STANDARD", {})

    assert proxy.faults == 1
    with pytest.raises(AlreadyExists, match=r"x/manifest\.json"):
        store.create("x/manifest.json", b"another", "STANDARD", {})
    assert store.read("x/manifest.json") == b"ours"


# --- whole flows --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_backup_whose_manifests_reply_is_lost_succeeds(faulty: World, proxy: FaultyProxy, s3: LocalS3, folder: Path) -> None:
    proxy.swallow_reply(rb"PUT [^ ]*manifest\.json")

    assert faulty.backup().startswith("STORED")

    assert proxy.faults == 1
    assert len(manifests(s3, folder)) == 1


@pytest.mark.parametrize("what", ["data/teams", *(pytest.param(one, marks=pytest.mark.long) for one in ("manifest", "schema"))])
def test_a_backup_whose_store_fails_on_the_way_lists_nothing(
    faulty: World, proxy: FaultyProxy, s3: LocalS3, folder: Path, what: str
) -> None:
    # Every try to write this object is answered by silence and a closed connection.
    proxy.swallow_reply(rb"PUT [^ ]*" + what.encode(), once=False)
    began = time.monotonic()

    if what == "manifest":
        # It arrives, and only the answer is lost: that is a success, found out by looking.
        assert faulty.backup().startswith("STORED")
        assert len(manifests(s3, folder)) == 1
        return
    with pytest.raises(StoreUnavailable, match=rf"{folder.name}/bc-004/daily/bc-004_full_[^ ]*/{what}.*check the network"):
        faulty.backup()

    assert time.monotonic() - began < 180
    assert manifests(s3, folder) == []
    proxy.pass_through()
    assert faulty.run(list_backups, "backup_reader")[0]["state"] == "unfinished"


@pytest.mark.long
def test_the_store_gone_in_mid_backup(faulty: World, proxy: FaultyProxy, s3: LocalS3, folder: Path) -> None:
    faulty.store["AWS_MAX_ATTEMPTS"] = "1"

    def cut() -> None:
        wait_for(lambda: any("/data/" in key for key in keys(s3, folder)), 60, "the first object")
        proxy.refuse()

    cutter = threading.Thread(target=cut)
    cutter.start()
    with pytest.raises(StoreUnavailable, match="check the network"):
        faulty.backup()
    cutter.join()

    assert manifests(s3, folder) == []
    assert not [path for path in (faulty.folder / "staging").iterdir() if path.is_dir()]


@pytest.mark.long
def test_a_recovery_over_a_network_that_cuts_every_connection_once_in_a_while(
    faulty: World, proxy: FaultyProxy, s3: LocalS3, two_sets: TwoSets, folder: Path
) -> None:
    fill(s3, folder, two_sets.folder)
    # Manifests are larger than this, and so are the largest tables.
    proxy.reset_after(100_000, direction="down")
    faulty.store.pop("AWS_MAX_ATTEMPTS")

    assert faulty.recover().startswith("PASS")

    assert proxy.faults >= 2
    faulty.assert_recovered(two_sets.before_newer)


@pytest.mark.parametrize("moment", ["dump", pytest.param("upload", marks=pytest.mark.long)])
def test_the_databases_network_lost_in_mid_dump(world: World, moment: str) -> None:
    host, port = "127.0.0.1", world.source.port
    with FaultyProxy(host, port) as proxy:
        world.extra = {"PGPORT": str(proxy.port)}

        def cut() -> None:
            if moment == "dump":
                wait_for(lambda: copying(world.source), 60, "the first COPY")
            else:
                wait_for(lambda: list(world.store_folder.glob(f"{CONTEXT}/daily/*/data/*")), 60, "the first object")
            proxy.refuse()

        cutter = threading.Thread(target=cut)
        cutter.start()
        began = time.monotonic()
        with pytest.raises(OperationError, match=r"lost|reading|cannot connect|could not be dumped"):
            world.backup()
        cutter.join()

    assert time.monotonic() - began < 180
    assert not list(world.store_folder.rglob("manifest.json"))
    assert not [path for path in (world.folder / "staging").iterdir() if path.is_dir()]
    world.extra = {}
    assert world.backup().startswith("STORED")


def copying(server: LocalServer) -> bool:
    with server.connect() as connection:
        query = (
            "SELECT FROM pg_stat_activity WHERE state <> 'idle' AND backend_xmin IS NOT NULL AND application_name LIKE 'bc-004%'"
        )
        return bool(connection.execute(query).fetchall())


# --- cold objects -------------------------------------------------------------------------------------------------------


def freeze(s3: LocalS3, folder: Path, key: str) -> None:
    """Change the class of an object in place, as a lifecycle rule does."""
    source = {"Bucket": s3.bucket, "Key": f"{folder.name}/{key}"}
    client_of(s3).copy_object(Bucket=s3.bucket, Key=source["Key"], CopySource=source, StorageClass="GLACIER")


@pytest.mark.long
def test_latest_passes_a_cold_set_over(s3_world: World, s3: LocalS3, two_sets: TwoSets, folder: Path) -> None:
    fill(s3, folder, two_sets.folder)
    key = f"{CONTEXT}/daily/{two_sets.newer}/data/teams.copy.zst"
    freeze(s3, folder, key)

    rows = s3_world.run(list_backups, "backup_reader")
    assert [(row["id"], row["state"]) for row in rows] == [(two_sets.newer, "stored"), (two_sets.older, "stored")]
    assert rows[0]["class"] == "GLACIER/STANDARD"

    assert two_sets.older in s3_world.recover()
    report = Artifact.get(f"{CONTEXT}-recovery")
    assert report is not None
    passed_over = str(report.data).split("## Newer sets that were passed over")[1].split("##")[0]
    assert f"{key} is in storage class GLACIER" in passed_over
    s3_world.assert_recovered(two_sets.before_older)


@pytest.mark.long
def test_a_cold_manifest_does_not_hide_the_others(s3_world: World, s3: LocalS3, two_sets: TwoSets, folder: Path) -> None:
    fill(s3, folder, two_sets.folder)
    freeze(s3, folder, f"{CONTEXT}/daily/{two_sets.newer}/manifest.json")

    rows = s3_world.run(list_backups, "backup_reader")

    assert {(row["id"], row["state"]) for row in rows} == {(two_sets.older, "stored"), (two_sets.newer, "damaged")}
    assert "GLACIER" in next(str(row["note"]) for row in rows if row["id"] == two_sets.newer)


# --- foreign servers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def front(s3: LocalS3) -> Iterator[Front]:
    with front_of(s3) as server:
        yield server


def test_a_server_that_ignores_if_none_match(front: Front, s3: LocalS3, bucket: str) -> None:
    front.drop_request = {"if-none-match"}
    store = open_store(StoreAddress(bucket, credentials(s3, front.url)))

    store.create("manifest.json", b"first", "STANDARD", {})
    with pytest.raises(AlreadyExists, match=r"manifest\.json"):
        store.create("manifest.json", b"second", "STANDARD", {})

    assert store.read("manifest.json") == b"first"


def test_a_server_that_gives_no_reason(front: Front, s3: LocalS3, bucket: str) -> None:
    front.rewrite = lambda status, body: b"" if status >= 400 else body
    store = open_store(StoreAddress(f"s3://no-such-bucket/{bucket.rpartition('/')[2]}", credentials(s3, front.url)))

    with pytest.raises(OperationError, match=r"s3://no-such-bucket/.*/x: .*check bucket, credentials and permissions") as error:
        list(store.list("x"))

    assert "None" not in str(error.value)


def test_a_server_that_names_no_storage_class(front: Front, s3: LocalS3, bucket: str, tmp_path: Path) -> None:
    front.drop_reply = {"x-amz-storage-class"}
    front.rewrite = lambda status, body: body.replace(b"<StorageClass>STANDARD_IA</StorageClass>", b"")
    store = open_store(StoreAddress(bucket, credentials(s3, front.url)))
    file = tmp_path / "file"
    file.write_bytes(b"x")

    store.put("a", file, "STANDARD_IA", {})

    assert [one.storage_class for one in store.list("")] == ["STANDARD"]
    found = store.require_readable("a")
    assert found and found.storage_class == "STANDARD"


def test_a_server_that_gives_other_bytes_back(
    front: Front, s3: LocalS3, bucket: str, run: Run, folder: Path, prefect_api: str
) -> None:
    front.rewrite = lambda status, body: body.replace(b"the rows", b"the r0ws")
    file = run.folder / "small"
    file.write_bytes(b"the rows")

    with pytest.raises(StoreUnavailable, match=r"data/small: the store returns other bytes than were sent"):
        upload(StoreAddress(bucket, credentials(s3, front.url)), run, describe_file("data/small", file), file)


@pytest.mark.long
def test_a_backup_and_a_recovery_through_a_server_that_knows_little(world: World, front: Front, s3: LocalS3, bucket: str) -> None:
    front.drop_request = {"if-none-match", "x-amz-sdk-checksum-algorithm"}
    front.drop_reply = {"x-amz-storage-class"}
    world.store = s3.environment() | {"BACKUP_STORE": bucket, "AWS_ENDPOINT_URL": front.url}
    before = world.state()

    assert world.backup().startswith("STORED")
    assert world.recover().startswith("PASS")

    world.assert_recovered(before)


# --- locks --------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_two_backups_at_once(world: World) -> None:
    processes = [world.start("backup", "daily_backup", "backup_reader") for _ in range(2)]
    outputs = [process.communicate(timeout=180)[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(list(world.store_folder.glob(f"{CONTEXT}/daily/*/manifest.json"))) == 2


@pytest.mark.parametrize(
    ("first", "second", "meet"),
    [("shared", "shared", False), ("shared", "exclusive", True), ("exclusive", "shared", True), ("exclusive", "exclusive", True)],
)
def test_who_waits_for_whom(source: LocalServer, world: World, first: str, second: str, meet: bool) -> None:
    one, other = server_of(world, "backup_restorer"), server_of(world, "backup_reader")
    title = "bc-004 disaster_recovery 2025-11-03 02:00Z 3f9c"
    with context_lock(one, CONTEXT, title, exclusive=first == "exclusive"):
        if not meet:
            with context_lock(other, CONTEXT, "second", exclusive=second == "exclusive", wait_seconds=0):
                return
        began = time.monotonic()
        with (
            pytest.raises(OperationError, match=f'context "{CONTEXT}" is locked by {title} for more than 1 s; wait for it to end'),
            context_lock(other, CONTEXT, "second", exclusive=second == "exclusive", wait_seconds=1),
        ):
            pass
        assert time.monotonic() - began >= 1
        with context_lock(other, "bc-003", "second", exclusive=True, wait_seconds=0):
            pass
    # A session that was closed ends in its own time.
    with context_lock(other, CONTEXT, "second", exclusive=True, wait_seconds=30):
        pass


def test_a_backup_waits_for_the_end_of_a_restore(world: World) -> None:
    def at_work() -> bool:
        with world.source.connect() as connection:
            query = (
                "SELECT FROM pg_stat_activity WHERE application_name LIKE 'bc-004 daily_backup%' AND query LIKE '%advisory_lock%'"
            )
            return bool(connection.execute(query).fetchall())

    released: list[float] = []

    def release(lock: Any) -> None:
        wait_for(at_work, 60, "the backup to ask for the lock")
        assert not list(world.store_folder.rglob("manifest.json"))
        lock.__exit__(None, None, None)
        released.append(time.monotonic())

    lock = context_lock(server_of(world, "backup_restorer"), CONTEXT, "bc-004 restore", exclusive=True)
    lock.__enter__()
    releaser = threading.Thread(target=release, args=(lock,))
    releaser.start()
    assert world.backup().startswith("STORED")
    ended = time.monotonic()
    releaser.join()

    assert released and released[0] < ended


BACKEND_KEY = re.compile(rb"(K\0\0\0[\x0c-\xff])....(?=.*Z\0\0\0\x05)", re.DOTALL)


class Pooler(socketserver.ThreadingTCPServer):
    """Passes everything, but tells the client another backend's number than the one it gets, as every pooler does."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Pooled)
        self.upstream = ("127.0.0.1", port)


class _Pooled(socketserver.BaseRequestHandler):
    server: Pooler

    def handle(self) -> None:
        with socket.create_connection(self.server.upstream) as upstream:
            while ready := select.select([self.request, upstream], [], [], 30)[0]:
                for end, other in ((self.request, upstream), (upstream, self.request)):
                    if end in ready:
                        data = end.recv(65536)
                        if not data:
                            return
                        # BackendKeyData: K, its length, the number of the backend.
                        other.sendall(BACKEND_KEY.sub(lambda found: found[1] + (7).to_bytes(4, "big"), data))


@pytest.mark.parametrize(("flow_of", "user"), [(daily_backup, "backup_reader"), (disaster_recovery, "backup_restorer")])
def test_a_pooler_is_refused(world: World, two_sets: TwoSets, flow_of: Any, user: str) -> None:
    shutil.rmtree(world.store_folder)
    two_sets.copy(world.store_folder)
    with Pooler(world.source.port) as pooler:
        threading.Thread(target=pooler.serve_forever, args=(0.05,), daemon=True).start()
        world.extra = {"PGPORT": str(pooler.server_address[1])}
        with pytest.raises(BadInput, match=r"is reached through a connection pooler.*give the address of PostgreSQL itself"):
            world.run(flow_of, user)
        pooler.shutdown()
    assert databases(world.source) == {DATABASE}
    assert len(world.set_folders()) == 2
