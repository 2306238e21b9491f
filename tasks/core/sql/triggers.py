"""Statements about triggers: their states, and what makes them fire."""

from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

from tasks.core.sql.source_path import under_source_path

# User triggers, each with the word that restores its state; partitions' after their parents', whose
# switch includes all partitions.
TRIGGER_STATES = SQL(
    """SELECT n.nspname, c.relname, t.tgname, CASE t.tgenabled WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS'
                                                               WHEN 'D' THEN 'DISABLE' ELSE 'ENABLE' END, c.oid::regclass::text
       FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE t.tgrelid = ANY (%(oids)s::oid[]) AND NOT t.tgisinternal
       ORDER BY (SELECT count(*) FROM pg_partition_ancestors(c.oid)), 1, 2, 3"""
)


def switch_trigger(schema: str, table: str, trigger: str, words: str) -> Composed:
    """Switch one trigger: DISABLE, ENABLE, ENABLE ALWAYS or ENABLE REPLICA."""
    if words not in ("DISABLE", "ENABLE", "ENABLE ALWAYS", "ENABLE REPLICA"):
        raise ValueError(f"{words} is no state of a trigger")
    return SQL("ALTER TABLE {} {} TRIGGER {}").format(Identifier(schema, table), SQL(words), Identifier(trigger))


# Tables to write to by name, with their enabled triggers (without copies of a parent's) and events;
# partitions only if they have triggers of their own.
WRITTEN_TABLES = SQL(
    """SELECT n.nspname, c.relname,
         (SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') FROM pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
         (SELECT coalesce(array_agg(a.attname::text), '{}') FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attidentity = 'a'),
         (SELECT coalesce(array_agg(a.attname::text), '{}') FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
          WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey) AND a.atttypid = 'uuid'::regtype),
         (SELECT coalesce(array_agg(a.attname::text), '{}') FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped
          AND a.attgenerated = '' AND (a.atthasdef OR a.attidentity <> '')),
         t.tgname, array_remove(ARRAY[CASE WHEN t.tgtype & 16 <> 0 THEN 'UPDATE' END, CASE WHEN t.tgtype & 8 <> 0 THEN 'DELETE' END,
                                      CASE WHEN t.tgtype & 4 <> 0 THEN 'INSERT' END], NULL)
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgparentid = 0
       WHERE c.oid = ANY (%(oids)s::oid[]) AND c.relkind IN ('r', 'p') AND (t.oid IS NOT NULL OR NOT c.relispartition)
       ORDER BY n.nspname, c.relname, t.tgname"""
)

# The tables on which their owner revoked privileges of his own.
LACKED_BY_OWNERS = SQL(
    """SELECT DISTINCT c.relname::text FROM pg_class c
       CROSS JOIN unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS right_of (privilege)
       WHERE c.oid = ANY (%(oids)s::oid[]) AND c.relkind IN ('r', 'p')
         AND NOT has_table_privilege(c.relowner, c.oid, privilege)"""
)

# Extensions whose functions have effects that no transaction reverts.
ACTING_OUTSIDE = [
    "adminpack", "amqp", "aws_lambda", "aws_s3", "dblink", "http", "jdbc_fdw", "kafka_fdw", "mysql_fdw", "oracle_fdw", "orafce",
    "pg_background", "pg_net", "pgagent", "pgmemcache", "pgsql_http", "plsh", "redis_fdw", "tds_fdw",
]  # fmt: skip
# Which tables' triggers, defaults and rules come, as far as words of code say, to functions that
# act outside of the database: those of these extensions, of languages that only a superuser may
# write in, and what runs programs. What they write to fires as well.
REACHING_OUTSIDE = SQL(
    """WITH RECURSIVE outside AS (
         SELECT p.oid, p.proname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
         WHERE p.oid >= 16384 AND (
           l.lanname NOT IN ('c', 'internal') AND (NOT l.lanpltrusted OR p.prosrc ~* '\\mcopy\\M.*\\mprogram\\M')
           OR EXISTS (
           SELECT FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid WHERE d.classid = 'pg_proc'::regclass
           AND d.objid = p.oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND x.extname = ANY (%(names)s)))),
         fires AS (SELECT t.tgrelid, t.tgfoid FROM pg_trigger t WHERE NOT t.tgisinternal),
         calls (caller, called) AS MATERIALIZED (
           SELECT b.oid, unnest(ARRAY(SELECT p.oid FROM pg_proc p WHERE lower(p.proname) = w.words[1] AND p.oid >= 16384
                                      UNION SELECT f.tgfoid FROM fires f JOIN pg_class c ON c.oid = f.tgrelid
                                      WHERE lower(c.relname) = w.words[1]))
           FROM pg_proc b JOIN pg_language l ON l.oid = b.prolang
           CROSS JOIN LATERAL regexp_matches(lower(b.prosrc), '[[:alpha:]_][[:alnum:]_$]*', 'g') AS w (words)
           WHERE b.oid >= 16384 AND l.lanname NOT IN ('c', 'internal') AND EXISTS (SELECT FROM outside)),
         reaches (relation, function) AS (
           SELECT r.oid, s.function FROM (
             SELECT tgrelid, tgfoid FROM fires UNION ALL
             SELECT a.adrelid, d.refobjid FROM pg_attrdef a
             JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid
             WHERE d.refclassid = 'pg_proc'::regclass UNION ALL
             SELECT w.ev_class, d.refobjid FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass
             AND d.objid = w.oid WHERE d.refclassid = 'pg_proc'::regclass) AS s (relation, function)
           CROSS JOIN LATERAL (VALUES (s.relation), (pg_partition_root(s.relation)::oid)) AS r (oid)
           WHERE r.oid = ANY (%(oids)s::oid[])
           UNION SELECT r.relation, c.called FROM reaches r JOIN calls c ON c.caller = r.function)
       SELECT n.nspname, k.relname, string_agg(DISTINCT o.proname, ', ') FROM reaches r JOIN outside o ON o.oid = r.function
       JOIN pg_class k ON k.oid = r.relation JOIN pg_namespace n ON n.oid = k.relnamespace GROUP BY 1, 2"""
)

FORGET_SEQUENCES = SQL("DISCARD SEQUENCES")
KEYS_AROUND = SQL(
    """SELECT n.nspname, c.relname, k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
       JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE k.contype = 'f' AND k.conparentid = 0
         AND format('%%I.%%I', %(schema)s::text, %(name)s::text)::regclass IN (k.conrelid, k.confrelid)"""
)


DEFERRED_TRIGGERS = SQL(
    """SELECT n.nspname, t.tgname
       FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE NOT t.tgisinternal AND t.tgdeferrable
         AND t.tgrelid = format('%%I.%%I', %(schema)s::text, %(name)s::text)::regclass"""
)


def fire_at_once(schema: str, trigger: str) -> Composed:
    """Set a deferred constraint trigger to fire with its statement."""
    return SQL("SET CONSTRAINTS {} IMMEDIATE").format(Identifier(schema, trigger))


def explain_analyze(statement: Composed) -> Composed:
    """Execute a statement, and return which triggers fired."""
    return SQL("EXPLAIN (ANALYZE, COSTS off, TIMING off, FORMAT json) {}").format(statement)


def defer_key(schema: str, table: str, key: str) -> Composed:
    """Defer a foreign key to the end of the transaction, which is rolled back."""
    return SQL("ALTER TABLE {} ALTER CONSTRAINT {} DEFERRABLE INITIALLY DEFERRED").format(
        Identifier(schema, table), Identifier(key)
    )


# Partitions with rows, by statistics; with thousands of them a query would lock each.
WITH_ROWS = SQL(
    """SELECT n.nspname, c.relname FROM pg_class t
       CROSS JOIN LATERAL (SELECT t.oid WHERE t.relkind = 'r' UNION ALL
                           SELECT p.relid FROM pg_partition_tree(t.oid) p WHERE p.isleaf AND t.relkind = 'p') AS l (oid)
       JOIN pg_class c ON c.oid = l.oid AND (t.relkind = 'r' OR c.reltuples > 0) JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE t.oid = format('%%I.%%I', %(schema)s::text, %(name)s::text)::regclass ORDER BY c.reltuples DESC LIMIT 1"""
)


def some_rows(schema: str, name: str, limit: int) -> Composed:
    """Return leaf and ctid of a few rows."""
    return SQL("SELECT tableoid::text, ctid::text FROM {} LIMIT {}").format(Identifier(schema, name), Literal(limit))


def _at(leaf: str, row: str) -> Composed:
    place = "tableoid OPERATOR(pg_catalog.=) {}::pg_catalog.oid AND ctid OPERATOR(pg_catalog.=) {}::pg_catalog.tid"
    return SQL(place).format(Literal(leaf), Literal(row))


@under_source_path
def insert_defaults(schema: str, name: str) -> Composed:
    """Insert a row of defaults."""
    return SQL("INSERT INTO {} DEFAULT VALUES").format(Identifier(schema, name))


@under_source_path
def touch_row(schema: str, name: str, columns: Sequence[str], leaf: str, row: str) -> Composed:
    """Update every column of a row to its value."""
    same = SQL(", ").join(SQL("{0} = {0}").format(Identifier(column)) for column in columns)
    return SQL("UPDATE {} SET {} WHERE {}").format(Identifier(schema, name), same, _at(leaf, row))


@under_source_path
def delete_row(schema: str, name: str, leaf: str, row: str) -> Composed:
    """Delete a row."""
    return SQL("DELETE FROM {} WHERE {}").format(Identifier(schema, name), _at(leaf, row))


@under_source_path
def remember_row(schema: str, name: str, leaf: str, row: str) -> Composed:
    """Store a copy of a row for this transaction."""
    return SQL("CREATE TEMP TABLE remembered_row ON COMMIT DROP AS SELECT * FROM {} WHERE {}").format(
        Identifier(schema, name), _at(leaf, row)
    )


@under_source_path
def insert_remembered(schema: str, name: str, columns: Sequence[str], new: Sequence[str]) -> Composed:
    """Insert the stored row, with new values for some columns of type uuid."""
    values = [SQL("pg_catalog.gen_random_uuid()") if column in new else Identifier(column) for column in columns]
    return SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM pg_temp.remembered_row").format(
        Identifier(schema, name), SQL(", ").join(map(Identifier, columns)), SQL(", ").join(values)
    )
