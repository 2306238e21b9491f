"""Streaming one relation: COPY text is hashed, compressed and written to one private file.

`python -m tasks.core.rows.stream` does this in a process of its own, because the loop over the rows
holds the interpreter's lock. The job is one JSON line on stdin; stdout gets lines of JSON: the
progress, repeatedly, and finally the facts. The process ends at once when stdin closes. libpq is
called through psycopg's low-level wrapper
(https://www.postgresql.org/docs/current/libpq-copy.html): iterating over the rows with psycopg's
own COPY takes about a third longer.
"""

import json
import os
import select
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import psycopg
from psycopg import pq
from psycopg.sql import Composed

from tasks.core import sql
from tasks.core.errors import OperationError, ServerUnavailable
from tasks.core.postgres.connection import Connection, Server, connect
from tasks.core.postgres.messages import QUOTING_CLASSES, forget_rows
from tasks.core.rows.compressed_file import CompressedFile
from tasks.core.rows.digest import RowDigest
from tasks.core.rows.file_blocks import BaseBlocks, BlockRows, BlockState, Changes, Chosen, find_changes, render_lines, shift_for
from tasks.core.rows.job import StreamFacts, StreamFault, StreamJob
from tasks.core.rows.pages import Pages, page_ranges
from tasks.core.run.progress import Moved, unmeasured

BLOCK_BYTES = 1 << 16
# The server stopped or crashed, or an administrator ended the session. Class 08, or no state at
# all, means that the connection failed
# (https://www.postgresql.org/docs/current/errcodes-appendix.html).
LOST_SESSION = ("08", "57P01", "57P02", "57P03", "57P05")
MORE_SPACE = "free some space, or set BACKUP_STAGING to a larger disk"
COMMAND = [sys.executable, "-m", "tasks.core.rows.stream"]
# How often a process reports its progress.
MOVED_SECONDS = 0.25


def stream_relation(server: Server, job: StreamJob, moved: Moved = unmeasured) -> StreamFacts:
    """Read one relation to its end, and report how many bytes of rows were read.

    Raises:
        psycopg.Error: the snapshot is gone (InvalidParameterValue), a lock is not available at once
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
    """Open a session with the job's snapshot."""
    with seeing(server, job.database, job.application_name, job.snapshot, [(job.schema, job.name)]) as connection:
        yield connection


@contextmanager
def seeing(
    server: Server, database: str, application_name: str, snapshot: str | None, relations: Sequence[tuple[str, str]]
) -> Iterator[Connection]:
    """Open a session with the given snapshot and lock some relations, or with a new snapshot."""
    with connect(server, database, application_name) as connection:
        connection.execute(sql.snapshot.START_SNAPSHOT)
        if snapshot:
            connection.execute(sql.snapshot.import_snapshot(snapshot))
            # A queued ACCESS EXCLUSIVE would let COPY wait for ever behind the coordinator's own
            # lock.
            if relations:
                connection.execute(sql.snapshot.lock_tables(relations, nowait=True))
        connection.execute(sql.session.FIXED_SETTINGS)
        yield connection


def is_unchanged(server: Server, job: StreamJob, base: BaseBlocks) -> bool:
    """Return whether a relation has exactly the base's rows: as many, and none written since.

    Raises:
        psycopg.Error: as stream_relation.
    """
    with reading(server, job) as connection:
        rows, old = connection.execute(sql.rows.count_rows_and_old(job.schema, job.name, base.xmin)).fetchall()[0]
    return bool(rows == old == sum(base.counted.rows))


def runs_code(server: Server, job: StreamJob) -> bool:
    """Return whether a query on it would run its owner's code; a COPY of all rows never does."""
    with reading(server, job) as connection:
        name = {"name": sql.names.quoted_name(job.schema, job.name)}
        return bool(connection.execute(sql.logins.CODE_WHEN_PLANNED, name).fetchall()[0][0])


def split(server: Server, job: StreamJob, parts: int) -> list[Pages]:
    """Return ranges of a relation's pages to read in parallel.

    None for a table that is no heap, one whose rows a query would read by running code of its
    owner, and one of a server that cannot scan a range of pages.

    Raises:
        psycopg.Error: as stream_relation.
    """
    with reading(server, job) as connection:
        pages = _heap_pages(connection, job)
        ranges = page_ranges(pages, parts) if pages else []
        connection.execute(sql.rows.READ_PAGES)
        queries = [sql.rows.rows_of_pages(job.schema, job.name, job.columns, chosen.bounds) for chosen in ranges]
        plans = [connection.execute(sql.rows.explain(query)).fetchall()[0][0] for query in queries]
    is_scanned = all(plan[0]["Plan"]["Node Type"] == "Tid Range Scan" for plan in plans)
    return ranges if is_scanned and len(ranges) > 1 else []


def _heap_pages(connection: Connection, job: StreamJob) -> int | None:
    """Return a heap's number of pages; None for others, or if a query would run owner's code."""
    name = {"name": sql.names.quoted_name(job.schema, job.name)}
    if connection.execute(sql.logins.CODE_WHEN_PLANNED, name).fetchall()[0][0]:
        return None
    pages, is_heap = connection.execute(sql.rows.RELATION_BLOCKS, name).fetchall()[0]
    return pages if is_heap else None


def _changes(connection: Connection, job: StreamJob, base: BaseBlocks) -> Changes:
    counted = connection.execute(sql.rows.count_rows_by_block(job.schema, job.name, base.counted.shift, base.xmin)).fetchall()
    return find_changes(base.counted, [BlockState(*row) for row in counted])


def _count_blocks(connection: Connection, job: StreamJob) -> BlockRows | None:
    """Count rows by block.

    Return none for tables that are no heap, which have no such blocks, and none where a query would
    run code of the owner.
    """
    blocks = _heap_pages(connection, job)
    if blocks is None:
        return None
    shift, bounds = (job.pages.shift, job.pages.bounds) if job.pages else (shift_for(blocks), None)
    counted = connection.execute(sql.rows.count_rows_by_block(job.schema, job.name, shift, None, bounds)).fetchall()
    rows = [0] * (counted[-1][0] + 1 if counted else 0)
    for number, count, _ in counted:
        rows[number] = count
    return BlockRows.of(shift, rows)


def digest_relation(connection: Connection, job: StreamJob, moved: Moved = unmeasured) -> RowDigest:
    """Read a relation in a session with fixed settings; return count and digest of its rows."""
    digest = RowDigest()
    for rows, size in row_blocks(connection, job):
        digest.add(rows, size)
        moved(digest.plain_bytes)
    return digest


def row_blocks(connection: Connection, job: StreamJob) -> Iterator[tuple[list[bytes], int]]:
    """Yield rows in blocks of about 64 KB (fits a processor's cache), with each block's size."""
    keys, pages = job.only, job.pages
    query = sql.rows.copy_rows_out(job.schema, job.name, job.columns, job.encoding)
    if keys:
        chosen = keys.columns, keys.equal, keys.types, keys.values
        query = sql.rows.copy_chosen_out(job.schema, job.name, job.columns, job.encoding, *chosen)
    if pages:
        connection.execute(sql.rows.READ_PAGES)
        query = sql.rows.copy_pages_out(job.schema, job.name, job.columns, job.encoding, pages.bounds)
    yield from copied_blocks(connection, query)


def copied_blocks(connection: Connection, query: Composed) -> Iterator[tuple[list[bytes], int]]:
    """Yield the rows of a COPY … TO STDOUT in blocks of about 64 KB, with each block's size.

    The server sends one CopyData message per row, and text format has no newline inside a row.
    """
    pgconn = connection.pgconn
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
    # libpq accepts the next command only after it has reported the last result.
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
    # libpq takes the next command, such as ROLLBACK TO, only then.
    while connection.pgconn.get_result() is not None:
        pass
    if result is None or not result.error_message:
        raise psycopg.OperationalError(connection.pgconn.get_error_message("utf-8"))
    state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
    # Without details and contexts, and without messages about data: they quote rows.
    message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message).decode("utf-8", "replace").strip()
    if state.startswith(QUOTING_CLASSES):
        message = f"{psycopg.errors.lookup(state).__name__} ({state})"
    raise psycopg.errors.lookup(state)(message) if state else psycopg.OperationalError(message)


def describe_fault(error: Exception) -> StreamFault:
    """Return the fault that describes why a job failed."""
    # The lock, snapshot or table is gone: the schema changed, and another snapshot may succeed.
    forget_rows(error)
    schema_changes = psycopg.errors.LockNotAvailable, psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedTable
    message = f"the staged file cannot be written: {error}; {MORE_SPACE}" if isinstance(error, OSError) else str(error)
    lost = isinstance(error, ServerUnavailable) or (
        isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08").startswith(LOST_SESSION)
    )
    return StreamFault(" ".join(message.split()), isinstance(error, schema_changes), lost)


def dump_json(value: object) -> str:
    """Return jobs or facts as JSON, arrays as lists."""
    return json.dumps(value, default=list)


def _end_when_abandoned() -> None:
    """End this process when its stdin closes: the rows are no longer needed."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def _progress_reporter() -> Moved:
    """Return a function that reports on stdout, now and then, how many bytes were read."""
    next_time = time.monotonic() + MOVED_SECONDS

    def report(position: float) -> None:
        nonlocal next_time
        if (clock := time.monotonic()) >= next_time:
            next_time = clock + MOVED_SECONDS
            print(dump_json({"moved": position}), flush=True)  # noqa: T201

    return report


def main() -> int:
    """Carry out the job that stdin contains."""
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_when_abandoned, daemon=True).start()
    job = StreamJob.parse(order["job"])
    try:
        answer = {"facts": asdict(stream_relation(Server(order["server"]), job, _progress_reporter()))}
        code = 0
    except (psycopg.Error, OSError, OperationError) as error:
        answer, code = {"fault": asdict(describe_fault(error))}, 1
        if job.file:
            Path(job.file).unlink(missing_ok=True)
    print(dump_json(answer))  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main())
