"""The store adapter keeps its promises over S3 and over a folder alike."""

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.local import LocalS3
from tasks.core.errors import AlreadyExists, BadInput, ColdObject, StoreUnavailable
from tasks.store.address import StoreAddress, open_store
from tasks.store.interface import Store
from tests.support.stores import client_of, credentials

KEYS = [
    "plain.json",
    "bc-004/daily/a set/100%.copy.zst",
    "bc-004/組織・ガバナンス/違反 %20 ２０２５.copy.zst",
    "a+b&c=d/'quoted\"/~x",
]


@dataclass
class Place:
    """A store that is empty, and what is needed to look behind it."""

    address: StoreAddress
    store: Store
    folder: Path

    def file(self, data: bytes) -> Path:
        path = self.folder / "staged"
        path.write_bytes(data)
        return path


@pytest.fixture(params=["s3", "s3 with prefix", "s3 with prefix and slash", "folder", "folder with slash"])
def place(request: pytest.FixtureRequest, s3: LocalS3, tmp_path: Path) -> Iterator[Place]:
    if request.param.startswith("s3"):
        client = client_of(s3)
        bucket = f"store-{os.urandom(6).hex()}"
        client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "ap-northeast-1"})
        tail = {"s3": "", "s3 with prefix": "/team a/backups", "s3 with prefix and slash": "/backups/"}[request.param]
        address = StoreAddress(f"s3://{bucket}{tail}", credentials(s3))
    else:
        (tmp_path / "store").mkdir()
        address = StoreAddress(f"{tmp_path}/store" + ("/" if "slash" in request.param else ""))
    yield Place(address, open_store(address), tmp_path)


def fetched(store: Store, key: str) -> bytes:
    target = io.BytesIO()
    digest = store.fetch(key, target)
    assert digest == hashlib.sha256(target.getvalue()).hexdigest()
    return target.getvalue()


@pytest.mark.parametrize("key", KEYS)
def test_an_object_comes_back_under_its_key(place: Place, key: str) -> None:
    data = os.urandom(1000)
    place.store.put(key, place.file(data), "STANDARD", {"run": "3f9c"})

    found = place.store.head(key)

    assert found is not None
    assert (found.key, found.bytes) == (key, 1000)
    assert place.store.read(key) == data
    assert fetched(place.store, key) == data
    assert [one.key for one in place.store.list("")] == [key]
    assert place.store.require_readable(key) == found


def test_an_absent_object_is_absent(place: Place) -> None:
    assert place.store.head("bc-004/none") is None
    assert place.store.require_readable("bc-004/none") is None
    assert list(place.store.list("bc-004/")) == []
    for read in (place.store.read, lambda key: fetched(place.store, key)):
        with pytest.raises(StoreUnavailable, match="bc-004/none"):
            read("bc-004/none")


def test_an_empty_object(place: Place) -> None:
    place.store.put("empty", place.file(b""), "STANDARD", {})
    place.store.create("empty-too", b"", "STANDARD", {})

    assert fetched(place.store, "empty") == fetched(place.store, "empty-too") == b""
    assert [one.bytes for one in place.store.list("empty")] == [0, 0]


def test_put_replaces_and_replace_replaces(place: Place) -> None:
    place.store.put("one", place.file(b"first, and longer"), "STANDARD", {})
    place.store.put("one", place.file(b"second"), "STANDARD", {})
    assert place.store.read("one") == b"second"

    place.store.replace("one", b"third", "STANDARD")

    assert place.store.read("one") == b"third"


def test_create_never_replaces(place: Place) -> None:
    place.store.create("bc-004/manifest.json", b"first", "STANDARD", {})

    with pytest.raises(AlreadyExists, match=r"bc-004/manifest\.json is already in the store.*not overwritten"):
        place.store.create("bc-004/manifest.json", b"second", "STANDARD", {})

    assert place.store.read("bc-004/manifest.json") == b"first"
    assert [one.key for one in place.store.list("")] == ["bc-004/manifest.json"]


def test_creating_the_same_again_is_our_own_earlier_try(place: Place) -> None:
    for _ in range(2):
        place.store.create("bc-004/manifest.json", b"first", "STANDARD", {})

    assert place.store.read("bc-004/manifest.json") == b"first"


def test_a_prefix_is_a_prefix(place: Place) -> None:
    for key in ("bc-004/daily/x", "bc-004/owner.json", "bc-0040/daily/x", "bc-003/owner.json", "bc-004"):
        place.store.create(key, b"x", "STANDARD", {}) if key != "bc-004" or place.address.off_host else None

    assert [one.key for one in place.store.list("bc-004/")] == ["bc-004/daily/x", "bc-004/owner.json"]
    assert [one.key for one in place.store.list("bc-004/owner.json")] == ["bc-004/owner.json"]
    assert {one.key for one in place.store.list("bc-00")} >= {"bc-004/owner.json", "bc-0040/daily/x", "bc-003/owner.json"}


def test_forty_megabytes(place: Place) -> None:
    data = os.urandom(1 << 20) * 40
    place.store.put("large", place.file(data), "STANDARD_IA", {"sha256": "x"})

    found = place.store.head("large")

    assert found is not None
    assert found.bytes == len(data)
    assert found.storage_class == ("STANDARD_IA" if place.address.off_host else "folder")
    assert fetched(place.store, "large") == data


def test_it_says_how_far_an_object_is(place: Place) -> None:
    data, sent, come = os.urandom(1 << 20) * 40, list[float](), list[float]()
    place.store.put("large", place.file(data), "STANDARD", {}, sent.append)
    place.store.fetch("large", io.BytesIO(), come.append)

    assert sent == sorted(sent)
    assert come == sorted(come)
    assert sent[-1] == come[-1] == len(data)
    # A folder on this machine takes a file in one go.
    assert len(sent) > 10 or not place.address.off_host
    assert len(come) > 10


def test_an_object_outside_of_the_prefix_is_not_ours(s3: LocalS3) -> None:
    client = client_of(s3)
    client.put_object(Bucket=s3.bucket, Key="elsewhere/bc-004/owner.json", Body=b"x")

    assert list(open_store(StoreAddress(f"{s3.url}/else", credentials(s3))).list("")) == []


@pytest.mark.long
def test_more_objects_than_one_page_of_a_listing(s3: LocalS3) -> None:
    client = client_of(s3)
    keys = [f"many/bc-004/{number:04}" for number in range(1003)]
    for key in keys:
        client.put_object(Bucket=s3.bucket, Key=key, Body=b"")

    listed = [one.key for one in open_store(StoreAddress(f"{s3.url}/many", credentials(s3))).list("bc-004/")]

    assert [f"many/{key}" for key in listed] == keys


def test_metadata_and_class_travel_with_an_object(s3: LocalS3, tmp_path: Path) -> None:
    place = Place(
        StoreAddress(f"{s3.url}/meta", credentials(s3)), open_store(StoreAddress(f"{s3.url}/meta", credentials(s3))), tmp_path
    )
    place.store.put("a", place.file(b"x"), "STANDARD_IA", {"run": "3f9c", "sha256": "abc"})
    place.store.put("b", place.file(b"x"), "STANDARD", {})

    first, second = place.store.head("a"), place.store.head("b")

    assert first and (first.storage_class, first.metadata) == ("STANDARD_IA", {"run": "3f9c", "sha256": "abc"})
    assert second and (second.storage_class, second.metadata) == ("STANDARD", {})


def test_a_cold_object_is_listed_and_not_read(s3: LocalS3, tmp_path: Path) -> None:
    address = StoreAddress(f"{s3.url}/cold", credentials(s3))
    place = Place(address, open_store(address), tmp_path)
    place.store.put("bc-004/a b", place.file(b"x"), "GLACIER", {})

    assert [one.storage_class for one in place.store.list("bc-004/")] == ["GLACIER"]
    with pytest.raises(ColdObject) as cold:
        place.store.require_readable("bc-004/a b")

    assert f"{s3.url}/cold/bc-004/a b is in storage class GLACIER" in str(cold.value)
    assert f"aws s3api restore-object --bucket {s3.bucket} --key 'cold/bc-004/a b'" in str(cold.value)
    client_of(s3).restore_object(Bucket=s3.bucket, Key="cold/bc-004/a b", RestoreRequest={"Days": 1})
    assert place.store.require_readable("bc-004/a b") is not None
    assert place.store.read("bc-004/a b") == b"x"


def test_a_folder_is_private_and_has_no_half_files(tmp_path: Path) -> None:
    store = open_store(StoreAddress(str(tmp_path)))
    old = os.umask(0)
    try:
        store.create("bc-004/daily/x/manifest.json", b"x", "STANDARD", {})
        staged = tmp_path.parent / f"{tmp_path.name}-staged"
        staged.write_bytes(b"y")
        store.put("bc-004/daily/x/data/y", staged, "STANDARD", {})
    finally:
        os.umask(old)

    paths = list(tmp_path.rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o600}
    assert {path.name for path in paths if path.is_file()} == {"manifest.json", "y"}
    (tmp_path / "bc-004/daily/x/data/.partial-0123").write_bytes(b"half")
    assert [one.key for one in store.list("bc-004/")] == ["bc-004/daily/x/data/y", "bc-004/daily/x/manifest.json"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(StoreAddress(str(tmp_path)))
    store.create("bc-004/owner.json", b"x", "STANDARD", {})
    staged = tmp_path.parent / f"{tmp_path.name}-staged"
    staged.write_bytes(b"y")

    # The name is taken by a file where a folder would have to be.
    with pytest.raises(StoreUnavailable, match=r"bc-004/owner\.json/daily/y: .*check the folder"):
        store.put("bc-004/owner.json/daily/y", staged, "STANDARD", {})

    assert [path.name for path in tmp_path.rglob("*")] == ["bc-004", "owner.json"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://bucket", 'BACKUP_STORE "http://bucket" is neither'),
        ("s3:", 'BACKUP_STORE "s3:" is neither'),
        ("s3:///prefix", "names no bucket"),
        ("relative/folder", "is neither s3://bucket"),
        ("", "is neither s3://bucket"),
    ],
)
def test_an_address_that_is_none(url: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        open_store(StoreAddress(url))


def test_a_bucket_or_folder_that_is_not_there_is_refused_at_once(s3: LocalS3, tmp_path: Path) -> None:
    missing = StoreAddress("s3://no-such-bucket/prefix", credentials(s3)), StoreAddress(f"{tmp_path}/none")
    for address, said in zip(missing, ("NoSuchBucket.*check bucket", "does not exist; mount or create it"), strict=True):
        with pytest.raises(BadInput, match=f"{address.url}.*{said}"):
            list(open_store(address).list("bc-004/"))
        with pytest.raises(BadInput, match=f"{address.url}.*{said}"):
            open_store(address).create("bc-004/owner.json", b"x", "STANDARD", {})
    assert not (tmp_path / "none").exists()


def test_settings_of_the_client_that_are_none(s3: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"settings of the store.*nonsense"):
        open_store(StoreAddress(s3.url, credentials(s3, "nonsense")))
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(BadInput, match=r"no-such-profile.*correct the AWS_"):
        open_store(StoreAddress(s3.url))
    monkeypatch.delenv("AWS_PROFILE")
    with pytest.raises(BadInput, match=r"Invalid bucket name.*correct BACKUP_STORE"):
        list(open_store(StoreAddress("s3://no bucket", credentials(s3))).list(""))
