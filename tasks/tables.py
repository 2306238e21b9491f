"""Tables and leaf partitions: rows out of the database and into it."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg
import zstandard
from prefect import get_run_logger

from tasks.core import sql, stream
from tasks.core.blocks import BaseBlocks
from tasks.core.complaints import message_of
from tasks.core.errors import BrokenKey, DamagedSet, MovedSnapshot, OperationError, RestoreDiffers
from tasks.core.manifest import Relation
from tasks.core.progress import Moved, unmeasured
from tasks.core.servers import Connection, Server, connect
from tasks.core.source_path import read_source_path, source_path
from tasks.core.sources import RowSource
from tasks.core.stream import StreamFacts, StreamFault, StreamJob
from tasks.runs import SMALL_BYTES, Run, step

PROJECT = Path(stream.__file__).parents[2]


@dataclass(frozen=True)
class Dumped:
    """A relation's rows in a staged file, and how long it took."""

    facts: StreamFacts
    seconds: float


def run_stream(server: Server, run: Run, job: StreamJob, size_bytes: int, moved: Moved = unmeasured) -> StreamFacts:
    """Read a relation here if it is small, else in a process of its own; say how many bytes of rows have gone by.

    Raises:
        MovedSnapshot: the snapshot is gone or a lock is asked for by others; another snapshot may do.
        OperationError: the session broke, or the file could not be written.
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
        StreamFault(**answer["fault"]) if answer else StreamFault(f"its process ended with code {code} {complaint}", moved=False),
    )


def _last_answer(lines: Iterable[bytes], moved: Moved) -> dict[str, Any]:
    """Pass on how far a process is; return what it says at last, nothing if it was ended before."""
    answer: dict[str, Any] = {}
    for line in lines:
        # Of a process that is killed the last line may be cut.
        answer = json.loads(line) if line.endswith(b"\n") else {}
        if (position := answer.pop("moved", None)) is not None:
            moved(position)
    return answer


def _error(job: StreamJob, fault: StreamFault) -> OperationError:
    kind = MovedSnapshot if fault.moved else OperationError
    return kind(f"reading {job.schema}.{job.name}: {fault.message}")


def dump_table(server: Server, run: Run, job: StreamJob, size_bytes: int, moved: Moved = unmeasured) -> Dumped:
    """Stream one relation's rows, hashed and compressed, into the staging folder."""
    started = time.monotonic()
    facts = run_stream(server, run, job, size_bytes, moved)
    dumped = Dumped(facts, time.monotonic() - started)
    get_run_logger().info(
        "%s.%s: %d rows, %d bytes as %d in %.1f s", job.schema, job.name, facts.rows, facts.plain_bytes, facts.bytes, dumped.seconds
    )
    return dumped


def is_unchanged(server: Server, job: StreamJob, base: BaseBlocks) -> bool:
    """Say whether a relation has the rows that the base saw, and no other.

    Raises:
        MovedSnapshot, OperationError: as run_stream.
    """
    try:
        return stream.is_unchanged(server, job, base)
    except psycopg.Error as error:
        raise _error(job, stream.describe_fault(error)) from error


def runs_code(server: Server, job: StreamJob) -> bool:
    """Say whether a query of a relation, other than to read it whole, would run code of its owner.

    Raises:
        MovedSnapshot, OperationError: as run_stream.
    """
    try:
        return stream.runs_code(server, job)
    except psycopg.Error as error:
        raise _error(job, stream.describe_fault(error)) from error


@step(name="load {relation.name}")
def load_table(
    server: Server, database: str, title: str, relation: Relation, sources: list[RowSource], encoding: str,
    moved: Moved = unmeasured,
) -> float:  # fmt: skip
    """Load one relation's rows into a database that is being made; return the seconds it took.

    Raises:
        RestoreDiffers: another number of rows arrived than the manifest says.
    """
    with connect(server, database, title) as connection, connection.transaction():
        connection.execute(sql.FIXED_SETTINGS)
        connection.execute(sql.empty_relation(relation.namespace, relation.name))
        return load_rows(connection, relation, sources, encoding, freeze=True, moved=moved)


def load_rows(
    connection: Connection, relation: Relation, sources: list[RowSource], encoding: str, *,
    freeze: bool = False, into: tuple[str, str] | None = None, moved: Moved = unmeasured,
) -> float:  # fmt: skip
    """Load one relation's rows in a session with the fixed settings, or into another table; return the seconds it took.

    Raises:
        BrokenKey: a foreign key that is there does not take the rows.
        RestoreDiffers: another number of rows arrived than the manifest says.
    """
    started, written = time.monotonic(), 0
    place = into or (relation.namespace, relation.name)
    statement = sql.copy_rows_in(*place, relation.columns, encoding, freeze=freeze)
    path = read_source_path(connection, relation.namespace)
    with connection.cursor() as cursor:
        try:
            # Generated columns, checks and domains may call functions by bare names.
            with source_path(connection, path), cursor.copy(statement) as copy:
                for block in chain.from_iterable(source.blocks() for source in sources):
                    written += len(block)
                    if written > relation.plain_bytes:
                        raise zstandard.ZstdError(f"more than {relation.plain_bytes:,} bytes of rows, as the manifest says")
                    copy.write(block)
                    moved(written)
        except zstandard.ZstdError as error:
            raise DamagedSet(f"loading {relation.qualified}: {error}; restore another set") from error
        except psycopg.errors.ForeignKeyViolation as error:
            raise BrokenKey(f"loading {relation.qualified}: {message_of(error)}") from None
        except psycopg.DatabaseError as error:
            if connection.broken:
                raise
            raise OperationError(f"loading {relation.qualified}: {message_of(error)}") from None
        loaded = cursor.rowcount
    if loaded != relation.rows:
        raise RestoreDiffers(f"{relation.qualified}: {loaded} rows loaded, the manifest says {relation.rows}")
    seconds = time.monotonic() - started
    get_run_logger().info("%s: %d rows loaded in %.1f s", relation.qualified, loaded, seconds)
    return seconds


@step(name="compare {relation.name}")
def compare_table(
    server: Server, database: str, run: Run, relation: Relation, encoding: str, moved: Moved = unmeasured
) -> list[str]:  # fmt: skip
    """Read a restored relation back and return how it differs from the manifest."""
    facts = run_stream(server, run, reading_job(database, run, relation, encoding), relation.plain_bytes, moved)
    return differences(relation, facts.rows, facts.digest)


def reading_job(database: str, run: Run, relation: Relation, encoding: str) -> StreamJob:
    """Return the job that reads a restored relation as it was read when it was backed up."""
    return StreamJob(database, run.title, relation.namespace, relation.name, relation.columns, encoding)


def differences(relation: Relation, rows: int, digest: str) -> list[str]:
    """Return how what was read differs from the manifest."""
    if (rows, digest) == (relation.rows, relation.digest):
        return []
    return [f"{relation.qualified}: {rows} rows with digest {digest}, the backup has {relation.rows} with {relation.digest}"]
