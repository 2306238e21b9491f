"""The statements by which PostgreSQL reads a text that a set brings, before it stands in a statement of ours.

A text is made a part of a TEMP object, in a transaction that is rolled back. It is sent prepared, because PostgreSQL then takes
one statement only; and what came of it is read as PostgreSQL understood it: which relations it reads, whether it holds another
query, and which functions it calls. Nothing of it is evaluated by that.
"""

from psycopg.sql import SQL, Composed, Identifier

from tasks.core.sql.staging import as_written

SAID = Identifier("said by a set")

# Functions that are volatile for what they say, not for what they do.
_HARMLESS = (
    "random|random_normal|clock_timestamp|timeofday|gen_random_uuid|uuidv4|uuidv7|uuid_generate_\\w+|currval|lastval|"
    "pg_(relation|table|indexes|total_relation|database)_size"
)
# Functions that act are volatile: those of PostgreSQL itself and of extensions, and, with an owner, of anybody but him.
_ACTING = f"""(SELECT array_agg(DISTINCT p.oid::regprocedure::text)
         FROM regexp_matches(tree, ':(?:op)?funcid (\\d+)', 'g') AS used JOIN pg_proc p ON p.oid = used[1]::oid
         WHERE p.provolatile = 'v' AND p.proname !~ '^({_HARMLESS})$'
           AND (p.oid < 16384 OR p.proowner <> %(owner)s::oid OR EXISTS (
             SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')))"""  # noqa: S608
# Of the view: the relations that it reads (before 16 it depends on itself as well), how many queries it is, and what acts in it.
# Names in the tree have their brackets escaped (https://www.postgresql.org/docs/current/querytree.html).
VIEW_SAID = SQL(
    f"""SELECT ARRAY(SELECT d.refobjid::bigint FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = rule
                     AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n' AND d.refobjid <> view),
              (SELECT count(*) FROM regexp_matches(tree, '(^|[^\\\\])\\{{QUERY ', 'g')), {_ACTING}
       FROM (SELECT r.oid AS rule, r.ev_class AS view, r.ev_action::text AS tree FROM pg_rewrite r
             WHERE r.ev_class = 'pg_temp."said by a set"'::regclass) AS said"""  # noqa: S608
)
# Of the table: its check as PostgreSQL spells it, and what acts in it.
CHECK_SAID = SQL(
    f"""SELECT definition, {_ACTING} FROM (
         SELECT pg_get_constraintdef(k.oid) AS definition, k.conbin::text AS tree FROM pg_constraint k
         WHERE k.contype = 'c' AND k.conrelid = %(oid)s::oid) AS said"""  # noqa: S608
)
DEFAULT_SAID = SQL(
    """SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
       WHERE d.adrelid = %(oid)s::oid AND a.attname = %(column)s"""
)
PARTITION_KEY_SAID = SQL("""SELECT pg_get_partkeydef('pg_temp."said by a set"'::regclass)""")
OWNER_OF = SQL("SELECT relowner::bigint FROM pg_class WHERE oid = to_regclass(%(name)s)")
OID_OF = SQL("SELECT to_regclass(%(name)s)::oid::bigint")


def join_by(condition: str, child: tuple[str, str], root: tuple[str, str]) -> Composed:
    """Make a view of the rows of two tables, each called by its name, that a condition joins."""
    return SQL("CREATE TEMP VIEW {} AS SELECT true AS holds FROM {} AS {} JOIN {} AS {} ON (\n{}\n)").format(
        SAID, Identifier(*child), Identifier(child[1]), Identifier(*root), Identifier(root[1]), as_written(condition)
    )


def count_of(query: str) -> Composed:
    """Make a view of how many rows a query finds."""
    return SQL("CREATE TEMP VIEW {} AS SELECT count(*) AS rows FROM (\n{}\n) AS found").format(SAID, as_written(query))


def empty_like(schema: str, name: str) -> Composed:
    """Make a TEMP table of the name and with the columns of another one."""
    return SQL("CREATE TEMP TABLE {} (LIKE {})").format(Identifier(name), Identifier(schema, name))


def add_said_check(name: str, definition: str) -> Composed:
    """Let that table check what a set says."""
    return SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(Identifier("pg_temp", name), SAID, as_written(definition))


def set_said_default(name: str, column: str, text: str) -> Composed:
    """Give a column of that table the default that a set says."""
    return SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}").format(
        Identifier("pg_temp", name), Identifier(column), as_written(text)
    )


def divide_by(schema: str, name: str, partition_key: str) -> Composed:
    """Make a TEMP table with the columns of another one that is partitioned by what a set says."""
    return SQL("CREATE TEMP TABLE {} (LIKE {}) PARTITION BY {}").format(SAID, Identifier(schema, name), as_written(partition_key))
