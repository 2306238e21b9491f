"""Marked rows deleted such that triggers fire and nothing else goes by the way; what is refused is narrowed down and stays."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import psycopg

from tasks.clean_up.subject import Removal
from tasks.core import sql
from tasks.core.clean_up.outcome import Key
from tasks.core.database.objects import ACTING
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import source_path
from tasks.core.sql.staging import Link

GIVEN_UP = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
# Errors that say nothing of the rows: no disk, no memory, cancelled, broken.
NOT_OF_ROWS = ("53", "54", "57", "58", "F0", "XX")
KEPT = "a trigger keeps it, or something that hangs on it, without a word"
TRIED_BESIDE = "tried while rows were there that would go first"
RAISED_BY = re.compile(r"PL/pgSQL function ([^\s(]+\([^)]*\))")
# What differs from row to row in what a trigger says.
VALUES = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\d+")


def delete_marked(removal: Removal) -> None:
    """Delete what is marked; what is refused is narrowed down to the rows that it is refused for."""
    pending = list(removal.roots)
    while pending:
        refused = dict[int, str]()
        _delete_or_halve(removal, pending, refused)
        if len(refused) == len(pending):
            for reason in dict.fromkeys(refused.values()):
                roots = [root for root in refused if refused[root] == reason]
                going = bool(removal.subject.going)
                removal.stay(roots, f"{reason}; {TRIED_BESIDE}" if going else reason, unsure=going)
            return
        # What went may have been in the way of what was refused.
        pending = list(refused)


def _delete_or_halve(removal: Removal, roots: list[int], refused: dict[int, str]) -> None:
    reason = _try_to_delete(removal, roots)
    if not reason:
        return
    if len(roots) == 1:
        refused[roots[0]] = reason
        return
    half = len(roots) // 2
    _delete_or_halve(removal, roots[:half], refused)
    _delete_or_halve(removal, roots[half:], refused)


class _Refused(Exception):
    """Rows were deleted that should not, or others were not."""


def _try_to_delete(removal: Removal, roots: list[int]) -> str:
    """Delete the rows marked for the sake of some roots, or say why not; a row that is gone already counts for nothing."""
    connection, subject = removal.connection, removal.subject
    try:
        with connection.transaction():
            connection.execute(sql.deletion.DEFER)
            _require_no_effects(removal, roots)
            expected = sum(connection.execute(sql.clean_up.count_marked(table, roots)).fetchall()[0][0] for table in subject.tables)
            before = _deleted_by_table(connection)
            # What fires triggers, and nothing else.
            with source_path(connection, subject.path):
                gone = [
                    (leaf, tuple(key))
                    for group in subject.groups
                    for leaf, key in connection.execute(sql.deletion.delete_marked(group, roots)).fetchall()
                ]
                connection.execute(sql.in_place.END_DEFERRED)
            if len(gone) != expected:
                raise _Refused(KEPT)
            _require_no_others(_deleted_by_table(connection), before, gone)
            if taken := [row[0] for row in connection.execute(sql.deletion.TAKEN).fetchall()]:
                raise _Refused(f"a trigger empties, or changes the definition of, {', '.join(taken)}")
    except psycopg.Error as error:
        if connection.broken or isinstance(error, GIVEN_UP) or (error.sqlstate or "XX").startswith(NOT_OF_ROWS):
            raise
        return _reason(error)
    except _Refused as error:
        return str(error)
    for table in subject.tables:
        connection.execute(sql.clean_up.unmark_gone(table, roots))
    for leaf, key in gone:
        removal.done.gone.setdefault(subject.leaves[leaf].qualified, []).append(key)
    return ""


def _require_no_effects(removal: Removal, roots: Sequence[int]) -> None:
    """Refuse a deletion by which a key among the rule's own tables would empty or delete rows that do not go with it."""
    for key in removal.subject.keys:
        parent, child = removal.subject.table_of(key["parent"]), removal.subject.table_of(key["child"])
        if parent and child and key["on_delete"] in ACTING:
            asked = sql.clean_up.roots_referred_to(key["table"], child, parent, Link.of(key), roots)
            if removal.connection.execute(asked).fetchall():
                raise _Refused(f"{key['table']} refers to it, or to something that hangs on it ({key['name']})")


def _deleted_by_table(connection: Connection) -> dict[int, tuple[str, int]]:
    return {oid: (name, rows) for oid, name, rows in connection.execute(sql.deletion.DELETED_BY_TABLE).fetchall()}


def _require_no_others(
    after: Mapping[int, tuple[str, int]], before: Mapping[int, tuple[str, int]], gone: Iterable[tuple[int, Key]]
) -> None:  # fmt: skip
    """Refuse a deletion by which other rows went too, by a key or a trigger: nobody archived those."""
    expected = Counter(leaf for leaf, _ in gone)
    for oid, (name, rows) in after.items():
        if more := rows - before.get(oid, ("", 0))[1] - expected[oid]:
            raise _Refused(f"{more:,} rows of {name} would go with it, which the rule does not name: add it to its children")


def _reason(error: psycopg.Error) -> str:
    """Say what refused a deletion, without what differs from row to row."""
    function, said = RAISED_BY.search(error.diag.context or ""), message_of(error)
    if function is None:
        return said
    # The kind of an error alone is the same for every row.
    return f"refused by {function[1]}: {VALUES.sub('…', said) if said == error.diag.message_primary else said}"
