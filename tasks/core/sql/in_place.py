"""Statements that write a set's rows into live tables, and find out who is affected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composed, Identifier, Literal

from tasks.core.sql.key_values import ENDS
from tasks.core.sql.names import column_list
from tasks.core.sql.source_path import under_source_path
from tasks.core.sql.staging import DIFFERENCE, EQUAL, PLACE, STAGED, UNEQUAL, WHAT, Link, any_of, as_written, temp

DELETED, UPDATED, INSERTED, REPLACED = "D", "U", "I", "R"
TO_DELETE = DELETED, REPLACED

# For each unique index checked per row, except the primary key: a column that can take temporary
# values, if any, as no foreign key at either end uses it.
PARKING_COLUMNS = SQL(
    """SELECT DISTINCT ON (i.indexrelid) a.attname::text, t.typname::text, a.atttypmod
       FROM pg_index i LEFT JOIN LATERAL unnest(i.indkey) AS u (attnum) ON true
       LEFT JOIN (pg_attribute a JOIN pg_type t ON t.oid = a.atttypid AND t.typname IN ('uuid', 'text', 'varchar', 'bpchar')
                    AND t.typnamespace = 'pg_catalog'::regnamespace)
         ON a.attrelid = i.indrelid AND a.attnum = u.attnum AND a.attgenerated = '' AND (a.atttypmod < 0 OR a.atttypmod >= 20)
         AND NOT EXISTS (
           SELECT FROM pg_constraint k WHERE k.contype = 'c' AND k.conrelid = i.indrelid AND a.attnum = ANY (k.conkey)
             OR k.contype = 'f' AND k.conrelid = i.indrelid AND a.attnum = ANY (k.conkey)
             OR k.contype = 'f' AND k.confrelid = i.indrelid AND a.attnum = ANY (k.confkey))
       WHERE i.indrelid = %(oid)s AND i.indisunique AND NOT i.indisprimary AND i.indimmediate
       ORDER BY i.indexrelid, t.typname = 'uuid' DESC NULLS LAST, a.attnum"""
)
# Foreign keys with an action on rows elsewhere when a row is deleted, even if it returns in the
# statement.
KEYS_THAT_ACT = SQL(
    """SELECT quote_ident(k.conname) || ' of ' || k.conrelid::regclass FROM pg_constraint k
       WHERE k.contype = 'f' AND k.confdeltype <> 'a' AND k.conparentid = 0
         AND (k.confrelid = %(oid)s OR k.confrelid IN (SELECT relid FROM pg_partition_ancestors(%(oid)s::oid::regclass)))"""
)
TABLES_ACTED_ON = SQL(
    """SELECT DISTINCT k.conrelid::bigint FROM pg_constraint k WHERE k.contype = 'f' AND k.conrelid = ANY (%(oids)s::oid[])
         AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))"""
)

INBOUND_KEYS = SQL(
    """SELECT quote_ident(k.conname) AS name, k.conrelid::regclass::text AS table, k.confrelid::bigint AS parent,
              CASE k.confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' WHEN 'd' THEN 'SET DEFAULT'
                                 WHEN 'r' THEN 'RESTRICT' ELSE 'NO ACTION' END AS on_delete,
              <ends>,
              k.conrelid::bigint AS child,
              has_schema_privilege((SELECT c.relnamespace FROM pg_class c WHERE c.oid = k.conrelid), 'USAGE')
                AND has_table_privilege(k.conrelid, 'SELECT') AND NOT row_security_active(k.conrelid) AS readable,
              k.confdeltype <> 'a' AS acts_on_delete, k.confupdtype <> 'a' AS acts_on_update
       FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0
         AND k.confrelid = ANY (%(oids)s::oid[]) ORDER BY 2, 1""".replace("<ends>", ENDS)
)
LOCK_HOLDERS_OF = SQL(
    """SELECT DISTINCT format('%%s (%%s, pid %%s) has %%s on %%s since %%s', coalesce(nullif(a.application_name, ''), 'a session'),
              a.usename, l.pid, l.mode, l.relation::regclass, to_char(a.xact_start, 'HH24:MI:SS'))
       FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
       WHERE l.locktype = 'relation' AND l.relation = ANY (%(oids)s::oid[]) AND l.granted AND l.pid <> pg_backend_pid()
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND l.mode NOT IN ('AccessShareLock', 'RowShareLock') ORDER BY 1"""
)


def lock_for_merge(tables: Sequence[tuple[str, str]]) -> Composed:
    """Lock tables, with their partitions, against writers; readers continue."""
    names = SQL(", ").join(Identifier(*table) for table in tables)
    return SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(names)


def _is_one_of(kinds: Sequence[str]) -> Composed:
    """Return the condition that a difference is of some kinds; IN cannot be qualified."""
    return any_of([SQL("d.{} {} {}").format(WHAT, SQL(EQUAL), Literal(kind)) for kind in kinds])


@dataclass(frozen=True)
class TableToWrite:
    """A table with staged differences: its columns, those to update, and whether to delete rows."""

    number: int
    schema: str
    name: str
    columns: Sequence[str]
    settable: Sequence[str]
    deletes: bool


def rows_to_write(number: int) -> Composed:
    """Return whether rows of a table are to be updated, and whether any are to be deleted, if only to be inserted again."""
    some = SQL("EXISTS (SELECT FROM {} AS d WHERE {})")
    return SQL("SELECT {}, {}").format(
        *(some.format(temp(DIFFERENCE, number), _is_one_of(kinds)) for kinds in ([UPDATED], TO_DELETE))
    )


@under_source_path
def merge_rows(tables: Sequence[TableToWrite]) -> Composed:
    """Delete, update and insert in one statement, in this order: keys are checked at its end.

    Each part waits for the previous one by using its row count
    (https://www.postgresql.org/docs/current/queries-with.html#QUERIES-WITH-MODIFYING). Returns the
    numbers of rows deleted, updated and inserted.
    """
    steps: list[list[tuple[int, Composed]]] = [[], [], []]
    for written in tables:
        number, table, difference = written.number, Identifier(written.schema, written.name), temp(DIFFERENCE, written.number)
        chosen = SQL(", ").join(map(Identifier, written.columns))
        at = SQL("FROM {} AS d WHERE t.ctid {} d.{} AND ").format(difference, SQL(EQUAL), PLACE)
        using = SQL("USING {} AS d WHERE t.ctid {} d.{} AND ").format(difference, SQL(EQUAL), PLACE)
        values = SQL(", ").join(SQL("{0} = d.{0}").format(Identifier(column)) for column in written.settable)
        # A published table without a replica identity refuses even a DELETE or UPDATE of no row.
        if written.deletes:
            steps[0].append((number, SQL("DELETE FROM ONLY {} AS t {}").format(table, using)))
        if written.settable:
            steps[1].append((number, SQL("UPDATE ONLY {} AS t SET {} {}").format(table, values, at)))
        insert = SQL("INSERT INTO {}{} OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS d WHERE ")
        steps[2].append((number, insert.format(table, column_list(written.columns), chosen, difference)))
    parts, before = list[Composed](), SQL("true").format()
    for step, what in zip(steps, (TO_DELETE, [UPDATED], [INSERTED, REPLACED]), strict=True):
        word = what[0]
        for number, statement in step:
            wanted = SQL("({}) AND {} RETURNING 1").format(_is_one_of(what), before)
            parts.append(SQL("{} AS ({}{})").format(Identifier(f"{word} {number}"), statement, wanted))
        counts = [SQL("(SELECT pg_catalog.count(*) FROM {})").format(Identifier(f"{word} {number}")) for number, _ in step]
        total = SQL(" OPERATOR(pg_catalog.+) ").join([SQL("0"), *counts])
        parts.append(SQL("{} AS MATERIALIZED (SELECT {} AS rows)").format(Identifier(word), total))
        before = SQL("(SELECT rows FROM {}) OPERATOR(pg_catalog.>=) 0").format(Identifier(word))
    totals = SQL(", ").join(SQL("(SELECT rows FROM {})").format(Identifier(word)) for word in (DELETED, UPDATED, INSERTED))
    return SQL("WITH {} SELECT {}").format(SQL(", ").join(parts), totals)


@under_source_path
def park_rows(number: int, schema: str, name: str, column: str, kind: str, length: int) -> Composed:
    """Set a column of the rows to update to temporary unique values; this moves the rows."""
    hashed = "pg_catalog.md5(pg_catalog.random()::pg_catalog.text OPERATOR(pg_catalog.||) t.ctid::pg_catalog.text)"
    some = (
        SQL("pg_catalog.gen_random_uuid()")
        if kind == "uuid"
        else SQL("pg_catalog.left({}, {})").format(SQL(hashed), Literal(min(length - 4, 32) if length > 4 else 32))
    )
    return SQL(
        """WITH parked AS (
             UPDATE ONLY {} AS t SET {} = {} FROM {} AS d WHERE t.ctid {equal} d.{place} AND d.{what} {equal} 'U'
             RETURNING t.ctid AS now, d.{place} AS before)
           UPDATE {} AS d SET {place} = parked.now FROM parked WHERE d.{place} {equal} parked.before"""
    ).format(
        Identifier(schema, name),
        Identifier(column),
        some,
        temp(DIFFERENCE, number),
        temp(DIFFERENCE, number),
        place=PLACE,
        what=WHAT,
        equal=SQL(EQUAL),
    )


def replace_instead_of_update(number: int) -> Composed:
    """Turn updates into delete and insert in the same statement, if no column can be parked."""
    return SQL("UPDATE {} SET {} = 'R' WHERE {} = 'U'").format(temp(DIFFERENCE, number), WHAT, WHAT)


def noticed_rows(
    number: int, schema: str, name: str, referenced: Mapping[str, str], *, acts_on_delete: bool, acts_on_update: bool
) -> Composed:
    """Return FROM and WHERE for rows whose change a foreign key on these columns would notice.

    A key with ON DELETE actions notices every deleted row, one with ON UPDATE actions every row in
    which one of the columns changes; one without actions only values that are gone at the
    statement's end. Columns come with the key's equality operators.
    """
    stays = SQL(" AND ").join(SQL("s.{0} {1} t.{0}").format(Identifier(column), SQL(equal)) for column, equal in referenced.items())
    gone = SQL("NOT EXISTS (SELECT FROM {} AS s WHERE {})").format(temp(STAGED, number), stays)
    now = SQL(", ").join(SQL("t.{}").format(Identifier(column)) for column in referenced)
    then = SQL(", ").join(SQL("d.{}").format(Identifier(column)) for column in referenced)
    deleted = SQL("{} AND {}").format(_is_one_of(DELETED), SQL("true") if acts_on_delete else gone)
    changed = SQL("ROW({})::pg_catalog.text {} ROW({})::pg_catalog.text").format(now, SQL(UNEQUAL), then)
    updated = SQL("{} AND {}").format(_is_one_of(UPDATED), changed if acts_on_update else gone)
    return SQL("FROM ONLY {} AS t JOIN {} AS d ON d.{} {} t.ctid WHERE ({} OR {})").format(
        Identifier(schema, name), temp(DIFFERENCE, number), PLACE, SQL(EQUAL), deleted, updated
    )


@under_source_path
def referring_rows(table: str, key: Link, noticed: Composed) -> Composed:
    """Count the rows of another context's table that refer to such rows."""
    same = key.refers(Identifier("o"), Identifier("t"))
    return SQL("SELECT pg_catalog.count(*) FROM {} AS o WHERE EXISTS (SELECT {} AND {})").format(SQL(table), noticed, same)


@under_source_path
def lock_leaving_rows(number: int, schema: str, name: str) -> Composed:
    """Lock the rows to delete against new rows that refer to them."""
    return SQL("SELECT FROM ONLY {} AS t JOIN {} AS d ON d.{} {} t.ctid WHERE {} FOR UPDATE OF t").format(
        Identifier(schema, name), temp(DIFFERENCE, number), PLACE, SQL(EQUAL), _is_one_of(DELETED)
    )


# Others' tables that refer to the context's, directly or not: those that TRUNCATE … CASCADE
# empties.
REFERRING_TABLES = SQL(
    """WITH RECURSIVE referring (oid, referred) AS (
         SELECT k.conrelid, k.confrelid FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = ANY (%(filled)s::oid[])
           AND k.conrelid <> ALL (%(own)s::oid[])
         UNION SELECT k.conrelid, r.referred FROM referring r JOIN pg_constraint k ON k.confrelid = r.oid AND k.contype = 'f'
         WHERE k.conrelid <> ALL (%(own)s::oid[]))
       SELECT r.oid::regclass::text, string_agg(DISTINCT r.referred::regclass::text, ', ') FROM referring r
       JOIN pg_class c ON c.oid = r.oid AND NOT c.relispartition GROUP BY 1 ORDER BY 1"""
)
# Dependents of some tables and views, other than these, and than some keys given as table.name.
HELD_BY = SQL(
    """SELECT DISTINCT c.oid::regclass::text, pg_describe_object(d.classid, d.objid, 0)
       FROM pg_class c JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.deptype = 'n'
       LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
       LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
       CROSS JOIN LATERAL (SELECT coalesce(r.ev_class, nullif(k.conrelid, 0))::regclass::text AS name) AS holder
       WHERE c.oid::regclass::text = ANY (%(names)s::text[]) AND holder.name <> ALL (%(names)s::text[])
         AND format('%%s.%%s', holder.name, k.conname) <> ALL (%(keys)s::text[]) ORDER BY 1, 2"""
)
# By name: this login may lack USAGE on the other context's schema.
TABLES_THERE = SQL("SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND oid::regclass::text = ANY (%(names)s)")
# Invalid indexes, which no dump has; that of a partitioned table becomes valid with its
# partitions'.
BROKEN_INDEXES = SQL(
    """SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text, pg_get_indexdef(i.indexrelid)
       FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i'
       WHERE i.indrelid = ANY (%(oids)s::oid[]) AND NOT (i.indisvalid AND i.indisready) ORDER BY 1"""
)
# Foreign keys with disabled triggers, with these; for partitions those of the whole table.
KEYS_SWITCHED_OFF = SQL(
    """WITH RECURSIVE up (oid, above, off) AS (
         SELECT k.oid, k.conparentid, format('"%%s" of %%s', t.tgname, t.tgrelid::regclass)
         FROM pg_trigger t JOIN pg_constraint k ON k.oid = t.tgconstraint AND k.contype = 'f'
         WHERE t.tgisinternal AND t.tgenabled IN ('D', 'R')
           AND (k.conrelid = ANY (%(oids)s::oid[]) OR k.confrelid = ANY (%(oids)s::oid[]))
         UNION SELECT k.oid, k.conparentid, u.off FROM up u JOIN pg_constraint k ON k.oid = u.above)
       SELECT k.conrelid::regclass::text, k.conname::text, string_agg(u.off, '; ' ORDER BY u.off)
       FROM up u JOIN pg_constraint k ON k.oid = u.oid WHERE u.above = 0 GROUP BY 1, 2 ORDER BY 1, 2"""
)
END_DEFERRED = SQL("SET CONSTRAINTS ALL IMMEDIATE")
BROKEN = "broken"


@under_source_path
def note_broken(number: int, query: str) -> Composed:
    """Store the rows that a check finds."""
    return SQL("CREATE TEMP TABLE {} AS\n{}\n").format(Identifier(f"broken before {number}"), as_written(query))


@under_source_path
def find_broken(number: int, query: str, *, noted: bool) -> Composed:
    """Store the rows that a check finds now but not before, in the table `broken` for repair."""
    before = SQL(" EXCEPT ALL SELECT * FROM {}").format(temp("broken before {}", number)) if noted else SQL("")
    return SQL("CREATE TEMP TABLE {} AS SELECT * FROM (\n{}\n) AS offending{}").format(
        Identifier(BROKEN), as_written(query), before
    )


COUNT_BROKEN = SQL("SELECT count(*) FROM {}").format(Identifier("pg_temp", BROKEN))
DROP_BROKEN = SQL("DROP TABLE IF EXISTS {}").format(Identifier("pg_temp", BROKEN))


def create_beside(schema: str, name: str, columns: Sequence[tuple[str, str]]) -> Composed:
    """Create a table; column types are spelled as in the catalog."""
    listed = SQL(", ").join(SQL("{} {}").format(Identifier(column), SQL(kind)) for column, kind in columns)
    return SQL("CREATE TABLE {} ({})").format(Identifier(schema, name), listed)


def add_primary_key(schema: str, name: str, key: Sequence[str]) -> Composed:
    """Add a primary key."""
    return SQL("ALTER TABLE {} ADD PRIMARY KEY{}").format(Identifier(schema, name), column_list(key))


def comment_on_table(schema: str, name: str, text: str) -> Composed:
    """Set the comment of a table."""
    return SQL("COMMENT ON TABLE {} IS {}").format(Identifier(schema, name), Literal(text))
