"""Statements about key values: chosen ones, and missing ones that rows refer to."""

from collections.abc import Mapping, Sequence

from psycopg.sql import SQL, Composed, Identifier, Literal

from tasks.core.sql.names import column_list
from tasks.core.sql.source_path import under_source_path
from tasks.core.sql.staging import (
    AS_ENUM,
    BASE,
    DIFFERENCE,
    EQUAL,
    PLACE,
    STAGED,
    STRUCTURED,
    UNEQUAL,
    WHAT,
    Link,
    any_of,
    as_written,
    temp,
)

# The columns of a foreign key k, the referenced ones, and its equality operators.
ENDS = """(SELECT array_agg(a.attname::text ORDER BY u.place) FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, place)
               JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum) AS columns,
              (SELECT array_agg(a.attname::text ORDER BY u.place) FROM unnest(k.confkey) WITH ORDINALITY AS u (attnum, place)
               JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum) AS referenced,
              (SELECT array_agg(format('OPERATOR(%%I.%%s)', n.nspname, o.oprname) ORDER BY u.place)
               FROM unnest(k.conpfeqop) WITH ORDINALITY AS u (oid, place) JOIN pg_operator o ON o.oid = u.oid
               JOIN pg_namespace n ON n.oid = o.oprnamespace) AS operators"""
CHOSEN_KEYS = "chosen keys"
CHOSEN_PLACE = """to_regclass('pg_temp."chosen keys"')"""
# A CHECK allows exactly what a condition on rows may use: columns of the table, no subquery, no
# aggregate (https://www.postgresql.org/docs/current/ddl-constraints.html). It is read back as
# PostgreSQL parsed it. Functions with side effects, such as pg_terminate_backend, are volatile;
# with others, such as now(), and with system columns, the condition would select other rows
# elsewhere or later.
CONDITION = SQL(
    """SELECT pg_get_expr(k.conbin, k.conrelid),
              EXISTS (SELECT FROM regexp_matches(k.conbin::text, ':(?:op)?funcid (\\d+)', 'g') AS used
                      JOIN pg_proc p ON p.oid = used[1]::oid WHERE p.provolatile <> 'i')
              OR k.conbin::text ~ 'SQLVALUEFUNCTION' OR k.conbin::text ~ ':varattno (0|-)'
       FROM pg_constraint k WHERE k.contype = 'c' AND k.conrelid = to_regclass('pg_temp."chosen keys"')"""
)


@under_source_path
def create_key_table(schema: str, name: str, key: Sequence[str]) -> Composed:
    """Create an empty TEMP table with the key columns of a relation."""
    return SQL("CREATE TEMP TABLE {} AS SELECT {} FROM ONLY {} WITH NO DATA").format(
        Identifier(CHOSEN_KEYS), SQL(", ").join(map(Identifier, key)), Identifier(schema, name)
    )


@under_source_path
def add_condition(condition: str) -> Composed:
    """Add an operator's condition to that table as a check."""
    return SQL("ALTER TABLE {} ADD CHECK (\n{}\n)").format(Identifier("pg_temp", CHOSEN_KEYS), as_written(condition))


def try_condition(condition: Composed) -> Composed:
    """Evaluate a condition, so that values that do not fit the columns are found."""
    return SQL("SELECT FROM {} WHERE {}").format(Identifier("pg_temp", CHOSEN_KEYS), condition)


# The equality operator of each of its columns: of its type, or of a domain's base type, if it has
# one of its own.
EQUAL_IN_KEY_TABLE = SQL(
    f"""SELECT a.attname::text, {AS_ENUM} || coalesce((
         SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname) FROM pg_opclass oc
         JOIN pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
         JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype
           AND ao.amoprighttype = oc.opcintype AND ao.amopstrategy = 3
         JOIN pg_operator o ON o.oid = ao.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
         WHERE oc.opcdefault AND oc.opcintype = {BASE}), 'OPERATOR(pg_catalog.=)')
       FROM pg_attribute a WHERE a.attrelid = to_regclass('pg_temp."chosen keys"') AND a.attnum > 0"""  # noqa: S608
)
STRUCTURED_IN_KEY_TABLE = SQL(f"SELECT {STRUCTURED.replace('<relation>', CHOSEN_PLACE)}")
DROP_KEY_TABLE = SQL("DROP TABLE IF EXISTS {}").format(Identifier("pg_temp", CHOSEN_KEYS))


def has_values(columns: Mapping[str, str], rows: Sequence[Sequence[str]], types: Mapping[str, str]) -> Composed:
    """Return the condition that columns have the values of one of some rows, given as text.

    Columns are given with their equality operators, and with their `types` if they are structured.
    """
    if len(columns) == 1 and columns.keys().isdisjoint(types):
        # Hashed, if there are many.
        ((column, equal),) = columns.items()
        return SQL("{} {} ANY ({})").format(Identifier(column), SQL(equal), Literal([row[0] for row in rows]))
    casts = [SQL(f"::{types[column]}" if column in types else "") for column in columns]
    return any_of([SQL(" AND ").join(map(_has_value, columns, columns.values(), row, casts)) for row in rows])


def _has_value(column: str, equal: str, value: str, cast: SQL) -> Composed:
    return SQL("{} {} {}{}").format(Identifier(column), SQL(equal), Literal(value), cast)


@under_source_path
def hanging_keys(numbers: tuple[int, int], names: tuple[str, str], key: Sequence[str], parents: Composed, on: Composed) -> Composed:
    """Return keys, as text, of staged rows joined to staged rows of this or another relation."""
    own, other = map(Identifier, names)
    keys = SQL(", ").join(SQL("{}.{}::pg_catalog.text").format(own, Identifier(column)) for column in key)
    return SQL("SELECT DISTINCT {} FROM {} AS {} JOIN (SELECT * FROM {} WHERE {}) AS {} ON {}").format(
        keys, temp(STAGED, numbers[0]), own, temp(STAGED, numbers[1]), parents, other, on
    )


@under_source_path
def absent_values(schema: str, name: str, number: int, wanted: Composed) -> Composed:
    """Return whether neither a relation nor its staged rows have a row with the wanted values."""
    return SQL("SELECT NOT EXISTS (SELECT FROM ONLY {} WHERE {}) AND NOT EXISTS (SELECT FROM {} WHERE {})").format(
        Identifier(schema, name), wanted, temp(STAGED, number), wanted
    )


OUTBOUND_KEYS_OF = SQL(
    """SELECT quote_ident(k.conname) AS name, k.conrelid::bigint AS child, k.conrelid::regclass::text AS table,
              k.confrelid::bigint AS parent, n.nspname::text AS parent_schema, p.relname::text AS parent_name,
              <ends>
       FROM pg_constraint k JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace n ON n.oid = p.relnamespace
       WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = ANY (%(oids)s::oid[])
         AND coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true) AND has_table_privilege(k.confrelid, 'SELECT')
         AND has_schema_privilege(n.oid, 'USAGE') AND NOT row_security_active(k.confrelid)
       ORDER BY k.conrelid::regclass::text, k.conname""".replace("<ends>", ENDS)
)


@under_source_path
def needed_values(
    number: int,
    table: tuple[str, str],
    key: Link,
    parent: tuple[str, str],
    also: Sequence[int],
) -> Composed:
    """Return, as text, new references of rows to write to rows that the parent will lack.

    `also` are the numbers of the parent's relations, as far as they are merged too.
    """
    columns, same = key.columns, key.refers(Identifier("d"), Identifier("p"))
    present = SQL(" AND ").join(SQL("d.{} IS NOT NULL").format(Identifier(column)) for column in columns)
    coming = SQL("").join(
        SQL(" AND NOT EXISTS (SELECT FROM {} AS p WHERE ({}) AND {})").format(temp(DIFFERENCE, number), _is_written("p"), same)
        for number in also
    )
    now = SQL(", ").join(SQL("t.{}").format(Identifier(column)) for column in columns)
    then = SQL(", ").join(SQL("d.{}").format(Identifier(column)) for column in columns)
    place = (
        "EXISTS (SELECT FROM ONLY {} AS t WHERE t.ctid {equal} d.{} AND ROW({})::pg_catalog.text {equal} ROW({})::pg_catalog.text)"
    )
    stays = SQL(place).format(Identifier(*table), PLACE, now, then, equal=SQL(EQUAL))
    return SQL(
        "SELECT DISTINCT {} FROM {} AS d WHERE ({}) AND {} AND NOT EXISTS (SELECT FROM {} AS p "
        "WHERE {}){} AND NOT (d.{} {} 'U' AND {})"
    ).format(
        SQL(", ").join(SQL("d.{}::pg_catalog.text").format(Identifier(column)) for column in columns), temp(DIFFERENCE, number),
        _is_written("d"), present, Identifier(*parent), same, coming, WHAT, SQL(EQUAL), stays,
    )  # fmt: skip


@under_source_path
def orphans_to_go(number: int, table: tuple[str, str], key: Link, parent: tuple[str, str]) -> Composed:
    """Count rows to delete, or to change in their key columns, that refer to missing rows."""
    present = SQL(" AND ").join(SQL("t.{} IS NOT NULL").format(Identifier(column)) for column in key.columns)
    now, then = (
        SQL(", ").join(SQL("{}.{}").format(SQL(alias), Identifier(column)) for column in key.columns) for alias in ("t", "d")
    )
    return SQL(
        "SELECT pg_catalog.count(*) FROM ONLY {table} AS t JOIN {difference} AS d ON d.{place} "
        "{equal} t.ctid WHERE {present} AND (d.{what} {equal} 'D' OR ROW({now})::pg_catalog.text "
        "{unequal} ROW({then})::pg_catalog.text) AND NOT EXISTS (SELECT FROM {parent} AS p WHERE "
        "{same})"
    ).format(
        table=Identifier(*table), difference=temp(DIFFERENCE, number), place=PLACE, present=present, what=WHAT, now=now, then=then,
        parent=Identifier(*parent), same=key.refers(Identifier("t"), Identifier("p")), equal=SQL(EQUAL), unequal=SQL(UNEQUAL),
    )  # fmt: skip


def _is_written(alias: str) -> Composed:
    """Return the condition that a difference is a row to insert or to update."""
    return any_of([SQL("{}.{} {} {}").format(SQL(alias), WHAT, SQL(EQUAL), Literal(kind)) for kind in "IU"])


def inserted_keys(number: int, key: Sequence[str], but: Sequence[Composed]) -> Composed:
    """Return key values, as text, of rows to insert that satisfy none of some conditions."""
    values = SQL(", ").join(SQL("{}::text").format(Identifier(column)) for column in key)
    others = SQL(" AND ({}) IS NOT TRUE").format(any_of(but)) if but else SQL("")
    return SQL("SELECT {} FROM {} WHERE {} = 'I'{}").format(values, temp(DIFFERENCE, number), WHAT, others)


def copy_chosen(number: int, schema: str, name: str, columns: Sequence[str], chosen_rows: Composed) -> Composed:
    """Copy the chosen staged rows into a table."""
    return SQL("INSERT INTO {}{} SELECT {} FROM {} WHERE {}").format(
        Identifier(schema, name), column_list(columns), SQL(", ").join(map(Identifier, columns)), temp(STAGED, number), chosen_rows
    )
