"""Queries of integrity checks made from the catalog, and how any check is run."""

from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

from tasks.core.sql.source_path import under_source_path


@under_source_path
def offending_rows(query: str, limit: int) -> Composed:
    """Count the rows of a check, and return the first few of them."""
    return SQL("SELECT pg_catalog.count(*) OVER () AS all_of_them, offending.* FROM (\n{}\n) AS offending LIMIT {}").format(
        SQL(query),
        Literal(limit),
    )


# Whether a row of that time has a partition of its own, by the partition's own constraint, except
# DEFAULT. Sub-partitioning is not considered.
LEAF_CONSTRAINTS = SQL(
    """SELECT pg_get_partition_constraintdef(c.oid), (
                SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = %(column)s)
       FROM pg_class p JOIN pg_namespace n ON n.oid = p.relnamespace JOIN pg_inherits i ON i.inhparent = p.oid
       JOIN pg_class c ON c.oid = i.inhrelid
       WHERE n.nspname = %(schema)s AND p.relname = %(table)s AND p.relkind = 'p'
         AND pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'"""
)


def values_without_leaf(column: str, leaves: Sequence[tuple[str, str]], values: Sequence[str], *, instants: bool) -> Composed:
    """Return the values that no leaf partition would accept.

    `instants` have an offset; the session's zone is that of naive timestamps.
    """
    kind = SQL(leaves[0][1] if leaves else "timestamptz" if instants else "text")
    taken = SQL(" OR ").join(SQL("({})").format(SQL(constraint)) for constraint, _ in leaves) if leaves else SQL("false")
    return SQL(
        "SELECT w.{} AS without_partition FROM (SELECT i{}::{} AS {} FROM unnest({}::text[]) AS i) AS w WHERE NOT ({})"
    ).format(Identifier(column), SQL("::timestamptz" if instants else ""), kind, Identifier(column), Literal(list(values)), taken)


TRIGGERS_OFF = """
SELECT t.tgrelid::regclass::text AS "table",
       CASE WHEN t.tgisinternal THEN coalesce(k.conname, t.tgname) ELSE t.tgname END AS "trigger",
       CASE t.tgenabled WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'for replicas only' END AS state
FROM pg_trigger t LEFT JOIN pg_constraint k ON k.oid = t.tgconstraint
WHERE t.tgenabled IN ('D', 'R')
  -- A foreign key's triggers are on both its tables, on other contexts' too.
  AND (t.tgrelid = ANY ({oids}) OR k.contype = 'f' AND k.conrelid = ANY ({oids}))"""
INDEXES_INVALID = """
SELECT i.indrelid::regclass::text AS "table", i.indexrelid::regclass::text AS "index" FROM pg_index i
WHERE i.indrelid = ANY ({oids}) AND NOT (i.indisvalid AND i.indisready AND i.indislive)"""
_ENFORCED = "coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)"
_CONSTRAINTS = """
SELECT k.conrelid::regclass::text AS "table", k.conname AS "constraint" FROM pg_constraint k
WHERE k.conrelid = ANY ({oids}) AND k.conparentid = 0"""
CONSTRAINTS_OFF = f"{_CONSTRAINTS} AND NOT {_ENFORCED}"
CONSTRAINTS_UNPROVEN = f"{_CONSTRAINTS} AND NOT k.convalidated AND {_ENFORCED}"
VIEWS_EMPTY = """
SELECT c.oid::regclass::text AS "view" FROM pg_class c
WHERE c.oid = ANY ({oids}) AND c.relkind = 'm' AND NOT c.relispopulated"""


def about(query: str, oids: Sequence[int]) -> str:
    """Return a check made from the catalog, for these relations."""
    return query.format(oids=f"'{{{','.join(map(str, oids))}}}'::oid[]")
