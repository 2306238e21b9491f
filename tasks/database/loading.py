"""Loading rows of a set into tables of a new database."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import psycopg
import zstandard
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.errors import (
    BrokenKey,
    DamagedSet,
    MisplacedRow,
    OperationError,
    RestoreDiffers,
)
from tasks.core.postgres.connection import Connection, Server, connect
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import read_source_path, source_path
from tasks.core.rows.sources import RowSource
from tasks.core.run.progress import Moved, unmeasured
from tasks.core.sets.hash_partitions import Family
from tasks.core.sets.manifest import Relation
from tasks.run.run import step


@step(name="load {relation.name}")
def load_table(
    server: Server, database: str, title: str, schema: str, relation: Relation, sources: list[RowSource], encoding: str,
    moved: Moved = unmeasured,
) -> float | None:  # fmt: skip
    """Load a relation's rows into a new database, under the search_path of the `schema`'s code.

    Returns the seconds it took; None if a row belongs to another partition in this database: then
    nothing was loaded.

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
