"""The address of a store. Tasks get the address, and open the store when they need it."""

import base64
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from prefect.blocks.core import Block

from tasks.core.errors import BadInput
from tasks.core.run import patience
from tasks.core.sets.signature import Signer, Trust
from tasks.store.folder import CHUNK_BYTES, FolderStore
from tasks.store.interface import Store
from tasks.store.refusals import untrusted
from tasks.store.s3 import S3Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from prefect_aws import AwsCredentials


@dataclass(frozen=True)
class StoreAddress:
    """Where a store is: `s3://bucket[/prefix]` or an absolute folder, and its AwsCredentials block.

    `trust` says whose sets are accepted; `signer` signs new sets.
    """

    url: str
    credentials: Block | None = field(default=None, repr=False)
    trust: Trust = field(default=Trust(), repr=False, compare=False)
    signer: Signer | None = field(default=None, repr=False, compare=False)

    def copy_in(self, folder: str) -> "StoreAddress":
        """Return the address of a folder with copies of this store's sets, signed for it."""
        return replace(self, url=folder, credentials=None)

    @property
    def off_host(self) -> bool:
        """Whether the store is outside this machine; every S3 store counts as outside."""
        return self.url.startswith("s3://")

    @cached_property
    def opened(self) -> "Store":
        """The open store, one for all tasks of a flow run, as creating a client is slow."""
        return open_store(self)

    def path(self, key: str) -> str:
        """Return the full path of an object, as an operator would name it."""
        return f"{self.url.rstrip('/')}/{key}"


def open_store(address: StoreAddress) -> Store:
    """Open a store with a new client, because temporary credentials expire.

    Raises:
        BadInput: the address is neither s3://bucket[/prefix] nor the absolute path of a folder.
    """
    if address.url.startswith("s3://"):
        bucket, _, prefix = address.url.removeprefix("s3://").partition("/")
        if not bucket:
            raise BadInput(f'BACKUP_STORE "{address.url}" names no bucket; write s3://bucket or s3://bucket/prefix')
        return _s3_store(address.credentials, bucket, prefix.strip("/"))
    if not address.url.startswith("/"):
        raise BadInput(f'BACKUP_STORE "{address.url}" is neither s3://bucket[/prefix] nor the absolute path of a folder')
    return FolderStore(Path(address.url))


def _s3_store(credentials: Block | None, bucket: str, prefix: str) -> S3Store:
    """Return a store; it sends more checksums if a server other than Amazon's requires them.

    Raises:
        BadInput: the profile, the endpoint or another setting is not valid.
    """
    try:
        client = _new_client(credentials)
        choices = () if _chosen_checksums(credentials) or not _endpoint(credentials) else (_with_crc32, _with_md5)
        return S3Store(client, bucket, prefix, [partial(choice, credentials) for choice in choices])
    except (BotoCoreError, ValueError) as error:
        raise BadInput(f"the settings of the store: {error}; correct the AWS_… variables, the profile or the block") from error


def _parameters(block: Block | None) -> dict[str, Any]:
    credentials = cast("AwsCredentials | None", block)
    return credentials.aws_client_parameters.get_params_override() if credentials else {}


def _endpoint(block: Block | None) -> str:
    """Return the address of a server other than Amazon's, if one is set."""
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return _parameters(block).get("endpoint_url") or named or ""


def _chosen_checksums(block: Block | None) -> str | None:
    """Return when to send checksums, if the operator configured it."""
    given = _parameters(block).get("config")
    return getattr(given, "request_checksum_calculation", None) or os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION")


def _new_client(block: Block | None, checksums: Literal["when_required", "when_supported"] = "when_required") -> "S3Client":
    """Return a client with bounded timeouts and retries; the operator's settings win."""
    credentials = cast("AwsCredentials | None", block)
    session, parameters = credentials.get_boto3_session() if credentials else boto3.Session(), _parameters(block)
    ours = Config(connect_timeout=10, read_timeout=30, retries={"mode": "standard"}, tcp_keepalive=True)
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        ours = ours.merge(Config(retries={"total_max_attempts": 5, "mode": "standard"}))
    if _endpoint(block):
        # Not every server supports the newer checksum headers, or buckets as host names.
        ours = ours.merge(Config(s3={"addressing_style": "path"}))
        if not _chosen_checksums(block):
            ours = ours.merge(Config(request_checksum_calculation=checksums))
    given = parameters.pop("config", None)
    client: S3Client = session.client("s3", **parameters, config=ours.merge(given) if given else ours)
    # The handler's return value decides about a retry; the stubs do not know that it has one.
    client.meta.events.register_first("needs-retry.s3", cast("Callable[..., None]", _give_up))
    return client


def _give_up(caught_exception: Exception | None = None, response: tuple[Any, Any] | None = None, **_: Any) -> bool | None:
    """Stop boto3's retries if a certificate is not trusted, or if the time for retries is over."""
    if caught_exception and untrusted(caught_exception):
        raise caught_exception
    has_failed = caught_exception or (response and response[0].status_code >= HTTPStatus.INTERNAL_SERVER_ERROR)
    return False if has_failed and not patience.is_left() else None


def _with_crc32(block: Block | None) -> "S3Client":
    """Return a client that sends the same checksums as to Amazon."""
    return _new_client(block, "when_supported")


def _with_md5(block: Block | None) -> "S3Client":
    """Return a client that sends Content-MD5, as some servers require and boto3 no longer does."""
    client = _new_client(block)
    for operation in ("PutObject", "UploadPart"):
        client.meta.events.register(f"before-call.s3.{operation}", _add_md5)
    return client


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    body, digest = params["body"], hashlib.md5(usedforsecurity=False)
    if isinstance(body, bytes | bytearray):
        digest.update(body)
    else:
        start = body.tell()
        while chunk := body.read(CHUNK_BYTES):
            digest.update(chunk)
        body.seek(start)
    params["headers"]["Content-MD5"] = base64.b64encode(digest.digest()).decode()
