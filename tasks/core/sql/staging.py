"""Statements that stage a set's rows in TEMP tables, and find how live rows differ.

Differences are kept in TEMP tables with the ctid of the live row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from tasks.core.sql.source_path import under_source_path

STAGED, DIFFERENCE = "staged {}", "difference {}"
WHAT, PLACE, TEXT = Identifier("merge: what"), Identifier("merge: place"), Identifier("merge: text")

# The equality operator of most types; some have their own, which is not in our search_path.
EQUAL, UNEQUAL = "OPERATOR(pg_catalog.=)", "OPERATOR(pg_catalog.<>)"


def as_written(text: str) -> Composed:
    """Return SQL of an operator or the context's file, with braces escaped."""
    return Composed([SQL(text)])


def in_brackets(text: str) -> Composed:
    """Return the same as a parenthesized condition; it may end with a comment."""
    return SQL("({}\n)").format(as_written(text))


def temp(name: str, number: int) -> Identifier:
    """Return the name of a TEMP table of this merge."""
    return Identifier("pg_temp", name.format(number))


# The type of attribute a, of a domain its base type.
BASE = """(WITH RECURSIVE below (type, base) AS (
                          SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
                          UNION ALL SELECT t.oid, t.typbasetype FROM below b JOIN pg_type t ON t.oid = b.base)
                        SELECT type FROM below WHERE base = 0)"""
# Domains over enums have no operators: their columns are compared, to the left of the operator, as the enum.
AS_ENUM = f"""coalesce((SELECT '::' || format_type(d.typbasetype, NULL) || ' ' FROM pg_type e JOIN pg_type d ON d.typtype = 'd'
                        WHERE e.oid = {BASE} AND e.typtype = 'e' AND d.oid = a.atttypid), '')"""  # noqa: S608
# The types of columns whose values, as text, are no such values to their operators without the type: anyarray, record.
STRUCTURED = f"""(SELECT coalesce(json_object_agg(a.attname, quote_ident(n.nspname) || '.' || quote_ident(b.typname)), '{{}}')
                  FROM pg_attribute a
                  JOIN pg_type own ON own.oid = a.atttypid AND (own.typtype IN ('c', 'd') OR own.typcategory = 'A')
                  JOIN pg_type b ON b.oid = {BASE} AND (b.typtype = 'c' OR b.typcategory = 'A')
                  JOIN pg_namespace n ON n.oid = b.typnamespace
                  WHERE a.attrelid = <relation> AND a.attnum > 0 AND NOT a.attisdropped)"""  # noqa: S608
# The index's operator of a strategy for column u of index i.
_OPERATOR = f"""{AS_ENUM} || coalesce((SELECT format('OPERATOR(%%I.%%s)', n.nspname, o.oprname) FROM pg_opclass oc
                        JOIN pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
                        JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype
                          AND ao.amoprighttype = oc.opcintype AND ao.amopstrategy = <strategy>
                        JOIN pg_operator o ON o.oid = ao.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
                        WHERE oc.oid = i.indclass[u.place - 1]), 'OPERATOR(pg_catalog.<default>)')"""  # noqa: S608
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
                        WHERE a.attrelid = c.oid AND a.attidentity = 'a'), '{{}}') AS always,
              {STRUCTURED.replace("<relation>", "c.oid")} AS structured
       FROM pg_class c WHERE c.oid = ANY (%(oids)s::oid[])"""  # noqa: S608
)

# Memory for joins of whole relations, and for building inverted indexes.
JOIN_IN_MEMORY = SQL("SELECT set_config('work_mem', '128MB', false), set_config('gin_pending_list_limit', '65536', false)")


@dataclass(frozen=True)
class Link:
    """A foreign key as a join: its columns, the referenced ones, and its equality operators."""

    columns: Sequence[str]
    referenced: Sequence[str]
    operators: Sequence[str]

    @classmethod
    def of(cls, key: Mapping[str, Any]) -> Self:
        """Return the link in a row of INBOUND_KEYS or OUTBOUND_KEYS_OF."""
        return cls(key["columns"], key["referenced"], key["operators"])

    def refers(self, child: Composable, parent: Composable) -> Composed:
        """Return the condition that a row refers to another, both given by alias."""
        parts = zip(self.referenced, self.operators, self.columns, strict=True)
        same = (
            SQL("{}.{} {} {}.{}").format(parent, Identifier(to), SQL(equal), child, Identifier(own)) for to, equal, own in parts
        )
        return SQL(" AND ").join(same)


# The domain columns of some relations, with their base types.
DOMAIN_COLUMNS = SQL(
    """WITH RECURSIVE chain (relation, name, base, modifier) AS (
         SELECT a.attrelid, a.attname::text, t.typbasetype, t.typtypmod FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
         WHERE a.attrelid = ANY (%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND t.typtype = 'd'
         UNION ALL SELECT c.relation, c.name, t.typbasetype, t.typtypmod FROM chain c JOIN pg_type t ON t.oid = c.base
         WHERE t.typtype = 'd')
       SELECT c.relation::bigint, c.name, format_type(c.base, c.modifier) FROM chain c JOIN pg_type t ON t.oid = c.base
       WHERE t.typtype <> 'd'"""
)


@under_source_path
def create_staging(
    number: int, schema: str, name: str, columns: Sequence[str], own: Sequence[str], bases: Mapping[str, str]
) -> Composed:
    """Create the TEMP table for a relation's staged rows, typed as the live one.

    Dropped columns are text. Domain columns have their base types (`bases`): the set's rows may
    violate a check of the domain.
    """
    own_or_base = (
        SQL("{0}::{1} AS {0}").format(Identifier(column), SQL(bases[column]))
        if column in bases
        else SQL("{}" if column in own else "NULL::pg_catalog.text AS {}").format(Identifier(column))
        for column in columns
    )
    return SQL("CREATE TEMP TABLE {} AS SELECT {} FROM ONLY {} WITH NO DATA").format(
        Identifier(STAGED.format(number)), SQL(", ").join(own_or_base), Identifier(schema, name)
    )


# Partition constraints, also of partitions that are to be attached, and which partition key columns have domain types.
BOUNDS = SQL(
    """SELECT oid::bigint, concat_ws(' AND ', pg_get_partition_constraintdef(oid), nullif(p.bound, '')), (
         SELECT coalesce(json_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)), '{}')
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid AND t.typtype = 'd'
         WHERE a.attrelid = p.oid AND a.attname IN (
           SELECT k.attname FROM pg_partitioned_table d
           JOIN pg_attribute k ON k.attrelid = d.partrelid AND k.attnum = ANY (d.partattrs)
           WHERE d.partrelid::text = ANY (string_to_array(p.above, ' '))))
       FROM unnest(%(oids)s::oid[], %(above)s::text[], %(bounds)s::text[]) AS p (oid, above, bound)"""
)
_MISPLACED = Identifier("pg_temp", "misplaced")
COUNT_MISPLACED = SQL("SELECT count(*) FROM {}").format(_MISPLACED)
DROP_MISPLACED = SQL("DROP TABLE {}").format(_MISPLACED)


def belonging(bound: str, domains: Mapping[str, str]) -> Composed:
    """Return a partition's constraint for staged rows, in its types, as hashes depend on them."""
    if not domains:
        return SQL("({})").format(as_written(bound))
    typed = SQL(", ").join(SQL("{0}::{1} AS {0}").format(Identifier(name), as_written(kind)) for name, kind in domains.items())
    return SQL("(SELECT {} FROM (SELECT {}) AS typed)").format(as_written(bound), typed)


def take_misplaced(number: int, belongs: Composed) -> Composed:
    """Move staged rows that do not belong to a partition to a separate table."""
    return SQL(
        "CREATE TEMP TABLE misplaced AS SELECT * FROM {0} WHERE {1} IS NOT TRUE; DELETE FROM {0} WHERE {1} IS NOT TRUE"
    ).format(temp(STAGED, number), belongs)


def give_misplaced(number: int, columns: Sequence[str], belongs: Composed) -> Composed:
    """Move those that belong to a partition to its staged rows."""
    chosen = SQL(", ").join(map(Identifier, columns))
    return SQL("INSERT INTO {} ({}) SELECT {} FROM {} WHERE {}").format(temp(STAGED, number), chosen, chosen, _MISPLACED, belongs)


def staging_place(number: int) -> tuple[str, str]:
    """Return schema and name of that table."""
    return "pg_temp", STAGED.format(number)


def any_of(conditions: Sequence[Composed]) -> Composed:
    """Return the disjunction of conditions; "true" without any."""
    return SQL(" OR ").join(SQL("({})").format(condition) for condition in conditions) if conditions else SQL("true").format()


@under_source_path
def find_differences(
    number: int, schema: str, name: str, columns: Sequence[str], key: Mapping[str, str], chosen_rows: Composed
) -> Composed:
    """Compare a relation with its staged rows by key, then by text, as 1.0 equals 1.00.

    The key is given as columns with their equality operators. Only rows that satisfy `chosen_rows`
    are compared. Without a key, equal rows are matched one to one.
    """
    chosen = SQL(", ").join(map(Identifier, columns))
    text = SQL("ROW({})::pg_catalog.text").format(chosen)
    own = SQL(", {} AS {}").format(text, TEXT)
    more = SQL(", pg_catalog.row_number() OVER (PARTITION BY {}) AS {}").format(text, Identifier("merge: nth"))
    keys = key or {"merge: text": EQUAL, "merge: nth": EQUAL}
    on = SQL(" AND ").join(SQL("t.{0} {1} s.{0}").format(Identifier(column), SQL(equal)) for column, equal in keys.items())
    return SQL(
        """CREATE TEMP TABLE {difference} AS
           SELECT CASE WHEN s.{mark} IS NULL THEN 'D' WHEN t.{mark} IS NULL THEN 'I' ELSE 'U' END AS {what}, t.{place}{values}
           FROM (SELECT true AS {mark}, ctid AS {place}{key}{own}{more} FROM ONLY {table} WHERE {chosen_rows}) AS t
           FULL JOIN (SELECT true AS {mark}{columns}{own}{more} FROM {staged} WHERE {chosen_rows}) AS s ON {on}
           WHERE t.{mark} IS NULL OR s.{mark} IS NULL OR t.{text} {unequal} s.{text}"""
    ).format(
        difference=Identifier(DIFFERENCE.format(number)), mark=Identifier("merge: there"), what=WHAT, place=PLACE, text=TEXT,
        values=SQL("").join(SQL(", s.{}").format(Identifier(column)) for column in columns), own=own,
        key=SQL("").join(SQL(", {}").format(Identifier(column)) for column in key),
        columns=SQL("").join(SQL(", {}").format(Identifier(column)) for column in columns),
        more=SQL("") if key else more, chosen_rows=chosen_rows, table=Identifier(schema, name), staged=temp(STAGED, number), on=on,
        unequal=SQL(UNEQUAL),
    )  # fmt: skip


@under_source_path
def changed_columns(number: int, schema: str, name: str, columns: Sequence[str]) -> Composed:
    """Return for each column whether any row to update changes it.

    Setting the others too would lock rows as if their keys changed, and block referring sessions.
    """
    changed = SQL("pg_catalog.bool_or(ROW(t.{0})::pg_catalog.text {1} ROW(d.{0})::pg_catalog.text)")
    asked = SQL(", ").join(changed.format(Identifier(column), SQL(UNEQUAL)) for column in columns)
    return SQL("SELECT {} FROM ONLY {} AS t JOIN {} AS d ON d.{} {equal} t.ctid AND d.{} {equal} 'U'").format(
        asked, Identifier(schema, name), temp(DIFFERENCE, number), PLACE, WHAT, equal=SQL(EQUAL)
    )


def count_differences(number: int, chosen_rows: Composed) -> Composed:
    """Count rows to insert, to update and to delete, and those staged."""
    return SQL(
        "SELECT count(*) FILTER (WHERE {what} = 'I'), count(*) FILTER (WHERE {what} = 'U'), "
        "count(*) FILTER (WHERE {what} = 'D'), (SELECT count(*) FROM {staged} WHERE {chosen_rows}) "
        "FROM {difference}"
    ).format(what=WHAT, staged=temp(STAGED, number), difference=temp(DIFFERENCE, number), chosen_rows=chosen_rows)


def chosen_texts(number: int, columns: Sequence[str], chosen_rows: Composed) -> Composed:
    """Return some columns, as text, of the chosen staged rows."""
    texts = SQL(", ").join(SQL("{}::pg_catalog.text").format(Identifier(column)) for column in columns)
    return SQL("SELECT DISTINCT {} FROM {} WHERE {}").format(texts, temp(STAGED, number), chosen_rows)


def keep_differences(number: int, kinds: str) -> Composed:
    """Drop the kinds of difference that are not to be written."""
    return SQL("DELETE FROM {} WHERE {} <> ALL ({})").format(temp(DIFFERENCE, number), WHAT, Literal(list(kinds)))


def drop_differences(number: int) -> Composed:
    """Drop the differences; the rows stay staged."""
    return SQL("DROP TABLE IF EXISTS {}").format(temp(DIFFERENCE, number))


def analyze_temp(name: str) -> Composed:
    """Analyze a TEMP table."""
    return SQL("ANALYZE {}").format(Identifier("pg_temp", name))


def create_like(name: str, parent: str, owner: str, partition_key: str = "", *, unlogged: bool = False) -> Composed:
    """Create a table to be attached to a partitioned one; names and key as the catalog has them."""
    like = "INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY EXCLUDING STATISTICS EXCLUDING COMMENTS"
    divided = f" PARTITION BY {partition_key}" if partition_key else ""
    return SQL("CREATE {}TABLE {} (LIKE {} {}){}; ALTER TABLE {} OWNER TO {}").format(
        SQL("UNLOGGED " if unlogged else ""), SQL(name), SQL(parent), SQL(like), SQL(divided), SQL(name), Identifier(owner)
    )


def drop_constraint(table: str, name: str) -> str:
    """Return the statement that drops a constraint if it exists, with names as SQL writes them."""
    return f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name};"


def add_constraint(table: str, name: str, definition: str) -> SQL:
    """Add a check, spelled as in the catalog or a manifest."""
    return SQL(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
