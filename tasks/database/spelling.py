"""How this server spells texts of views and functions that were spelled when a set was taken.

Dumped and read again, a text may come back with other words (`NULL::integer AS int4`) and mean the same
(https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-CATALOG). So the set's is read here once more, in a
transaction that is rolled back; nothing of it is run.
"""

import re
from collections.abc import Iterable
from functools import partial

import psycopg
from psycopg.sql import Composed

from tasks.core import sql
from tasks.core.database.objects import VIEWS, InventoryItem
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.source_path import execute_written
from tasks.core.sql.staging import as_written

DEFINES = re.compile(r"CREATE OR REPLACE (?:FUNCTION|PROCEDURE) ")


def spelled_here(
    connection: Connection, then: Iterable[InventoryItem], now: Iterable[InventoryItem], path: str
) -> list[InventoryItem]:
    """Return the objects of a set; those that mean what is here, as they are spelled here.

    The session acts for their owners, and has nobody's schema on its path, so that names are spelled whole.
    """
    there = {item.identity: item for item in now}
    return [
        item if (here := there.get(item.identity)) is None or here == item else _spelled_as(connection, item, here, path)
        for item in then
    ]  # fmt: skip


def _spelled_as(connection: Connection, item: InventoryItem, here: InventoryItem, path: str) -> InventoryItem:
    if item.kind not in {*VIEWS, "function"}:
        return item
    is_view = item.kind in VIEWS
    asked = sql.texts.VIEW_TEXT if is_view else sql.texts.FUNCTION_TEXT
    row = connection.execute(asked, {"name": item.name}).fetchone()
    text = row[0] if row else None
    was = _put_in_its_place(item.state, here.state, text) if text else None
    if not text or not was or was == text:
        return item
    read = partial(_view, connection, was, path) if is_view else partial(_function, connection, was, item.name, path)
    return here.model_copy(update={"columns": item.columns}) if read() == text else item


def _put_in_its_place(then: str, now: str, text: str) -> str | None:
    """Return what stands in one state where this text stands in the other; None if more is different."""
    before, _, after = now.partition(text)
    if not (then.startswith(before) and then.endswith(after)) or len(then) < len(before) + len(after):
        return None
    return then[len(before) : len(then) - len(after)]


def _view(connection: Connection, text: str, path: str) -> str | None:
    return _read(connection, sql.texts.view_of(text), sql.texts.VIEW_READ_AGAIN, {}, path)


def _function(connection: Connection, text: str, name: str, path: str) -> str | None:
    # To make it again runs nothing of it; whatever else the text might be, could.
    if not DEFINES.match(text):
        return None
    return _read(connection, as_written(text), sql.texts.FUNCTION_TEXT, {"name": name}, path)


def _read(
    connection: Connection, making: Composed, asking: psycopg.sql.SQL, asked: dict[str, str], path: str
) -> str | None:  # fmt: skip
    """Return how PostgreSQL spells what it made of a text; None if it takes none of it."""
    try:
        with connection.transaction(force_rollback=True):
            # Prepared, because PostgreSQL then takes one statement only.
            execute_written(connection, making, path, prepare=True)
            found = connection.execute(asking, asked).fetchone()
            return found[0] if found else None
    except psycopg.Error:
        if connection.broken:
            raise
        return None
