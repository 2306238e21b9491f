"""Statements that stage a set's rows in TEMP tables and find how live rows differ from them.

The rows of a set are staged in TEMP tables; what differs from a table's rows is found there, with the place of the live row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from tasks.core.sql.source_path import under_source_path

STAGED, DIFFERENCE = "staged {}", "difference {}"
WHAT, PLACE, TEXT = Identifier("merge: what"), Identifier("merge: place"), Identifier("merge: text")

# By what two values of a column are equal, where no key says so; other types have their own, which is on no path of ours.
EQUAL, UNEQUAL = "OPERATOR(pg_catalog.=)", "OPERATOR(pg_catalog.<>)"


def as_written(text: str) -> Composed:
    """Return SQL that an operator or the context's file wrote, in which a brace is a brace."""
    return Composed([SQL(text)])


def in_brackets(text: str) -> Composed:
    """Return the same as a condition among others; it may end with a comment."""
    return SQL("({}\n)").format(as_written(text))


def temp(name: str, number: int) -> Identifier:
    """Return the name of a TEMP table of this merge."""
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


# The columns of some relations whose types are domains, with the types that these are over.
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
) -> Composed:  # fmt: skip
    """Make the TEMP table for a relation's staged rows, typed as the live ones; columns that it has no longer are text.

    Those of domains have the types that these are over (`bases`): a set may have rows that a check of the domain would refuse.
    """
    own_or_base = (
        SQL("{0}::{1} AS {0}").format(Identifier(one), SQL(bases[one])) if one in bases else SQL("{}").format(Identifier(one))
        if one in own else SQL("NULL::pg_catalog.text AS {}").format(Identifier(one)) for one in columns
    )  # fmt: skip
    return SQL("CREATE TEMP TABLE {} AS SELECT {} FROM ONLY {} WITH NO DATA").format(
        Identifier(STAGED.format(number)), SQL(", ").join(own_or_base), Identifier(schema, name)
    )


# By what condition rows belong to partitions, and which columns of partition keys are of domains, with these.
BOUNDS = SQL(
    """SELECT oid::bigint, pg_get_partition_constraintdef(oid), (
         SELECT coalesce(json_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)), '{}')
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid AND t.typtype = 'd'
         WHERE a.attrelid = p.oid AND a.attname IN (
           SELECT k.attname FROM pg_partition_ancestors(p.oid) o JOIN pg_partitioned_table d ON d.partrelid = o.relid
           JOIN pg_attribute k ON k.attrelid = d.partrelid AND k.attnum = ANY (d.partattrs)))
       FROM unnest(%(oids)s::oid[]) AS p (oid)"""
)
_MISPLACED = Identifier("pg_temp", "misplaced")
COUNT_MISPLACED = SQL("SELECT count(*) FROM {}").format(_MISPLACED)
DROP_MISPLACED = SQL("DROP TABLE {}").format(_MISPLACED)


def belonging(bound: str, domains: Mapping[str, str]) -> Composed:
    """Return the condition by which a staged row belongs to a partition; staged are base types, and a hash is of its very type."""
    if not domains:
        return SQL("({})").format(as_written(bound))
    typed = SQL(", ").join(SQL("{0}::{1} AS {0}").format(Identifier(name), as_written(kind)) for name, kind in domains.items())
    return SQL("(SELECT {} FROM (SELECT {}) AS typed)").format(as_written(bound), typed)


def take_misplaced(number: int, belongs: Composed) -> Composed:
    """Take the staged rows of a partition that do not belong to it into a table of their own."""
    return SQL(
        "CREATE TEMP TABLE misplaced AS SELECT * FROM {0} WHERE {1} IS NOT TRUE; DELETE FROM {0} WHERE {1} IS NOT TRUE"
    ).format(temp(STAGED, number), belongs)


def give_misplaced(number: int, columns: Sequence[str], belongs: Composed) -> Composed:
    """Give those of them that belong to a partition to its staged rows."""
    chosen = SQL(", ").join(map(Identifier, columns))
    return SQL("INSERT INTO {} ({}) SELECT {} FROM {} WHERE {}").format(temp(STAGED, number), chosen, chosen, _MISPLACED, belongs)


def staging_place(number: int) -> tuple[str, str]:
    """Return schema and name of that table."""
    return "pg_temp", STAGED.format(number)


def any_of(conditions: Sequence[Composed]) -> Composed:
    """Return a condition that is true where one of several is; without any, everywhere."""
    return SQL(" OR ").join(SQL("({})").format(one) for one in conditions) if conditions else SQL("true").format()


@under_source_path
def find_differences(
    number: int, schema: str, name: str, columns: Sequence[str], key: Mapping[str, str], chosen_rows: Composed
) -> Composed:  # fmt: skip
    """Compare a relation with its staged rows, by key and then by text; equal values may have several texts, as 1.0 and 1.00.

    The key is given as columns, each with the operator by which two values are equal.
    Rows of which the condition `chosen_rows` is not true are not looked at. Without a key, equal rows are counted off against
    each other.
    """
    chosen = SQL(", ").join(map(Identifier, columns))
    text = SQL("ROW({})::pg_catalog.text").format(chosen)
    own = SQL(", {} AS {}").format(text, TEXT)
    more = SQL(", pg_catalog.row_number() OVER (PARTITION BY {}) AS {}").format(text, Identifier("merge: nth"))
    keys = key or {"merge: text": EQUAL, "merge: nth": EQUAL}
    on = SQL(" AND ").join(SQL("t.{0} {1} s.{0}").format(Identifier(one), SQL(equal)) for one, equal in keys.items())
    return SQL(
        """CREATE TEMP TABLE {difference} AS
           SELECT CASE WHEN s.{mark} IS NULL THEN 'D' WHEN t.{mark} IS NULL THEN 'I' ELSE 'U' END AS {what}, t.{place}{values}
           FROM (SELECT true AS {mark}, ctid AS {place}{key}{own}{more} FROM ONLY {table} WHERE {chosen_rows}) AS t
           FULL JOIN (SELECT true AS {mark}{columns}{own}{more} FROM {staged} WHERE {chosen_rows}) AS s ON {on}
           WHERE t.{mark} IS NULL OR s.{mark} IS NULL OR t.{text} {unequal} s.{text}"""
    ).format(
        difference=Identifier(DIFFERENCE.format(number)), mark=Identifier("merge: there"), what=WHAT, place=PLACE, text=TEXT,
        values=SQL("").join(SQL(", s.{}").format(Identifier(one)) for one in columns), own=own,
        key=SQL("").join(SQL(", {}").format(Identifier(one)) for one in key),
        columns=SQL("").join(SQL(", {}").format(Identifier(one)) for one in columns),
        more=SQL("") if key else more, chosen_rows=chosen_rows, table=Identifier(schema, name), staged=temp(STAGED, number), on=on,
        unequal=SQL(UNEQUAL),
    )  # fmt: skip


@under_source_path
def changed_columns(number: int, schema: str, name: str, columns: Sequence[str]) -> Composed:
    """Say of each column whether any row to update has another value.

    To set the others too would lock rows as if their keys changed, and who refers to them would wait.
    """
    changed = SQL("pg_catalog.bool_or(ROW(t.{0})::pg_catalog.text {1} ROW(d.{0})::pg_catalog.text)")
    asked = SQL(", ").join(changed.format(Identifier(one), SQL(UNEQUAL)) for one in columns)
    return SQL("SELECT {} FROM ONLY {} AS t JOIN {} AS d ON d.{} {equal} t.ctid AND d.{} {equal} 'U'").format(
        asked, Identifier(schema, name), temp(DIFFERENCE, number), PLACE, WHAT, equal=SQL(EQUAL)
    )


def count_differences(number: int, chosen_rows: Composed) -> Composed:
    """Count rows to insert, to update and to delete, and those staged."""
    return SQL(
        "SELECT count(*) FILTER (WHERE {what} = 'I'), count(*) FILTER (WHERE {what} = 'U'), count(*) FILTER (WHERE {what} = 'D'), "
        "(SELECT count(*) FROM {staged} WHERE {chosen_rows}) FROM {difference}"
    ).format(what=WHAT, staged=temp(STAGED, number), difference=temp(DIFFERENCE, number), chosen_rows=chosen_rows)


def chosen_texts(number: int, columns: Sequence[str], chosen_rows: Composed) -> Composed:
    """Return what the chosen ones of staged rows have in some columns, as text."""
    texts = SQL(", ").join(SQL("{}::pg_catalog.text").format(Identifier(one)) for one in columns)
    return SQL("SELECT DISTINCT {} FROM {} WHERE {}").format(texts, temp(STAGED, number), chosen_rows)


def keep_differences(number: int, kinds: str) -> Composed:
    """Forget the kinds of difference that are not to be written."""
    return SQL("DELETE FROM {} WHERE {} <> ALL ({})").format(temp(DIFFERENCE, number), WHAT, Literal(list(kinds)))


def drop_differences(number: int) -> Composed:
    """Forget what was found; the rows stay staged."""
    return SQL("DROP TABLE IF EXISTS {}").format(temp(DIFFERENCE, number))


def analyze_temp(name: str) -> Composed:
    """Gather planner statistics of a TEMP table."""
    return SQL("ANALYZE {}").format(Identifier("pg_temp", name))


def create_like(name: str, parent: str, owner: str, partition_key: str = "", *, unlogged: bool = False) -> Composed:
    """Make a table that can be attached to a partitioned one; names and key as the catalogue or a manifest spells them."""
    like = "INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY EXCLUDING STATISTICS EXCLUDING COMMENTS"
    divided = f" PARTITION BY {partition_key}" if partition_key else ""
    return SQL("CREATE {}TABLE {} (LIKE {} {}){}; ALTER TABLE {} OWNER TO {}").format(
        SQL("UNLOGGED " if unlogged else ""), SQL(name), SQL(parent), SQL(like), SQL(divided), SQL(name), Identifier(owner)
    )


def drop_constraint(table: str, name: str) -> str:
    """Return what drops a constraint that may not be there, with names as SQL writes them."""
    return f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name};"


def add_constraint(table: str, name: str, definition: str) -> SQL:
    """Add a check, spelled as the catalogue or a manifest does."""
    return SQL(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
