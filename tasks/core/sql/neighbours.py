"""Statements that count rows of other contexts' tables by the values they refer to."""

from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier

from tasks.core.sql.source_path import under_source_path

# The base types of columns, and whether they are plain, so that reading values runs no owner's
# code.
BASE_TYPES = SQL(
    """WITH RECURSIVE base (place, type) AS (
         SELECT u.place, a.atttypid FROM unnest(%(names)s::text[]) WITH ORDINALITY AS u (name, place)
         JOIN pg_attribute a ON a.attrelid = %(parent)s::oid AND a.attname = u.name
         UNION ALL SELECT b.place, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd')
       SELECT format_type(t.oid, NULL), t.typtype IN ('b', 'e') AND t.typelem = 0
       FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype <> 'd' ORDER BY b.place"""
)
COPY_VALUES = SQL("COPY pg_temp.referred_to FROM STDIN")


def some_row(table: str) -> Composed:
    """Return one row if a table, named as in the catalog, has any."""
    return SQL("SELECT 1 FROM {} LIMIT 1").format(SQL(table))


def create_values(types: Sequence[str]) -> Composed:
    """Create the TEMP table for numbered rows of values; types are spelled as in the catalog."""
    columns = SQL(", ").join(SQL("v{} {}").format(SQL(str(place)), SQL(kind)) for place, kind in enumerate(types))
    return SQL("CREATE TEMP TABLE referred_to (number int, {})").format(columns)


def count_by_value(table: str, columns: Sequence[str], operators: Sequence[str]) -> Composed:
    """Count the rows of a table, named as in the catalog, that refer to each value, if any do."""
    same = SQL(" AND ").join(
        SQL("v.v{} {} o.{}").format(SQL(str(place)), SQL(equal), Identifier(column))
        for place, (column, equal) in enumerate(zip(columns, operators, strict=True))
    )
    return SQL("SELECT v.number, count(*) FROM pg_temp.referred_to AS v JOIN {} AS o ON {} GROUP BY 1").format(SQL(table), same)


def texts(alias: str, columns: Sequence[str]) -> Composed:
    """Return columns as text, by their types' own output functions."""
    return SQL(", ").join(SQL("pg_catalog.format('%s', {}.{})").format(SQL(alias), Identifier(column)) for column in columns)


@under_source_path
def noticed_values(columns: Sequence[str], noticed: Composed) -> Composed:
    """Return non-NULL values of rows whose change a key notices (sql.in_place.noticed_rows)."""
    known = SQL(" AND ").join(SQL("t.{} IS NOT NULL").format(Identifier(column)) for column in columns)
    return SQL("SELECT DISTINCT {} {} AND {}").format(texts("t", columns), noticed, known)
