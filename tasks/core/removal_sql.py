"""The statements that remove old rows with all that hangs on them.

Rows that are to go are marked in a TEMP table a table, by their primary key, because a row moves when a trigger writes it.
`root` numbers the row of the rule's own table for whose sake a row is to go; a row may be marked for several. Conditions of the
context's file name tables as they are called.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from tasks.core.merge_sql import STAGED


@dataclass(frozen=True)
class Table:
    """A table of which rows are marked: its number, and its primary key."""

    number: int
    schema: str
    name: str
    key: tuple[str, ...]

    @property
    def place(self) -> Identifier:
        """Its qualified name."""
        return Identifier(self.schema, self.name)

    @property
    def bare(self) -> Identifier:
        """Its name, as conditions have it."""
        return Identifier(self.name)

    @property
    def marks(self) -> Identifier:
        """The TEMP table of its marked rows."""
        return Identifier("pg_temp", f"to go {self.number}")

    @property
    def marked_key(self) -> list[Identifier]:
        """The columns of the key there."""
        return [Identifier(f"key {number}") for number in range(len(self.key))]

    def key_of(self, alias: Composable) -> Composed:
        """Return the key's columns of a row, named as there."""
        named = zip(self.key, self.marked_key, strict=True)
        return SQL(", ").join(SQL("{}.{} AS {}").format(alias, Identifier(column), name) for column, name in named)

    def is_marked(self, alias: Composable, marks: str = "m") -> Composed:
        """Return the condition that a row is one that is marked."""
        named = zip(self.key, self.marked_key, strict=True)
        same = (SQL("{}.{} = {}.{}").format(alias, Identifier(column), Identifier(marks), name) for column, name in named)
        return SQL(" AND ").join(same)


ROW, PARENT = Identifier("t"), Identifier("p")


def _texts(columns: Sequence[Composable], alias: str = "") -> Composed:
    words = SQL("{}::text") if not alias else SQL(f"{alias}.{{}}::text")
    return SQL(", ").join(words.format(one) for one in columns)


def create_marks(table: Table) -> Composed:
    """Make the TEMP table for the marked rows of a table."""
    return SQL("CREATE TEMP TABLE {} AS SELECT 0::bigint AS root, {} FROM {} AS t WITH NO DATA").format(
        Identifier(f"to go {table.number}"), table.key_of(ROW), table.place
    )


def drop_marks(table: Table) -> Composed:
    """Forget the marked rows of a table."""
    return SQL("DROP TABLE {}").format(table.marks)


def index_marks(table: Table) -> Composed:
    """Let them be found by their root, because what is refused is narrowed down row by row; and gather planner statistics."""
    return SQL("CREATE INDEX ON {marks} (root); ANALYZE {marks}").format(marks=table.marks)


def analyze_marks(table: Table) -> Composed:
    """Gather planner statistics of them."""
    return SQL("ANALYZE {}").format(table.marks)


def is_old(clock: str, cutoff: str) -> Composed:
    """Return the condition that a row's time was before another."""
    return SQL("{} < {}").format(Identifier(clock), Literal(cutoff))


def is_after(clock: str, key: Sequence[str], last: Sequence[str]) -> Composed:
    """Return the condition that a row comes after one whose clock and key are given as text."""
    columns = SQL(", ").join(map(Identifier, [clock, *key]))
    return SQL("({}) > ({})").format(columns, SQL(", ").join(map(Literal, last)))


def mark_old(table: Table, clock: str, condition: Composed, hold: Composed, limit: int) -> Composed:
    """Lock rows of which a condition is true, the oldest first, but for those that others work on; mark those not held.

    Returns root, key as text, whether it is held, and clock and key as text.
    """
    found = SQL(
        "SELECT {key}, ({hold}) IS TRUE AS held, {own}.{clock} AS clock FROM {place} WHERE {condition} "
        "ORDER BY {order} LIMIT {limit} FOR UPDATE OF {own} SKIP LOCKED"
    ).format(
        key=table.key_of(table.bare), hold=hold, own=table.bare, clock=Identifier(clock), place=table.place, condition=condition,
        order=SQL(", ").join(SQL("{}.{}").format(table.bare, Identifier(one)) for one in (clock, *table.key)), limit=Literal(limit),
    )  # fmt: skip
    return SQL(
        "WITH found AS ({}), numbered AS MATERIALIZED (SELECT row_number() OVER (ORDER BY clock, {key}) AS root, * FROM found), "
        "marked AS (INSERT INTO {} SELECT root, {key} FROM numbered WHERE NOT held) "
        "SELECT root, ARRAY[{texts}], held, ARRAY[clock::text, {texts}] FROM numbered ORDER BY root"
    ).format(found, table.marks, key=SQL(", ").join(table.marked_key), texts=_texts(table.marked_key))


def count_old(table: Table, conditions: Sequence[Composed]) -> Composed:
    """Count rows of which some conditions are true."""
    return SQL("SELECT count(*) FROM {} WHERE {}").format(table.place, SQL(" AND ").join(conditions))


def _mark_more(table: Table, alias: Composable, joined: Composed) -> Composed:
    return SQL(
        "INSERT INTO {marks} SELECT DISTINCT root, {names} FROM (SELECT m.root, {key} FROM {joined} FOR UPDATE OF {alias} "
        "SKIP LOCKED) AS found EXCEPT SELECT root, {names} FROM {marks}"
    ).format(
        marks=table.marks, names=SQL(", ").join(table.marked_key), key=table.key_of(alias), joined=joined, alias=alias
    )  # fmt: skip


def mark_referring(table: Table, parent: Table, columns: Sequence[str], referenced: Sequence[str]) -> Composed:
    """Lock and mark rows that refer to marked ones by a foreign key, if they are not marked yet."""
    joined = SQL("{} AS t JOIN {} AS p ON {} JOIN {} AS m ON {}").format(
        table.place, parent.place, _refers(columns, referenced), parent.marks, parent.is_marked(PARENT)
    )
    return _mark_more(table, ROW, joined)


def mark_by_condition(table: Table, root: Table, condition: Composed) -> Composed:
    """Lock and mark rows that belong to marked ones of the rule's table by a condition that names both tables."""
    joined = SQL("{} JOIN {} ON ({}) JOIN {} AS m ON {}").format(
        table.place, root.place, condition, root.marks, root.is_marked(root.bare)
    )
    return _mark_more(table, table.bare, joined)


def _refers(columns: Sequence[str], referenced: Sequence[str]) -> Composed:
    pairs = zip(columns, referenced, strict=True)
    return SQL(" AND ").join(SQL("t.{} = p.{}").format(Identifier(own), Identifier(other)) for own, other in pairs)


def roots_referred_to(
    child: str, marked: Table | None, parent: Table, columns: Sequence[str], referenced: Sequence[str]
) -> Composed:  # fmt: skip
    """Return for whose sake rows are marked to which others refer that are not; the child is named as the catalogue does."""
    stays: Composable = SQL("")
    if marked:
        stays = SQL(" WHERE NOT EXISTS (SELECT FROM {} AS o WHERE {})").format(marked.marks, marked.is_marked(ROW, "o"))
    return SQL("SELECT DISTINCT m.root FROM {} AS t JOIN {} AS p ON {} JOIN {} AS m ON {}{}").format(
        SQL(child), parent.place, _refers(columns, referenced), parent.marks, parent.is_marked(PARENT), stays
    )


def roots_of(table: Table) -> Composed:
    """Return for whose sake rows of a table are marked."""
    return SQL("SELECT DISTINCT root FROM {}").format(table.marks)


def roots_changed(table: Table, leaf: tuple[str, str], staged: tuple[int, Sequence[str]] | None) -> Composed:
    """Return for whose sake rows of a leaf are marked that are not as archived: number and columns of those that are staged."""
    archived = SQL("false").format()
    if staged:
        number, columns = staged
        same = SQL(" AND ").join(SQL("s.{0} = t.{0}").format(Identifier(one)) for one in table.key)
        texts = (
            SQL("ROW({})::text").format(SQL(", ").join(SQL("{}.{}").format(alias, Identifier(one)) for one in columns))
            for alias in (ROW, Identifier("s"))
        )
        archived = SQL("EXISTS (SELECT FROM {} AS s WHERE {} AND {})").format(
            Identifier("pg_temp", STAGED.format(number)), same, SQL(" = ").join(texts)
        )
    return SQL("SELECT DISTINCT m.root FROM {} AS m JOIN ONLY {} AS t ON {} WHERE NOT {}").format(
        table.marks, Identifier(*leaf), table.is_marked(ROW), archived
    )


def unmark(table: Table, roots: Sequence[int]) -> Composed:
    """Let rows stay that were marked for the sake of some roots."""
    return SQL("DELETE FROM {} WHERE root = ANY ({})").format(table.marks, Literal(list(roots)))


def unmark_gone(table: Table, roots: Sequence[int]) -> Composed:
    """Forget rows that are gone, for whosever sake they were marked."""
    same = SQL(" AND ").join(SQL("m.{0} = g.{0}").format(one) for one in table.marked_key)
    return SQL("DELETE FROM {marks} AS m USING {marks} AS g WHERE g.root = ANY ({}) AND {}").format(
        Literal(list(roots)), same, marks=table.marks
    )


def _chosen(table: Table, roots: Sequence[int]) -> Composed:
    return SQL("SELECT DISTINCT {} FROM {} WHERE root = ANY ({})").format(
        SQL(", ").join(table.marked_key), table.marks, Literal(list(roots))
    )


def count_marked(table: Table, roots: Sequence[int]) -> Composed:
    """Count the rows that are marked for the sake of some roots."""
    return SQL("SELECT count(*) FROM ({}) AS chosen").format(_chosen(table, roots))


def delete_marked(tables: Sequence[Table], roots: Sequence[int]) -> Composed:
    """Delete the marked rows of some tables in one statement: keys are looked at when it ends.

    Returns for each deleted row the oid of its relation and its key as text.
    """
    parts = [
        SQL("{} AS (DELETE FROM {} AS t USING ({}) AS m WHERE {} RETURNING t.tableoid::bigint AS leaf, ARRAY[{}] AS key)").format(
            Identifier(f"gone {one.number}"), one.place, _chosen(one, roots), one.is_marked(ROW),
            _texts([Identifier(column) for column in one.key], "t"),
        )
        for one in tables
    ]  # fmt: skip
    rows = (SQL("SELECT leaf, key FROM {}").format(Identifier(f"gone {one.number}")) for one in tables)
    return SQL("WITH {} {}").format(SQL(", ").join(parts), SQL(" UNION ALL ").join(rows))


# Rows that this transaction deleted, by whatever did it, in other tables than TEMP ones; what was rolled back counts too.
# The view pg_stat_xact_user_tables says the same more slowly: it is asked once for every row that is refused.
DELETED_BY_TABLE = SQL(
    """SELECT c.oid::bigint, format('%I.%I', n.nspname, c.relname), pg_stat_get_xact_tuples_deleted(c.oid)
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE c.relkind = 'r' AND c.oid >= 16384 AND c.relpersistence <> 't' AND pg_stat_get_xact_tuples_deleted(c.oid) > 0"""
)


def staged_keys(key: Sequence[str], numbers: Sequence[int]) -> Composed:
    """Return the keys, as text, of staged rows."""
    listed = _texts([Identifier(one) for one in key])
    parts = (SQL("SELECT ARRAY[{}] FROM {}").format(listed, Identifier("pg_temp", STAGED.format(one))) for one in numbers)
    return SQL(" UNION ALL ").join(parts)


def vacuum(schema: str, name: str) -> Composed:
    """Make the room of deleted rows usable, and gather planner statistics."""
    return SQL("VACUUM (ANALYZE) {}").format(Identifier(schema, name))
