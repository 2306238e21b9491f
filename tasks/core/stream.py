"""One relation as a stream: COPY text through the row digest and the compressor into one private file.

Run as `python -m tasks.core.stream` it is a small process of its own, because the row loop holds the interpreter's lock: the
job comes as one JSON line on stdin, lines of JSON leave on stdout: how far it is, again and again, and at last the facts. It ends
at once when stdin closes.
libpq is driven through psycopg's wrapper of it (https://www.postgresql.org/docs/current/libpq-copy.html): a Python-level
iteration over the rows costs about a third more.
"""

import hashlib
import json
import os
import select
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import psycopg
import zstandard
from psycopg import pq

from tasks.core import login_sql, sql
from tasks.core.blocks import BaseBlocks, BlockRows, BlockState, Changes, Chosen, find_changes, render_lines, shift_for
from tasks.core.complaints import QUOTING_CLASSES, forget_rows
from tasks.core.digest import RowDigest
from tasks.core.errors import OperationError
from tasks.core.progress import Moved, unmeasured
from tasks.core.servers import Connection, Server, connect

BLOCK_BYTES = 1 << 16
MORE_SPACE = "free some space, or set BACKUP_STAGING to a larger disk"
# Level 2 with a window and a hash table wider than its own, and matches of 7 bytes and more: rows with keys repeat over long
# distances. On 200 MB of rows 30 % less processor time than level 3, and 6 % fewer bytes. The frame's own checksum lets
# stock tools (zstd -t) see a damaged file.
COMPRESSION = zstandard.ZstdCompressionParameters.from_level(2, window_log=22, hash_log=17, min_match=7, write_checksum=True)
COMMAND = [sys.executable, "-m", "tasks.core.stream"]
# How often a process says how far it is.
MOVED_SECONDS = 0.25


@dataclass(frozen=True)
class RowKeys:
    """Rows by their key: its columns, their types, by what operators they are equal, and for each column the values as text."""

    columns: list[str]
    types: list[str]
    equal: list[str]
    values: list[list[str]]


@dataclass(frozen=True)
class StreamJob:
    """What to read, under which snapshot, and where to; without a file the rows are only counted and hashed.

    With `count_blocks` the rows of each block are counted too; with a `base` only rows of blocks that changed are written; with
    `only` no other rows than those are read.
    """

    database: str
    application_name: str
    schema: str
    name: str
    columns: list[str]
    encoding: str
    snapshot: str | None = None
    file: str | None = None
    count_blocks: bool = False
    base: BaseBlocks | None = None
    only: RowKeys | None = None

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Self:
        """Return the job that another process was given."""
        base, only = plain["base"], plain["only"]
        blocks = base and BaseBlocks(base["xmin"], BlockRows.parse(base["counted"]))
        return cls(**{**plain, "base": blocks, "only": only and RowKeys(**only)})


@dataclass(frozen=True)
class StreamFacts:
    """What went by: rows, digest (32 hex digits), bytes before and after compression, SHA-256 of the file.

    Where they were asked for: rows by block (none of a table that is no heap), how many rows were written of blocks that
    changed, and which lines of the base they replace (as render_lines writes them).
    """

    rows: int
    digest: str
    plain_bytes: int
    bytes: int
    sha256: str
    blocks: BlockRows | None = None
    taken: int = 0
    left_out: str = ""

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Self:
        """Return the facts that another process told."""
        return cls(**{**plain, "blocks": plain["blocks"] and BlockRows.parse(plain["blocks"])})


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


def stream_relation(server: Server, job: StreamJob, moved: Moved = unmeasured) -> StreamFacts:
    """Read one relation to its end, and say how many bytes of rows have gone by.

    Raises:
        psycopg.Error: the snapshot is gone (InvalidParameterValue), a lock cannot be had at once
            (LockNotAvailable), or the session broke.
        OSError: the file cannot be written.
    """
    with reading(server, job) as connection:
        if job.file is None:
            digest = digest_relation(connection, job, moved)
            return StreamFacts(digest.rows, digest.hex, digest.plain_bytes, 0, "")
        changes = _changes(connection, job, job.base) if job.base else None
        chosen = Chosen(changes.taken) if changes else None
        digest = RowDigest()
        with CompressedFile(job.file) as file:
            for rows, size in row_blocks(connection, job):
                digest.add(rows, size)
                file.write(b"".join(chosen.of(rows) if chosen else rows))
                moved(digest.plain_bytes)
            sha256 = file.finish()
        facts = StreamFacts(digest.rows, digest.hex, digest.plain_bytes, file.bytes, sha256)
        if changes:
            return replace(facts, taken=changes.rows_taken, left_out=render_lines(changes.left_out))
        return replace(facts, blocks=_count_blocks(connection, job)) if job.count_blocks else facts


@contextmanager
def reading(server: Server, job: StreamJob) -> Iterator[Connection]:
    """Open a session that sees what the job's snapshot sees."""
    with connect(server, job.database, job.application_name) as connection:
        connection.execute(sql.START_SNAPSHOT)
        if job.snapshot:
            connection.execute(sql.import_snapshot(job.snapshot))
            # A queued ACCESS EXCLUSIVE would let COPY wait for ever behind the coordinator's own lock.
            connection.execute(sql.lock_tables([(job.schema, job.name)], nowait=True))
        connection.execute(sql.FIXED_SETTINGS)
        yield connection


def is_unchanged(server: Server, job: StreamJob, base: BaseBlocks) -> bool:
    """Say whether a relation has the rows that the base saw, and no other: it has as many, none of them younger.

    Raises:
        psycopg.Error: as stream_relation.
    """
    with reading(server, job) as connection:
        rows, old = connection.execute(sql.count_rows_and_old(job.schema, job.name, base.xmin)).fetchall()[0]
    return bool(rows == old == sum(base.counted.rows))


def runs_code(server: Server, job: StreamJob) -> bool:
    """Say whether a query of a relation would run code of its owner; to read it whole would not."""
    with reading(server, job) as connection:
        name = {"name": sql.quoted_name(job.schema, job.name)}
        return bool(connection.execute(login_sql.CODE_WHEN_PLANNED, name).fetchall()[0][0])


def _changes(connection: Connection, job: StreamJob, base: BaseBlocks) -> Changes:
    counted = connection.execute(sql.count_rows_by_block(job.schema, job.name, base.counted.shift, base.xmin)).fetchall()
    return find_changes(base.counted, [BlockState(*row) for row in counted])


def _count_blocks(connection: Connection, job: StreamJob) -> BlockRows | None:
    """Count rows by block; other tables than heaps say nothing about where rows lie, and of some a query would run their code."""
    name = {"name": sql.quoted_name(job.schema, job.name)}
    if connection.execute(login_sql.CODE_WHEN_PLANNED, name).fetchall()[0][0]:
        return None
    blocks, is_heap = connection.execute(sql.RELATION_BLOCKS, name).fetchall()[0]
    if not is_heap:
        return None
    shift = shift_for(blocks)
    counted = connection.execute(sql.count_rows_by_block(job.schema, job.name, shift, None)).fetchall()
    rows = [0] * (counted[-1][0] + 1 if counted else 0)
    for number, count, _ in counted:
        rows[number] = count
    return BlockRows.of(shift, rows)


def digest_relation(connection: Connection, job: StreamJob, moved: Moved = unmeasured) -> RowDigest:
    """Read one relation in a session that has the fixed settings; return count and digest of its rows."""
    digest = RowDigest()
    for rows, size in row_blocks(connection, job):
        digest.add(rows, size)
        moved(digest.plain_bytes)
    return digest


def row_blocks(connection: Connection, job: StreamJob) -> Iterator[tuple[list[bytes], int]]:
    """Yield the rows of a relation in blocks of about 64 KB (what a processor keeps at hand), with each block's size.

    The server sends one CopyData message a row, and text format has no newline inside a row.
    """
    pgconn, keys = connection.pgconn, job.only
    query = sql.copy_rows_out(job.schema, job.name, job.columns, job.encoding)
    if keys:
        wanted = keys.columns, keys.equal, keys.types, keys.values
        query = sql.copy_chosen_out(job.schema, job.name, job.columns, job.encoding, *wanted)
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
    # Not its details and contexts: those quote rows, and so do messages about data.
    message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message).decode("utf-8", "replace").strip()
    if state.startswith(QUOTING_CLASSES):
        message = f"{psycopg.errors.lookup(state).__name__} ({state})"
    raise psycopg.errors.lookup(state)(message) if state else psycopg.OperationalError(message)


def describe_fault(error: Exception) -> StreamFault:
    """Say why a stream ended early."""
    # Lock not to be had, snapshot gone, table gone meanwhile: the schema moved, and another snapshot may do.
    forget_rows(error)
    moved = psycopg.errors.LockNotAvailable, psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedTable
    said = f"the staged file cannot be written: {error}; {MORE_SPACE}" if isinstance(error, OSError) else str(error)
    return StreamFault(" ".join(said.split()), isinstance(error, moved))


def dump_json(value: object) -> str:
    """Return jobs or facts as JSON, arrays as lists."""
    return json.dumps(value, default=list)


def _end_when_abandoned() -> None:
    """End this process when its stdin closes: nobody wants the rows any more."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def _tell() -> Moved:
    """Return what says on stdout, now and then, how many bytes have gone by."""
    next_time = time.monotonic() + MOVED_SECONDS

    def tell(position: float) -> None:
        nonlocal next_time
        if (clock := time.monotonic()) >= next_time:
            next_time = clock + MOVED_SECONDS
            print(dump_json({"moved": position}), flush=True)  # noqa: T201

    return tell


def main() -> int:
    """Do the job that stands on stdin."""
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_when_abandoned, daemon=True).start()
    job = StreamJob.parse(order["job"])
    try:
        answer = {"facts": asdict(stream_relation(Server(order["server"]), job, _tell()))}
        code = 0
    except (psycopg.Error, OSError, OperationError) as error:
        answer, code = {"fault": asdict(describe_fault(error))}, 1
        if job.file:
            Path(job.file).unlink(missing_ok=True)
    print(dump_json(answer))  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
