"""Statements that find rows to write whose unique values kept rows hold."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composed, Identifier

from tasks.core.sql.staging import DIFFERENCE, PLACE, STAGED, WHAT, as_written, temp

# Unique and exclusion indexes checked per row: expressions, operators, predicate.
UNIQUE_INDEXES = SQL(
    """SELECT i.indrelid::bigint, coalesce(quote_ident(k.conname), i.indexrelid::regclass::text), i.indexrelid::regclass::text,
              ARRAY(SELECT pg_get_indexdef(i.indexrelid, n::int, false) FROM generate_series(1, i.indnkeyatts) AS n ORDER BY n),
              ARRAY(SELECT format('OPERATOR(%%I.%%s)', n.nspname, o.oprname)
                    FROM unnest(i.indclass::oid[]) WITH ORDINALITY AS c (class, place) JOIN pg_opclass oc ON oc.oid = c.class
                    JOIN pg_operator o ON o.oid = coalesce(k.conexclop[c.place], (
                      SELECT a.amopopr FROM pg_amop a WHERE a.amopfamily = oc.opcfamily AND a.amoplefttype = oc.opcintype
                        AND a.amoprighttype = oc.opcintype AND a.amopstrategy = 3))
                    JOIN pg_namespace n ON n.oid = o.oprnamespace ORDER BY c.place),
              coalesce(pg_get_expr(i.indpred, i.indrelid), 'true'),
              coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false)
       FROM pg_index i LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid
         AND k.contype IN ('p', 'u', 'x')
       WHERE i.indrelid = ANY (%(oids)s::oid[]) AND (i.indisunique OR i.indisexclusion) AND i.indisready ORDER BY 1, 2"""
)


@dataclass(frozen=True)
class UniqueIndex:
    """A unique or exclusion index: its constraint, expressions, operators, and predicate."""

    relation: int
    constraint: str
    name: str
    expressions: Sequence[str]
    operators: Sequence[str]
    condition: str
    nulls_equal: bool


def _values(index: UniqueIndex) -> Composed:
    listed = (SQL("({}) AS {}").format(as_written(text), _value(number)) for number, text in enumerate(index.expressions))
    return SQL(", ").join(listed)


def _value(number: int) -> Identifier:
    return Identifier(f"merge: value {number}")


def _same(index: UniqueIndex) -> Composed:
    both_null = " OR c.{0} IS NULL AND s.{0} IS NULL" if index.nulls_equal else ""
    parts = (SQL(f"(c.{{0}} {{1}} s.{{0}}{both_null})").format(_value(n), SQL(how)) for n, how in enumerate(index.operators))
    return SQL(" AND ").join(parts)


def _keys(key: Sequence[str]) -> Composed:
    return SQL("ARRAY[{}]::text[]").format(SQL(", ").join(SQL("{}::text").format(Identifier(column)) for column in key))


def find_collisions(number: int, schema: str, name: str, index: UniqueIndex, key: Sequence[str]) -> Composed:
    """Return keys of rows to write, with keys of kept live rows that hold their unique values."""
    coming = SQL("SELECT {} AS key, {} FROM {} WHERE {} IN ('I', 'U') AND ({})").format(
        _keys(key), _values(index), temp(DIFFERENCE, number), WHAT, as_written(index.condition)
    )
    places = SQL("SELECT {} FROM {} WHERE {} IS NOT NULL").format(PLACE, temp(DIFFERENCE, number), PLACE)
    staying = SQL("SELECT {} AS key, {} FROM ONLY {} WHERE ({}) AND ctid NOT IN ({})").format(
        _keys(key), _values(index), Identifier(schema, name), as_written(index.condition), places
    )
    return SQL("SELECT DISTINCT c.key, s.key FROM ({}) AS c JOIN ({}) AS s ON {} ORDER BY 1, 2").format(
        coming, staying, _same(index)
    )


def count_doubles(number: int, index: UniqueIndex) -> Composed:
    """Count values that several staged rows have although an index is unique."""
    rows = SQL("SELECT {} FROM {} WHERE ({})").format(_values(index), temp(STAGED, number), as_written(index.condition))
    values = [_value(n) for n in range(len(index.expressions))]
    present = SQL(" AND ").join(SQL("{} IS NOT NULL").format(value) for value in values)
    return SQL("SELECT count(*) FROM (SELECT FROM ({}) AS v WHERE {} GROUP BY {} HAVING count(*) > 1) AS doubles").format(
        rows, SQL("true") if index.nulls_equal else present, SQL(", ").join(values)
    )


def forget_rows(number: int, condition: Composed) -> list[Composed]:
    """Return the statements that drop rows from those staged and those to write."""
    return [SQL("DELETE FROM {} WHERE {}").format(temp(name, number), condition) for name in (STAGED, DIFFERENCE)]
