"""Large objects in a database: which of them rows name, whose they are, and what they hold."""

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

# So many are asked about at once.
BATCH = 1000
NUMBER, BOUNDS = re.compile(rb"\d+"), re.compile(rb"(?:\[-?\d+:-?\d+\])+=")


@dataclass(frozen=True)
class References:
    """The columns of each relation (schema.name) whose values name large objects, and those in which such a value is a part."""

    columns: Mapping[str, list[str]]
    parts: Mapping[str, list[str]]


def reference_columns(connection: Connection, members: Iterable[Member]) -> References:
    """Return the columns of some relations that name large objects, as their types say."""
    by_oid = {one.oid: one.qualified for one in members}
    found = connection.execute(sql.large_objects.REFERENCE_COLUMNS, {"oids": [*by_oid]}).fetchall()
    whole = {by_oid[oid]: columns for oid, columns, _ in found if columns}
    return References(whole, {by_oid[oid]: parts for oid, _, parts in found if parts})


def read_references(connection: Connection, job: StreamJob, columns: Sequence[str]) -> set[int]:
    """Return what the rows of a relation have in some columns; read by COPY, which runs no code of the table's owner."""
    found = set[int]()
    for rows, _ in stream.row_blocks(connection, replace(job, columns=[*columns])):
        for row in rows:
            found.update(map(int, numbers_in(row)))
    return found


def numbers_in(text: bytes) -> list[bytes]:
    """Return the numbers of oids, or of arrays of them, in a line of COPY text."""
    return NUMBER.findall(BOUNDS.sub(b"", text) if b"=" in text else text)


def read_facts(connection: Connection, oids: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Yield those objects that are there, with owner, grants and comment."""
    for some in batched(sorted(oids)):
        yield from connection.cursor(row_factory=dict_row).execute(sql.large_objects.FACTS, {"oids": some}).fetchall()


def read_pages(connection: Connection, oids: Iterable[int]) -> Iterator[list[bytes]]:
    """Yield the pages of some objects as lines of COPY text, in memory that does not grow with them."""
    connection.execute(sql.large_objects.BY_INDEX)
    for some in batched(oids):
        for lines, _ in stream.copied_blocks(connection, sql.large_objects.copy_pages_out(some)):
            yield lines


def read_objects(connection: Connection, oids: Iterable[int]) -> list[LargeObject]:
    """Return those objects that are there, every page read."""
    facts = [*read_facts(connection, oids)]
    pages = digest_pages(read_pages(connection, (one["oid"] for one in facts)))
    return [described(one, pages.get(one["oid"], RowDigest())) for one in facts]


def described(facts: Mapping[str, Any], pages: RowDigest) -> LargeObject:
    """Return an object of which pages were read."""
    return LargeObject(**facts, pages=pages.rows, plain_bytes=pages.plain_bytes, digest=pages.hex)


def unchanged_since(connection: Connection, oids: Iterable[int], base: Mapping[int, LargeObject], xmin: int) -> set[int]:
    """Return the objects that have the pages that a full saw, and no other: as many, none of them younger than its snapshot.

    The proof is that of the blocks of a table (tasks.core.rows.file_blocks): a page that was written again, or is of an object
    that was made again, is younger; where one went, there are fewer.
    """
    found = set[int]()
    for some in batched(sorted(one for one in oids if one in base and base[one].pages)):
        counted = connection.execute(sql.large_objects.count_pages(some, xmin)).fetchall()
        found |= {oid for oid, pages, old in counted if pages == old == base[oid].pages}
    return found


def batched(oids: Iterable[int], size: int = BATCH) -> Iterator[list[int]]:
    """Yield some oids after the other."""
    left = iter(oids)
    while some := [*islice(left, size)]:
        yield some


def may_read(connection: Connection) -> bool:
    """Say whether the login may read what large objects hold, whatever their privileges."""
    return bool(connection.execute(sql.large_objects.MAY_READ).fetchall()[0][0])


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Say what was done when a session could not read large objects.

    Raises:
        MovedSnapshot: the snapshot is gone, or a lock is asked for by others; another snapshot may do.
        OperationError: the session broke, or a staged file could not be written.
    """
    try:
        yield
    except (psycopg.Error, OSError) as error:
        fault = stream.describe_fault(error)
        raise (MovedSnapshot if fault.moved else OperationError)(f"{what}: {fault.message}") from error
