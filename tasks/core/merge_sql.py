"""The statements of a merge of a backup set into a live database.

The rows of a set are staged in TEMP tables; what differs from a table's rows is found there, with the place of the live row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from tasks.core.source_path import under_source_path
from tasks.core.sql import column_list

STAGED, DIFFERENCE = "staged {}", "difference {}"
WHAT, PLACE = Identifier("merge: what"), Identifier("merge: place")
DELETED, UPDATED, INSERTED, REPLACED = "D", "U", "I", "R"
# By what two values of a column are equal, where no key says so; other types have their own, which is on no path of ours.
EQUAL = "OPERATOR(pg_catalog.=)"


def as_written(text: str) -> Composed:
    """Return SQL that an operator or the context's file wrote, in which a brace is a brace."""
    return Composed([SQL(text)])


def in_brackets(text: str) -> Composed:
    """Return the same as a condition among others; it may end with a comment."""
    return SQL("({}\n)").format(as_written(text))


def _temp(name: str, number: int) -> Identifier:
    return Identifier("pg_temp", name.format(number))


# Of column u of index i: the operator of that strategy, by which the index compares it.
_OPERATOR = """coalesce((SELECT format('OPERATOR(%%I.%%s)', n.nspname, o.oprname) FROM pg_opclass oc
                        JOIN pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
                        JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype
                          AND ao.amoprighttype = oc.opcintype AND ao.amopstrategy = <strategy>
                        JOIN pg_operator o ON o.oid = ao.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
                        WHERE oc.oid = i.indclass[u.place - 1]), 'OPERATOR(pg_catalog.<default>)')"""
_EQUAL = _OPERATOR.replace("<strategy>", "3").replace("<default>", "=")
_GREATER = _OPERATOR.replace("<strategy>", "5").replace("<default>", ">")
_OF_KEY = """coalesce((SELECT array_agg(<what> ORDER BY u.place) FROM pg_index i
                        CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS u (attnum, place)
                        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.attnum
                        WHERE i.indrelid = c.oid AND i.indisprimary AND u.place <= i.indnkeyatts), '{}')"""
MERGE_FACTS = SQL(
    f"""SELECT c.oid::bigint AS oid, pg_has_role(c.relowner, 'USAGE') AS owned,
              EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN' AND r.ev_enabled <> 'D')
                AS rules,
              {_OF_KEY.replace("<what>", "a.attname::text")} AS key,
              {_OF_KEY.replace("<what>", _EQUAL)} AS equal, {_OF_KEY.replace("<what>", _GREATER)} AS greater,
              coalesce((SELECT array_agg(a.attname::text) FROM pg_attribute a
                        WHERE a.attrelid = c.oid AND a.attidentity = 'a'), '{{}}') AS always
       FROM pg_class c WHERE c.oid = ANY (%(oids)s::oid[])"""  # noqa: S608
)

# For each unique index that is checked row by row, but for the primary key: a column whose values may be any for a moment, if
# there is one, because it is of no foreign key at either end.
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
# Foreign keys that would do something to rows elsewhere when a row is deleted, though it comes back in the same statement.
KEYS_THAT_ACT = SQL(
    """SELECT quote_ident(k.conname) || ' of ' || k.conrelid::regclass FROM pg_constraint k
       WHERE k.contype = 'f' AND k.confdeltype <> 'a' AND k.conparentid = 0
         AND (k.confrelid = %(oid)s OR k.confrelid IN (SELECT relid FROM pg_partition_ancestors(%(oid)s::oid::regclass)))"""
)
TABLES_ACTED_ON = SQL(
    """SELECT DISTINCT k.conrelid::bigint FROM pg_constraint k WHERE k.contype = 'f' AND k.conrelid = ANY (%(oids)s::oid[])
         AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))"""
)
# Of a foreign key k: its columns, those that they refer to, and by what operators the two are equal.
_ENDS = """(SELECT array_agg(a.attname::text ORDER BY u.place) FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, place)
               JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum) AS columns,
              (SELECT array_agg(a.attname::text ORDER BY u.place) FROM unnest(k.confkey) WITH ORDINALITY AS u (attnum, place)
               JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum) AS referenced,
              (SELECT array_agg(format('OPERATOR(%%I.%%s)', n.nspname, o.oprname) ORDER BY u.place)
               FROM unnest(k.conpfeqop) WITH ORDINALITY AS u (oid, place) JOIN pg_operator o ON o.oid = u.oid
               JOIN pg_namespace n ON n.oid = o.oprnamespace) AS operators"""
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
         AND k.confrelid = ANY (%(oids)s::oid[]) ORDER BY 2, 1""".replace("<ends>", _ENDS)
)
LOCK_HOLDERS_OF = SQL(
    """SELECT DISTINCT format('%%s (%%s, pid %%s) has %%s on %%s since %%s', coalesce(nullif(a.application_name, ''), 'a session'),
              a.usename, l.pid, l.mode, l.relation::regclass, to_char(a.xact_start, 'HH24:MI:SS'))
       FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
       WHERE l.locktype = 'relation' AND l.relation = ANY (%(oids)s::oid[]) AND l.granted AND l.pid <> pg_backend_pid()
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND l.mode NOT IN ('AccessShareLock', 'RowShareLock') ORDER BY 1"""
)
# Joins of whole relations, and the lists that an inverted index gathers before it sorts them in.
JOIN_IN_MEMORY = SQL("SELECT set_config('work_mem', '128MB', false), set_config('gin_pending_list_limit', '65536', false)")


@dataclass(frozen=True)
class Link:
    """A foreign key as it joins rows: its columns, those that they refer to, and the operators by which both are equal."""

    columns: Sequence[str]
    referenced: Sequence[str]
    operators: Sequence[str]

    @classmethod
    def of(cls, key: Mapping[str, Any]) -> Self:
        """Return the link that a row of INBOUND_KEYS or OUTBOUND_KEYS_OF is."""
        return cls(key["columns"], key["referenced"], key["operators"])

    def refers(self, child: Composable, parent: Composable) -> Composed:
        """Return the condition that a row refers to another, each called by an alias."""
        parts = zip(self.referenced, self.operators, self.columns, strict=True)
        same = (
            SQL("{}.{} {} {}.{}").format(parent, Identifier(to), SQL(equal), child, Identifier(own)) for to, equal, own in parts
        )
        return SQL(" AND ").join(same)


def lock_for_merge(tables: Sequence[tuple[str, str]]) -> Composed:
    """Keep writers away from tables, their partitions included; readers go on."""
    names = SQL(", ").join(Identifier(*table) for table in tables)
    return SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(names)


def create_staging(number: int, schema: str, name: str, columns: Sequence[str], own: Sequence[str]) -> Composed:
    """Make the TEMP table for a relation's staged rows, typed as the live ones; columns that it has no longer are text."""
    chosen = SQL(", ").join(Identifier(one) if one in own else SQL("NULL::text AS {}").format(Identifier(one)) for one in columns)
    return SQL("CREATE TEMP TABLE {} AS SELECT {} FROM ONLY {} WITH NO DATA").format(
        Identifier(STAGED.format(number)), chosen, Identifier(schema, name)
    )


def staging_place(number: int) -> tuple[str, str]:
    """Return schema and name of that table."""
    return "pg_temp", STAGED.format(number)


def any_of(conditions: Sequence[Composed]) -> Composed:
    """Return a condition that is true where one of several is; without any, everywhere."""
    return SQL(" OR ").join(SQL("({})").format(one) for one in conditions) if conditions else SQL("true").format()


def find_differences(
    number: int, schema: str, name: str, columns: Sequence[str], key: Mapping[str, str], chosen_rows: Composed
) -> Composed:  # fmt: skip
    """Compare a relation with its staged rows, by key and then by text; equal values may have several texts, as 1.0 and 1.00.

    The key is given as columns, each with the operator by which two values are equal.
    Rows of which the condition `chosen_rows` is not true are not looked at. Without a key, equal rows are counted off against
    each other.
    """
    chosen = SQL(", ").join(map(Identifier, columns))
    text = SQL("ROW({})::text").format(chosen)
    more = SQL(", {} AS {}, row_number() OVER (PARTITION BY {}) AS {}").format(
        text, Identifier("merge: text"), text, Identifier("merge: nth")
    )
    keys = key or {"merge: text": EQUAL, "merge: nth": EQUAL}
    on = SQL(" AND ").join(SQL("t.{0} {1} s.{0}").format(Identifier(one), SQL(equal)) for one, equal in keys.items())
    return SQL(
        """CREATE TEMP TABLE {difference} AS
           SELECT CASE WHEN s.{mark} IS NULL THEN 'D' WHEN t.{mark} IS NULL THEN 'I' ELSE 'U' END AS {what}, t.{place}{values}
           FROM (SELECT true AS {mark}, ctid AS {place}{columns}{more} FROM ONLY {table} WHERE {chosen_rows}) AS t
           FULL JOIN (SELECT true AS {mark}{columns}{more} FROM {staged} WHERE {chosen_rows}) AS s ON {on}
           WHERE t.{mark} IS NULL OR s.{mark} IS NULL OR ROW({left})::text <> ROW({right})::text"""
    ).format(
        difference=Identifier(DIFFERENCE.format(number)), mark=Identifier("merge: there"), what=WHAT, place=PLACE,
        values=SQL("").join(SQL(", s.{}").format(Identifier(one)) for one in columns),
        columns=SQL("").join(SQL(", {}").format(Identifier(one)) for one in columns),
        more=SQL("") if key else more, chosen_rows=chosen_rows, table=Identifier(schema, name), staged=_temp(STAGED, number), on=on,
        left=SQL(", ").join(SQL("t.{}").format(Identifier(one)) for one in columns),
        right=SQL(", ").join(SQL("s.{}").format(Identifier(one)) for one in columns),
    )  # fmt: skip


def changed_columns(number: int, schema: str, name: str, columns: Sequence[str]) -> Composed:
    """Say of each column whether any row to update has another value.

    To set the others too would lock rows as if their keys changed, and who refers to them would wait.
    """
    asked = SQL(", ").join(SQL("bool_or(ROW(t.{0})::text <> ROW(d.{0})::text)").format(Identifier(one)) for one in columns)
    return SQL("SELECT {} FROM ONLY {} AS t JOIN {} AS d ON d.{} = t.ctid AND d.{} = 'U'").format(
        asked, Identifier(schema, name), _temp(DIFFERENCE, number), PLACE, WHAT
    )


def count_differences(number: int, chosen_rows: Composed) -> Composed:
    """Count rows to insert, to update and to delete, and those staged."""
    return SQL(
        "SELECT count(*) FILTER (WHERE {what} = 'I'), count(*) FILTER (WHERE {what} = 'U'), count(*) FILTER (WHERE {what} = 'D'), "
        "(SELECT count(*) FROM {staged} WHERE {chosen_rows}) FROM {difference}"
    ).format(what=WHAT, staged=_temp(STAGED, number), difference=_temp(DIFFERENCE, number), chosen_rows=chosen_rows)


def keep_differences(number: int, kinds: str) -> Composed:
    """Forget the kinds of difference that are not to be written."""
    return SQL("DELETE FROM {} WHERE {} <> ALL ({})").format(_temp(DIFFERENCE, number), WHAT, Literal(list(kinds)))


def drop_differences(number: int) -> Composed:
    """Forget what was found; the rows stay staged."""
    return SQL("DROP TABLE IF EXISTS {}").format(_temp(DIFFERENCE, number))


def _is_one_of(kinds: Sequence[str]) -> Composed:
    """Return the condition that a difference d is of one of some kinds, without a list, whose operator would have no name."""
    return any_of([SQL("d.{} {} {}").format(WHAT, SQL(EQUAL), Literal(kind)) for kind in kinds])


@under_source_path
def merge_rows(tables: Sequence[tuple[int, str, str, Sequence[str], Sequence[str]]]) -> Composed:
    """Delete, update and insert what differs, in this order, in one statement: foreign keys are looked at when it ends.

    Tables are given as number, schema, name, columns, and the columns that an update may set. Each part waits for the one before
    it by asking for the number of its rows (https://www.postgresql.org/docs/current/queries-with.html#QUERIES-WITH-MODIFYING).
    Returns the numbers of rows deleted, updated and inserted.
    """
    steps: list[list[tuple[int, Composed]]] = [[], [], []]
    for number, schema, name, columns, settable in tables:
        table, found, chosen = Identifier(schema, name), _temp(DIFFERENCE, number), SQL(", ").join(map(Identifier, columns))
        at = SQL("FROM {} AS d WHERE t.ctid {} d.{} AND ").format(found, SQL(EQUAL), PLACE)
        using = SQL("USING {} AS d WHERE t.ctid {} d.{} AND ").format(found, SQL(EQUAL), PLACE)
        values = SQL(", ").join(SQL("{0} = d.{0}").format(Identifier(one)) for one in settable)
        steps[0].append((number, SQL("DELETE FROM ONLY {} AS t {}").format(table, using)))
        if settable:
            steps[1].append((number, SQL("UPDATE ONLY {} AS t SET {} {}").format(table, values, at)))
        insert = SQL("INSERT INTO {}{} OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS d WHERE ")
        steps[2].append((number, insert.format(table, column_list(columns), chosen, found)))
    parts, before = list[Composed](), SQL("true").format()
    for step, what in zip(steps, ([DELETED, REPLACED], [UPDATED], [INSERTED, REPLACED]), strict=True):
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
    """Give one column of the rows to update values that nothing else has, until they get theirs; rows move by that."""
    hashed = "pg_catalog.md5(pg_catalog.random()::pg_catalog.text OPERATOR(pg_catalog.||) t.ctid::pg_catalog.text)"
    some = SQL("pg_catalog.gen_random_uuid()") if kind == "uuid" else SQL("pg_catalog.left({}, {})").format(
        SQL(hashed), Literal(min(length - 4, 32) if length > 4 else 32)
    )  # fmt: skip
    return SQL(
        """WITH parked AS (
             UPDATE ONLY {} AS t SET {} = {} FROM {} AS d WHERE t.ctid {equal} d.{place} AND d.{what} {equal} 'U'
             RETURNING t.ctid AS now, d.{place} AS before)
           UPDATE {} AS d SET {place} = parked.now FROM parked WHERE d.{place} {equal} parked.before"""
    ).format(
        Identifier(schema, name),
        Identifier(column),
        some,
        _temp(DIFFERENCE, number),
        _temp(DIFFERENCE, number),
        place=PLACE,
        what=WHAT,
        equal=SQL(EQUAL),
    )


def replace_instead_of_update(number: int) -> Composed:
    """Let rows be deleted and inserted in the same statement, where no column can be parked."""
    return SQL("UPDATE {} SET {} = 'R' WHERE {} = 'U'").format(_temp(DIFFERENCE, number), WHAT, WHAT)


def noticed_rows(
    number: int, schema: str, name: str, referenced: Mapping[str, str], *, acts_on_delete: bool, acts_on_update: bool
) -> Composed:  # fmt: skip
    """Return, as what follows SELECT …, the rows of a relation that a key which refers to these columns would notice.

    A key that acts on a delete notices every row that is deleted, one that acts on an update every row in which one of the
    columns changes; one that does not act, only values that are gone when the statement ends. Columns are given with the operators
    by which the key compares them.
    """
    stays = SQL(" AND ").join(SQL("s.{0} {1} t.{0}").format(Identifier(one), SQL(equal)) for one, equal in referenced.items())
    gone = SQL("NOT EXISTS (SELECT FROM {} AS s WHERE {})").format(_temp(STAGED, number), stays)
    now = SQL(", ").join(SQL("t.{}").format(Identifier(one)) for one in referenced)
    then = SQL(", ").join(SQL("d.{}").format(Identifier(one)) for one in referenced)
    deleted = SQL("d.{} = 'D' AND {}").format(WHAT, SQL("true") if acts_on_delete else gone)
    changed = SQL("ROW({})::text IS DISTINCT FROM ROW({})::text").format(now, then)
    updated = SQL("d.{} = 'U' AND {}").format(WHAT, changed if acts_on_update else gone)
    return SQL("FROM ONLY {} AS t JOIN {} AS d ON d.{} = t.ctid WHERE ({} OR {})").format(
        Identifier(schema, name), _temp(DIFFERENCE, number), PLACE, deleted, updated
    )


def referring_rows(table: str, key: Link, noticed: Composed) -> Composed:
    """Count the rows of another context's table that refer to such rows."""
    same = key.refers(Identifier("o"), Identifier("t"))
    return SQL("SELECT count(*) FROM {} AS o WHERE EXISTS (SELECT {} AND {})").format(SQL(table), noticed, same)


def lock_leaving_rows(number: int, schema: str, name: str) -> Composed:
    """Lock the rows that are to be deleted against new rows that refer to them."""
    return SQL("SELECT FROM ONLY {} AS t JOIN {} AS d ON d.{} = t.ctid WHERE d.{} = 'D' FOR UPDATE OF t").format(
        Identifier(schema, name), _temp(DIFFERENCE, number), PLACE, WHAT
    )


def analyze_temp(name: str) -> Composed:
    """Gather planner statistics of a TEMP table."""
    return SQL("ANALYZE {}").format(Identifier("pg_temp", name))


# By name: this login may not be allowed to look into the other context's schema.
KEY_IS_GONE = SQL(
    """SELECT EXISTS (SELECT FROM pg_class c WHERE c.oid::regclass::text = %(table)s AND c.relkind IN ('r', 'p'))
          AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conname = %(name)s AND k.conrelid::regclass::text = %(table)s)"""
)
END_DEFERRED = SQL("SET CONSTRAINTS ALL IMMEDIATE")


def create_like(name: str, parent: str, owner: str, partition_key: str = "", *, unlogged: bool = False) -> Composed:
    """Make a table that can be attached to a partitioned one; names and key as the catalogue or a manifest spells them."""
    like = "INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY EXCLUDING STATISTICS EXCLUDING COMMENTS"
    divided = f" PARTITION BY {partition_key}" if partition_key else ""
    return SQL("CREATE {}TABLE {} (LIKE {} {}){}; ALTER TABLE {} OWNER TO {}").format(
        SQL("UNLOGGED " if unlogged else ""), SQL(name), SQL(parent), SQL(like), SQL(divided), SQL(name), Identifier(owner)
    )


def add_constraint(table: str, name: str, definition: str) -> SQL:
    """Add a check, spelled as the catalogue or a manifest does."""
    return SQL(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")


# --- rows named by their key, and rows that these refer to --------------------------------------------------------------

CHOSEN_KEYS = "chosen keys"
# What a CHECK may say is just what a condition on rows may: columns of the one table, no subquery, no aggregate
# (https://www.postgresql.org/docs/current/ddl-constraints.html); it is read back as PostgreSQL understood it. Functions that
# act, as pg_terminate_backend does, are volatile; with others, such as now(), and with system columns, the condition would
# mean other rows elsewhere or later.
CONDITION = SQL(
    """SELECT pg_get_expr(k.conbin, k.conrelid),
              EXISTS (SELECT FROM regexp_matches(k.conbin::text, ':(?:op)?funcid (\\d+)', 'g') AS used
                      JOIN pg_proc p ON p.oid = used[1]::oid WHERE p.provolatile <> 'i')
              OR k.conbin::text ~ 'SQLVALUEFUNCTION' OR k.conbin::text ~ ':varattno (0|-)'
       FROM pg_constraint k WHERE k.contype = 'c' AND k.conrelid = to_regclass('pg_temp."chosen keys"')"""
)


def create_key_table(schema: str, name: str, key: Sequence[str]) -> Composed:
    """Make an empty TEMP table with the key columns of a relation."""
    return SQL("CREATE TEMP TABLE {} AS SELECT {} FROM ONLY {} WITH NO DATA").format(
        Identifier(CHOSEN_KEYS), SQL(", ").join(map(Identifier, key)), Identifier(schema, name)
    )


@under_source_path
def add_condition(condition: str) -> Composed:
    """Let that table check a condition that an operator wrote."""
    return SQL("ALTER TABLE {} ADD CHECK (\n{}\n)").format(Identifier("pg_temp", CHOSEN_KEYS), as_written(condition))


def try_condition(condition: Composed) -> Composed:
    """Evaluate a condition, so that values that the columns cannot have are found."""
    return SQL("SELECT FROM {} WHERE {}").format(Identifier("pg_temp", CHOSEN_KEYS), condition)


# By what operator two values of each of its columns are equal: that of its type, or below a domain, if it has one of its own.
EQUAL_IN_KEY_TABLE = SQL(
    """SELECT a.attname::text, coalesce((
         SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname) FROM pg_opclass oc
         JOIN pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
         JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype
           AND ao.amoprighttype = oc.opcintype AND ao.amopstrategy = 3
         JOIN pg_operator o ON o.oid = ao.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
         WHERE oc.opcdefault AND oc.opcintype = (
           WITH RECURSIVE below (type, base) AS (
             SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
             UNION ALL SELECT t.oid, t.typbasetype FROM below b JOIN pg_type t ON t.oid = b.base)
           SELECT type FROM below WHERE base = 0)), 'OPERATOR(pg_catalog.=)')
       FROM pg_attribute a WHERE a.attrelid = to_regclass('pg_temp."chosen keys"') AND a.attnum > 0"""
)
DROP_KEY_TABLE = SQL("DROP TABLE IF EXISTS {}").format(Identifier("pg_temp", CHOSEN_KEYS))


def has_values(columns: Mapping[str, str], rows: Sequence[Sequence[str]]) -> Composed:
    """Return the condition that columns have the values of one of some rows, given as text.

    Columns are given with the operators by which two of their values are equal.
    """
    if len(columns) == 1:
        # Hashed, where there are many.
        ((column, equal),) = columns.items()
        return SQL("{} {} ANY ({})").format(Identifier(column), SQL(equal), Literal([row[0] for row in rows]))
    return any_of([SQL(" AND ").join(map(_has_value, columns, columns.values(), row)) for row in rows])


def _has_value(column: str, equal: str, value: str) -> Composed:
    return SQL("{} {} {}").format(Identifier(column), SQL(equal), Literal(value))


@under_source_path
def hanging_keys(
    numbers: tuple[int, int], names: tuple[str, str], key: Sequence[str], parents: Composed, on: Composed
) -> Composed:  # fmt: skip
    """Return the keys, as text, of staged rows that hang on some of the staged rows of another relation, or of the same one."""
    own, other = map(Identifier, names)
    return SQL("SELECT DISTINCT {} FROM {} AS {} JOIN (SELECT * FROM {} WHERE {}) AS {} ON {}").format(
        SQL(", ").join(SQL("{}.{}::pg_catalog.text").format(own, Identifier(one)) for one in key), _temp(STAGED, numbers[0]), own,
        _temp(STAGED, numbers[1]), parents, other, on,
    )  # fmt: skip


def absent_values(schema: str, name: str, number: int, columns: Mapping[str, str], row: Sequence[str]) -> Composed:
    """Say whether neither a relation nor its staged rows have a row with these values."""
    wanted = has_values(columns, [row])
    return SQL("SELECT NOT EXISTS (SELECT FROM ONLY {} WHERE {}) AND NOT EXISTS (SELECT FROM {} WHERE {})").format(
        Identifier(schema, name), wanted, _temp(STAGED, number), wanted
    )


OUTBOUND_KEYS_OF = SQL(
    """SELECT quote_ident(k.conname) AS name, k.conrelid::bigint AS child, k.conrelid::regclass::text AS table,
              k.confrelid::bigint AS parent, n.nspname::text AS parent_schema, p.relname::text AS parent_name,
              <ends>
       FROM pg_constraint k JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace n ON n.oid = p.relnamespace
       WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = ANY (%(oids)s::oid[])
         AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true) AND has_table_privilege(k.confrelid, 'SELECT')
         AND has_schema_privilege(n.oid, 'USAGE') AND NOT row_security_active(k.confrelid)
       ORDER BY k.conrelid::regclass::text, k.conname""".replace("<ends>", _ENDS)
)


def needed_values(
    number: int, table: tuple[str, str], key: Link, parent: tuple[str, str], also: Sequence[int]
) -> Composed:  # fmt: skip
    """Return, as text, the values that rows to write refer to anew, and that neither the parent nor rows to write in it have.

    `also` are the numbers of the parent's relations, as far as they are merged too.
    """
    columns, same = key.columns, key.refers(Identifier("d"), Identifier("p"))
    present = SQL(" AND ").join(SQL("d.{} IS NOT NULL").format(Identifier(one)) for one in columns)
    coming = SQL("").join(
        SQL(" AND NOT EXISTS (SELECT FROM {} AS p WHERE p.{} IN ('I', 'U') AND {})").format(_temp(DIFFERENCE, one), WHAT, same)
        for one in also
    )
    now = SQL(", ").join(SQL("t.{}").format(Identifier(one)) for one in columns)
    then = SQL(", ").join(SQL("d.{}").format(Identifier(one)) for one in columns)
    stays = SQL("EXISTS (SELECT FROM ONLY {} AS t WHERE t.ctid = d.{} AND ROW({})::text = ROW({})::text)").format(
        Identifier(*table), PLACE, now, then
    )
    return SQL(
        "SELECT DISTINCT {} FROM {} AS d WHERE d.{what} IN ('I', 'U') AND {} AND NOT EXISTS (SELECT FROM {} AS p WHERE {}){}"
        " AND NOT (d.{what} = 'U' AND {})"
    ).format(
        SQL(", ").join(SQL("d.{}::text").format(Identifier(one)) for one in columns), _temp(DIFFERENCE, number), present,
        Identifier(*parent), same, coming, stays, what=WHAT,
    )  # fmt: skip


def inserted_keys(number: int, key: Sequence[str], but: Sequence[Composed]) -> Composed:
    """Return the key values, as text, of rows to insert, but for those of which one of some conditions is true."""
    values = SQL(", ").join(SQL("{}::text").format(Identifier(one)) for one in key)
    others = SQL(" AND ({}) IS NOT TRUE").format(any_of(but)) if but else SQL("")
    return SQL("SELECT {} FROM {} WHERE {} = 'I'{}").format(values, _temp(DIFFERENCE, number), WHAT, others)


# --- what agrees with the rows no longer ---------------------------------------------------------------------------------

BROKEN = "broken"


@under_source_path
def note_broken(number: int, query: str) -> Composed:
    """Remember the rows that a check finds."""
    return SQL("CREATE TEMP TABLE {} AS\n{}\n").format(Identifier(f"broken before {number}"), as_written(query))


@under_source_path
def find_broken(number: int, query: str, *, noted: bool) -> Composed:
    """Find the rows that a check finds and did not find before, in a table that the check's repair calls `broken`."""
    before = SQL(" EXCEPT ALL SELECT * FROM {}").format(_temp("broken before {}", number)) if noted else SQL("")
    return SQL("CREATE TEMP TABLE {} AS SELECT * FROM (\n{}\n) AS found{}").format(Identifier(BROKEN), as_written(query), before)


COUNT_BROKEN = SQL("SELECT count(*) FROM {}").format(Identifier("pg_temp", BROKEN))
DROP_BROKEN = SQL("DROP TABLE IF EXISTS {}").format(Identifier("pg_temp", BROKEN))


# --- a table beside the live one -----------------------------------------------------------------------------------------


def create_beside(schema: str, name: str, columns: Sequence[tuple[str, str]]) -> Composed:
    """Make a table; columns are given with their types as PostgreSQL spells them."""
    listed = SQL(", ").join(SQL("{} {}").format(Identifier(column), SQL(kind)) for column, kind in columns)
    return SQL("CREATE TABLE {} ({})").format(Identifier(schema, name), listed)


def add_primary_key(schema: str, name: str, key: Sequence[str]) -> Composed:
    """Give a table its primary key."""
    return SQL("ALTER TABLE {} ADD PRIMARY KEY{}").format(Identifier(schema, name), column_list(key))


def comment_on_table(schema: str, name: str, text: str) -> Composed:
    """Say what a table is."""
    return SQL("COMMENT ON TABLE {} IS {}").format(Identifier(schema, name), Literal(text))


def copy_chosen(number: int, schema: str, name: str, columns: Sequence[str], chosen_rows: Composed) -> Composed:
    """Take the chosen ones of staged rows into a table."""
    return SQL("INSERT INTO {}{} SELECT {} FROM {} WHERE {}").format(
        Identifier(schema, name), column_list(columns), SQL(", ").join(map(Identifier, columns)), _temp(STAGED, number), chosen_rows
    )
