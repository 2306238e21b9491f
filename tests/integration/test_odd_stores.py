"""Stores that are odd: without some storage classes, with a demand for checksums, read only, full, not to be trusted."""

import os
import pwd
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deployments.local import LocalS3
from flows.backup import long_term_backup
from flows.partitions import archive_partitions
from flows.recovery import recovery_drill
from flows.watch import verify_backups
from tasks.core.errors import BadInput, StoreUnavailable
from tasks.store.address import StoreAddress, open_store
from tasks.store.interface import Store
from tests.support.archives import RESOLVED
from tests.support.contexts import edit_context
from tests.support.database import ask, execute
from tests.support.example import CONTEXT, DATABASE
from tests.support.reports import report
from tests.support.stores import Front, Refusal, client_of, credentials, demanding, fill, front_of, lacking, read_only
from tests.support.variants import first_quick
from tests.support.world import TwoSets, World

# What is sent in one request, and what in parts.
SIZES = {"small": 1000, "parts": 18 << 20}
UNKNOWN_CLASS = {
    "Amazon's way": Refusal(400, "InvalidStorageClass", "The storage class you specified is not valid"),
    "an argument": Refusal(400, "InvalidArgument"),
    "a request": Refusal(400, "InvalidRequest"),
    "a header": Refusal(501, "NotImplemented", "Header 'x-amz-storage-class' with value 'STANDARD_IA' not implemented"),
    "no body": Refusal(400),
}
LOCKED = Refusal(
    400,
    "InvalidRequest",
    "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters",
)
DEMANDS = {
    "either": (("content-md5", "x-amz-checksum-crc32"), LOCKED),
    "without a text": (("content-md5", "x-amz-checksum-crc32"), Refusal(400, "InvalidRequest")),
    "a checksum": (("x-amz-checksum-crc32",), LOCKED),
    "Content-MD5": (("content-md5",), Refusal(400, "MissingContentMD5", "Missing required header for this request: Content-Md5.")),
    "Content-MD5, without a body": (("content-md5",), Refusal(400)),
}
REFUSALS = {
    "no right": (Refusal(403, "AccessDenied", "Access Denied."), r"AccessDenied: Access Denied\.; .*s3:PutObject.*permissions"),
    "no right, no text": (Refusal(403, "AccessDenied"), r"large: AccessDenied; .*s3:PutObject"),
    "no right, no body": (Refusal(403), r"403.*s3:PutObject"),
    "a wrong key": (Refusal(403, "InvalidAccessKeyId"), "InvalidAccessKeyId; check bucket, credentials and permissions"),
    "a quota": (Refusal(403, "QuotaExceeded"), "QuotaExceeded; the store is full, or the account's quota is used up"),
    "a full disk": (Refusal(507, "XMinioStorageFull", "No space."), r"XMinioStorageFull: No space\.; the store is full"),
    "a clock": (Refusal(403, "RequestTimeTooSkewed"), "RequestTimeTooSkewed; correct the clock"),
    "a class, and STANDARD too": (Refusal(400, "InvalidStorageClass"), "InvalidStorageClass; check bucket"),
}


@pytest.fixture
def front(s3: LocalS3) -> Iterator[Front]:
    """A server before the S3 endpoint that can refuse."""
    with front_of(s3) as server:
        yield server


@pytest.fixture
def bucket(s3: LocalS3, folder: Path) -> str:
    """A fresh prefix of the bucket."""
    return f"{s3.url}/{folder.name}"


@pytest.fixture
def store(front: Front, s3: LocalS3, bucket: str) -> Store:
    return open_store(StoreAddress(bucket, credentials(s3, front.url)))


def file_of(tmp_path: Path, size: int) -> Path:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(size))
    return file


def there(s3: LocalS3, folder: Path, key: str) -> tuple[bytes, str]:
    """Return what an object is, and its class, asked without the product."""
    found = client_of(s3).get_object(Bucket=s3.bucket, Key=f"{folder.name}/{key}")
    return found["Body"].read(), found.get("StorageClass", "STANDARD")


# --- classes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("refusal", first_quick(2, UNKNOWN_CLASS))
def test_a_class_that_a_store_lacks(
    store: Store, front: Front, s3: LocalS3, folder: Path, tmp_path: Path, refusal: str, size: str
) -> None:
    front.refuse = lacking("STANDARD_IA", refusal=UNKNOWN_CLASS[refusal])
    file = file_of(tmp_path, SIZES[size])

    for key in ("a", "b"):
        store.put(key, file, "STANDARD_IA", {"sha256": "x"})

    assert [there(s3, folder, key) for key in ("a", "b")] == [(file.read_bytes(), "STANDARD")] * 2
    assert store.lacking == {"STANDARD_IA"}
    asked = len(front.refused)
    store.put("c", file, "STANDARD_IA", {})
    assert len(front.refused) == asked, "it was asked again"


def test_a_class_that_a_store_has_is_no_fallback(store: Store, s3: LocalS3, folder: Path, tmp_path: Path) -> None:
    store.put("a", file_of(tmp_path, 1000), "STANDARD_IA", {})
    assert there(s3, folder, "a")[1] == "STANDARD_IA" and store.lacking == frozenset()


@pytest.mark.parametrize("refusal", UNKNOWN_CLASS)
def test_a_class_that_an_object_cannot_be_given(
    store: Store, front: Front, s3: LocalS3, folder: Path, tmp_path: Path, refusal: str
) -> None:
    file = file_of(tmp_path, 1000)
    store.put("a", file, "STANDARD", {"sha256": "x"})
    front.refuse = lacking("GLACIER", refusal=UNKNOWN_CLASS[refusal])

    assert [store.set_class("a", "GLACIER") for _ in range(3)] == ["STANDARD"] * 3

    assert there(s3, folder, "a") == (file.read_bytes(), "STANDARD")
    assert store.lacking == {"GLACIER"} and len(front.refused) == 1


def test_a_store_that_leaves_an_object_in_its_class(store: Store, front: Front, s3: LocalS3, folder: Path, tmp_path: Path) -> None:
    store.put("a", file_of(tmp_path, 1000), "STANDARD", {"sha256": "x"})
    front.drop_request = {"x-amz-storage-class"}
    assert store.set_class("a", "GLACIER") == "STANDARD" and store.lacking == {"GLACIER"}


def test_what_is_cold_already_stays_as_it_is(store: Store, front: Front, tmp_path: Path) -> None:
    store.put("a", file_of(tmp_path, 1000), "GLACIER", {})
    assert store.set_class("a", "DEEP_ARCHIVE") == "GLACIER" and store.lacking == frozenset()
    assert not [one for one in front.requests if "x-amz-copy-source" in one.headers]


# --- checksums ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("demand", first_quick(2, DEMANDS))
def test_a_demand_for_checksums_is_met(
    store: Store, front: Front, s3: LocalS3, folder: Path, tmp_path: Path, demand: str, size: str
) -> None:
    headers, refusal = DEMANDS[demand]
    front.refuse = demanding(*headers, refusal=refusal)
    file, moved = file_of(tmp_path, SIZES[size]), list[int]()

    store.put("a", file, "STANDARD_IA", {"sha256": "x"}, moved.append)
    store.create("b", b"manifest", "STANDARD", {})
    store.replace("c", b"mark", "STANDARD")

    assert there(s3, folder, "a") == (file.read_bytes(), "STANDARD_IA")
    assert [there(s3, folder, key)[0] for key in ("b", "c")] == [b"manifest", b"mark"]
    assert moved[-1] == SIZES[size] and store.lacking == frozenset()
    front.refused.clear()
    store.put("d", file, "STANDARD", {})
    assert front.refused == [], "it does not remember what is demanded"


def test_a_demand_for_checksums_and_no_class(store: Store, front: Front, s3: LocalS3, folder: Path, tmp_path: Path) -> None:
    demand = demanding("content-md5", "x-amz-checksum-crc32", refusal=LOCKED)
    classes = lacking("STANDARD_IA", refusal=UNKNOWN_CLASS["an argument"])
    front.refuse = lambda asked: demand(asked) or classes(asked)
    file = file_of(tmp_path, 1000)
    store.put("a", file, "STANDARD_IA", {})
    assert there(s3, folder, "a") == (file.read_bytes(), "STANDARD") and store.lacking == {"STANDARD_IA"}


def test_who_chose_checksums_is_obeyed(
    front: Front, s3: LocalS3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    front.refuse = demanding("content-md5", "x-amz-checksum-crc32", refusal=LOCKED)
    store = open_store(StoreAddress(bucket, credentials(s3, front.url)))
    with pytest.raises(BadInput, match=r"a: InvalidRequest: Content-MD5 OR x-amz-checksum-"):
        store.put("a", file_of(tmp_path, 1000), "STANDARD", {})


# --- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_told_at_once(store: Store, front: Front, tmp_path: Path, name: str, size: str) -> None:
    refusal, said = REFUSALS[name]
    front.refuse = lambda asked: refusal if asked.writes else None
    file = file_of(tmp_path, SIZES[size])

    with pytest.raises(BadInput, match=said) as error:
        store.put("large", file, "STANDARD_IA", {})

    # Once, and once more where another class may help.
    assert len(front.refused) == 1 + ("STANDARD too" in name)
    assert "network" not in str(error.value) and "None" not in str(error.value) and "\n" not in str(error.value)


def test_who_may_only_read(store: Store, front: Front, tmp_path: Path) -> None:
    store.replace("a", b"x", "STANDARD")
    front.refuse = read_only
    changes: list[Callable[[], object]] = [
        lambda: store.replace("a", b"y", "STANDARD"), lambda: store.create("b", b"y", "STANDARD", {}), lambda: store.delete("a"),
        lambda: store.set_class("a", "GLACIER"), lambda: store.require_writable("bc-004/daily/x/probe", "STANDARD_IA"),
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(BadInput, match=r"AccessDenied: Access Denied\.; the access key lacks s3:"):
            change()
    assert store.read("a") == b"x" and store.lacking == frozenset()


@pytest.mark.parametrize("refusal", [Refusal(500, "InternalError"), Refusal(503, "SlowDown"), Refusal(400, "RequestTimeout")])
def test_what_time_may_mend_is_no_refusal(front: Front, s3: LocalS3, bucket: str, tmp_path: Path, refusal: Refusal) -> None:
    front.refuse = lambda asked: refusal if asked.writes else None
    once = {"total_max_attempts": 1, "mode": "standard"}
    store = open_store(StoreAddress(bucket, credentials(s3, front.url, retries=once)))
    with pytest.raises(StoreUnavailable, match=f"{refusal.code}; check the store, and try again"):
        store.put("a", file_of(tmp_path, 1000), "STANDARD_IA", {})


def test_a_look_whether_one_may_write_leaves_nothing(store: Store, s3: LocalS3, folder: Path, front: Front) -> None:
    key = "bc-004/daily/bc-004_full_20251103_020000_3f9c/probe"
    store.require_writable(key, "STANDARD_IA")
    assert list(store.list("")) == [] and list(store.uploads("")) == []
    front.refuse = lacking("STANDARD_IA", refusal=UNKNOWN_CLASS["an argument"])
    store.require_writable(key, "STANDARD_IA")
    assert store.lacking == {"STANDARD_IA"} and list(store.uploads("")) == []
    # Whether a server that knows no uploads in parts takes objects, the first one shows.
    front.refuse = lambda asked: Refusal(501, "NotImplemented") if asked.path.endswith("?uploads") else None
    store.require_writable(key, "STANDARD")


@contextmanager
def another_account() -> Iterator[None]:
    """Be nobody in particular: root may write everywhere."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(own)


def test_a_folder_that_can_only_be_read_is_told_at_once(folder: Path) -> None:
    root = folder / "store"
    store = open_store(StoreAddress(str(root)))
    root.mkdir()
    store.require_writable("bc-004/daily/x/probe", "STANDARD_IA")
    assert list(root.iterdir()) == []
    store.replace("bc-004/a", b"x", "STANDARD")
    for path, mode in ((folder, 0o755), (root / "bc-004" / "a", 0o444), (root / "bc-004", 0o555), (root, 0o555)):
        path.chmod(mode)
    staged = folder / "staged"
    staged.write_bytes(b"y")
    changes: list[Callable[[], object]] = [
        lambda: store.require_writable("bc-004/daily/x/probe", "STANDARD_IA"), lambda: store.replace("bc-004/a", b"y", "STANDARD"),
        lambda: store.put("bc-004/b", staged, "STANDARD_IA", {}), lambda: store.create("bc-004/c", b"y", "STANDARD", {}),
        lambda: store.delete("bc-004/a"),
    ]  # fmt: skip
    try:
        with another_account():
            assert store.read("bc-004/a") == b"x"
            for change in changes:
                with pytest.raises(BadInput, match=rf"{root}/bc-004/[^ ]*: Permission denied; give this account permission"):
                    change()
    finally:
        root.chmod(0o700)
        (root / "bc-004").chmod(0o700)
    assert [path.name for path in root.rglob("*")] == ["bc-004", "a"]


# --- flows --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def odd(world: World, s3: LocalS3, front: Front, bucket: str) -> World:
    """A world whose store is S3 behind the server that can refuse."""
    world.store = s3.environment() | {"BACKUP_STORE": bucket, "AWS_ENDPOINT_URL": front.url}
    return world


def classes(s3: LocalS3, folder: Path, kind: str) -> set[str]:
    """Return the classes that the rows of a kind of set lie in."""
    pages = client_of(s3).get_paginator("list_objects_v2").paginate(Bucket=s3.bucket, Prefix=f"{folder.name}/{CONTEXT}/{kind}/")
    return {one["StorageClass"] for page in pages for one in page.get("Contents", []) if "/data/" in one["Key"]}


@pytest.mark.long
def test_a_backup_into_a_store_without_the_class(odd: World, front: Front, s3: LocalS3, folder: Path) -> None:
    front.refuse = lacking("STANDARD_IA", refusal=UNKNOWN_CLASS["an argument"])
    before = odd.state()

    verdict = odd.backup()

    assert verdict.startswith("STORED: ") and "1 warnings" in verdict
    said = report(odd, f"{CONTEXT}-backup")
    assert "the store has no storage class STANDARD_IA: the data are in STANDARD" in said
    assert "storage_classes: {daily: STANDARD}" in said
    assert len(front.refused) == 1, "it was asked more than once"
    assert classes(s3, folder, "daily") == {"STANDARD"}
    assert "warnings" not in odd.differential()
    assert odd.recover().startswith("PASS")
    odd.assert_recovered(before)


@pytest.mark.long
def test_a_class_that_only_objects_are_refused_for(odd: World, front: Front) -> None:
    """The look beforehand does not find out."""
    front.refuse = lambda asked: UNKNOWN_CLASS["Amazon's way"] if asked.carries and asked.storage_class != "STANDARD" else None
    assert "1 warnings" in odd.backup()
    # As many as go side by side.
    assert 1 <= len(front.refused) <= 8


@pytest.mark.long
def test_long_term_sets_and_archives_where_nothing_is_cold(
    odd: World, front: Front, s3: LocalS3, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    front.refuse = lacking("GLACIER", refusal=UNKNOWN_CLASS["an argument"])
    execute(odd, "DROP TABLE policy_violations_2021", RESOLVED)

    verdict = str(odd.run(long_term_backup, "backup_reader"))

    assert verdict.startswith("STORED: ") and "1 warnings" in verdict
    assert "storage_classes: {long_term: STANDARD}" in report(odd, f"{CONTEXT}-backup")
    assert classes(s3, folder, "violations") == {"STANDARD"} and len(front.refused) == 1
    odd.run(archive_partitions, "backup_restorer", dry_run=False, confirm_database=DATABASE)
    assert classes(s3, folder, "archive") == {"STANDARD"}
    assert "storage_classes: {archive: STANDARD}" in report(odd, f"{CONTEXT}-archive")
    assert ask(odd, "SELECT to_regclass('policy_violations_2022')") == [(None,)]


@pytest.mark.long
def test_classes_are_those_of_the_context(
    odd: World, front: Front, s3: LocalS3, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_context(
        odd, monkeypatch, storage_classes={"daily": "ONEZONE_IA", "differential": "STANDARD_IA", "long_term": "GLACIER_IR"}
    )
    assert "warnings" not in odd.backup()
    execute(odd, "UPDATE teams SET purpose = 'changed'")
    odd.differential()
    assert "warnings" not in str(odd.run(long_term_backup, "backup_reader"))
    found = [classes(s3, folder, kind) for kind in ("daily", "differential", "violations")]
    assert found == [{"ONEZONE_IA"}, {"STANDARD_IA"}, {"GLACIER_IR"}]
    # What was cold before the classes were changed stays as it is, and fails nothing.
    edit_context(odd, monkeypatch, storage_classes={"long_term": "GLACIER"})
    odd.run(long_term_backup, "backup_reader")
    edit_context(odd, monkeypatch, storage_classes={"long_term": "DEEP_ARCHIVE"})
    assert "warnings" not in str(odd.run(long_term_backup, "backup_reader"))
    assert classes(s3, folder, "violations") == {"GLACIER", "DEEP_ARCHIVE"}


@pytest.mark.long
@pytest.mark.parametrize("demand", ["either", "Content-MD5"])
def test_a_backup_into_a_bucket_that_demands_checksums(odd: World, front: Front, demand: str) -> None:
    headers, refusal = DEMANDS[demand]
    front.refuse = demanding(*headers, refusal=refusal)
    before = odd.state()
    assert odd.backup().startswith("STORED: ") and "warnings" not in odd.backup()
    assert odd.recover().startswith("PASS")
    odd.assert_recovered(before)


@pytest.fixture
def readable(s3: LocalS3, front: Front, folder: Path, odd: World, two_sets: TwoSets) -> World:
    """A world whose store has two sets and cannot be written."""
    fill(s3, folder, two_sets.folder)
    front.refuse = read_only
    return odd


@pytest.mark.long
def test_a_backup_into_a_store_that_can_only_be_read_is_refused_at_once(readable: World, front: Front) -> None:
    place = f"{readable.store['BACKUP_STORE']}/{CONTEXT}/daily/{CONTEXT}_full_[^ ]*"
    with pytest.raises(BadInput, match=rf"{place}: AccessDenied: Access Denied\.; the access key lacks s3:PutObject:"):
        readable.backup()
    # Nothing was dumped, and nothing asked twice.
    assert len(front.refused) == 1


@pytest.mark.long
def test_a_set_is_verified_where_it_cannot_be_marked(readable: World, two_sets: TwoSets, caplog: pytest.LogCaptureFixture) -> None:
    verdict = str(readable.run(verify_backups, "backup_reader"))
    assert verdict.startswith(f"PASS: {two_sets.newer} decoded in ") and verdict.endswith(", not marked")
    said = report(readable, f"{CONTEXT}-verification")
    assert f"that {two_sets.newer} was decoded could not be recorded in the store" in said and "AccessDenied" in said
    assert "the file that protects the set from pruning could not be deleted" not in caplog.text
    verdict = str(readable.run(verify_backups, "backup_reader", fraction=1))
    assert verdict == "PASS: 2 sets decoded, but 2 could not be marked as verified, so that the next run verifies them again"


@pytest.mark.long
def test_a_recovery_and_a_drill_from_a_store_that_can_only_be_read(readable: World, two_sets: TwoSets) -> None:
    assert readable.recover().startswith("PASS")
    readable.assert_recovered(two_sets.before_newer)
    assert str(readable.run(recovery_drill, "backup_restorer")).startswith("PASS")
    said = report(readable, f"{CONTEXT}-drill")
    assert "the drill could not be recorded in the store: " in said and "AccessDenied" in said and "could not be read" not in said


# --- certificates -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate of `localhost` that no authority has signed, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run([*words.split(), "-keyout", "key.pem", "-out", "server.pem"], check=True, capture_output=True, cwd=folder)
    with (folder / "server.pem").open("a") as file:
        file.write((folder / "key.pem").read_text())
    return folder / "server.pem"


@contextmanager
def over_tls(certificate: Path) -> Iterator[tuple[int, list[int]]]:
    """Serve HTTPS; give its port, and a list that grows with each connection."""
    connections = list[int]()

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def get_request(self) -> object:  # type: ignore[override]
            connections.append(1)
            return super().get_request()

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that does not trust it hangs up."""

    server = Server(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_address[1], connections
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("host", "bundle", "said"),
    [
        ("localhost", None, "the server's certificate is not trusted: .*self.signed.*name the server's CA file in AWS_CA_BUNDLE"),
        (
            "127.0.0.1",
            "own",
            "the server's certificate is not trusted: .*127.0.0.1.*AWS_ENDPOINT_URL has the host name in the certificate",
        ),
        ("localhost", "/no/such/file.pem", "AWS_CA_BUNDLE /no/such/file.pem: No such file or directory; name the PEM file"),
        ("localhost", "/", "AWS_CA_BUNDLE /: Is a directory; name the PEM file"),
        ("localhost", "empty", "AWS_CA_BUNDLE .*empty holds no certificates; name the PEM file"),
    ],
    ids=["untrusted", "another name", "no bundle", "a folder", "no certificates"],
)
def test_a_certificate_that_is_not_trusted_is_told_at_once(
    certificate: Path, tmp_path: Path, s3: LocalS3, monkeypatch: pytest.MonkeyPatch, host: str, bundle: str | None, said: str
) -> None:
    (tmp_path / "empty").touch()
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    if bundle:
        monkeypatch.setenv("AWS_CA_BUNDLE", {"own": str(certificate), "empty": str(tmp_path / "empty")}.get(bundle, bundle))
    with over_tls(certificate) as (port, connections):
        store = open_store(StoreAddress(s3.url, credentials(s3, f"https://{host}:{port}")))
        with pytest.raises(BadInput, match=said) as error:
            store.put("a", file_of(tmp_path, 1000), "STANDARD", {})
    assert len(connections) <= 1
    assert "network" not in str(error.value)


def test_a_server_without_tls_is_told_at_once(front: Front, s3: LocalS3) -> None:
    store = open_store(StoreAddress(s3.url, credentials(s3, front.url.replace("http:", "https:"))))
    with pytest.raises(BadInput, match="does not use TLS; write http:// in AWS_ENDPOINT_URL"):
        store.head("a")


def test_a_handshake_that_is_cut_is_the_networks(s3: LocalS3) -> None:
    """A connection that ends within the handshake is no refusal."""
    once = {"total_max_attempts": 1, "mode": "standard"}

    class Cutting(BaseHTTPRequestHandler):
        def handle(self) -> None:
            self.request.recv(10)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Cutting)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        url = f"https://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(StoreUnavailable, match="check the network and AWS_ENDPOINT_URL"):
            open_store(StoreAddress(s3.url, credentials(s3, url, retries=once))).head("a")
    finally:
        server.shutdown()
        server.server_close()
