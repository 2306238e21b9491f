"""Transactions with the search_path that the source's code expects, as it uses bare names."""

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


# The default search_path of PostgreSQL is "$user", which no schema is named here, and this.
COMMON = "public"
# The context's schema first, then the search_path of an application's session in this database.
SOURCE_PATH = SQL(
    """SELECT concat_ws(', ', quote_ident(%(schema)s), (
         SELECT substr(setting, 1 + length('search_path=')) FROM pg_db_role_setting s
         JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = current_database() CROSS JOIN unnest(s.setconfig) AS setting
         WHERE s.setrole = 0 AND starts_with(setting, 'search_path=')), %(common)s::text)"""
)

SETTING = "search_path="
# Errors for a name that is not on our search_path.
NOT_FOUND = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedObject)


def read_source_path(connection: "Connection", schema: str, source: DatabaseProperties | None = None) -> str:
    """Return the search_path of a context's code in this database, else the one in `source`."""
    asked = {"schema": schema, "common": (source and path_setting(source.settings)) or COMMON}
    return str(connection.execute(SOURCE_PATH, asked).fetchall()[0][0])


def path_setting(settings: Iterable[str]) -> str:
    """Return the search_path in a database's settings; "" if there is none."""
    return next((setting.removeprefix(SETTING) for setting in settings if setting.startswith(SETTING)), "")


def source_path_of(source: DatabaseProperties, schema: str) -> str:
    """Return the search_path of a context's code in a database like its source."""
    return f"{quoted(schema)}, {path_setting(source.settings) or COMMON}"


@contextmanager
def source_path(connection: "Connection", path: str) -> Iterator[None]:
    """Execute the block, and nothing else of the transaction, with the source's search_path.

    After an error, the caller ends the transaction or savepoint, which restores the path.
    """
    is_idle = connection.info.transaction_status == TransactionStatus.IDLE
    with connection.transaction() if is_idle else nullcontext():
        connection.execute(set_path(path))
        yield
        connection.execute(OWN_PATH)


def execute_written(connection: "Connection", statement: SQL | Composed | bytes, path: str, *, prepare: bool | None = None) -> Any:
    """Execute a statement with user-written parts in a transaction; return the cursor.

    If the statement works with our own search_path, that is used, so that no object of others can
    replace a built-in one; else the source's.
    """
    try:
        with connection.transaction():
            return connection.execute(statement, prepare=prepare)
    except NOT_FOUND:
        # In a savepoint too: the caller may handle an error and continue its transaction.
        with connection.transaction(), source_path(connection, path):
            return connection.execute(statement, prepare=prepare)
