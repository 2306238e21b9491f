"""Statements that show how this server spells texts of views and functions from elsewhere."""

from psycopg.sql import SQL, Composed, Identifier

from tasks.core.sql.staging import as_written

READ_AGAIN = Identifier("read again")
VIEW_TEXT = SQL("SELECT pg_get_viewdef(to_regclass(%(name)s))")
VIEW_READ_AGAIN = SQL("SELECT pg_get_viewdef('pg_temp.\"read again\"'::regclass)")
FUNCTION_TEXT = SQL("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE oid = to_regprocedure(%(name)s) AND prokind <> 'a'")


def view_of(query: str) -> Composed:
    """Create a TEMP view of a view's text, which parses it and executes nothing."""
    return SQL("CREATE TEMP VIEW {} AS\n{}").format(READ_AGAIN, as_written(query))
