"""What of a context PostgreSQL 17 and later would not make again, because it calls by bare names what is not on their path."""

from tasks.core import sql
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.source_path import read_source_path
from tasks.database.catalog import Members

SINCE = "PostgreSQL 17 and later"


def read_bare_names(connection: Connection, members: Members, schema: str) -> list[str]:
    """Return, as warnings with the remedy, which indexes, statistics and materialized views a restore there would lack."""
    found = connection.execute(sql.bare_names.CALLED_BARE, {"relations": members.chosen_by_class["pg_class"]}).fetchall()
    path = read_source_path(connection, schema)
    return [
        f"{what} would not be computed by {SINCE}, which do that under a path of their own: {name} names {bare} without schema; "
        f"run ALTER FUNCTION {name} SET search_path = {path}" if kind == "function" else
        f"materialized view {name} would not be computed by {SINCE}, which do that under a path of their own: a query in its text "
        f"names {bare} without schema; make the view anew with the schema before it"
        for kind, name, bare, what in found
    ]  # fmt: skip
