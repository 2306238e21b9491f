"""Statements that mark old rows, with all rows that refer to them.

Rows to delete are marked by primary key in one TEMP table per table, as a row moves when a trigger
writes it. `root` is the number of the rule's row because of which a row is marked; there may be
several. Conditions of the context's file use bare table names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from tasks.core.sql.neighbours import texts
from tasks.core.sql.source_path import under_source_path
from tasks.core.sql.staging import EQUAL, STAGED, Link


@dataclass(frozen=True)
class Table:
    """A table with marked rows: its number, its primary key, the key's operators, and the types of structured key columns."""

    number: int
    schema: str
    name: str
    key: tuple[str, ...]
    equal: tuple[str, ...]
    greater: tuple[str, ...]
    structured: Mapping[str, str]

    @property
    def place(self) -> Identifier:
        """Its qualified name."""
        return Identifier(self.schema, self.name)

    @property
    def bare(self) -> Identifier:
        """Its bare name, as in conditions."""
        return Identifier(self.name)

    @property
    def marks(self) -> Identifier:
        """The TEMP table of its marked rows."""
        return Identifier("pg_temp", f"to go {self.number}")

    @property
    def marked_key(self) -> list[Identifier]:
        """The key columns there."""
        return [Identifier(f"key {number}") for number in range(len(self.key))]

    def key_of(self, alias: Composable) -> Composed:
        """Return a row's key columns, named as there."""
        named = zip(self.key, self.marked_key, strict=True)
        return SQL(", ").join(SQL("{}.{} AS {}").format(alias, Identifier(column), name) for column, name in named)

    def is_marked(self, alias: Composable, marks: str = "m: marked") -> Composed:
        """Return the condition that a row is marked."""
        return self.is_same(alias, Identifier(marks), self.marked_key)

    def is_same(self, alias: Composable, other: Composable, names: Sequence[Identifier] | None = None) -> Composed:
        """Return the condition that a row has another's key, whose columns may have other names."""
        own = list(map(Identifier, self.key))
        pairs = zip(own, self.equal, names or own, strict=True)
        same = (SQL("{}.{} {} {}.{}").format(alias, column, SQL(equal), other, name) for column, equal, name in pairs)
        return SQL(" AND ").join(same)


# A name that no table of a context has.
ROW, PARENT, GOING, MARKED = Identifier("t: row"), Identifier("p: row"), Identifier("g: going"), "m: marked"


def as_texts(columns: Sequence[Composable]) -> Composed:
    """Return columns as text."""
    return SQL(", ").join(SQL("{}::pg_catalog.text").format(column) for column in columns)


def create_marks(table: Table) -> Composed:
    """Create the TEMP table for a table's marked rows."""
    return SQL("CREATE TEMP TABLE {} AS SELECT 0::bigint AS root, {} FROM {} AS {} WITH NO DATA").format(
        Identifier(f"to go {table.number}"), table.key_of(ROW), table.place, ROW
    )


def drop_marks(table: Table) -> Composed:
    """Unmark the rows of a table."""
    return SQL("DROP TABLE {}").format(table.marks)


def index_marks(table: Table) -> Composed:
    """Index marked rows by root, as refused rows are narrowed down one by one; and analyze."""
    return SQL("CREATE INDEX ON {marks} (root); ANALYZE {marks}").format(marks=table.marks)


def analyze_marks(table: Table) -> Composed:
    """Analyze the TEMP table."""
    return SQL("ANALYZE {}").format(table.marks)


def is_old(cutoffs: Mapping[str, str], *, each: bool) -> Composed:
    """Return the condition that a row is older than a cutoff, by any of the columns or by each."""
    terms = (SQL("{} OPERATOR(pg_catalog.<) {}").format(Identifier(clock), Literal(cutoff)) for clock, cutoff in cutoffs.items())
    return SQL("({})").format(SQL(" AND " if each else " OR ").join(terms))


def clock_of(table: Table, columns: Sequence[str], *, each: bool) -> Composed:
    """Return the time of a row: the earliest of some columns, or the latest."""
    clocks = SQL(", ").join(SQL("{}.{}").format(table.bare, Identifier(column)) for column in columns)
    return SQL("{}({})").format(SQL("GREATEST" if each else "LEAST"), clocks) if len(columns) > 1 else clocks


def is_after(clock: Composable, table: Table, last: Sequence[str]) -> Composed:
    """Return the condition that a row follows one given by clock and key as text."""
    columns = [clock, *map(Identifier, table.key)]
    equal, greater = [EQUAL, *table.equal], ["OPERATOR(pg_catalog.>)", *table.greater]
    casts = ["", *(f"::{table.structured[column]}" if column in table.structured else "" for column in table.key)]
    compared = [
        SQL("{} {} {}{}").format(column, SQL(operator), Literal(value), SQL(cast))
        for operators in (equal, greater)
        for column, operator, value, cast in zip(columns, operators, last, casts, strict=True)
    ]
    count = len(columns)
    cases = (SQL(" AND ").join([*compared[:place], compared[count + place]]) for place in range(count))
    return SQL("({})").format(SQL(" OR ").join(cases))


@under_source_path
def mark_old(table: Table, clock: Composable, conditions: Sequence[Composed], hold: Composed, limit: int) -> Composed:
    """Lock rows that satisfy conditions, oldest first, skipping locked ones; mark those not held.

    Returns root, key as text, whether the row is held, and clock and key as text.
    """
    old = SQL(
        "SELECT {key}, {hold} IS TRUE AS held, {clock} AS clock FROM {place} WHERE {condition} "
        "ORDER BY {order} LIMIT {limit} FOR UPDATE OF {own} SKIP LOCKED"
    ).format(
        key=table.key_of(table.bare), hold=hold, own=table.bare, clock=clock, place=table.place,
        condition=SQL(" AND ").join(conditions), limit=Literal(limit),
        order=SQL(", ").join([clock, *(SQL("{}.{}").format(table.bare, Identifier(column)) for column in table.key)]),
    )  # fmt: skip
    return SQL(
        "WITH old_rows AS ({}), numbered AS MATERIALIZED (SELECT pg_catalog.row_number() OVER "
        "(ORDER BY clock, {key}) AS root, * FROM old_rows), marked AS (INSERT INTO {} SELECT root, "
        "{key} FROM numbered WHERE NOT held) SELECT root, ARRAY[{texts}], held, "
        "ARRAY[clock::pg_catalog.text, {texts}] FROM numbered ORDER BY root"
    ).format(old, table.marks, key=SQL(", ").join(table.marked_key), texts=as_texts(table.marked_key))


@under_source_path
def count_old(table: Table, conditions: Sequence[Composed]) -> Composed:
    """Count rows that satisfy conditions."""
    return SQL("SELECT pg_catalog.count(*) FROM {} WHERE {}").format(table.place, SQL(" AND ").join(conditions))


def _mark_more(table: Table, alias: Composable, joined: Composed) -> Composed:
    return SQL(
        "INSERT INTO {marks} SELECT DISTINCT root, {names} FROM (SELECT {mark}.root, {key} FROM "
        "{joined} FOR UPDATE OF {alias} SKIP LOCKED) AS referring EXCEPT SELECT root, {names} FROM "
        "{marks}"
    ).format(
        marks=table.marks, names=SQL(", ").join(table.marked_key), key=table.key_of(alias), joined=joined, alias=alias,
        mark=Identifier(MARKED),
    )  # fmt: skip


def create_going(going: Identifier, table: Table) -> Composed:
    """Create the TEMP table for the keys, as text, of rows that would be deleted."""
    columns = (SQL("{} pg_catalog.text").format(name) for name in table.marked_key)
    return SQL("CREATE TEMP TABLE {} ({})").format(going, SQL(", ").join(columns))


def copy_going(going: Identifier) -> Composed:
    """Insert keys of rows that would be deleted."""
    return SQL("COPY {} FROM STDIN").format(going)


def analyze_going(going: Identifier) -> Composed:
    """Analyze the TEMP table."""
    return SQL("ANALYZE {}").format(going)


def is_going(table: Table, alias: Composable, going: Identifier) -> Composed:
    """Return the condition that a row is one of these."""
    pairs = zip(table.key, table.marked_key, strict=True)
    same = (
        SQL("{}.{}::pg_catalog.text OPERATOR(pg_catalog.=) {}.{}").format(alias, Identifier(column), GOING, name)
        for column, name in pairs
    )
    return SQL("EXISTS (SELECT FROM {} AS {} WHERE {})").format(going, GOING, SQL(" AND ").join(same))


def mark_referring(table: Table, parent: Table, key: Link, going: Identifier | None = None) -> Composed:
    """Lock and mark rows that refer to marked rows by a key; with `going`, only those in it."""
    joined = SQL("{} AS {} JOIN {} AS {} ON {} JOIN {} AS {} ON {}").format(
        table.place, ROW, parent.place, PARENT, key.refers(ROW, PARENT), parent.marks, Identifier(MARKED), parent.is_marked(PARENT)
    )
    return _mark_more(table, ROW, SQL("{} WHERE {}").format(joined, is_going(table, ROW, going)) if going else joined)


def _belongs(table: Table, root: Table, condition: Composed) -> Composed:
    return SQL("{} JOIN {} ON {} JOIN {} AS {} ON {}").format(
        table.place, root.place, condition, root.marks, Identifier(MARKED), root.is_marked(root.bare)
    )


@under_source_path
def mark_by_condition(table: Table, root: Table, condition: Composed) -> Composed:
    """Lock and mark rows that a condition joins to marked rows of the rule's table."""
    return _mark_more(table, table.bare, _belongs(table, root, condition))


@under_source_path
def roots_not_alone(table: Table, root: Table, condition: Composed) -> Composed:
    """Return the roots of marked rows of the rule's table that have unmarked dependent rows."""
    return SQL("SELECT DISTINCT {}.root FROM {} WHERE NOT EXISTS (SELECT FROM {} AS o WHERE {})").format(
        Identifier(MARKED), _belongs(table, root, condition), table.marks, table.is_marked(table.bare, "o")
    )


def roots_referred_to(
    child: str,
    marked: Table | None,
    parent: Table,
    key: Link,
    roots: Sequence[int] | None = None,
) -> Composed:
    """Return the roots of marked rows that unmarked rows refer to.

    `child` is named as in the catalog. With `roots` only these are considered, and only rows marked
    for them count as going.
    """
    asked, going = SQL("true").format(), SQL("true").format()
    if roots is not None:
        asked, going = (SQL("{}.root = ANY ({})").format(Identifier(alias), Literal(list(roots))) for alias in (MARKED, "o"))
    stays: Composable = SQL("true")
    if marked:
        stays = SQL("NOT EXISTS (SELECT FROM {} AS o WHERE {} AND {})").format(marked.marks, marked.is_marked(ROW, "o"), going)
    return SQL("SELECT DISTINCT {marks}.root FROM {} AS {} JOIN {} AS {} ON {} JOIN {} AS {marks} "
               "ON {} WHERE {} AND {}").format(
        SQL(child), ROW, parent.place, PARENT, key.refers(ROW, PARENT), parent.marks, parent.is_marked(PARENT), asked, stays,
        marks=Identifier(MARKED),
    )  # fmt: skip


def values_of(table: Table, columns: Sequence[str]) -> Composed:
    """Return the roots of a table's marked rows, with some columns of these as text."""
    known = SQL(" AND ").join(SQL("{}.{} IS NOT NULL").format(PARENT, Identifier(column)) for column in columns)
    return SQL("SELECT {marks}.root, {} FROM {} AS {} JOIN {} AS {marks} ON {} WHERE {}").format(
        texts(PARENT.as_string(), columns), table.place, PARENT, table.marks, table.is_marked(PARENT), known,
        marks=Identifier(MARKED),
    )  # fmt: skip


def roots_of(table: Table) -> Composed:
    """Return the roots of a table's marked rows."""
    return SQL("SELECT DISTINCT root FROM {}").format(table.marks)


def roots_changed(table: Table, leaf: tuple[str, str], staged: tuple[int, Sequence[str]] | None) -> Composed:
    """Return the roots whose marked rows in a leaf are not exactly as archived."""
    archived = SQL("false").format()
    if staged:
        number, columns = staged
        same = table.is_same(ROW, Identifier("s"))
        texts = (
            SQL("ROW({})::text").format(SQL(", ").join(SQL("{}.{}").format(alias, Identifier(column)) for column in columns))
            for alias in (ROW, Identifier("s"))
        )
        archived = SQL("EXISTS (SELECT FROM {} AS s WHERE {} AND {})").format(
            Identifier("pg_temp", STAGED.format(number)), same, SQL(" = ").join(texts)
        )
    return SQL("SELECT DISTINCT {marks}.root FROM {} AS {marks} JOIN ONLY {} AS {} ON {} WHERE NOT {}").format(
        table.marks, Identifier(*leaf), ROW, table.is_marked(ROW), archived, marks=Identifier(MARKED)
    )


def unmark(table: Table, roots: Sequence[int]) -> Composed:
    """Unmark rows of some roots."""
    return SQL("DELETE FROM {} WHERE root = ANY ({})").format(table.marks, Literal(list(roots)))


def unmark_gone(table: Table, roots: Sequence[int]) -> Composed:
    """Unmark deleted rows, for all roots."""
    names = zip(table.marked_key, table.equal, strict=True)
    same = SQL(" AND ").join(SQL("m.{0} {1} g.{0}").format(name, SQL(equal)) for name, equal in names)
    return SQL("DELETE FROM {marks} AS m USING {marks} AS g WHERE g.root = ANY ({}) AND {}").format(
        Literal(list(roots)), same, marks=table.marks
    )


def chosen(table: Table, roots: Sequence[int]) -> Composed:
    # As text, without a cast whose type would be looked up.
    """Return which rows are marked for some roots."""
    listed = Literal(f"{{{','.join(map(str, roots))}}}")
    return SQL("SELECT DISTINCT {} FROM {} WHERE root OPERATOR(pg_catalog.=) ANY ({})").format(
        SQL(", ").join(table.marked_key), table.marks, listed
    )


def count_marked(table: Table, roots: Sequence[int]) -> Composed:
    """Count the rows that are marked for some roots."""
    return SQL("SELECT count(*) FROM ({}) AS chosen").format(chosen(table, roots))
