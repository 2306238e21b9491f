"""Texts that a set brings: read by PostgreSQL as what they should be before they are used, and refused if they are more.

A condition, a check or a key of a table is data. It may name columns, and call functions that do nothing; it can hold no second
statement, no other query, and nothing that acts, as pg_terminate_backend does.
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
    """Undo what the block makes, and say which text was refused.

    Raises:
        DamagedSet: PostgreSQL does not take it.
    """
    try:
        with connection.transaction(force_rollback=True):
            yield
    except psycopg.Error as error:
        if connection.broken:
            raise
        raise DamagedSet(f"{where}: {message_of(error)}; nothing was done") from None


def _owner_of(connection: Connection, relation: tuple[str, str]) -> int:
    found: int = connection.execute(sql.set_texts.OWNER_OF, {"name": sql.names.quoted_name(*relation)}).fetchall()[0][0]
    return found


def _oid_of(connection: Connection, relation: tuple[str, str]) -> int:
    found: int = connection.execute(sql.set_texts.OID_OF, {"name": sql.names.quoted_name(*relation)}).fetchall()[0][0]
    return found


def _make(connection: Connection, statement: Composed) -> None:
    # Prepared, because PostgreSQL then takes one statement only.
    connection.execute(statement, prepare=True)


def require_condition(
    connection: Connection, where: str, condition: str, child: tuple[str, str], root: tuple[str, str]
) -> None:  # fmt: skip
    """Make sure that a text is a condition that joins the rows of two tables, each called by its name, and no more.

    Raises:
        DamagedSet: it is not; `where` it stands is named.
    """
    with _reading(connection, where):
        path = read_source_path(connection, root[0])
        execute_written(connection, sql.set_texts.join_by(condition, child, root), path, prepare=True)
        owner = _owner_of(connection, root)
        relations, queries, acting = connection.execute(sql.set_texts.VIEW_SAID, {"owner": owner}).fetchall()[0]
        both = {_oid_of(connection, one) for one in (child, root)}
    if acting:
        raise DamagedSet(f"{where}: it calls {', '.join(acting)}, which a condition must not; nothing was done")
    if queries != 1 or not {*relations} <= both:
        raise DamagedSet(f"{where}: it is more than a condition on {child[1]} and {root[1]}; nothing was done")


def understood_check(connection: Connection, where: str, relation: tuple[str, str], definition: str) -> str:
    """Return a check constraint of a table that is there as PostgreSQL spells it.

    Raises:
        DamagedSet: the text is none, or calls what acts.
    """
    with _reading(connection, where):
        connection.execute(sql.set_texts.empty_like(*relation))
        _make(connection, sql.set_texts.add_said_check(relation[1], definition))
        asked = {"oid": _oid_of(connection, ("pg_temp", relation[1])), "owner": _owner_of(connection, relation)}
        found = connection.execute(sql.set_texts.CHECK_SAID, asked).fetchall()
    if len(found) != 1:
        raise DamagedSet(f"{where}: it is no check of rows; nothing was done")
    text, acting = found[0]
    if acting:
        raise DamagedSet(f"{where}: it calls {', '.join(acting)}, which belongs to somebody else and may act; make it by hand")
    return str(text)


def understood_default(connection: Connection, where: str, relation: tuple[str, str], column: str, text: str) -> None:
    """Make sure that a text is the default of a column of a table that is there, as PostgreSQL spells it.

    Raises:
        DamagedSet: it is none, or more than that.
    """
    with _reading(connection, where):
        connection.execute(sql.set_texts.empty_like(*relation))
        _make(connection, sql.set_texts.set_said_default(relation[1], column, text))
        asked = {"oid": _oid_of(connection, ("pg_temp", relation[1])), "column": column}
        found = connection.execute(sql.set_texts.DEFAULT_SAID, asked).fetchall()
    if found != [(text,)]:
        raise DamagedSet(f"{where}: it is no default of a column; nothing was done")


def understood_partition_key(connection: Connection, where: str, parent: tuple[str, str], key: str) -> str:
    """Return by what a table with the columns of one that is there is to be partitioned, as PostgreSQL spells it.

    Raises:
        DamagedSet: the text is no such key.
    """
    with _reading(connection, where):
        _make(connection, sql.set_texts.divide_by(*parent, key))
        return str(connection.execute(sql.set_texts.PARTITION_KEY_SAID).fetchall()[0][0])


def unfit_checks(server: Server, database: str, run: Run, context: Context, checks: Iterable[Check]) -> Mapping[str, str]:
    """Return by its name why a check that a set brings is not run: it is no query, or calls what acts."""
    with connect(server, database, run.title) as connection:
        found = {check.name: _unfit(connection, context, check) for check in checks}
    return {name: why for name, why in found.items() if why}


def _unfit(connection: Connection, context: Context, check: Check) -> str:
    try:
        with _reading(connection, "its query"):
            path = read_source_path(connection, context.namespace)
            connection.execute(sql.session.check_settings(context.timestamps, CHECK_SECONDS))
            execute_written(connection, sql.set_texts.count_of(check.query), path, prepare=True)
            # The functions of a database that the set made are what its own triggers call as well.
            _, _, acting = connection.execute(sql.set_texts.VIEW_SAID, {"owner": None}).fetchall()[0]
    except DamagedSet as error:
        return str(error)
    return f"it calls {', '.join(acting)}, which a check must not" if acting else ""
