"""Statements that delete marked rows, and count the effects."""

from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier

from tasks.core.sql.clean_up import MARKED, ROW, Table, as_texts, chosen
from tasks.core.sql.source_path import under_source_path
from tasks.core.sql.staging import STAGED


@under_source_path
def delete_marked(tables: Sequence[Table], roots: Sequence[int]) -> Composed:
    """Delete the marked rows of some tables in one statement: keys are checked at its end.

    Returns for each deleted row the oid of its relation and its key as text.
    """
    part = "{} AS (DELETE FROM {} AS {row} USING ({}) AS {} WHERE {} RETURNING {row}.tableoid::bigint AS leaf, ARRAY[{}] AS key)"
    parts = [
        SQL(part).format(
            Identifier(f"gone {table.number}"), table.place, chosen(table, roots), Identifier(MARKED), table.is_marked(ROW),
            as_texts([SQL("{}.{}").format(ROW, Identifier(column)) for column in table.key]), row=ROW,
        )
        for table in tables
    ]  # fmt: skip
    rows = (SQL("SELECT leaf, key FROM {}").format(Identifier(f"gone {table.number}")) for table in tables)
    return SQL("WITH {} {}").format(SQL(", ").join(parts), SQL(" UNION ALL ").join(rows))


# Rows deleted by this transaction in any but TEMP tables, by whatever cause; rolled back ones count
# too. pg_stat_xact_user_tables is slower, and this is queried for every refused row.
DELETED_BY_TABLE = SQL(
    """SELECT c.oid::bigint, format('%I.%I', n.nspname, c.relname), pg_stat_get_xact_tuples_deleted(c.oid)
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.relkind = 'r' AND c.oid >= 16384 AND c.relpersistence <> 't' AND pg_stat_get_xact_tuples_deleted(c.oid) > 0"""
)


# Relations that this transaction locked exclusively, except TEMP ones: truncated, or altered.
TAKEN = SQL(
    """SELECT DISTINCT format('%I.%I', n.nspname, c.relname) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
       JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND c.relpersistence <> 't'
         AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'"""
)
COUNTS_ROWS = SQL("SELECT current_setting('track_counts')::boolean")
DEFER = SQL("SET CONSTRAINTS ALL DEFERRED")


def is_staged(table: Table, numbers: Sequence[int]) -> Composed:
    """Return the condition that a row's key, qualified by its table, is that of a staged row."""
    columns, row = SQL(", ").join(map(Identifier, table.key)), Identifier("s: staged")
    parts = (SQL("SELECT {} FROM {}").format(columns, Identifier("pg_temp", STAGED.format(number))) for number in numbers)
    staged, same = SQL(" UNION ALL ").join(parts), table.is_same(table.bare, row)
    return SQL("EXISTS (SELECT FROM ({}) AS {} WHERE {})").format(staged, row, same)


def count_gone(table: Table, leaf: tuple[str, str], number: int) -> Composed:
    """Count the staged rows that a leaf no longer has."""
    same = table.is_same(ROW, Identifier("s"))
    return SQL("SELECT count(*) FROM {} AS s WHERE NOT EXISTS (SELECT FROM ONLY {} AS {} WHERE {})").format(
        Identifier("pg_temp", STAGED.format(number)), Identifier(*leaf), ROW, same
    )


def vacuum(schema: str, name: str) -> Composed:
    """Vacuum and analyze a table."""
    return SQL("VACUUM (ANALYZE) {}").format(Identifier(schema, name))
