"""Transactions under the path that code of the source expects: trigger functions, checks and views use bare names."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Composed

from tasks.core.database.objects import DatabaseProperties
from tasks.core.sql.names import quoted
from tasks.core.sql.source_path import OWN_PATH, set_path

if TYPE_CHECKING:
    from tasks.core.postgres.connection import Connection


# Where no path is set, PostgreSQL looks into "$user", which is nobody's here, and into this one.
COMMON = "public"
# The context's schema first, then what an application's session in this database would have.
SOURCE_PATH = SQL(
    """SELECT concat_ws(', ', quote_ident(%(schema)s), (
         SELECT substr(setting, 1 + length('search_path=')) FROM pg_db_role_setting s
         JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = current_database() CROSS JOIN unnest(s.setconfig) AS setting
         WHERE s.setrole = 0 AND starts_with(setting, 'search_path=')), %(common)s::text)"""
)

SETTING = "search_path="
# What says that a name is not on our path.
NOT_FOUND = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedObject)


def read_source_path(connection: "Connection", schema: str, source: DatabaseProperties | None = None) -> str:
    """Return the path that code of a context expects in this database; where that says none, as its `source` said it."""
    asked = {"schema": schema, "common": (source and path_setting(source.settings)) or COMMON}
    return str(connection.execute(SOURCE_PATH, asked).fetchall()[0][0])


def path_setting(settings: Iterable[str]) -> str:
    """Return the path that a database gives its sessions, of its settings; nothing if it gives none."""
    return next((one.removeprefix(SETTING) for one in settings if one.startswith(SETTING)), "")


def source_path_of(source: DatabaseProperties, schema: str) -> str:
    """Return the path that code of a context expects in a database like its source."""
    return f"{quoted(schema)}, {path_setting(source.settings) or COMMON}"


@contextmanager
def source_path(connection: "Connection", path: str) -> Iterator[None]:
    """Let the statements of this block, and nothing else of the transaction, run under the path of the source.

    An error leaves it to whoever opened the transaction, or savepoint, to end that, and the path with it.
    """
    is_idle = connection.info.transaction_status == TransactionStatus.IDLE
    with connection.transaction() if is_idle else nullcontext():
        connection.execute(set_path(path))
        yield
        connection.execute(OWN_PATH)


def execute_written(
    connection: "Connection", statement: SQL | Composed | bytes, path: str, *, prepare: bool | None = None
) -> Any:  # fmt: skip
    """Execute a statement that people wrote, or one with a condition or a query of theirs, in a transaction; return the cursor.

    Where it names everything with its schema it runs under our path, so that nothing of others can stand for what is built in;
    else under the path of the source.
    """
    try:
        with connection.transaction():
            return connection.execute(statement, prepare=prepare)
    except NOT_FOUND:
        # In a savepoint too: whoever asked may live with an error, and go on in the transaction.
        with connection.transaction(), source_path(connection, path):
            return connection.execute(statement, prepare=prepare)
