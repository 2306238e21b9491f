"""Checking SQL texts of a set before use: PostgreSQL has to parse each as what it should be.

A condition, a check or a partition key may name columns and call functions without side effects; it
must not contain a second statement, another query, or a function with side effects such as
pg_terminate_backend.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import psycopg
from psycopg.sql import Composed

from tasks.core import sql
from tasks.core.checks.definition import Check
from tasks.core.context import Context
from tasks.core.errors import DamagedSet
from tasks.core.postgres.connection import Connection, Server, connect
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import execute_written, read_source_path
from tasks.run.run import Run

CHECK_SECONDS = 60


@contextmanager
def _reading(connection: Connection, where: str) -> Iterator[None]:
    """Roll back the work of the block; if PostgreSQL refuses the text, name the text in the error.

    Raises:
        DamagedSet: PostgreSQL refuses the text.
    """
    try:
        with connection.transaction(force_rollback=True):
            yield
    except psycopg.Error as error:
        if connection.broken:
            raise
        raise DamagedSet(f"{where}: {message_of(error)}; nothing was done") from None


def _owner_of(connection: Connection, relation: tuple[str, str]) -> int:
    oid: int = connection.execute(sql.set_texts.OWNER_OF, {"name": sql.names.quoted_name(*relation)}).fetchall()[0][0]
    return oid


def _oid_of(connection: Connection, relation: tuple[str, str]) -> int:
    oid: int = connection.execute(sql.set_texts.OID_OF, {"name": sql.names.quoted_name(*relation)}).fetchall()[0][0]
    return oid


def _make(connection: Connection, statement: Composed) -> None:
    # Prepared: PostgreSQL then accepts one statement only.
    connection.execute(statement, prepare=True)


def require_condition(connection: Connection, where: str, condition: str, child: tuple[str, str], root: tuple[str, str]) -> None:
    """Check that a text is only a condition that joins two tables' rows, each named by its table.

    Raises:
        DamagedSet: the text is not such a condition; the message says `where` it comes from.
    """
    with _reading(connection, where):
        path = read_source_path(connection, root[0])
        execute_written(connection, sql.set_texts.join_by(condition, child, root), path, prepare=True)
        owner = _owner_of(connection, root)
        relations, queries, acting = connection.execute(sql.set_texts.PARSED_VIEW, {"owner": owner}).fetchall()[0]
        both = {_oid_of(connection, relation) for relation in (child, root)}
    if acting:
        raise DamagedSet(f"{where}: the text calls {', '.join(acting)}, which a condition must not call; nothing was done")
    if queries != 1 or not {*relations} <= both:
        raise DamagedSet(f"{where}: the text is more than a condition on {child[1]} and {root[1]}; nothing was done")


def understood_check(connection: Connection, where: str, relation: tuple[str, str], definition: str) -> str:
    """Return a check constraint of an existing table as PostgreSQL spells it.

    Raises:
        DamagedSet: the text is not a check constraint, or calls functions with side effects.
    """
    with _reading(connection, where):
        connection.execute(sql.set_texts.empty_like(*relation))
        _make(connection, sql.set_texts.add_check_of_set(relation[1], definition))
        parameters = {"oid": _oid_of(connection, ("pg_temp", relation[1])), "owner": _owner_of(connection, relation)}
        rows = connection.execute(sql.set_texts.PARSED_CHECK, parameters).fetchall()
    if len(rows) != 1:
        raise DamagedSet(f"{where}: the text is not the definition of a CHECK constraint; nothing was done")
    text, acting = rows[0]
    if acting:
        raise DamagedSet(
            f"{where}: the text calls {', '.join(acting)}, which belongs to another role and may "
            "have side effects; create it by hand"
        )
    return str(text)


def understood_default(connection: Connection, where: str, relation: tuple[str, str], column: str, text: str) -> None:
    """Check that a text is an existing column's default, as PostgreSQL spells it.

    Raises:
        DamagedSet: the text is not a default, or is more than a default.
    """
    with _reading(connection, where):
        connection.execute(sql.set_texts.empty_like(*relation))
        _make(connection, sql.set_texts.set_default_of_set(relation[1], column, text))
        parameters = {"oid": _oid_of(connection, ("pg_temp", relation[1])), "column": column}
        rows = connection.execute(sql.set_texts.PARSED_DEFAULT, parameters).fetchall()
    if rows != [(text,)]:
        raise DamagedSet(f"{where}: the text is not a column default; nothing was done")


def understood_partition_key(connection: Connection, where: str, parent: tuple[str, str], key: str) -> str:
    """Return a partition key, valid for the columns of an existing table, as PostgreSQL spells it.

    Raises:
        DamagedSet: the text is not such a key.
    """
    with _reading(connection, where):
        _make(connection, sql.set_texts.divide_by(*parent, key))
        return str(connection.execute(sql.set_texts.PARSED_PARTITION_KEY).fetchall()[0][0])


def unfit_checks(server: Server, database: str, run: Run, context: Context, checks: Iterable[Check]) -> Mapping[str, str]:
    """Return why checks of a set are not run: no query, or a function with side effects."""
    with connect(server, database, run.title) as connection:
        problems = {check.name: _unfit(connection, context, check) for check in checks}
    return {name: problem for name, problem in problems.items() if problem}


def _unfit(connection: Connection, context: Context, check: Check) -> str:
    try:
        with _reading(connection, "its query"):
            path = read_source_path(connection, context.namespace)
            connection.execute(sql.session.check_settings(context.timestamps, CHECK_SECONDS))
            execute_written(connection, sql.set_texts.count_of(check.query), path, prepare=True)
            # Functions that the set created in this database are allowed: its own triggers call
            # them too.
            _, _, acting = connection.execute(sql.set_texts.PARSED_VIEW, {"owner": None}).fetchall()[0]
    except DamagedSet as error:
        return str(error)
    return f"the check calls {', '.join(acting)}, which a check must not call" if acting else ""
