"""One relation as a stream: COPY text through the row digest and the compressor into one private file.

Run as `python -m tasks.core.stream` it is a small process of its own, because the row loop holds the interpreter's lock: the
job comes as one JSON line on stdin, the facts leave as JSON on stdout, and it ends at once when stdin closes.
libpq is driven through psycopg's wrapper of it (https://www.postgresql.org/docs/current/libpq-copy.html): a Python-level
iteration over the rows costs about a third more.
"""

import hashlib
import json
import os
import select
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import psycopg
import zstandard
from psycopg import pq

from tasks.core import sql
from tasks.core.digest import RowDigest
from tasks.core.errors import OperationError
from tasks.core.servers import Connection, Server, connect

BLOCK_BYTES = 1 << 16
MORE_SPACE = "free some space, or set BACKUP_STAGING to a larger disk"
# Level 2 with a window and a hash table wider than its own, and matches of 7 bytes and more: rows with keys repeat over long
# distances. On 200 MB of violations 30 % less processor time than level 3, and 6 % fewer bytes. The frame's own checksum lets
# stock tools (zstd -t) see a damaged file.
COMPRESSION = zstandard.ZstdCompressionParameters.from_level(2, window_log=22, hash_log=17, min_match=7, write_checksum=True)
COMMAND = [sys.executable, "-m", "tasks.core.stream"]


@dataclass(frozen=True)
class StreamJob:
    """What to read, under which snapshot, and where to; without a file the rows are only counted and hashed."""

    database: str
    application_name: str
    schema: str
    name: str
    columns: list[str]
    encoding: str
    snapshot: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class StreamFacts:
    """What went by: rows, digest (32 hex digits), bytes before and after compression, SHA-256 of the file."""

    rows: int
    digest: str
    plain_bytes: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class StreamFault:
    """Why a stream ended early; `moved` when another snapshot may do better."""

    message: str
    moved: bool


class CompressedFile:
    """A new file of mode 0600 that is compressed and summed as it is written."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._compressor = zstandard.ZstdCompressor(compression_params=COMPRESSION).compressobj()
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, block: bytes) -> None:
        """Compress a block onto the end."""
        self._keep(self._compressor.compress(block))

    def _keep(self, packed: bytes) -> None:
        self._sha256.update(packed)
        self.bytes += self._file.write(packed)

    def finish(self) -> str:
        """Write what is held back, and return the SHA-256 of the file."""
        self._keep(self._compressor.flush())
        self._file.flush()
        return self._sha256.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def stream_relation(server: Server, job: StreamJob) -> StreamFacts:
    """Read one relation to its end.

    Raises:
        psycopg.Error: the snapshot is gone (InvalidParameterValue), a lock cannot be had at once
            (LockNotAvailable), or the session broke.
        OSError: the file cannot be written.
    """
    with connect(server, job.database, job.application_name) as connection:
        connection.execute(sql.START_SNAPSHOT)
        if job.snapshot:
            connection.execute(sql.import_snapshot(job.snapshot))
            # A queued ACCESS EXCLUSIVE would let COPY wait for ever behind the coordinator's own lock.
            connection.execute(sql.lock_tables([(job.schema, job.name)], nowait=True))
        connection.execute(sql.FIXED_SETTINGS)
        if job.file is None:
            digest = digest_relation(connection, job)
            return StreamFacts(digest.rows, digest.hex, digest.plain_bytes, 0, "")
        digest = RowDigest()
        with CompressedFile(job.file) as file:
            for rows, size in row_blocks(connection, job):
                digest.add(rows, size)
                file.write(b"".join(rows))
            sha256 = file.finish()
        return StreamFacts(digest.rows, digest.hex, digest.plain_bytes, file.bytes, sha256)


def digest_relation(connection: Connection, job: StreamJob) -> RowDigest:
    """Read one relation in a session that has the fixed settings; return count and digest of its rows."""
    digest = RowDigest()
    for rows, size in row_blocks(connection, job):
        digest.add(rows, size)
    return digest


def row_blocks(connection: Connection, job: StreamJob) -> Iterator[tuple[list[bytes], int]]:
    """Yield the rows of a relation in blocks of about 64 KB (what a processor keeps at hand), with each block's size.

    The server sends one CopyData message a row, and text format has no newline inside a row.
    """
    pgconn = connection.pgconn
    query = sql.copy_rows_out(job.schema, job.name, job.columns, job.encoding)
    pgconn.send_query(query.as_bytes(connection))
    _wait_for_result(pgconn)
    _expect(pgconn.get_result(), pq.ExecStatus.COPY_OUT, connection)
    rows, size = list[bytes](), 0
    while True:
        length, row = pgconn.get_copy_data(1)
        if length > 0:
            rows.append(bytes(row))
            size += length
            if size >= BLOCK_BYTES:
                yield rows, size
                rows, size = [], 0
        elif length == 0:
            _read_more(pgconn)
        else:
            break
    _expect(pgconn.get_result(), pq.ExecStatus.COMMAND_OK, connection)
    # libpq takes the next command only after it has said that there is no further result.
    while pgconn.get_result() is not None:
        pass
    yield rows, size


def _wait_for_result(pgconn: pq.abc.PGconn) -> None:
    pgconn.flush()
    while pgconn.is_busy():
        _read_more(pgconn)


def _read_more(pgconn: pq.abc.PGconn) -> None:
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN | select.POLLHUP)
    poll.poll()
    pgconn.consume_input()


def _expect(result: pq.abc.PGresult | None, status: pq.ExecStatus, connection: Connection) -> None:
    if result is not None and result.status == status:
        return
    if result is None or not result.error_message:
        raise psycopg.OperationalError(connection.pgconn.get_error_message("utf-8"))
    state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    message = result.error_message.decode("utf-8", "replace").strip()
    raise psycopg.errors.lookup(state)(message) if state else psycopg.OperationalError(message)


def describe_fault(error: Exception) -> StreamFault:
    """Say why a stream ended early."""
    # Lock not to be had, snapshot gone, table gone meanwhile: the schema moved, and another snapshot may do.
    moved = psycopg.errors.LockNotAvailable, psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedTable
    said = f"the staged file cannot be written: {error}; {MORE_SPACE}" if isinstance(error, OSError) else str(error)
    return StreamFault(" ".join(said.split()), isinstance(error, moved))


def _end_when_abandoned() -> None:
    """End this process when its stdin closes: nobody wants the rows any more."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> int:
    """Do the job that stands on stdin."""
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_when_abandoned, daemon=True).start()
    job = StreamJob(**order["job"])
    try:
        answer = {"facts": asdict(stream_relation(Server(order["server"]), job))}
        code = 0
    except (psycopg.Error, OSError, OperationError) as error:
        answer, code = {"fault": asdict(describe_fault(error))}, 1
        if job.file:
            Path(job.file).unlink(missing_ok=True)
    print(json.dumps(answer))  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
