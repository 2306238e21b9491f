"""Statements with which PostgreSQL parses a set's text before it is used in a statement of ours.

The text becomes part of a TEMP object in a transaction that is rolled back. It is sent prepared, so
that only one statement is accepted; then the parsed form shows which relations it reads, whether it
contains another query, and which functions it calls. Nothing of it is executed.
"""

from psycopg.sql import SQL, Composed, Identifier

from tasks.core.sql.staging import as_written

FROM_SET = Identifier("text of a set")

# Functions that are volatile, but have no side effects.
_HARMLESS = (
    "random|random_normal|clock_timestamp|timeofday|gen_random_uuid|uuidv4|uuidv7|uuid_generate_\\w+|currval|lastval|"
    "pg_(relation|table|indexes|total_relation|database)_size"
)
# Functions with side effects are volatile: PostgreSQL's, extensions', and, with an owner, other
# roles'.
_ACTING = f"""(SELECT array_agg(DISTINCT p.oid::regprocedure::text)
         FROM regexp_matches(tree, ':(?:op)?funcid (\\d+)', 'g') AS used JOIN pg_proc p ON p.oid = used[1]::oid
         WHERE p.provolatile = 'v' AND p.proname !~ '^({_HARMLESS})$'
           AND (p.oid < 16384 OR p.proowner <> %(owner)s::oid OR EXISTS (
             SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')))"""  # noqa: S608
# Of the view: the relations that it reads (before 16 also itself), the number of queries, and
# functions with # side effects. Names in the tree have their brackets escaped
# (https://www.postgresql.org/docs/current/querytree.html).
PARSED_VIEW = SQL(
    f"""SELECT ARRAY(SELECT d.refobjid::bigint FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = rule
                     AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n' AND d.refobjid <> view),
              (SELECT count(*) FROM regexp_matches(tree, '(^|[^\\\\])\\{{QUERY ', 'g')), {_ACTING}
       FROM (SELECT r.oid AS rule, r.ev_class AS view, r.ev_action::text AS tree FROM pg_rewrite r
             WHERE r.ev_class = 'pg_temp."text of a set"'::regclass) AS parsed"""  # noqa: S608
)
# Of the table: its check as PostgreSQL spells it, and functions with side effects.
PARSED_CHECK = SQL(
    f"""SELECT definition, {_ACTING} FROM (
         SELECT pg_get_constraintdef(k.oid) AS definition, k.conbin::text AS tree FROM pg_constraint k
         WHERE k.contype = 'c' AND k.conrelid = %(oid)s::oid) AS parsed"""  # noqa: S608
)
PARSED_DEFAULT = SQL(
    """SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
       WHERE d.adrelid = %(oid)s::oid AND a.attname = %(column)s"""
)
PARSED_PARTITION_KEY = SQL("""SELECT pg_get_partkeydef('pg_temp."text of a set"'::regclass)""")
OWNER_OF = SQL("SELECT relowner::bigint FROM pg_class WHERE oid = to_regclass(%(name)s)")
OID_OF = SQL("SELECT to_regclass(%(name)s)::oid::bigint")


def join_by(condition: str, child: tuple[str, str], root: tuple[str, str]) -> Composed:
    """Create a view of two tables' rows joined by a condition, which uses bare names."""
    return SQL("CREATE TEMP VIEW {} AS SELECT true AS holds FROM {} AS {} JOIN {} AS {} ON (\n{}\n)").format(
        FROM_SET, Identifier(*child), Identifier(child[1]), Identifier(*root), Identifier(root[1]), as_written(condition)
    )


def count_of(query: str) -> Composed:
    """Create a view that counts a query's rows."""
    return SQL("CREATE TEMP VIEW {} AS SELECT count(*) AS rows FROM (\n{}\n) AS broken").format(FROM_SET, as_written(query))


def empty_like(schema: str, name: str) -> Composed:
    """Create a TEMP table with another table's name and columns."""
    return SQL("CREATE TEMP TABLE {} (LIKE {})").format(Identifier(name), Identifier(schema, name))


def add_check_of_set(name: str, definition: str) -> Composed:
    """Add a set's check to that table."""
    return SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(Identifier("pg_temp", name), FROM_SET, as_written(definition))


def set_default_of_set(name: str, column: str, text: str) -> Composed:
    """Set a set's default on a column of that table."""
    return SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}").format(
        Identifier("pg_temp", name), Identifier(column), as_written(text)
    )


def divide_by(schema: str, name: str, partition_key: str) -> Composed:
    """Create a TEMP table like another one, with a set's partition key."""
    return SQL("CREATE TEMP TABLE {} (LIKE {}) PARTITION BY {}").format(
        FROM_SET, Identifier(schema, name), as_written(partition_key)
    )
