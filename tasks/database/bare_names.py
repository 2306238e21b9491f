"""Warnings about code with names without schema, which PostgreSQL 17 would fail to re-create."""

from tasks.core import sql
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.source_path import read_source_path
from tasks.database.catalog import Members

SINCE = "PostgreSQL 17 and later"


def read_bare_names(connection: Connection, members: Members, schema: str) -> list[str]:
    """Return warnings, with the remedy, about indexes, statistics and views that would be lost."""
    called = connection.execute(sql.bare_names.CALLED_BARE, {"relations": members.chosen_by_class["pg_class"]}).fetchall()
    path = read_source_path(connection, schema)
    return [
        f"creating {what} would fail in {SINCE}, which use a restricted search_path: {name} names "
        f"{bare} without schema; run ALTER FUNCTION {name} SET search_path = {path}"
        if kind == "function"
        else f"refreshing materialized view {name} would fail in {SINCE}, which use a restricted "
        f"search_path: its query names {bare} without schema; re-create the view with the schema "
        "in its query"
        for kind, name, bare, what in called
    ]
