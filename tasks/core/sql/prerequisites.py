"""Statements that ask, before anything is made, for what a restore needs where it goes."""

from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

from tasks.core.sql.names import column_list
from tasks.core.sql.source_path import under_source_path
from tasks.core.sql.staging import DIFFERENCE, EQUAL, WHAT, as_written, temp

# Tablespaces by name, whether they are there, and whether this session may make tables in them: in that of the database anybody may
# (https://www.postgresql.org/docs/current/manage-ag-tablespaces.html).
TABLESPACES = SQL(
    """SELECT wanted, t.oid IS NOT NULL,
              coalesce(has_tablespace_privilege(t.oid, 'CREATE'), false)
                OR coalesce(t.oid = (SELECT d.dattablespace FROM pg_database d WHERE d.datname = %(database)s), false)
       FROM unnest(%(names)s::text[]) AS wanted LEFT JOIN pg_tablespace t ON t.spcname = wanted ORDER BY 1"""
)
# Collations of PostgreSQL's own schema that are not there for databases of an encoding: those of the operating system's locales.
MISSING_COLLATIONS = SQL(
    """SELECT wanted FROM unnest(%(names)s::text[]) AS wanted WHERE NOT EXISTS (
         SELECT FROM pg_collation c WHERE c.collname = wanted AND c.collnamespace = 'pg_catalog'::regnamespace
           AND c.collencoding IN (-1, pg_char_to_encoding(%(encoding)s))) ORDER BY 1"""
)
# Extensions by name, whether the server has them to install, and whether this login may, in a database that it makes.
EXTENSIONS = SQL(
    """SELECT wanted, a.name IS NOT NULL,
              current_setting('is_superuser')::boolean OR coalesce((
                SELECT v.trusted OR NOT v.superuser FROM pg_available_extension_versions v
                WHERE v.name = a.name AND v.version = a.default_version), false)
       FROM unnest(%(names)s::text[]) AS wanted LEFT JOIN pg_available_extensions a ON a.name = wanted
       -- Every new database has it.
       WHERE wanted <> 'plpgsql' ORDER BY 1"""
)
EXTENSIONS_HERE = SQL("SELECT x.extname, n.nspname FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace")
SCHEMAS_HERE = SQL("SELECT nspname FROM pg_namespace")

# How many locks of one transaction a server has room for, as it promises; and how many indexes some relations have.
LOCK_SLOTS = SQL(
    """SELECT current_setting('max_locks_per_transaction')::int, current_setting('max_locks_per_transaction')::int
              * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)"""
)
TABLES_OF_INDEXES = SQL(
    """SELECT o.name, i.indrelid::regclass::text FROM unnest(%(names)s::text[]) AS o (name)
       JOIN pg_index i ON i.indexrelid = to_regclass(o.name) ORDER BY 1"""
)
INDEXES_OF = SQL("SELECT count(*) FROM pg_index WHERE indrelid = ANY (%(oids)s::oid[])")

STAGED_BYTES = SQL(
    "SELECT coalesce(sum(pg_table_size(oid)), 0)::bigint FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'"
)

# Event triggers that fire on some commands, with the function that each runs.
EVENT_TRIGGERS = SQL(
    """SELECT evtname, evtevent, evtfoid::regprocedure::text, coalesce(evttags, '{}') FROM pg_event_trigger
       WHERE evtenabled IN ('O', 'A') AND evtevent <> 'login' AND coalesce(evttags && %(tags)s::text[], true)
         AND coalesce(current_setting('event_triggers', true), 'on') <> 'off' ORDER BY 1"""
)
_TRIED = Identifier("pg_temp", "tried beforehand")
_MAKE = SQL("CREATE TEMP TABLE {} AS SELECT 1 AS id").format(Identifier("tried beforehand"))
_DROP = SQL("DROP TABLE {}").format(_TRIED)
# What nobody sees: tables made and dropped; and altered as well.
TRY_TO_STAGE = [_MAKE, _DROP]
TRY_TO_MAKE = [_MAKE, SQL("ALTER TABLE {} ADD PRIMARY KEY (id)").format(_TRIED), _DROP]


def try_to_alter(schema: str, name: str) -> Composed:
    """Change nothing of a table, as an ALTER TABLE for which nobody waits who reads or writes."""
    return SQL("ALTER TABLE {} RESET (autovacuum_enabled)").format(Identifier(schema, name))


@under_source_path
def explain_update(schema: str, name: str, column: str) -> Composed:
    """Ask whether rows of a table may be updated; no trigger fires. A column that is generated takes its default alone."""
    return SQL("EXPLAIN UPDATE ONLY {} SET {} = DEFAULT").format(Identifier(schema, name), Identifier(column))


@under_source_path
def explain_delete(schema: str, name: str) -> Composed:
    """Ask whether rows of a table may be deleted; no trigger fires."""
    return SQL("EXPLAIN DELETE FROM ONLY {}").format(Identifier(schema, name))


TRIED_ROWS = "tried rows"


def create_like_checked(schema: str, name: str) -> Composed:
    """Make a TEMP table that takes the rows that a table would, as far as its columns, their types and its checks say."""
    like = SQL("CREATE TEMP TABLE {} (LIKE {} INCLUDING CONSTRAINTS INCLUDING GENERATED)")
    return like.format(Identifier(TRIED_ROWS), Identifier(schema, name))


def allow_null(name: str) -> Composed:
    """Let a column of it be empty."""
    return SQL("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL").format(Identifier("pg_temp", TRIED_ROWS), Identifier(name))


def forget_check(name: str) -> Composed:
    """Let it not have one of the checks."""
    return SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(Identifier("pg_temp", TRIED_ROWS), Identifier(name))


@under_source_path
def try_rows(number: int, columns: Sequence[str], kinds: str) -> Composed:
    """Give it the rows of some kinds of difference."""
    wanted = SQL(" OR ").join(SQL("{} {} {}").format(WHAT, SQL(EQUAL), Literal(kind)) for kind in kinds)
    chosen = SQL(", ").join(map(Identifier, columns))
    return SQL("INSERT INTO {}{} SELECT {} FROM {} WHERE {}").format(
        Identifier("pg_temp", TRIED_ROWS), column_list(columns), chosen, temp(DIFFERENCE, number), wanted
    )


# Columns that get a value by themselves.
WITH_DEFAULT = SQL(
    """SELECT attname::text FROM pg_attribute WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped
         AND (atthasdef OR attidentity <> '') AND attgenerated = ''"""
)

# Checks that were never proven of the domains that columns of some relations are of: rows may break them that were there before.
UNPROVEN_OF_DOMAINS = SQL(
    """WITH RECURSIVE chain (domain, base) AS (
         SELECT t.oid, t.typbasetype FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid AND t.typtype = 'd'
         WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
         UNION SELECT t.oid, t.typbasetype FROM chain c JOIN pg_type t ON t.oid = c.base AND t.typtype = 'd')
       SELECT n.nspname, t.typname, k.conname, pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint')
       FROM pg_constraint k JOIN pg_type t ON t.oid = k.contypid JOIN pg_namespace n ON n.oid = t.typnamespace
       WHERE k.contypid IN (SELECT domain FROM chain) AND NOT k.convalidated AND pg_has_role(t.typowner, 'USAGE')
       ORDER BY 1, 2, 3"""
)
# The type under a domain, by name, of which a check was never proven.
BASE_OF_UNPROVEN = SQL(
    """WITH RECURSIVE chain (domain, base, modifier) AS (
         SELECT t.oid, t.typbasetype, t.typtypmod FROM pg_type t WHERE t.oid = to_regtype(%(name)s) AND t.typtype = 'd'
         UNION SELECT t.oid, t.typbasetype, t.typtypmod FROM chain c JOIN pg_type t ON t.oid = c.base AND t.typtype = 'd')
       SELECT format_type(c.base, c.modifier) FROM chain c JOIN pg_type t ON t.oid = c.base AND t.typtype <> 'd'
       WHERE EXISTS (SELECT FROM pg_constraint k WHERE k.contypid IN (SELECT domain FROM chain) AND NOT k.convalidated)"""
)
# The same of tables themselves, but for what they inherit.
UNPROVEN_OF_TABLES = SQL(
    """SELECT n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint')
       FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE k.conrelid = ANY (%(oids)s::oid[]) AND NOT k.convalidated AND k.contype IN ('c', 'n') AND k.coninhcount = 0
         AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true) ORDER BY 1, 2, 3"""
)


def drop_unproven(kind: str, schema: str, name: str, constraint: str) -> Composed:
    """Let a TABLE or a DOMAIN take rows that a check refuses."""
    return SQL("ALTER {} {} DROP CONSTRAINT {}").format(SQL(kind), Identifier(schema, name), Identifier(constraint))


def add_unproven(kind: str, schema: str, name: str, constraint: str, definition: str, comment: str | None) -> Composed:
    """Give it back the check, for what is written from now on; spelled as the catalogue does."""
    added = SQL("ALTER {} {} ADD CONSTRAINT {} {}").format(
        SQL(kind), Identifier(schema, name), Identifier(constraint), as_written(definition)
    )
    if comment is None:
        return added
    on = SQL("DOMAIN ") if kind == "DOMAIN" else SQL("")
    told = SQL("COMMENT ON CONSTRAINT {} ON {}{} IS {}").format(
        Identifier(constraint), on, Identifier(schema, name), Literal(comment)
    )
    return SQL("{}; {}").format(added, told)
