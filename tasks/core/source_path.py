"""The path that code of the source expects: trigger functions, checks and views may call tables and functions by bare names.

A session of ours has nobody's schema on its path. Only a statement that runs such code is given the path of the source, and
nothing in it is looked up there that is ours: it names functions, operators and types with their schema, and has nothing that
cannot be named so, as IN, BETWEEN, CASE x WHEN, NULLIF, IS DISTINCT FROM, USING
(https://wiki.postgresql.org/wiki/A_Guide_to_CVE-2018-1058). What makes these statements is marked here, and a test reads them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Composable, Composed, Literal

if TYPE_CHECKING:
    from tasks.core.servers import Connection

Builder = TypeVar("Builder", bound=Callable[..., Composable])
BUILDERS = list[Callable[..., Composable]]()

# The context's schema first, then what an application's session in this database would have.
SOURCE_PATH = SQL(
    """SELECT concat_ws(', ', quote_ident(%(schema)s), (
         SELECT substr(setting, 1 + length('search_path=')) FROM pg_db_role_setting s
         JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = current_database() CROSS JOIN unnest(s.setconfig) AS setting
         WHERE s.setrole = 0 AND starts_with(setting, 'search_path=')), 'public')"""
)
OWN_PATH = SQL("SET LOCAL search_path = pg_catalog, pg_temp")
# What says that a name is not on our path.
NOT_FOUND = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedObject)


def under_source_path(builder: Builder) -> Builder:
    """Mark what makes a statement that runs under the path of the source."""
    BUILDERS.append(builder)
    return builder


def set_path(path: str) -> Composed:
    """Give this transaction a path."""
    return SQL("SELECT pg_catalog.set_config('search_path', {}, true)").format(Literal(path))


def read_source_path(connection: "Connection", schema: str) -> str:
    """Return the path that code of a context expects in this database."""
    return str(connection.execute(SOURCE_PATH, {"schema": schema}).fetchall()[0][0])


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


def execute_written(connection: "Connection", statement: Composed, path: str, *, prepare: bool | None = None) -> Any:
    """Execute a statement with a condition or a query that people wrote, in a transaction; return the cursor.

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
