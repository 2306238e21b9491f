"""Rows of tables and leaf partitions: dumping and reading them."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.errors import (
    MovedSnapshot,
    OperationError,
    ServerUnavailable,
)
from tasks.core.postgres.connection import Connection, Server
from tasks.core.rows import pages, stream
from tasks.core.rows.digest import RowDigest
from tasks.core.rows.file_blocks import BaseBlocks
from tasks.core.rows.job import StreamFacts, StreamFault, StreamJob
from tasks.core.run.progress import Moved, unmeasured
from tasks.core.sets.manifest import Relation
from tasks.run.run import SMALL_BYTES, Run, step

PROJECT = Path(stream.__file__).parents[3]


@dataclass(frozen=True)
class Dumped:
    """A relation's rows in a staged file, and the seconds it took."""

    facts: StreamFacts
    seconds: float


def run_stream(server: Server, run: Run, job: StreamJob, size_bytes: int, moved: Moved = unmeasured) -> StreamFacts:
    """Read a relation in this process if it is small, else in a child process.

    Report the number of bytes read.

    Raises:
        MovedSnapshot: the snapshot is gone, or a lock conflicts; retry with another snapshot.
        ServerUnavailable: the session broke.
        OperationError: the file could not be written.
    """
    facts = _run_process(server, run, job, moved) if size_bytes > SMALL_BYTES else _run_here(server, job, moved)
    moved(facts.plain_bytes)
    return facts


def _run_here(server: Server, job: StreamJob, moved: Moved) -> StreamFacts:
    try:
        return stream.stream_relation(server, job, moved)
    except (psycopg.Error, OSError, OperationError) as error:
        raise _error(job, stream.describe_fault(error)) from error


def _run_process(server: Server, run: Run, job: StreamJob, moved: Moved) -> StreamFacts:
    order = stream.dump_json({"server": server.parameters, "job": asdict(job)}).encode() + b"\n"
    with run.running.start(stream.COMMAND, {"PYTHONPATH": str(PROJECT)}) as process:
        assert process.stdin and process.stdout and process.stderr  # noqa: S101
        try:
            process.stdin.write(order)
            process.stdin.flush()
            answer = _last_answer(process.stdout, moved)
        except BrokenPipeError:
            answer = {}
        complaint = process.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
        code = process.wait()
    if facts := answer.get("facts"):
        return StreamFacts.parse(facts)
    raise _error(
        job,
        StreamFault(**answer["fault"])
        if answer
        else StreamFault(f"its process ended with exit code {code} {complaint}", moved=False),
    )


def _last_answer(lines: Iterable[bytes], moved: Moved) -> dict[str, Any]:
    """Report the progress that a process prints; return its last line, or "" if it was killed."""
    answer: dict[str, Any] = {}
    for line in lines:
        # The last line of a killed process may be truncated.
        answer = json.loads(line) if line.endswith(b"\n") else {}
        if (position := answer.pop("moved", None)) is not None:
            moved(position)
    return answer


def _error(job: StreamJob, fault: StreamFault) -> OperationError:
    kind = MovedSnapshot if fault.moved else ServerUnavailable if fault.lost else OperationError
    return kind(f"reading {job.schema}.{job.name}: {fault.message}")


def dump_table(server: Server, run: Run, job: StreamJob, size_bytes: int, moved: Moved = unmeasured) -> Dumped:
    """Stream a relation's rows, hashed and compressed, into the staging folder."""
    started = time.monotonic()
    facts = run_stream(server, run, job, size_bytes, moved)
    dumped = Dumped(facts, time.monotonic() - started)
    get_run_logger().info(
        "%s.%s: %d rows, %d bytes as %d in %.1f s",
        job.schema,
        job.title,
        facts.rows,
        facts.plain_bytes,
        facts.bytes,
        dumped.seconds,
    )
    return dumped


def is_unchanged(server: Server, job: StreamJob, base: BaseBlocks) -> bool:
    """Return whether a relation has exactly the rows of the base.

    Raises:
        MovedSnapshot, OperationError: as run_stream.
    """
    try:
        return stream.is_unchanged(server, job, base)
    except psycopg.Error as error:
        raise _error(job, stream.describe_fault(error)) from error


def split(server: Server, job: StreamJob, size_bytes: int) -> list[StreamJob]:
    """Return jobs that together read a large relation, some pages each; otherwise the job itself.

    Raises:
        MovedSnapshot, OperationError: as run_stream.
    """
    parts = -(-size_bytes // pages.PART_BYTES)
    if parts < 2:
        return [job]
    try:
        ranges = stream.split(server, job, parts)
    except psycopg.Error as error:
        raise _error(job, stream.describe_fault(error)) from error
    return [replace(job, pages=chosen) for chosen in ranges] or [job]


def runs_code(server: Server, job: StreamJob) -> bool:
    """Return whether a query on a relation would run code of its owner.

    Reading all rows by COPY never does.

    Raises:
        MovedSnapshot, OperationError: as run_stream.
    """
    try:
        return stream.runs_code(server, job)
    except psycopg.Error as error:
        raise _error(job, stream.describe_fault(error)) from error


def bases_of_domains(connection: Connection, oid: int) -> dict[str, str]:
    """Return the base types of a relation's domain columns, by column."""
    domains = connection.execute(sql.staging.DOMAIN_COLUMNS, {"oids": [oid]}).fetchall()
    return {name: base for _, name, base in domains}


@step(name="compare {job.title}", repeatable=True)
def read_back(server: Server, run: Run, job: StreamJob, size_bytes: int, moved: Moved = unmeasured) -> RowDigest:
    """Read a restored relation, or some of its pages; return count and digest of its rows."""
    facts = run_stream(server, run, job, size_bytes, moved)
    return RowDigest(facts.rows, int(facts.digest, 16))


def reading_job(database: str, run: Run, relation: Relation, encoding: str) -> StreamJob:
    """Return the job that reads a restored relation in the same way as the backup did."""
    return StreamJob(database, run.title, relation.namespace, relation.name, relation.columns, encoding)
