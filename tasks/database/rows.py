"""Rows of tables and leaf partitions: dumping, loading and reading them."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg
import zstandard
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.errors import (
    BrokenKey,
    DamagedSet,
    MisplacedRow,
    MovedSnapshot,
    OperationError,
    RestoreDiffers,
    ServerUnavailable,
)
from tasks.core.postgres.connection import Connection, Server, connect
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import read_source_path, source_path
from tasks.core.rows import pages, stream
from tasks.core.rows.digest import RowDigest
from tasks.core.rows.file_blocks import BaseBlocks
from tasks.core.rows.job import StreamFacts, StreamFault, StreamJob
from tasks.core.rows.sources import RowSource
from tasks.core.run.progress import Moved, unmeasured
from tasks.core.sets.hash_partitions import Family
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
    """Return jobs that together read a large relation, each some of its pages; the job itself for another one.

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


@step(name="load {relation.name}")
def load_table(
    server: Server, database: str, title: str, schema: str, relation: Relation, sources: list[RowSource], encoding: str,
    moved: Moved = unmeasured,
) -> float | None:  # fmt: skip
    """Load a relation's rows into a new database, under the search_path of the `schema`'s code; return the seconds it took.

    Returns None if a row belongs to another partition in this database; then nothing was loaded.

    Raises:
        RestoreDiffers: the number of loaded rows differs from the manifest.
    """
    with connect(server, database, title) as connection:
        try:
            with connection.transaction():
                connection.execute(sql.session.FIXED_SETTINGS)
                connection.execute(sql.rows.empty_relation(relation.namespace, relation.name))
                path = read_source_path(connection, schema)
                return load_rows(connection, relation, sources, encoding, path, freeze=True, moved=moved)
        except MisplacedRow as error:
            get_run_logger().info("%s; loading it again through the partitioned table", error)
            return None


@step(name="load {family.qualified}")
def load_family(
    server: Server, database: str, title: str, schema: str, family: Family, sources: Mapping[str, list[RowSource]], encoding: str
) -> dict[str, float]:
    """Load the rows of a hash-partitioned table through the table itself, after emptying its partitions.

    Returns the seconds by relation.

    Raises:
        RestoreDiffers: as load_table.
    """
    with connect(server, database, title) as connection, connection.transaction():
        connection.execute(sql.session.FIXED_SETTINGS)
        for relation in family.relations:
            connection.execute(sql.rows.empty_relation(relation.namespace, relation.name))
        return load_through(connection, family, sources, encoding, read_source_path(connection, schema))


def load_through(
    connection: Connection, family: Family, sources: Mapping[str, list[RowSource]], encoding: str, path: str
) -> dict[str, float]:
    """Load the rows of a hash-partitioned table through the table itself.

    Return the seconds by relation.
    """
    return {
        relation.qualified: load_rows(connection, relation, sources[relation.qualified], encoding, path, into=family.table)
        for relation in family.relations
    }


@contextmanager
def _load_errors(connection: Connection, relation: Relation) -> Iterator[None]:
    """Turn errors of loading into errors of this project that name the relation."""
    try:
        yield
    except zstandard.ZstdError as error:
        raise DamagedSet(f"loading {relation.qualified}: {error}; restore another set") from error
    except psycopg.errors.CheckViolation as error:
        # The error names a violated check, but has no name if the bound of a partition is violated.
        kind = OperationError if error.diag.constraint_name else MisplacedRow
        raise kind(f"loading {relation.qualified}: {message_of(error)}") from None
    except psycopg.errors.ForeignKeyViolation as error:
        raise BrokenKey(f"loading {relation.qualified}: {message_of(error)}") from None
    except psycopg.DatabaseError as error:
        if connection.broken:
            raise
        raise OperationError(f"loading {relation.qualified}: {message_of(error)}") from None


def load_rows(
    connection: Connection, relation: Relation, sources: list[RowSource], encoding: str, path: str, *,
    freeze: bool = False, into: tuple[str, str] | None = None, moved: Moved = unmeasured,
) -> float:  # fmt: skip
    """Load a relation's rows, into another table if given, in a session with fixed settings.

    Return the seconds it took. Functions that the load calls run with the search_path `path`,
    which is the context's even if a partition is in another schema.

    Raises:
        BrokenKey: an existing foreign key refuses the rows.
        MisplacedRow: a row belongs to another partition in this database.
        RestoreDiffers: the number of loaded rows differs from the manifest.
    """
    started, written = time.monotonic(), 0
    place = into or (relation.namespace, relation.name)
    statement = sql.rows.copy_rows_in(*place, relation.columns, encoding, freeze=freeze)
    with connection.cursor() as cursor:
        # Generated columns, checks and domains may call functions by bare names.
        with _load_errors(connection, relation), source_path(connection, path), cursor.copy(statement) as copy:
            for block in chain.from_iterable(source.blocks() for source in sources):
                written += len(block)
                if written > relation.plain_bytes:
                    raise zstandard.ZstdError(
                        f"the rows have more than the {relation.plain_bytes:,} bytes that the manifest states"
                    )
                copy.write(block)
                moved(written)
        loaded = cursor.rowcount
    if loaded != relation.rows:
        raise RestoreDiffers(f"{relation.qualified}: {loaded} rows were loaded, but the manifest has {relation.rows}")
    seconds = time.monotonic() - started
    get_run_logger().info("%s: %d rows loaded in %.1f s", relation.qualified, loaded, seconds)
    return seconds


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
