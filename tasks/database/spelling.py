"""Texts of views and functions in a set, as this server would spell them.

A dumped and restored text may use other words (`NULL::integer AS int4`) with the same meaning
(https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-CATALOG). So the set's
text is parsed here again, in a transaction that is rolled back; nothing is executed.
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
    """Return a set's objects, with texts in this server's spelling where the meaning is the same.

    The session acts as the objects' owners, and has no user schema in its search_path, so that
    names are qualified.
    """
    there = {item.identity: item for item in now}
    return [
        item if (here := there.get(item.identity)) is None or here == item else _spelled_as(connection, item, here, path)
        for item in then
    ]


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
    """Return the part of one state in place of the other's text; None if more differs."""
    before, _, after = now.partition(text)
    if not (then.startswith(before) and then.endswith(after)) or len(then) < len(before) + len(after):
        return None
    return then[len(before) : len(then) - len(after)]


def _view(connection: Connection, text: str, path: str) -> str | None:
    return _read(connection, sql.texts.view_of(text), sql.texts.VIEW_READ_AGAIN, {}, path)


def _function(connection: Connection, text: str, name: str, path: str) -> str | None:
    # CREATE FUNCTION does not execute the function's body; any other statement might.
    if not DEFINES.match(text):
        return None
    return _read(connection, as_written(text), sql.texts.FUNCTION_TEXT, {"name": name}, path)


def _read(connection: Connection, making: Composed, asking: psycopg.sql.SQL, asked: dict[str, str], path: str) -> str | None:
    """Return PostgreSQL's spelling of a text; None if it rejects it."""
    try:
        with connection.transaction(force_rollback=True):
            # Prepared: PostgreSQL then accepts one statement only.
            execute_written(connection, making, path, prepare=True)
            row = connection.execute(asking, asked).fetchone()
            return row[0] if row else None
    except psycopg.Error:
        if connection.broken:
            raise
        return None
