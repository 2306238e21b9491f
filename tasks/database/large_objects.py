"""Large objects in a database: the references to them in rows, their owners, and their content."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tasks.core import sql
from tasks.core.errors import MovedSnapshot, OperationError
from tasks.core.postgres.connection import Connection
from tasks.core.rows import stream
from tasks.core.rows.digest import RowDigest
from tasks.core.rows.job import StreamJob
from tasks.core.sets.large_objects import LargeObject, digest_pages
from tasks.database.catalog import Member

# Large objects per query.
BATCH = 1000
NUMBER, BOUNDS = re.compile(rb"\d+"), re.compile(rb"(?:\[-?\d+:-?\d+\])+=")


@dataclass(frozen=True)
class References:
    """Columns, by schema.name, with oids of large objects, whole or in a composite value."""

    columns: Mapping[str, list[str]]
    parts: Mapping[str, list[str]]


def reference_columns(connection: Connection, members: Iterable[Member]) -> References:
    """Return the columns that name large objects, by their types."""
    by_oid = {member.oid: member.qualified for member in members}
    rows = connection.execute(sql.large_objects.REFERENCE_COLUMNS, {"oids": [*by_oid]}).fetchall()
    whole = {by_oid[oid]: columns for oid, columns, _ in rows if columns}
    return References(whole, {by_oid[oid]: parts for oid, _, parts in rows if parts})


def read_references(connection: Connection, job: StreamJob, columns: Sequence[str]) -> set[int]:
    """Return the oids in some columns of a relation; read by COPY, which runs no owner's code."""
    oids = set[int]()
    for rows, _ in stream.row_blocks(connection, replace(job, columns=[*columns])):
        for row in rows:
            oids.update(map(int, numbers_in(row)))
    return oids


def numbers_in(text: bytes) -> list[bytes]:
    """Return the oids in a line of COPY text, also those in arrays."""
    return NUMBER.findall(BOUNDS.sub(b"", text) if b"=" in text else text)


def read_facts(connection: Connection, oids: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Yield existing objects with owner, grants and comment."""
    for some in batched(sorted(oids)):
        yield from connection.cursor(row_factory=dict_row).execute(sql.large_objects.FACTS, {"oids": some}).fetchall()


def read_pages(connection: Connection, oids: Iterable[int]) -> Iterator[list[bytes]]:
    """Yield the pages of some objects as lines of COPY text, in constant memory."""
    connection.execute(sql.large_objects.BY_INDEX)
    for some in batched(oids):
        for lines, _ in stream.copied_blocks(connection, sql.large_objects.copy_pages_out(some)):
            yield lines


def read_objects(connection: Connection, oids: Iterable[int]) -> list[LargeObject]:
    """Return existing objects, with digests of all their pages."""
    facts = [*read_facts(connection, oids)]
    pages = digest_pages(read_pages(connection, (fact["oid"] for fact in facts)))
    return [described(fact, pages.get(fact["oid"], RowDigest())) for fact in facts]


def described(facts: Mapping[str, Any], pages: RowDigest) -> LargeObject:
    """Return an object from its facts and the digest of its pages."""
    return LargeObject(**facts, pages=pages.rows, plain_bytes=pages.plain_bytes, digest=pages.hex)


def unchanged_since(connection: Connection, oids: Iterable[int], base: Mapping[int, LargeObject], xmin: int) -> set[int]:
    """Return the objects with exactly the base's pages: as many, none younger than its snapshot.

    This is proven as for table blocks (tasks.core.rows.file_blocks): a rewritten page, or a page of
    a re-created object, is younger; a removed page changes the number.
    """
    unchanged = set[int]()
    for some in batched(sorted(oid for oid in oids if oid in base and base[oid].pages)):
        counted = connection.execute(sql.large_objects.count_pages(some, xmin)).fetchall()
        unchanged |= {oid for oid, pages, old in counted if pages == old == base[oid].pages}
    return unchanged


def batched(oids: Iterable[int], size: int = BATCH) -> Iterator[list[int]]:
    """Yield oids in batches."""
    left = iter(oids)
    while some := [*islice(left, size)]:
        yield some


def may_read(connection: Connection) -> bool:
    """Return whether the login may read all large objects, whatever their privileges."""
    return bool(connection.execute(sql.large_objects.MAY_READ).fetchall()[0][0])


@contextmanager
def explained() -> Iterator[None]:
    """Turn errors while reading large objects into ours.

    Raises:
        MovedSnapshot: the snapshot is gone, or a lock conflicts; retry with another snapshot.
        OperationError: the session was lost, or a staged file could not be written.
    """
    try:
        yield
    except (psycopg.Error, OSError) as error:
        fault = stream.describe_fault(error)
        raise (MovedSnapshot if fault.moved else OperationError)(f"reading large objects: {fault.message}") from error
