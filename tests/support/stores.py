"""S3 stores, their keys, and an HTTP server before them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters

from deployments.local import LocalS3
from tests.support.world import World


def credentials(s3: LocalS3, endpoint: str = "", **config: Any) -> AwsCredentials:
    """Return a block that leads to the endpoint, or to a proxy before it."""
    parameters = AwsClientParameters(endpoint_url=endpoint or s3.endpoint, config=config or None)
    return AwsCredentials(
        aws_access_key_id="local", aws_secret_access_key="local", region_name="ap-northeast-1", aws_client_parameters=parameters
    )


def client_of(s3: LocalS3) -> Any:
    """Return a client of the tests' own."""
    return boto3.client(
        "s3", endpoint_url=s3.endpoint, aws_access_key_id="local", aws_secret_access_key="local", region_name="ap-northeast-1"
    )


def bucket_of(world: World) -> str:
    return world.store["BACKUP_STORE"].removeprefix("s3://").partition("/")[0]


def keys(world: World, s3: LocalS3) -> list[str]:
    return [one["Key"] for one in client_of(s3).list_objects_v2(Bucket=bucket_of(world)).get("Contents", [])]


def fill(s3: LocalS3, folder: Path, store: Path, storage_class: str = "STANDARD") -> None:
    """Copy a folder store into the bucket."""
    client = client_of(s3)
    for path in store.rglob("*"):
        if path.is_file():
            key = f"{folder.name}/{path.relative_to(store)}"
            client.put_object(Bucket=s3.bucket, Key=key, Body=path.read_bytes(), StorageClass=storage_class)


@dataclass(frozen=True)
class Asked:
    """A request, as it comes: its verb, its path with the query, and its headers by their names in lowercase."""

    verb: str
    path: str
    headers: dict[str, str]

    @property
    def writes(self) -> bool:
        """Whether it would change the store."""
        return self.verb in {"PUT", "POST", "DELETE"}

    @property
    def carries(self) -> bool:
        """Whether it has an object, or a part of one, in it."""
        return self.verb == "PUT" and "x-amz-copy-source" not in self.headers

    @property
    def storage_class(self) -> str:
        return self.headers.get("x-amz-storage-class", "STANDARD")


@dataclass(frozen=True)
class Refusal:
    """What a server answers instead of doing something; some servers give no text, some no body."""

    status: int
    code: str = ""
    text: str = ""

    @property
    def body(self) -> bytes:
        text = f"<Message>{self.text}</Message>" if self.text else ""
        return f"<Error><Code>{self.code}</Code>{text}</Error>".encode() if self.code else b""


def lacking(*classes: str, refusal: Refusal) -> Callable[[Asked], Refusal | None]:
    """Refuse what is to lie in some storage classes."""
    return lambda asked: refusal if asked.writes and asked.storage_class in classes else None


def demanding(*headers: str, refusal: Refusal) -> Callable[[Asked], Refusal | None]:
    """Refuse objects that come without any of some headers."""
    return lambda asked: refusal if asked.carries and not {*headers} & {*asked.headers} else None


def read_only(asked: Asked) -> Refusal | None:
    """Refuse whatever would change something."""
    return Refusal(403, "AccessDenied", "Access Denied.") if asked.writes else None


class Front(ThreadingHTTPServer):
    """An HTTP server before moto that refuses requests, changes them on their way up, and replies on their way down."""

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = urlsplit(endpoint).netloc
        self.drop_request: set[str] = set()
        self.drop_reply: set[str] = set()
        self.rewrite: Callable[[int, bytes], bytes] = lambda status, body: body
        self.refuse: Callable[[Asked], Refusal | None] = lambda asked: None
        self.requests = list[Asked]()
        self.refused = list[Asked]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        self.server.requests.append(asked)
        if refusal := self.server.refuse(asked):
            self.server.refused.append(asked)
            self._refuse(refusal)
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in self.server.drop_request | {"expect"}}
        upstream = HTTPConnection(self.server.upstream, timeout=20)
        upstream.request(self.command, self.path, body, headers)
        reply = upstream.getresponse()
        data = self.server.rewrite(reply.status, reply.read())
        self.send_response(reply.status)
        dropped = self.server.drop_reply | {"connection", "transfer-encoding", "server", "date"}
        for name, value in reply.getheaders():
            if name.lower() not in dropped and not (name.lower() == "content-length" and self.command != "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        upstream.close()

    def _refuse(self, refusal: Refusal) -> None:
        self.send_response(refusal.status)
        self.send_header("Content-Length", str(len(refusal.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(refusal.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def front_of(s3: LocalS3) -> Iterator[Front]:
    """Run such a server before the endpoint."""
    server = Front(s3.endpoint)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
