"""Statements about partitions: listing, creating, attaching, detaching and dropping them."""

from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

from tasks.core.sql.names import column_list
from tasks.core.sql.source_path import under_source_path

# A table's partitioning: strategy, columns, type of the first one, owner; no row if it is missing.
PARTITIONED = SQL(
    """SELECT c.relkind = 'p', coalesce(p.partstrat::text, ''),
              (SELECT coalesce(array_agg(a.attname::text ORDER BY u.place), '{}')
               FROM unnest(p.partattrs::smallint[]) WITH ORDINALITY AS u (attnum, place)
               LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.attnum),
              (SELECT format_type(a.atttypid, NULL) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = p.partattrs[0]),
              pg_get_userbyid(c.relowner), pg_has_role(c.relowner, 'USAGE'), c.oid::bigint,
              coalesce((SELECT t.spcname::text FROM pg_tablespace t WHERE t.oid = c.reltablespace), '')
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid
       WHERE n.nspname = %(schema)s AND c.relname = %(name)s"""
)
PARTITIONS = SQL(
    """SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, pg_get_expr(c.relpartbound, c.oid) AS bound,
              (SELECT sum(pg_total_relation_size(t.relid))::bigint FROM pg_partition_tree(c.oid) t) AS bytes,
              (SELECT CASE WHEN min(l.reltuples) >= 0 THEN sum(l.reltuples)::bigint END
               FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid WHERE t.isleaf) AS rows,
              i.inhdetachpending AS detach_pending, c.relkind = 'p' AS is_divided
       FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE i.inhparent = %(oid)s ORDER BY c.oid"""
)
# What has a name already: a relation, or a type, as every table has one.
OCCUPANT = SQL(
    """SELECT concat(CASE c.relkind WHEN 'r' THEN 'a table' WHEN 'p' THEN 'a partitioned table' WHEN 'v' THEN 'a view'
                       WHEN 'm' THEN 'a materialized view' WHEN 'S' THEN 'a sequence' WHEN 'i' THEN 'an index'
                       WHEN 'f' THEN 'a foreign table' ELSE 'a type' END, (SELECT ', partition of ' || i.inhparent::regclass
                       FROM pg_inherits i WHERE i.inhrelid = c.oid LIMIT 1)),
              EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.conname = %(mark)s)
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s AND c.relname = %(name)s"""
)
# Indexes of a partitioned table that a partition lacks, or has invalid.
INDEXES_WITHOUT = SQL(
    """SELECT i.indexrelid::regclass::text FROM pg_index i WHERE i.indrelid = %(parent)s AND NOT EXISTS (
         SELECT FROM pg_inherits h JOIN pg_index m ON m.indexrelid = h.inhrelid
         WHERE h.inhparent = i.indexrelid AND m.indrelid = %(partition)s AND m.indisvalid)"""
)
# Indexes in the order in which ATTACH PARTITION matches them.
INDEXES_BY_OID = SQL(
    "SELECT i.indexrelid::regclass::text FROM pg_index i WHERE i.indexrelid::regclass::text = ANY (%(names)s) ORDER BY i.indexrelid"
)
# Foreign keys of every partition of a table, and the tables they refer to.
KEYS_OF = SQL(
    """SELECT quote_ident(k.conname), pg_get_constraintdef(k.oid), k.confrelid::bigint, k.convalidated
       FROM pg_constraint k WHERE k.conrelid = %(oid)s AND k.contype = 'f' AND k.conparentid = 0
         AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true) ORDER BY k.conname"""
)
KEYS_TO = SQL(
    """SELECT format('foreign key %%I of %%s', k.conname, k.conrelid::regclass) FROM pg_constraint k
       WHERE k.confrelid = %(oid)s AND k.contype = 'f' AND k.conparentid = 0 ORDER BY 1"""
)
# Sessions that hold or wait for locks on relations, longest first.
BLOCKERS = SQL(
    """SELECT format('%%s (%%s, pid %%s) has %%s on %%s%%s', coalesce(nullif(a.application_name, ''), 'a session'), a.usename,
                     l.pid, l.mode, l.relation::regclass, to_char(a.xact_start, '" since "HH24:MI:SS'))
       FROM pg_locks l JOIN pg_stat_activity a USING (pid)
       WHERE l.locktype = 'relation' AND l.relation = ANY (%(oids)s::oid[]) AND l.granted AND l.pid <> pg_backend_pid()
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       ORDER BY a.xact_start, l.pid LIMIT 5"""
)
IS_PARTITION = SQL(
    """SELECT c.relfilenode::bigint FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
       WHERE i.inhparent = %(parent)s AND i.inhrelid = %(oid)s AND NOT i.inhdetachpending"""
)

OID_OF = SQL("SELECT %(name)s::regclass::oid::bigint")
# Tables that are neither a partition nor a child of another, by kind and name.
STANDALONE = SQL(
    """SELECT CASE c.relkind WHEN 'p' THEN 'partitioned table' ELSE 'table' END, format('%%I.%%I', n.nspname, c.relname)
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p') AND format('%%I.%%I', n.nspname, c.relname) = ANY (%(names)s)
         AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)"""
)
# A table's partition key, and the condition of its own bound, both null if it has none.
KEY_AND_CONDITION = SQL("SELECT pg_get_partkeydef(%(oid)s::oid), pg_get_partition_constraintdef(%(oid)s::oid)")
CONDITION_OF_LIKENESS = SQL("SELECT pg_get_partition_constraintdef(%(name)s::regclass)")
UNPROVEN_CHECKS = SQL(
    """SELECT quote_ident(k.conname), pg_get_constraintdef(k.oid) FROM pg_constraint k
       WHERE k.conrelid = %(oid)s AND k.contype = 'c' AND NOT k.convalidated
         AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)"""
)
# Tables that foreign keys refer to.
REFERENCED = SQL(
    """SELECT name FROM unnest(%(names)s::text[]) AS name
       WHERE EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = name::regclass)"""
)
HAS_PARENT = SQL("SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = %(oid)s)")
# The check that DETACH … CONCURRENTLY leaves on a partition, with its former bound.
CHECKS_OF_BOUND = SQL(
    """SELECT conname::text FROM pg_constraint WHERE conrelid = %(oid)s AND contype = 'c' AND conislocal
         AND pg_get_constraintdef(oid) IN (format('CHECK (%%s)', pg_get_partition_constraintdef(%(oid)s)),
                                           format('CHECK ((%%s))', pg_get_partition_constraintdef(%(oid)s)))"""
)
HAS_CONSTRAINT = SQL("SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = %(oid)s AND conname = %(name)s)")
COLUMNS_OF = SQL(
    """SELECT attname::text FROM pg_attribute
       WHERE attrelid = %(name)s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"""
)


def limit_waiting(seconds: float) -> Composed:
    """Set lock_timeout for this transaction."""
    return SQL("SELECT set_config('lock_timeout', {}, true)").format(Literal(str(int(seconds * 1000))))


def new_tables_in(tablespace: str) -> Composed:
    """Create new tables of this transaction in a partitioned table's tablespace."""
    return SQL("SELECT set_config('default_tablespace', {}, true)").format(Literal(tablespace))


def within(column: str, lower: str | None, upper: str | None) -> Composed:
    """Return the condition that a column is in a range, so that ATTACH PARTITION skips its scan."""
    ends = [SQL("{} IS NOT NULL").format(Identifier(column))]
    if lower is not None:
        ends.append(SQL("{} OPERATOR(pg_catalog.>=) {}").format(Identifier(column), Literal(lower)))
    if upper is not None:
        ends.append(SQL("{} OPERATOR(pg_catalog.<) {}").format(Identifier(column), Literal(upper)))
    return SQL(" AND ").join(ends)


def among(column: str, values: Sequence[str]) -> Composed:
    """Return the same for a list partition: that a column has one of some values."""
    terms = (SQL("{} OPERATOR(pg_catalog.=) {}").format(Identifier(column), Literal(value)) for value in values)
    return SQL("{} IS NOT NULL AND ({})").format(Identifier(column), SQL(" OR ").join(terms))


def negated(condition: Composed) -> Composed:
    """Return the negated condition."""
    return SQL("NOT ({})").format(condition)


def range_bound(lower: str | None, upper: str | None) -> str:
    """Return a range bound for ATTACH PARTITION."""
    first = SQL("MINVALUE") if lower is None else Literal(lower)
    last = SQL("MAXVALUE") if upper is None else Literal(upper)
    return SQL("FOR VALUES FROM ({}) TO ({})").format(first, last).as_string()


def list_bound(values: Sequence[str]) -> str:
    """Return a list bound for ATTACH PARTITION."""
    return SQL("FOR VALUES IN ({})").format(SQL(", ").join(map(Literal, values))).as_string()


def add_check(schema: str, name: str, check: str, condition: Composed) -> Composed:
    """Add a check to a table."""
    return SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({})").format(Identifier(schema, name), Identifier(check), condition)


def drop_check(schema: str, name: str, check: str) -> Composed:
    """Drop that check."""
    return SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(Identifier(schema, name), Identifier(check))


def create_likeness(schema: str, name: str, partition_key: str = "") -> Composed:
    """Create an empty TEMP table of the same name; its key is spelled as in the catalog."""
    divided = f" PARTITION BY {partition_key}" if partition_key else ""
    return SQL("CREATE TEMP TABLE {} (LIKE {} INCLUDING CONSTRAINTS INCLUDING GENERATED){}").format(
        Identifier(name), Identifier(schema, name), SQL(divided)
    )


def create_likeness_of_partition(parent: str, name: str, bound: str) -> Composed:
    """Create an empty TEMP partition of such a table; the bound is spelled as in the catalog."""
    return SQL("CREATE TEMP TABLE {} PARTITION OF {} {}").format(Identifier(name), Identifier("pg_temp", parent), SQL(bound))


@under_source_path
def count_rows_where(schema: str, name: str, conditions: Sequence[str], *, hold: bool) -> Composed:
    """Count the rows for which all conditions of bounds hold, or those for which any does not."""
    word = SQL("({})") if hold else SQL("NOT ({})")
    terms = SQL(" AND " if hold else " OR ").join(word.format(SQL(condition)) for condition in conditions)
    return SQL("SELECT pg_catalog.count(*) FROM {} WHERE {}").format(Identifier(schema, name), terms)


def attach(parent: tuple[str, str], partition: tuple[str, str], bound: str) -> Composed:
    """Attach a table as a partition; the bound is spelled as in the catalog."""
    return SQL("ALTER TABLE {} ATTACH PARTITION {} {}").format(Identifier(*parent), Identifier(*partition), SQL(bound))


def detach(parent: tuple[str, str], partition: tuple[str, str], *, finalize: bool = False) -> Composed:
    """Detach a partition; or finish an interrupted DETACH … CONCURRENTLY."""
    return SQL("ALTER TABLE {} DETACH PARTITION {}{}").format(
        Identifier(*parent), Identifier(*partition), SQL(" FINALIZE" if finalize else "")
    )


def lock_alone(relations: Sequence[tuple[str, str]]) -> Composed:
    """Lock these relations exclusively, without their children."""
    names = SQL(", ").join(SQL("ONLY {}").format(Identifier(*relation)) for relation in relations)
    return SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names)


def lock_whole(relations: Sequence[tuple[str, str]]) -> Composed:
    """Lock relations with their partitions exclusively."""
    return SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(SQL(", ").join(Identifier(*relation) for relation in relations))


def drop_table(schema: str, name: str) -> Composed:
    """Drop a table without dependents."""
    return SQL("DROP TABLE {}").format(Identifier(schema, name))


def count_rows(schema: str, name: str, condition: Composed) -> Composed:
    """Count the rows of a relation, and those that satisfy a condition."""
    return SQL("SELECT count(*), count(*) FILTER (WHERE {}) FROM {}").format(condition, Identifier(schema, name))


def count_old_and_held(schema: str, name: str, is_old: Composed, hold: Composed) -> Composed:
    """Count a relation's rows, its old ones, and those that hold it."""
    return SQL("SELECT count(*), count(*) FILTER (WHERE {}), count(*) FILTER (WHERE {}) FROM ONLY {}").format(
        is_old, hold, Identifier(schema, name)
    )


@under_source_path
def move_rows(source: tuple[str, str], target: tuple[str, str], columns: Sequence[str], condition: Composed) -> Composed:
    """Move the rows that satisfy a condition to another table."""
    return SQL(
        "WITH moved AS (DELETE FROM ONLY {} WHERE {} RETURNING {chosen}) INSERT INTO {}{} "
        "OVERRIDING SYSTEM VALUE SELECT {chosen} FROM moved"
    ).format(
        Identifier(*source), condition, Identifier(*target), column_list(columns),
        chosen=SQL(", ").join(map(Identifier, columns)),
    )  # fmt: skip


def add_key(schema: str, name: str, key: str, definition: str) -> Composed:
    """Add a NOT VALID foreign key, spelled as in the catalog."""
    plain = definition.removesuffix(" NOT VALID")
    return SQL("ALTER TABLE {} ADD CONSTRAINT {} {} NOT VALID").format(Identifier(schema, name), SQL(key), SQL(plain))


def validate_key(schema: str, name: str, key: str) -> Composed:
    """Validate a constraint, without blocking readers and writers."""
    return SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(Identifier(schema, name), SQL(key))
