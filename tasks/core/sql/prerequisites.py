"""Statements that check prerequisites of a restore before anything is created."""

from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

from tasks.core.sql.names import column_list
from tasks.core.sql.source_path import under_source_path
from tasks.core.sql.staging import DIFFERENCE, EQUAL, WHAT, as_written, temp

# Tablespaces: whether they exist, and whether this session may use them; the database's own needs
# none (https://www.postgresql.org/docs/current/manage-ag-tablespaces.html).
TABLESPACES = SQL(
    """SELECT wanted, t.oid IS NOT NULL,
              coalesce(has_tablespace_privilege(t.oid, 'CREATE'), false)
                OR coalesce(t.oid = (SELECT d.dattablespace FROM pg_database d WHERE d.datname = %(database)s), false)
       FROM unnest(%(names)s::text[]) AS wanted LEFT JOIN pg_tablespace t ON t.spcname = wanted ORDER BY 1"""
)
# Collations of the operating system that databases of an encoding lack.
MISSING_COLLATIONS = SQL(
    """SELECT wanted FROM unnest(%(names)s::text[]) AS wanted WHERE NOT EXISTS (
         SELECT FROM pg_collation c WHERE c.collname = wanted AND c.collnamespace = 'pg_catalog'::regnamespace
           AND c.collencoding IN (-1, pg_char_to_encoding(%(encoding)s))) ORDER BY 1"""
)
# Extensions: whether the server has them, and whether this login may create them in its own
# database.
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

# The promised size of the lock table; and how many indexes some relations have.
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

# Event triggers that fire on some commands, with their functions.
EVENT_TRIGGERS = SQL(
    """SELECT evtname, evtevent, evtfoid::regprocedure::text, coalesce(evttags, '{}') FROM pg_event_trigger
       WHERE evtenabled IN ('O', 'A') AND evtevent <> 'login' AND coalesce(evttags && %(tags)s::text[], true)
         AND coalesce(current_setting('event_triggers', true), 'on') <> 'off' ORDER BY 1"""
)
_TRIED = Identifier("pg_temp", "tried beforehand")
_MAKE = SQL("CREATE TEMP TABLE {} AS SELECT 1 AS id").format(Identifier("tried beforehand"))
_DROP = SQL("DROP TABLE {}").format(_TRIED)
# Statements without visible effect: tables created and dropped, and altered as well.
TRY_TO_STAGE = [_MAKE, _DROP]
TRY_TO_MAKE = [_MAKE, SQL("ALTER TABLE {} ADD PRIMARY KEY (id)").format(_TRIED), _DROP]


def try_to_alter(schema: str, name: str) -> Composed:
    """An ALTER TABLE that changes nothing, and blocks neither readers nor writers."""
    return SQL("ALTER TABLE {} RESET (autovacuum_enabled)").format(Identifier(schema, name))


@under_source_path
def explain_update(schema: str, name: str, column: str) -> Composed:
    """Plan an UPDATE (of DEFAULT, for generated columns) to see if it is allowed; nothing fires."""
    return SQL("EXPLAIN UPDATE ONLY {} SET {} = DEFAULT").format(Identifier(schema, name), Identifier(column))


@under_source_path
def explain_delete(schema: str, name: str) -> Composed:
    """Plan a DELETE, which shows whether it is allowed; no trigger fires."""
    return SQL("EXPLAIN DELETE FROM ONLY {}").format(Identifier(schema, name))


TRIED_ROWS = "tried rows"


def create_like_checked(schema: str, name: str) -> Composed:
    """Create a TEMP table with a table's columns, types and checks."""
    like = SQL("CREATE TEMP TABLE {} (LIKE {} INCLUDING CONSTRAINTS INCLUDING GENERATED)")
    return like.format(Identifier(TRIED_ROWS), Identifier(schema, name))


def allow_null(name: str) -> Composed:
    """Drop NOT NULL of a column of it."""
    return SQL("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL").format(Identifier("pg_temp", TRIED_ROWS), Identifier(name))


def forget_check(name: str) -> Composed:
    """Drop one of its checks."""
    return SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(Identifier("pg_temp", TRIED_ROWS), Identifier(name))


@under_source_path
def try_rows(number: int, columns: Sequence[str], kinds: str) -> Composed:
    """Insert rows of some kinds of difference into it."""
    wanted = SQL(" OR ").join(SQL("{} {} {}").format(WHAT, SQL(EQUAL), Literal(kind)) for kind in kinds)
    chosen = SQL(", ").join(map(Identifier, columns))
    return SQL("INSERT INTO {}{} SELECT {} FROM {} WHERE {}").format(
        Identifier("pg_temp", TRIED_ROWS), column_list(columns), chosen, temp(DIFFERENCE, number), wanted
    )


# Columns with defaults.
WITH_DEFAULT = SQL(
    """SELECT attname::text FROM pg_attribute WHERE attrelid = %(oid)s AND attnum > 0 AND NOT attisdropped
         AND (atthasdef OR attidentity <> '') AND attgenerated = ''"""
)

# NOT VALID checks of domains that relations use, which existing rows may violate.
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
# The base type of a domain with a NOT VALID check, by name.
BASE_OF_UNPROVEN = SQL(
    """WITH RECURSIVE chain (domain, base, modifier) AS (
         SELECT t.oid, t.typbasetype, t.typtypmod FROM pg_type t WHERE t.oid = to_regtype(%(name)s) AND t.typtype = 'd'
         UNION SELECT t.oid, t.typbasetype, t.typtypmod FROM chain c JOIN pg_type t ON t.oid = c.base AND t.typtype = 'd')
       SELECT format_type(c.base, c.modifier) FROM chain c JOIN pg_type t ON t.oid = c.base AND t.typtype <> 'd'
       WHERE EXISTS (SELECT FROM pg_constraint k WHERE k.contypid IN (SELECT domain FROM chain) AND NOT k.convalidated)"""
)
# The same of tables, without inherited checks.
UNPROVEN_OF_TABLES = SQL(
    """SELECT n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint')
       FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE k.conrelid = ANY (%(oids)s::oid[]) AND NOT k.convalidated AND k.contype IN ('c', 'n') AND k.coninhcount = 0
         AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true) ORDER BY 1, 2, 3"""
)


def drop_unproven(kind: str, schema: str, name: str, constraint: str) -> Composed:
    """Drop a NOT VALID check of a TABLE or a DOMAIN."""
    return SQL("ALTER {} {} DROP CONSTRAINT {}").format(SQL(kind), Identifier(schema, name), Identifier(constraint))


def add_unproven(kind: str, schema: str, name: str, constraint: str, definition: str, comment: str | None) -> Composed:
    """Re-create that check as NOT VALID, spelled as in the catalog."""
    added = SQL("ALTER {} {} ADD CONSTRAINT {} {}").format(
        SQL(kind), Identifier(schema, name), Identifier(constraint), as_written(definition)
    )
    if comment is None:
        return added
    on = SQL("DOMAIN ") if kind == "DOMAIN" else SQL("")
    commented = SQL("COMMENT ON CONSTRAINT {} ON {}{} IS {}").format(
        Identifier(constraint), on, Identifier(schema, name), Literal(comment)
    )
    return SQL("{}; {}").format(added, commented)
