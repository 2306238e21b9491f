"""The store in an S3 bucket."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, cast

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from urllib3.exceptions import HTTPError

from tasks.core.errors import AlreadyExists, ColdObject, StoreUnavailable, TierUnavailable
from tasks.core.run import patience
from tasks.core.run.progress import Moved, unmeasured
from tasks.core.sets.name import COLD_CLASSES
from tasks.store.interface import ABSENT, ObjectInfo, SmallBuffer, Upload
from tasks.store.refusals import DEFAULT_CLASS, code_of, explain, may_be_class
from tasks.store.s3_writes import Writes

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.literals import TierType
    from mypy_boto3_s3.type_defs import CopySourceTypeDef

RANGE_CHUNK_BYTES = 1 << 16
DOWNLOAD_TRIES = 6
PART_BYTES = 16 << 20
IN_ONE_REQUEST = TransferConfig(multipart_threshold=PART_BYTES, use_threads=False)
NO_THAW = frozenset({"501", "NotImplemented", "405", "MethodNotAllowed"})
TAKEN = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})


class S3Store:
    """A bucket, or a prefix of it; `stricter` create clients for servers that require checksums."""

    keeps_metadata = True

    def __init__(self, client: "S3Client", bucket: str, prefix: str, stricter: "Sequence[Callable[[], S3Client]]" = ()) -> None:
        self._writes, self._bucket, self._root = Writes(client, stricter), bucket, f"{prefix}/" if prefix else ""
        self._transfer = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=2)

    @property
    def _client(self) -> "S3Client":
        return self._writes.client

    @property
    def lacking(self) -> frozenset[str]:
        """The requested storage classes that the store does not have."""
        return frozenset(self._writes.lacking)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects below a prefix."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._root + prefix)
        with self._answering(prefix):
            for page in pages:
                for entry in page.get("Contents", []):
                    key = entry["Key"].removeprefix(self._root)
                    yield ObjectInfo(key, entry["Size"], entry["LastModified"], entry.get("StorageClass", "STANDARD"))

    def head(self, key: str) -> ObjectInfo | None:
        """Return the facts of an object."""
        with self._answering(key):
            facts = self._head(key)
        return _info(key, facts) if facts else None

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            return dict(self._client.head_object(Bucket=self._bucket, Key=self._root + key))
        except ClientError as error:
            if code_of(error) in ABSENT:
                return None
            raise

    def put(
        self, key: str, file: Path, storage_class: str, metadata: dict[str, str], moved: Moved = unmeasured
    ) -> None:  # fmt: skip
        """Upload a file, in parts if it is large."""
        # One request needs no threads.
        how = self._transfer if file.stat().st_size >= PART_BYTES else IN_ONE_REQUEST

        def send(client: "S3Client", extra: dict[str, Any]) -> None:
            extra = {**extra, "Metadata": metadata}
            client.upload_file(str(file), self._bucket, self._root + key, ExtraArgs=extra, Config=how, Callback=_summed(moved))

        with self._answering(key):
            self._writes.in_class(storage_class, send)

    def create(self, key: str, data: bytes, storage_class: str, metadata: dict[str, str]) -> None:
        """Put with If-None-Match; compare an existing object, as an earlier answer may be lost."""
        existing = self.head(key)
        with self._answering(key):
            if existing is None:
                try:
                    self._put(key, data, storage_class, Metadata=metadata, IfNoneMatch="*")
                except ClientError as error:
                    if code_of(error) not in TAKEN:
                        raise
        if self.read(key) != data:
            raise AlreadyExists(f"{key} is already in the store with other content; it was not overwritten")

    def replace(self, key: str, data: bytes, storage_class: str) -> None:
        """Put a small object, and overwrite an existing one."""
        with self._answering(key):
            self._put(key, data, storage_class)

    def _put(self, key: str, data: bytes, storage_class: str, **how: Any) -> None:
        place = {"Bucket": self._bucket, "Key": self._root + key, "Body": data, **how}
        self._writes.in_class(storage_class, lambda client, extra: client.put_object(**place, **extra))

    def require_writable(self, key: str, storage_class: str) -> None:
        """Begin a multipart upload and abort it; a server without such uploads passes."""
        place: dict[str, Any] = {"Bucket": self._bucket, "Key": self._root + key}
        with self._answering(key):
            try:
                begun = self._writes.in_class(storage_class, lambda client, extra: client.create_multipart_upload(**place, **extra))
            except ClientError as error:
                if may_be_class(error):
                    return
                raise
            with suppress(ClientError):
                self._client.abort_multipart_upload(**place, UploadId=begun["UploadId"])

    def read(self, key: str) -> bytes:
        """Return a small object."""
        data = SmallBuffer(self._place(key))
        self.fetch(key, data)
        return data.getvalue()

    def fetch(self, key: str, target: IO[bytes], moved: Moved = unmeasured) -> str:
        """Download; if the network cuts the stream, continue with a Range request."""
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
                        raise StoreUnavailable(f"{self._place(key)}: only {done} of {size} bytes were received; try again")
                except (HTTPClientError, HTTPError, BotoCoreError):
                    tries += 1
                    if tries == DOWNLOAD_TRIES or not patience.is_left():
                        raise
        return sha256.hexdigest()

    def _range(self, key: str, offset: int, tag: str) -> Iterator[bytes]:
        body = self._client.get_object(Bucket=self._bucket, Key=self._root + key, Range=f"bytes={offset}-", IfMatch=tag)["Body"]
        with body:
            # Bytes since the last whole chunk are lost with the connection.
            yield from body.iter_chunks(RANGE_CHUNK_BYTES)

    def require_readable(self, key: str) -> ObjectInfo | None:
        """Send HEAD; request one byte of a cold object, as some servers return such objects at once."""
        with self._answering(key):
            facts = self._head(key)
            if facts is None:
                return None
            if _is_cold(facts) and not self._gives_a_byte(key):
                state = "is being thawed" if 'ongoing-request="true"' in facts.get("Restore", "") else "has to be thawed first"
                raise ColdObject(
                    f"{self._place(key)} is in storage class {facts['StorageClass']} and {state}; "
                    f"request the thaw (aws s3api restore-object --bucket {self._bucket} --key "
                    f"'{self._root}{key}' --restore-request Days=7) and run again when it is "
                    "readable"
                )
        return _info(key, facts)

    def _gives_a_byte(self, key: str) -> bool:
        try:
            self._client.get_object(Bucket=self._bucket, Key=self._root + key, Range="bytes=0-0")["Body"].read()
        except ClientError as error:
            if code_of(error) == "InvalidObjectState":
                return False
            raise
        return True

    def clock(self) -> datetime | None:
        """Return the server's time, from the Date header of an answer, if there is one."""
        with self._answering(""):
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._root, MaxKeys=1)
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return parsedate_to_datetime(date) if date else None

    def set_class(self, key: str, storage_class: str) -> str:
        """Copy an object onto itself, in parts if it is large; its metadata are kept."""
        with self._answering(key):
            before = self._client.head_object(Bucket=self._bucket, Key=self._root + key)
            there = before.get("StorageClass", DEFAULT_CLASS)
            if there == storage_class or storage_class in self.lacking or _is_cold(dict(before)):
                return there
            try:
                self._copy_onto_itself(key, before["Metadata"], storage_class)
            except (ClientError, Boto3Error) as error:
                if not may_be_class(error):
                    raise
            after = self._client.head_object(Bucket=self._bucket, Key=self._root + key)
        facts = after["ContentLength"], after["Metadata"]
        if facts != (before["ContentLength"], before["Metadata"]):
            raise StoreUnavailable(f"{self._place(key)}: size or metadata changed to {facts} in class {storage_class}; try again")
        if (there := after.get("StorageClass", DEFAULT_CLASS)) != storage_class:
            self._writes.lacking.add(storage_class)
        return there

    def _copy_onto_itself(self, key: str, metadata: dict[str, str], storage_class: str) -> None:
        place: CopySourceTypeDef = {"Bucket": self._bucket, "Key": self._root + key}
        extra = {"StorageClass": storage_class, "Metadata": metadata, "MetadataDirective": "REPLACE"}
        self._client.copy(place, self._bucket, self._root + key, ExtraArgs=extra, Config=self._transfer)

    def thaw(self, key: str, days: int, tier: str) -> bool:
        """Ask S3 for a temporary readable copy of an archived object.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_RestoreObject.html
        """
        with self._answering(key):
            try:
                self._client.restore_object(
                    Bucket=self._bucket, Key=self._root + key,
                    RestoreRequest={"Days": days, "GlacierJobParameters": {"Tier": cast("TierType", tier)}},
                )  # fmt: skip
            except ClientError as error:
                if code_of(error) == "RestoreAlreadyInProgress":
                    return False
                if code_of(error) in NO_THAW:
                    raise ColdObject(
                        f"{self._place(key)} is cold, and this store does not support thawing ({code_of(error)}); ask its operator"
                    ) from error
                if code_of(error) == "GlacierExpeditedRetrievalNotAvailable":
                    raise TierUnavailable(f"{self._place(key)}: retrieval tier {tier} is unavailable now") from error
                raise
        return True

    def delete(self, key: str) -> None:
        """Delete an object; a bucket with versioning keeps the version, and a delete marker."""
        with self._answering(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._root + key)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Yield unfinished multipart uploads."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=self._root + prefix)
        with self._answering(prefix):
            for page in pages:
                for entry in page.get("Uploads", []):
                    yield Upload(entry["Key"].removeprefix(self._root), entry["Initiated"], entry["UploadId"])

    def abort(self, upload: Upload) -> None:
        """Abort a multipart upload, which deletes its parts."""
        with self._answering(upload.key):
            try:
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._root + upload.key, UploadId=upload.id)
            except ClientError as error:
                if code_of(error) not in {*ABSENT, "NoSuchUpload"}:
                    raise

    @contextmanager
    def _answering(self, key: str) -> Iterator[None]:
        """Turn the library's errors into ours, which name the object."""
        place = self._place(key)
        try:
            yield
        except (BotoCoreError, Boto3Error, ClientError, HTTPError) as error:
            raise explain(place, error) from error

    def _place(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._root}{key}"


def _summed(moved: Moved) -> Callable[[int], None]:
    """Return a callback for boto3, which sends the parts of a large file in several threads."""
    lock, done = Lock(), 0

    def add(count: int) -> None:
        nonlocal done
        with lock:
            # boto3 reports a negative count before it sends bytes again.
            done += count
            moved(done)

    return add


def _info(key: str, facts: dict[str, Any]) -> ObjectInfo:
    storage_class = facts.get("StorageClass", "STANDARD")
    # A legal hold has no end date.
    locked = datetime.max.replace(tzinfo=UTC) if facts.get("ObjectLockLegalHoldStatus") == "ON" else None
    return ObjectInfo(
        key, facts["ContentLength"], facts["LastModified"], storage_class, facts.get("Metadata", {}),
        locked or facts.get("ObjectLockRetainUntilDate"),
    )  # fmt: skip


def _is_cold(facts: dict[str, Any]) -> bool:
    cold = facts.get("StorageClass") in COLD_CLASSES or "ArchiveStatus" in facts
    return cold and 'ongoing-request="false"' not in facts.get("Restore", "")
