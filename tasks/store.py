"""The store: one small interface over S3 and over a folder. Keys are paths below the store's root.

What servers do differently, and what a network does in between, is dealt with here and nowhere else: an object is written
and then compared by what the store says of it, a cut download goes on where it was cut, create-only is create-only.
"""

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError, ParamValidationError
from prefect import get_run_logger
from prefect.blocks.core import Block
from prefect.exceptions import MissingContextError
from tenacity import RetryCallState, retry, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random
from urllib3.exceptions import HTTPError

from tasks.core.errors import AlreadyExists, BadInput, ColdObject, DamagedSet, StoreUnavailable, TierUnavailable
from tasks.core.kinds import COLD_CLASSES
from tasks.core.progress import Moved, unmeasured
from tasks.core.signature import Signer, Trust

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.literals import StorageClassType, TierType
    from mypy_boto3_s3.type_defs import CopySourceTypeDef
    from prefect_aws import AwsCredentials

CHUNK_BYTES = 1 << 20
RANGE_CHUNK_BYTES = 1 << 16
# More than any manifest, mark or record has: what is read whole is kept in memory.
MOST_READ_BYTES = 512 << 20
DOWNLOAD_TRIES = 6
PARTIAL = ".partial-"
ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
NO_THAW = frozenset({"501", "NotImplemented", "405", "MethodNotAllowed"})
TAKEN = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
# What asking again does not change; a HEAD has no body and says the number alone.
REFUSALS = frozenset({
    "301", "400", "401", "403", "AccessDenied", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId",
    "InvalidBucketName", "InvalidToken", "NoSuchBucket", "PermanentRedirect", "RequestTimeTooSkewed", "SignatureDoesNotMatch",
})  # fmt: skip


def _tell(call: RetryCallState) -> None:
    assert call.outcome and call.next_action  # noqa: S101
    seconds, error = call.next_action.sleep, call.outcome.exception()
    # What is no flow (a registration, a kit) asks the store too.
    with suppress(MissingContextError):
        get_run_logger().warning("attempt %d: %s; again in %.0f s", call.attempt_number, error, seconds)


# For what is done with the store and may be done twice: only its silence is worth another try.
persistent = retry(
    retry=retry_if_exception_type(StoreUnavailable),
    stop=stop_after_attempt(4),
    wait=wait_exponential(multiplier=2) + wait_random(0, 2),
    before_sleep=_tell,
    reraise=True,
)


@dataclass(frozen=True)
class StoreAddress:
    """Where a store is: `s3://bucket[/prefix]` or an absolute folder, and the AwsCredentials block with its credentials, if any.

    `trust` says whose sets in it are accepted, `signer` signs those that are written there.
    """

    url: str
    credentials: Block | None = field(default=None, repr=False)
    trust: Trust = field(default=Trust(), repr=False, compare=False)
    signer: Signer | None = field(default=None, repr=False, compare=False)

    def copy_in(self, folder: str) -> "StoreAddress":
        """Return the address of a folder with copies of this store's sets, which were signed for this store."""
        return replace(self, url=folder, credentials=None)

    @property
    def off_host(self) -> bool:
        """Whether the store outlives this machine, as far as can be told."""
        return self.url.startswith("s3://")

    @cached_property
    def opened(self) -> "Store":
        """The open store, one for all tasks of a flow run; a client takes long to make, and every run makes its own."""
        return open_store(self)

    def path(self, key: str) -> str:
        """Return the full path of an object, as an operator would name it."""
        return f"{self.url.rstrip('/')}/{key}"


@dataclass(frozen=True)
class ObjectInfo:
    """What a store says of an object without reading it."""

    key: str
    bytes: int
    modified: datetime
    storage_class: str
    metadata: dict[str, str] = field(default_factory=dict)
    locked_until: datetime | None = None


@dataclass(frozen=True)
class Upload:
    """An upload that was begun and not ended: nothing lists it, and it is paid for."""

    key: str
    begun: datetime
    id: str


class Store(Protocol):
    """What the project asks of a store.

    Every method raises StoreUnavailable when it does not answer, and BadInput when it refuses for good.
    """

    keeps_metadata: bool

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with the prefix, without reading any."""

    def head(self, key: str) -> ObjectInfo | None:
        """Return what the store says of one object, or None if it is absent."""

    def put(
        self, key: str, file: Path, storage_class: str, metadata: dict[str, str], moved: Moved = unmeasured
    ) -> None:  # fmt: skip
        """Store a file, replacing what is there, and say how many bytes have gone."""

    def create(self, key: str, data: bytes, storage_class: str, metadata: dict[str, str]) -> None:
        """Store a small object that must not be there yet (AlreadyExists); our own earlier attempt counts as success."""

    def replace(self, key: str, data: bytes, storage_class: str) -> None:
        """Store a small object in place of what is there."""

    def read(self, key: str) -> bytes:
        """Return a small object; one that is too large to be a manifest, a mark or a record is DamagedSet."""

    def fetch(self, key: str, target: IO[bytes], moved: Moved = unmeasured) -> str:
        """Write an object to an open file, say how many bytes have come, and return its SHA-256."""

    def require_readable(self, key: str) -> ObjectInfo | None:
        """Ask before reading: None if absent, ColdObject if it has to be thawed first."""

    def clock(self) -> datetime | None:
        """Return what time it is for the store, if it has a clock of its own."""

    def set_class(self, key: str, storage_class: str) -> str:
        """Give an object another storage class where it lies, and look; return the one that it has."""

    def thaw(self, key: str, days: int, tier: str) -> bool:
        """Ask for a cold object to be made readable for some days; return False if it is being done already."""

    def delete(self, key: str) -> None:
        """Delete one object; that it is gone already is as good."""

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Yield the unfinished uploads of objects whose key starts with the prefix."""

    def abort(self, upload: Upload) -> None:
        """End an unfinished upload; that it is gone already is as good."""


def open_store(address: StoreAddress) -> Store:
    """Open a store with a fresh client, because temporary credentials age.

    Raises:
        BadInput: the address is neither s3://bucket[/prefix] nor an absolute folder.
    """
    if address.url.startswith("s3://"):
        bucket, _, prefix = address.url.removeprefix("s3://").partition("/")
        if not bucket:
            raise BadInput(f'BACKUP_STORE "{address.url}" names no bucket; write s3://bucket or s3://bucket/prefix')
        return S3Store(_client(address.credentials), bucket, prefix.strip("/"))
    if not address.url.startswith("/"):
        raise BadInput(f'BACKUP_STORE "{address.url}" is neither s3://bucket[/prefix] nor an absolute folder')
    return FolderStore(Path(address.url))


def _client(credentials: Block | None) -> "S3Client":
    """Return a client that gives up in bounded time; what the operator configured wins.

    Raises:
        BadInput: profile, endpoint or another setting is none.
    """
    try:
        return _new_client(credentials)
    except (BotoCoreError, ValueError) as error:
        raise BadInput(f"the settings of the store: {error}; correct the AWS_… variables, the profile or the block") from error


def _new_client(block: Block | None) -> "S3Client":
    credentials = cast("AwsCredentials | None", block)
    session = credentials.get_boto3_session() if credentials else boto3.Session()
    parameters = credentials.aws_client_parameters.get_params_override() if credentials else {}
    endpoint = parameters.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    ours = Config(connect_timeout=10, read_timeout=30, retries={"mode": "standard"}, tcp_keepalive=True)
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        ours = ours.merge(Config(retries={"total_max_attempts": 5, "mode": "standard"}))
    if endpoint:
        # Not every server knows the newer checksum headers, nor buckets as host names.
        ours = ours.merge(Config(s3={"addressing_style": "path"}))
        if "AWS_REQUEST_CHECKSUM_CALCULATION" not in os.environ:
            ours = ours.merge(Config(request_checksum_calculation="when_required"))
    given = parameters.pop("config", None)
    parameters["config"] = ours.merge(given) if given else ours
    client: S3Client = session.client("s3", **parameters)
    return client


class S3Store:
    """A bucket, or a prefix of one."""

    keeps_metadata = True

    def __init__(self, client: "S3Client", bucket: str, prefix: str) -> None:
        self._client, self._bucket, self._root = client, bucket, f"{prefix}/" if prefix else ""
        self._transfer = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=2)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects below a prefix."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._root + prefix)
        with self._answering(prefix):
            for page in pages:
                for one in page.get("Contents", []):
                    key = one["Key"].removeprefix(self._root)
                    yield ObjectInfo(key, one["Size"], one["LastModified"], one.get("StorageClass", "STANDARD"))

    def head(self, key: str) -> ObjectInfo | None:
        """Return what the store says of an object."""
        with self._answering(key):
            facts = self._head(key)
        return _info(key, facts) if facts else None

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            return dict(self._client.head_object(Bucket=self._bucket, Key=self._root + key))
        except ClientError as error:
            if _code(error) in ABSENT:
                return None
            raise

    def put(
        self, key: str, file: Path, storage_class: str, metadata: dict[str, str], moved: Moved = unmeasured
    ) -> None:  # fmt: skip
        """Upload a file, in parts if it is large."""
        extra = {"StorageClass": storage_class, "Metadata": metadata}
        with self._answering(key):
            self._client.upload_file(
                str(file), self._bucket, self._root + key, ExtraArgs=extra, Config=self._transfer, Callback=_summed(moved)
            )

    def create(self, key: str, data: bytes, storage_class: str, metadata: dict[str, str]) -> None:
        """Put with If-None-Match, then look: the reply to our own first try may have been lost."""
        existing = self.head(key)
        with self._answering(key):
            if existing is None:
                self._put_new(key, data, storage_class, metadata)
        if self.read(key) != data:
            raise AlreadyExists(f"{key} is in the store already and is not what this run wrote; it is left as it is")

    def _put_new(self, key: str, data: bytes, storage_class: str, metadata: dict[str, str]) -> None:
        chosen = cast("StorageClassType", storage_class)
        try:
            self._client.put_object(
                Bucket=self._bucket, Key=self._root + key, Body=data, StorageClass=chosen, Metadata=metadata, IfNoneMatch="*"
            )
        except ClientError as error:
            if _code(error) not in TAKEN:
                raise

    def replace(self, key: str, data: bytes, storage_class: str) -> None:
        """Put a small object over what is there."""
        chosen = cast("StorageClassType", storage_class)
        with self._answering(key):
            self._client.put_object(Bucket=self._bucket, Key=self._root + key, Body=data, StorageClass=chosen)

    def read(self, key: str) -> bytes:
        """Return a small object."""
        data = _SmallBuffer(self._place(key))
        self.fetch(key, data)
        return data.getvalue()

    def fetch(self, key: str, target: IO[bytes], moved: Moved = unmeasured) -> str:
        """Download, going on with a Range request where the network cut the stream."""
        sha256 = hashlib.sha256()
        with self._answering(key):
            facts = self._client.head_object(Bucket=self._bucket, Key=self._root + key)
            size, tag, done, tries = facts["ContentLength"], facts["ETag"], 0, 0
            while done < size:
                begun = done
                try:
                    for chunk in self._range(key, done, tag):
                        target.write(chunk)
                        sha256.update(chunk)
                        done += len(chunk)
                        moved(done)
                        tries = 0
                    if done == begun:
                        raise StoreUnavailable(f"{self._place(key)}: no more than {done} of {size} bytes come; try again")
                except (HTTPClientError, HTTPError, BotoCoreError):
                    tries += 1
                    if tries == DOWNLOAD_TRIES:
                        raise
        return sha256.hexdigest()

    def _range(self, key: str, offset: int, tag: str) -> Iterator[bytes]:
        body = self._client.get_object(Bucket=self._bucket, Key=self._root + key, Range=f"bytes={offset}-", IfMatch=tag)["Body"]
        with body:
            # What came since the last whole chunk is lost with the connection.
            yield from body.iter_chunks(RANGE_CHUNK_BYTES)

    def require_readable(self, key: str) -> ObjectInfo | None:
        """Ask HEAD; where it says cold, ask for one byte, because some servers let cold objects be read."""
        with self._answering(key):
            facts = self._head(key)
            if facts is None:
                return None
            if _is_cold(facts) and not self._gives_a_byte(key):
                state = "is being thawed" if 'ongoing-request="true"' in facts.get("Restore", "") else "has to be thawed first"
                raise ColdObject(
                    f"{self._place(key)} lies in storage class {facts['StorageClass']} and {state}; "
                    f"ask for it (aws s3api restore-object --bucket {self._bucket} --key '{self._root}{key}' "
                    "--restore-request Days=7) and run again when it is there"
                )
        return _info(key, facts)

    def _gives_a_byte(self, key: str) -> bool:
        try:
            self._client.get_object(Bucket=self._bucket, Key=self._root + key, Range="bytes=0-0")["Body"].read()
        except ClientError as error:
            if _code(error) == "InvalidObjectState":
                return False
            raise
        return True

    def clock(self) -> datetime | None:
        """Return the date that the server puts on its answers, if it does."""
        with self._answering(""):
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._root, MaxKeys=1)
        said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return parsedate_to_datetime(said) if said else None

    def set_class(self, key: str, storage_class: str) -> str:
        """Copy an object onto itself, in parts if it is large; its metadata stay."""
        place: CopySourceTypeDef = {"Bucket": self._bucket, "Key": self._root + key}
        with self._answering(key):
            before = self._client.head_object(Bucket=self._bucket, Key=self._root + key)
            if before.get("StorageClass", "STANDARD") == storage_class:
                return storage_class
            extra = {"StorageClass": storage_class, "Metadata": before["Metadata"], "MetadataDirective": "REPLACE"}
            self._client.copy(place, self._bucket, self._root + key, ExtraArgs=extra, Config=self._transfer)
            after = self._client.head_object(Bucket=self._bucket, Key=self._root + key)
        found = after.get("StorageClass", "STANDARD"), after["ContentLength"], after["Metadata"]
        if found != (storage_class, before["ContentLength"], before["Metadata"]):
            raise StoreUnavailable(f"{self._place(key)}: asked for class {storage_class}, the store has made it {found}; try again")
        return storage_class

    def thaw(self, key: str, days: int, tier: str) -> bool:
        """Ask for a readable copy (https://docs.aws.amazon.com/AmazonS3/latest/API/API_RestoreObject.html)."""
        with self._answering(key):
            try:
                self._client.restore_object(
                    Bucket=self._bucket, Key=self._root + key,
                    RestoreRequest={"Days": days, "GlacierJobParameters": {"Tier": cast("TierType", tier)}},
                )  # fmt: skip
            except ClientError as error:
                if _code(error) == "RestoreAlreadyInProgress":
                    return False
                if _code(error) in NO_THAW:
                    raise ColdObject(
                        f"{self._place(key)} is cold, and this store knows no thaw ({_code(error)}); ask its operator"
                    ) from error
                if _code(error) == "GlacierExpeditedRetrievalNotAvailable":
                    raise TierUnavailable(f"{self._place(key)}: no {tier} thaw is to be had now") from error
                raise
        return True

    def delete(self, key: str) -> None:
        """Delete an object; of a bucket with versions this leaves a marker, and the version."""
        with self._answering(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._root + key)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Yield unfinished multipart uploads."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=self._root + prefix)
        with self._answering(prefix):
            for page in pages:
                for one in page.get("Uploads", []):
                    yield Upload(one["Key"].removeprefix(self._root), one["Initiated"], one["UploadId"])

    def abort(self, upload: Upload) -> None:
        """Give back the parts of a multipart upload."""
        with self._answering(upload.key):
            try:
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._root + upload.key, UploadId=upload.id)
            except ClientError as error:
                if _code(error) not in {*ABSENT, "NoSuchUpload"}:
                    raise

    @contextmanager
    def _answering(self, key: str) -> Iterator[None]:
        """Turn every way in which a server fails to answer into one error that names the object."""
        place = self._place(key)
        try:
            yield
        except ClientError as error:
            said = error.response.get("Error", {})
            reason = said.get("Message") or "no reason given"
            kind = BadInput if _code(error) in REFUSALS else StoreUnavailable
            raise kind(f"{place}: {_code(error)}: {reason}; check bucket, credentials and rights") from error
        except (NoCredentialsError, ParamValidationError) as error:
            raise BadInput(f"{place}: {' '.join(str(error).split())}; correct BACKUP_STORE and the AWS_… variables") from error
        except (BotoCoreError, Boto3Error, HTTPError) as error:
            raise StoreUnavailable(f"{place}: {error}; check the network and AWS_ENDPOINT_URL") from error

    def _place(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._root}{key}"


def _require_small(place: str, size: int) -> None:
    if size > MOST_READ_BYTES:
        raise DamagedSet(f"{place} has {size:,} bytes, which is more than anything has that is read whole; look at it")


class _SmallBuffer(io.BytesIO):
    """What is read whole; it takes no more than fits into memory."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def write(self, data: Any) -> int:
        _require_small(self._place, self.tell() + len(data))
        return super().write(data)


def _summed(moved: Moved) -> Callable[[int], None]:
    """Return what boto3 tells of each block that went; the parts of a large file go side by side, by several threads."""
    lock, done = Lock(), 0

    def add(count: int) -> None:
        nonlocal done
        with lock:
            # What has to be sent again is taken back by a negative count.
            done += count
            moved(done)

    return add


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _info(key: str, facts: dict[str, Any]) -> ObjectInfo:
    storage_class = facts.get("StorageClass", "STANDARD")
    # A legal hold ends when somebody ends it.
    locked = datetime.max.replace(tzinfo=UTC) if facts.get("ObjectLockLegalHoldStatus") == "ON" else None
    return ObjectInfo(
        key, facts["ContentLength"], facts["LastModified"], storage_class, facts.get("Metadata", {}),
        locked or facts.get("ObjectLockRetainUntilDate"),
    )  # fmt: skip


def _is_cold(facts: dict[str, Any]) -> bool:
    cold = facts.get("StorageClass") in COLD_CLASSES or "ArchiveStatus" in facts
    return cold and 'ongoing-request="false"' not in facts.get("Restore", "")


class FolderStore:
    """A folder on a disk, for where there is no S3; files are 0600 in folders of 0700.

    Nothing outside of it is read or written, whatever a key, or a link in it, says.
    """

    keeps_metadata = False

    def __init__(self, root: Path) -> None:
        self._root = root

    def _at(self, key: str) -> Path:
        """Return where a key lies.

        Raises:
            BadInput: it lies outside, or nobody can say where.
        """
        path = self._root / key
        if "\0" in key or not self._contains(path):
            raise BadInput(f"{key!r} leads out of the store's folder {self._root}: nothing there is touched; remove the link")
        return path

    def _contains(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self._root.resolve())
        except RuntimeError:
            # A link that leads to itself.
            return False

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the files below a prefix."""
        with self._answering(prefix):
            self._require_root()
            for path in sorted(self._at(prefix.rpartition("/")[0]).rglob("*")):
                key = path.relative_to(self._root).as_posix()
                if key.startswith(prefix) and path.is_file() and not path.name.startswith(PARTIAL) and self._is_ours(path):
                    yield _file_info(key, path)

    def _is_ours(self, path: Path) -> bool:
        """Say whether a file that was found is none that a link leads to outside: no such thing is listed."""
        return not path.is_symlink() or self._contains(path)

    def _require_root(self) -> None:
        if not self._root.is_dir():
            raise BadInput(f"{self._root}: no such folder; mount or make it, or correct BACKUP_STORE")

    def head(self, key: str) -> ObjectInfo | None:
        """Return what the disk says of a file."""
        with self._answering(key):
            self._require_root()
            path = self._at(key)
            return _file_info(key, path) if path.is_file() else None

    def put(
        self, key: str, file: Path, storage_class: str, metadata: dict[str, str], moved: Moved = unmeasured
    ) -> None:  # fmt: skip
        """Copy a file in under another name, then give it its name."""
        with file.open("rb") as source:
            self._write(key, lambda target: shutil.copyfileobj(source, target, CHUNK_BYTES), Path.replace)
        moved(file.stat().st_size)

    def create(self, key: str, data: bytes, storage_class: str, metadata: dict[str, str]) -> None:
        """Write a new file whose name must be free."""
        try:
            self._write(key, lambda target: target.write(data), os.link)
        except FileExistsError as error:
            if self.read(key) != data:
                raise AlreadyExists(f"{key} is in the store already; it is left as it is") from error

    def replace(self, key: str, data: bytes, storage_class: str) -> None:
        """Write a small file in place of what is there."""
        self._write(key, lambda target: target.write(data), Path.replace)

    def _write(self, key: str, fill: Callable[[IO[bytes]], Any], name_it: Callable[[Path, Path], Any]) -> None:
        with self._answering(key):
            self._require_root()
            path = self._at(key)
            partial = path.with_name(f"{PARTIAL}{os.urandom(8).hex()}")
            _make_folders(self._root, path.parent)
            try:
                with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
                    fill(target)
                    target.flush()
                    os.fsync(target.fileno())
                name_it(partial, path)
                _reach_disk(path.parent)
            finally:
                partial.unlink(missing_ok=True)

    def read(self, key: str) -> bytes:
        """Return a small file."""
        with self._answering(key):
            path = self._at(key)
            _require_small(str(path), path.stat().st_size)
            return path.read_bytes()

    def fetch(self, key: str, target: IO[bytes], moved: Moved = unmeasured) -> str:
        """Copy a file out."""
        sha256 = hashlib.sha256()
        done = 0
        for chunk in self._chunks(key):
            target.write(chunk)
            sha256.update(chunk)
            done += len(chunk)
            moved(done)
        return sha256.hexdigest()

    def _chunks(self, key: str) -> Iterator[bytes]:
        with self._answering(key), self._at(key).open("rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                yield chunk

    def require_readable(self, key: str) -> ObjectInfo | None:
        """Nothing in a folder is cold."""
        return self.head(key)

    def clock(self) -> datetime | None:
        """Return nothing: files bear this machine's time."""
        return None

    def set_class(self, key: str, storage_class: str) -> str:
        """Do nothing: a folder has no classes."""
        return "folder"

    def thaw(self, key: str, days: int, tier: str) -> bool:
        """Do nothing: nothing in a folder is cold."""
        return False

    def delete(self, key: str) -> None:
        """Delete a file, and the folders that it leaves empty."""
        with self._answering(key):
            self._require_root()
            path = self._at(key)
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self._root or not folder.is_dir() or any(folder.iterdir()):
                    break
                with suppress(OSError):  # Somebody wrote there meanwhile.
                    folder.rmdir()

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Yield the files that were never given their name."""
        with self._answering(prefix):
            self._require_root()
            for path in sorted(self._at(prefix).rglob(f"{PARTIAL}*")):
                begun = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                yield Upload(path.relative_to(self._root).as_posix(), begun, path.name)

    def abort(self, upload: Upload) -> None:
        """Remove the file."""
        self.delete(upload.key)

    @contextmanager
    def _answering(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileExistsError:
            raise
        except OSError as error:
            raise StoreUnavailable(f"{self._root / key}: {error.strerror}; check the folder, its disk and its rights") from error


def _make_folders(root: Path, folder: Path) -> None:
    missing = [one for one in (folder, *folder.parents) if one.is_relative_to(root) and not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        # A folder is there after a crash if the one that names it is.
        _reach_disk(one)
        _reach_disk(one.parent)


def _reach_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_info(key: str, path: Path) -> ObjectInfo:
    facts = path.stat()
    return ObjectInfo(key, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC), "folder")
