"""Statements that copy and count the rows of one relation."""

from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

from tasks.core.sql.names import column_list
from tasks.core.sql.source_path import under_source_path

RELATION_BYTES = SQL("SELECT oid::bigint, pg_table_size(oid::regclass) FROM unnest(%(oids)s::oid[]) AS oid")


def copy_rows_out(schema: str, name: str, columns: Sequence[str], encoding: str) -> Composed:
    """COPY a relation's rows out, without its children, as text in the given encoding."""
    return SQL("COPY {}{} TO STDOUT (ENCODING {})").format(Identifier(schema, name), column_list(columns), Literal(encoding))


# The first page, and the one after the last; without that all that follow.
PageRange = tuple[int, int | None]


def rows_of_pages(schema: str, name: str, columns: Sequence[str], pages: PageRange) -> Composed:
    """Select the rows of some pages of a relation, without children, in the pages' order."""
    chosen = SQL(", ").join(map(Identifier, columns))
    return SQL("SELECT {} FROM ONLY {}{}").format(chosen, Identifier(schema, name), _on(pages))


def copy_pages_out(schema: str, name: str, columns: Sequence[str], encoding: str, pages: PageRange) -> Composed:
    """COPY the rows of some pages of a relation out, in the order of the pages."""
    return SQL("COPY ({}) TO STDOUT (ENCODING {})").format(rows_of_pages(schema, name, columns, pages), Literal(encoding))


def _on(pages: PageRange | None) -> Composed:
    """Return the WHERE clause that a row is on some pages; nothing for all pages."""
    first, end = pages or (0, None)
    bounds = [SQL("ctid >= {}::tid").format(Literal(f"({first},0)"))] if pages else []
    bounds += [] if end is None else [SQL("ctid < {}::tid").format(Literal(f"({end},0)"))]
    return Composed([SQL(" WHERE "), SQL(" AND ").join(bounds)] if bounds else [])


# So that pages are read in their order, and only those.
READ_PAGES = SQL(
    """SELECT set_config(name, value, false) FROM (VALUES ('enable_seqscan', 'off'), ('enable_tidscan', 'on'),
         ('max_parallel_workers_per_gather', '0')) AS reading (name, value)"""
)


def explain(query: Composed) -> Composed:
    """Return the plan of a query as JSON, without executing it."""
    return SQL("EXPLAIN (FORMAT JSON) {}").format(query)


def copy_chosen_out(
    schema: str, name: str, columns: Sequence[str], encoding: str, key: Sequence[str], equal: Sequence[str],
    types: Sequence[str], values: Sequence[Sequence[str]],
) -> Composed:  # fmt: skip
    """COPY rows out whose key is among some, given as text by column."""
    # As text: unnest() would take an array of arrays, or of rows, apart.
    lists = SQL(", ").join(SQL("{}::text[]").format(Literal(list(texts))) for texts in values)
    wanted = [Identifier(f"wanted {number}") for number in range(len(key))]
    pairs = zip(key, equal, wanted, types, strict=True)
    same = SQL(" AND ").join(
        SQL("t.{} {} w.{}::{}").format(Identifier(own), SQL(operator), name, SQL(kind)) for own, operator, name, kind in pairs
    )
    return SQL(
        "COPY (SELECT {} FROM ONLY {} AS t WHERE EXISTS (SELECT FROM unnest({}) AS w ({}) WHERE "
        "{})) TO STDOUT (ENCODING {})"
    ).format(
        SQL(", ").join(map(Identifier, columns)), Identifier(schema, name), lists, SQL(", ").join(wanted), same, Literal(encoding),
    )  # fmt: skip


@under_source_path
def copy_rows_in(schema: str, name: str, columns: Sequence[str], encoding: str, *, freeze: bool = True) -> Composed:
    """COPY rows in, with FREEZE (no later rewrite) if the transaction emptied the relation."""
    statement = SQL("COPY {}{} FROM STDIN ({}ENCODING {})")
    return statement.format(Identifier(schema, name), column_list(columns), SQL("FREEZE, " if freeze else ""), Literal(encoding))


@under_source_path
def count_rows_and_old(schema: str, name: str, since: int) -> Composed:
    """Count a relation's rows, and those written before a transaction (a full transaction id)."""
    return SQL("SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE {}) FROM ONLY {}").format(
        is_old(since), Identifier(schema, name)
    )


def count_rows_by_block(schema: str, name: str, shift: int, since: int | None, pages: PageRange | None = None) -> Composed:
    """Count the same per group of 2**shift blocks, of all or some; a ctid begins with its block."""
    return SQL(
        """SELECT block >> {}, sum(rows)::bigint, sum(old)::bigint FROM (
             SELECT ('x' || encode(bytes, 'hex'))::bit(32)::bigint AS block, rows, old FROM (
               SELECT substr(tidsend(ctid), 1, 4) AS bytes, count(*) AS rows, count(*) FILTER (WHERE {}) AS old
               FROM ONLY {}{} GROUP BY 1) AS counted) AS numbered GROUP BY 1 ORDER BY 1"""
    ).format(Literal(shift), SQL("true") if since is None else is_old(since), Identifier(schema, name), _on(pages))


def is_old(since: int) -> Composed:
    """Return the condition that a row was written before this transaction.

    It is sound for less than 2**31 later ones. A frozen row keeps its old transaction number, which
    may look like a future one. age() counts from this transaction's own number, if it has one,
    perhaps from a lock it waited for: rows of later transactions then have a negative age, and are
    not younger than what the snapshot sees.
    """
    return SQL(
        "(pg_catalog.age(xmin) OPERATOR(pg_catalog.<) (SELECT "
        "pg_catalog.age(pg_catalog.xid(pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())))) "
        "OR pg_catalog.age(xmin) OPERATOR(pg_catalog.>) pg_catalog.age({}::pg_catalog.xid))"
    ).format(Literal(str(since % (1 << 32))))


RELATION_BLOCKS = SQL(
    "SELECT pg_relation_size(%(name)s::regclass) / current_setting('block_size')::bigint, (SELECT "
    "a.amname = 'heap' FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.oid = "
    "%(name)s::regclass)"
)


def empty_relation(schema: str, name: str) -> Composed:
    """Truncate a relation being restored, as COPY (FREEZE) requires in its transaction."""
    return SQL("TRUNCATE TABLE ONLY {}").format(Identifier(schema, name))


ANALYZE = SQL("ANALYZE")
# User tables and materialized views.
ANALYZABLE = SQL(
    """SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND c.oid >= 16384
         AND n.nspname NOT IN ('information_schema', 'pg_toast') ORDER BY 1, 2"""
)


@under_source_path
def analyze_relation(schema: str, name: str) -> Composed:
    """Analyze one table."""
    return SQL("ANALYZE {}").format(Identifier(schema, name))


def count_rows(schema: str, name: str) -> Composed:
    """Count the rows of one relation without its children."""
    return SQL("SELECT count(*) FROM ONLY {}").format(Identifier(schema, name))


def holds_rows(schema: str, name: str) -> Composed:
    """Return one row if the relation, children included, has any."""
    return SQL("SELECT 1 FROM {} LIMIT 1").format(Identifier(schema, name))
