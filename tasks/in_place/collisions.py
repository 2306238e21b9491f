"""Collisions: rows of a set with the same unique values as live rows that the restore keeps."""

from collections.abc import Iterator
from typing import Any

import psycopg

from tasks.core import sql
from tasks.core.in_place.plan import Collision, collision_counts
from tasks.core.in_place.request import OnConflict
from tasks.core.sql.collisions import UniqueIndex
from tasks.core.sql.names import unquoted
from tasks.in_place.session import Merge, Table


def settle(merge: Merge, table: Table) -> None:
    """Find rows of the set that collide with live rows that stay.

    Skipped rows count as not in the set. If a row is skipped, its live version keeps its values,
    and may therefore collide with a further row.
    """
    table.collisions = []
    while collisions := list(_find(merge, table)):
        if merge.request.on_conflict is OnConflict.REFUSE:
            table.collisions = collisions
            return
        table.skipped += collisions
        condition = table.has_keys(sorted({collision.key for collision in collisions}))
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
    """Return the number of colliding rows by constraint, without values, and the remedy."""
    return [
        f"{rows} have the same unique values as live rows that the restore keeps; the plan lists "
        "both by key: change the live rows, restore with mode replace, or pass on_conflict=skip"
        for rows in collision_counts(merge.collisions)
    ]


def doubles(merge: Merge, table: Table) -> Iterator[str]:
    """Yield unique indexes that the set does not have and that rows of the set violate."""
    known = {item.name for item in merge.manifest.inventory if item.kind == "index"}
    for index in _indexes(merge, table) if table.is_replaced and table.staged else ():
        if index.name in known or _is_dropped(merge, index):
            continue
        if count := sum(row[0] for row in _ask(merge, sql.collisions.count_doubles(table.number, index))):
            yield (
                f"{count:,} values of {table.name} are duplicates in {merge.manifest.id}, but "
                f"{index.constraint}, which the set does not have, requires unique ones: "
                f"{_dropped(table, index)}"
            )


def _is_dropped(merge: Merge, index: UniqueIndex) -> bool:
    return any(drop.item.kind == "index" and drop.item.name == index.name for drop in merge.drops)


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
    """Return the rows of a query.

    None if the set lacks a column of an index, because the database reports such collisions when it
    writes.
    """
    try:
        with merge.connection.transaction():
            return merge.connection.execute(asked).fetchall()
    except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction):
        return []
