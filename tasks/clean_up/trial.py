"""Deletes exactly the marked rows, with triggers in force.

Refused rows are found by dividing the batch, and stay.
"""

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

LOCK_ERRORS = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
# Errors not caused by the rows: no disk space, no memory, a cancelled statement, a lost connection.
NOT_OF_ROWS = ("53", "54", "57", "58", "F0", "XX")
SUPPRESSED = "suppressed by a BEFORE DELETE trigger, on it or on a dependent row"
TRIED_BESIDE = "the plan tried it before rows were gone that a real clean-up deletes first"
RAISED_BY = re.compile(r"PL/pgSQL function ([^\s(]+\([^)]*\))")
# Parts of a trigger's message that differ from row to row.
VALUES = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\d+")


def delete_marked(removal: Removal) -> None:
    """Delete the marked rows; if the database refuses, all but those that cause it."""
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
        # Refused rows may be deletable now that others are deleted.
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
    """Raised if a deletion affected other rows than those marked."""


def _try_to_delete(removal: Removal, roots: list[int]) -> str:
    """Delete the marked rows of some rows of the rule's table.

    Return the reason if it is refused, else "". Rows already deleted do not count.
    """
    connection, subject = removal.connection, removal.subject
    try:
        with connection.transaction():
            connection.execute(sql.deletion.DEFER)
            _require_no_effects(removal, roots)
            expected = sum(connection.execute(sql.clean_up.count_marked(table, roots)).fetchall()[0][0] for table in subject.tables)
            before = _deleted_by_table(connection)
            # Only this statement fires triggers.
            with source_path(connection, subject.path):
                deleted = [
                    (leaf, tuple(key))
                    for group in subject.groups
                    for leaf, key in connection.execute(sql.deletion.delete_marked(group, roots)).fetchall()
                ]
                connection.execute(sql.in_place.END_DEFERRED)
            if len(deleted) != expected:
                raise _Refused(SUPPRESSED)
            _require_no_other_deletions(_deleted_by_table(connection), before, deleted)
            if altered := [row[0] for row in connection.execute(sql.deletion.TAKEN).fetchall()]:
                raise _Refused(f"a trigger truncates or alters {', '.join(altered)}")
    except psycopg.Error as error:
        if connection.broken or isinstance(error, LOCK_ERRORS) or (error.sqlstate or "XX").startswith(NOT_OF_ROWS):
            raise
        return _reason(error)
    except _Refused as error:
        return str(error)
    for table in subject.tables:
        connection.execute(sql.clean_up.unmark_gone(table, roots))
    for leaf, key in deleted:
        removal.done.deleted.setdefault(subject.leaves[leaf].qualified, []).append(key)
    return ""


def _require_no_effects(removal: Removal, roots: Sequence[int]) -> None:
    """Refuse a deletion if a key among the rule's tables would change or delete rows that stay."""
    for key in removal.subject.keys:
        parent, child = removal.subject.table_of(key["parent"]), removal.subject.table_of(key["child"])
        if parent and child and key["on_delete"] in ACTING:
            statement = sql.clean_up.roots_referred_to(key["table"], child, parent, Link.of(key), roots)
            if removal.connection.execute(statement).fetchall():
                raise _Refused(f"{key['table']} references this row or a dependent row ({key['name']})")


def _deleted_by_table(connection: Connection) -> dict[int, tuple[str, int]]:
    return {oid: (name, rows) for oid, name, rows in connection.execute(sql.deletion.DELETED_BY_TABLE).fetchall()}


def _require_no_other_deletions(
    after: Mapping[int, tuple[str, int]], before: Mapping[int, tuple[str, int]], deleted: Iterable[tuple[int, Key]]
) -> None:
    """Refuse a deletion if a key or a trigger deleted further rows, which are not archived."""
    expected = Counter(leaf for leaf, _ in deleted)
    for oid, (name, rows) in after.items():
        if extra := rows - before.get(oid, ("", 0))[1] - expected[oid]:
            raise _Refused(
                f"{extra:,} rows of {name} would be deleted too, a table that the rule does not "
                f"name; add {name} to the rule's `children`"
            )


def _reason(error: psycopg.Error) -> str:
    """Return the reason for a refused deletion, without the parts that differ from row to row."""
    function, message = RAISED_BY.search(error.diag.context or ""), message_of(error)
    if function is None:
        return message
    # A message without the error's own text is the same for every row.
    return f"refused by {function[1]}: {VALUES.sub('…', message) if message == error.diag.message_primary else message}"
