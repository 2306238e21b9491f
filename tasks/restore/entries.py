"""Entries of a schema's archive, made one by one in a session: what is missing of them, or what pg_restore could not make.

An archive is restored with nothing on the path. What it cannot spell with a schema is not found then: names in bodies of functions
that an entry runs, operators of IS DISTINCT FROM, NULLIF, JOIN … USING, CASE x WHEN. Such an entry, and no other, is made under the
path of its source.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.postgres.archive_script import Chunk
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.grants import grants_by_others, without_grants_by_others
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import NOT_FOUND, execute_written
from tasks.database.locks import LOCK_WAIT_SECONDS
from tasks.restore.grants import make_grants

# What CREATE and ADD say of an object that is there; a second primary key is an InvalidTableDefinition.
IS_THERE = (
    psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject, psycopg.errors.DuplicateFunction,
    psycopg.errors.DuplicateSchema, psycopg.errors.InvalidTableDefinition,
)  # fmt: skip


OWNED = re.compile(rb"^ALTER SCHEMA .* OWNER TO .*;\n", re.MULTILINE)


def create_frame_entry(connection: Connection, entry: Chunk) -> None:
    """Make a schema or an extension; a schema of a role for which this login may not act stays the login's own.

    Of a schema that has more than extensions of the context, the comparison tells that.
    """
    try:
        with connection.transaction():
            connection.execute(entry.statements)
    except psycopg.errors.InsufficientPrivilege:
        if not OWNED.search(entry.statements):
            raise
        connection.execute(OWNED.sub(b"", entry.statements))


def _create_for_oneself(connection: Connection, schema: Chunk) -> None:
    """Make a schema that is not there, of an owner for whom this session's login may not act."""
    with suppress(*IS_THERE, psycopg.errors.InsufficientPrivilege), connection.transaction():
        connection.execute(OWNED.sub(b"", schema.statements))


def create_all(connection: Connection, settings: bytes, chunks: Iterable[Chunk], path: str) -> None:
    """Make every entry, or, where one fails, none of them.

    What names by a text alone what comes later, as a dictionary may another one, is made after it.

    Raises:
        psycopg.Error: one cannot be made.
    """
    with connection.transaction():
        connection.execute(settings)
        left = [*chunks]
        while left:
            failed = list[tuple[Chunk, psycopg.Error]]()
            for chunk in left:
                try:
                    execute_written(connection, chunk.statements, path)
                except NOT_FOUND as error:
                    failed.append((chunk, error))
            if len(failed) == len(left):
                raise failed[0][1]
            left = [chunk for chunk, _ in failed]
    connection.execute(sql.session.FIXED_SETTINGS)


def create_each(connection: Connection, settings: bytes, chunks: Sequence[Chunk], path: str) -> list[str]:
    """Make each entry that can be made; return what is said of the others."""
    complaints = list[str]()
    connection.execute(settings)
    connection.execute(sql.session.SORT_IN_MEMORY)
    for chunk in chunks:
        try:
            execute_written(connection, chunk.statements, path)
        except psycopg.Error as error:
            if connection.broken:
                raise
            complaints.append(message_of(error))
    connection.execute(sql.session.FIXED_SETTINGS)
    return complaints


def create_missing(
    connection: Connection, settings: bytes, chunks: Iterable[Chunk], made: set[int], path: str,
    wanted: Collection[int] | None = None,
) -> list[str]:  # fmt: skip
    """Run the statements of each wanted entry whose object is not there; what is said about one that was, stays unsaid.

    Returns what is still to do about grants that others than the owner made.
    """
    to_do = list[str]()
    connection.execute(settings)
    connection.execute(sql.session.set_lock_timeout(LOCK_WAIT_SECONDS))
    for chunk in chunks:
        if not chunk.needs & made if not chunk.has_class else wanted is not None and chunk.dump_id not in wanted:
            continue
        try:
            execute_written(connection, without_grants_by_others(chunk).statements, path)
            to_do += make_grants(connection, grants_by_others(chunk, connection.info.encoding))
        except (*IS_THERE, psycopg.errors.ForeignKeyViolation) as error:
            get_run_logger().info("not made: %s", message_of(error))
        except psycopg.errors.InsufficientPrivilege as error:
            # An extension that is there may be another's; CREATE … IF NOT EXISTS does not say that it was. A schema that is missing
            # and may not be made was told before anything was touched; what is there, a login without CREATE is not told.
            if not any(words in chunk.statements for words in (b"COMMENT ON EXTENSION", b"\nCREATE SCHEMA ")):
                raise
            get_run_logger().info("not made: %s", message_of(error))
            if OWNED.search(chunk.statements):
                _create_for_oneself(connection, chunk)
        else:
            made.add(chunk.dump_id)
    connection.execute(sql.session.FIXED_SETTINGS)
    connection.execute(sql.session.OWN_TABLESPACE)
    return to_do
