"""Rows of a set whose unique values rows have that the restore leaves: seen before anything is written."""

from collections.abc import Iterator
from typing import Any

import psycopg

from tasks.core import sql
from tasks.core.in_place.plan import Collision, collisions_told
from tasks.core.in_place.request import OnConflict
from tasks.core.sql.collisions import UniqueIndex
from tasks.core.sql.names import unquoted
from tasks.in_place.session import Merge, Table


def settle(merge: Merge, table: Table) -> None:
    """Find the rows to write that collide with rows that stay; where they are to be skipped, they count as not in the set.

    A row that keeps its old values because it is skipped may be in the way of another.
    """
    table.collisions = []
    while found := list(_find(merge, table)):
        if merge.request.on_conflict is OnConflict.REFUSE:
            table.collisions = found
            return
        table.skipped += found
        condition = sql.key_values.has_values(table.primary_key, sorted({one.key for one in found}))
        for statement in sql.collisions.forget_rows(table.number, condition):
            merge.connection.execute(statement)


def _find(merge: Merge, table: Table) -> Iterator[Collision]:
    if table.is_replaced or not table.primary:
        return
    for index in _indexes(merge, table):
        asked = sql.collisions.find_collisions(table.number, table.member.schema, table.member.name, index, table.primary)
        for key, holder in _ask(merge, asked):
            yield Collision(table.name, index.constraint, tuple(table.primary), tuple(key), tuple(holder))


def refused(merge: Merge) -> list[str]:
    """Return which rows are in the way, without their values, and what to do about it."""
    return [
        f"{one} have unique values of live rows that the restore leaves; the plan names both by key: change the live ones, "
        "restore with mode replace, or say on_conflict=skip"
        for one in collisions_told(merge.collisions)
    ]


def doubles(merge: Merge, table: Table) -> Iterator[str]:
    """Yield which unique indexes that the set does not have forbid rows of it: those that have the same values."""
    known = {item.name for item in merge.manifest.inventory if item.kind == "index"}
    for index in _indexes(merge, table) if table.is_replaced and table.staged else ():
        if index.name in known or _is_dropped(merge, index):
            continue
        if count := sum(row[0] for row in _ask(merge, sql.collisions.count_doubles(table.number, index))):
            yield (
                f"{count:,} values of {table.name} are in several rows of {merge.manifest.id}, but unique by {index.constraint}, "
                f"which the set does not have: {_dropped(table, index)}"
            )


def _is_dropped(merge: Merge, index: UniqueIndex) -> bool:
    return any(one.item.kind == "index" and one.item.name == index.name for one in merge.drops)


def _dropped(table: Table, index: UniqueIndex) -> str:
    if index.constraint == index.name:
        return f"DROP INDEX {index.name} first"
    name = sql.names.quoted_name(table.member.schema, table.member.name)
    return f"ALTER TABLE {name} DROP CONSTRAINT {sql.names.quoted(unquoted(index.constraint))} first"


def _indexes(merge: Merge, table: Table) -> Iterator[UniqueIndex]:
    for row in merge.connection.execute(sql.collisions.UNIQUE_INDEXES, {"oids": [table.member.oid]}).fetchall():
        index = UniqueIndex(*row)
        if len(index.operators) == len(index.expressions):
            yield index


def _ask(merge: Merge, asked: psycopg.sql.Composed) -> list[tuple[Any, ...]]:
    """Return what is found; nothing where the set has not all columns that an index needs: then the database says so itself."""
    try:
        with merge.connection.transaction():
            return merge.connection.execute(asked).fetchall()
    except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction):
        return []
