"""Executing single entries of a schema archive: of missing objects, or of failures of pg_restore.

That program works with an empty search_path. Entries fail then if they depend on names that an
archive cannot qualify with a schema: names in function bodies that an entry runs, operators of IS
DISTINCT FROM, NULLIF, JOIN … USING, CASE x WHEN. Only such entries are executed with the source's
search_path.
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

# Errors of CREATE and ADD for existing objects; a second primary key is InvalidTableDefinition.
IS_THERE = (
    psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject, psycopg.errors.DuplicateFunction,
    psycopg.errors.DuplicateSchema, psycopg.errors.InvalidTableDefinition,
)  # fmt: skip


OWNED = re.compile(rb"^ALTER SCHEMA .* OWNER TO .*;\n", re.MULTILINE)


def create_frame_entry(connection: Connection, entry: Chunk) -> None:
    """Create a schema or an extension.

    If this login may not give a schema to its owner, the login stays its owner. The comparison with
    the set reports that, unless the schema has only extensions of the context.
    """
    try:
        with connection.transaction():
            connection.execute(entry.statements)
    except psycopg.errors.InsufficientPrivilege:
        if not OWNED.search(entry.statements):
            raise
        connection.execute(OWNED.sub(b"", entry.statements))


def _create_for_oneself(connection: Connection, schema: Chunk) -> None:
    """Create a missing schema that this login may not give to its owner."""
    with suppress(*IS_THERE, psycopg.errors.InsufficientPrivilege), connection.transaction():
        connection.execute(OWNED.sub(b"", schema.statements))


def create_all(connection: Connection, settings: bytes, chunks: Iterable[Chunk], path: str) -> None:
    """Execute every entry in one transaction.

    Entries that fail for a missing object, such as a dictionary that names another, are retried.

    Raises:
        psycopg.Error: an entry failed; nothing was created.
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
    """Execute each entry; return the error messages."""
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
    """Execute each wanted entry whose object is missing; skip entries of existing objects.

    Returns notes about grants by roles other than the owner.
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
            get_run_logger().info("not created: %s", message_of(error))
        except psycopg.errors.InsufficientPrivilege as error:
            # CREATE … IF NOT EXISTS would hide that an extension exists already and may belong to
            # others. Missing schemas that this login may not create were reported before.
            if not any(words in chunk.statements for words in (b"COMMENT ON EXTENSION", b"\nCREATE SCHEMA ")):
                raise
            get_run_logger().info("not created: %s", message_of(error))
            if OWNED.search(chunk.statements):
                _create_for_oneself(connection, chunk)
        else:
            made.add(chunk.dump_id)
    connection.execute(sql.session.FIXED_SETTINGS)
    connection.execute(sql.session.OWN_TABLESPACE)
    return to_do
