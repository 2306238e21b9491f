"""Deletes old rows with their dependent rows, with triggers and foreign keys in force.

The rows are marked first; rows that must stay are unmarked; the others are deleted. A row stays if
another session locks it, if a row that stays references it, if the rule's `hold` keeps it, if it
changed since it was archived, or if a trigger or a foreign key refuses the deletion. Each row that
stays is reported with the reason; the others are deleted all the same. A plan does the same, and
its caller rolls it back.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from psycopg.sql import Composed

from tasks.clean_up.subject import Removal, Subject
from tasks.clean_up.trial import LOCK_ERRORS, delete_marked
from tasks.core import sql
from tasks.core.clean_up.outcome import Removed
from tasks.core.database.objects import ACTING
from tasks.core.postgres.connection import Connection
from tasks.core.sql.clean_up import Table
from tasks.core.sql.staging import Link
from tasks.database.locks import ContextLock

# Rows of a rule's table that are deleted in one transaction, for which other sessions may have to
# wait.
BATCH_ROWS = 200
# Less than PostgreSQL's deadlock_timeout of 1 s: in a deadlock this session gives up first, unless
# the other one waited long before.
LOCK_SECONDS = 0.5
# After this many lock timeouts, batches with locked rows are no longer divided: all of their rows
# stay.
PATIENCE = 40
BLOCKED_BY_OTHERS = f"lock timeout after {LOCK_SECONDS:g} s: another session has locked this row, or rows that its triggers write"
CHANGED = "this row or a dependent row changed since it was archived, by another session or by the trigger of a deleted row"


class Blocked(Exception):
    """Raised if other sessions lock rows of a removal: it is rolled back; `tried` has its rows."""

    def __init__(self, tried: Removed) -> None:
        self.tried = tried


def sweep(
    connection: Connection,
    subject: Subject,
    conditions: Sequence[Composed] = (),
    last: Sequence[str] | None = None,
    archived: Mapping[int, tuple[int, Sequence[str]]] | None = None,
    lock: ContextLock | None = None,
) -> Iterator[Removed]:
    """Remove old rows in batches, the oldest first, each batch in its own transaction or savepoint.

    After a lock timeout smaller batches are tried, in the end single rows; rows that are still
    locked then are not deleted. A removal that is not rolled back needs the context's lock.

    Raises:
        LostLock: the context's lock was lost; rows removed before that stay removed.
    """
    size, failures = BATCH_ROWS, 0
    while True:
        after = [sql.clean_up.is_after(subject.clock, subject.root, last)] if last else []
        try:
            with connection.transaction():
                removed = remove(connection, subject, [*conditions, *after], size, archived)
                if lock:
                    lock.require_held(f"the next {removed.examined} rows of {subject.root.name} were removed", connection)
        except Blocked as blocked:
            failures += 1
            if size > 1 and failures < PATIENCE:
                size = max(1, size // 10)
                continue
            removed = blocked.tried
        yield removed
        if removed.examined < size:
            return
        last, size = removed.last, min(size * 10, BATCH_ROWS)


def _mark_all(
    removal: Removal, conditions: list[Composed], limit: int, archived: Mapping[int, tuple[int, Sequence[str]]] | None
) -> None:
    """Mark old rows and their dependent rows, except those that changed or are still referenced."""
    _mark(removal, conditions, limit)
    _mark_dependent(removal)
    if archived is not None:
        _spare_changed(removal, archived)
    while references := _referenced(removal):
        for reason, roots in references.items():
            removal.stay(roots, reason, unsure=reason in removal.passing)


def remove(
    connection: Connection,
    subject: Subject,
    conditions: Sequence[Composed],
    limit: int,
    archived: Mapping[int, tuple[int, Sequence[str]]] | None = None,
) -> Removed:
    """Delete old rows of a rule's table with their dependent rows, in the session's transaction.

    The result also has the rows that stay.

    Args:
        connection: a session with a transaction and the fixed settings.
        subject: the rule.
        conditions: more conditions on rows of the rule's table, besides those of the rule.
        limit: the greatest number of rows of the table to delete; the oldest are taken.
        archived: delete only rows that are as they were archived; has, by oid of the relation,
            number and columns of its staging table.

    Raises:
        Blocked: a lock timed out; the caller has to roll the transaction back.
    """
    removal = Removal(connection, subject)
    try:
        connection.execute(sql.session.set_zone(subject.context.timestamps))
        connection.execute(sql.partitions.limit_waiting(LOCK_SECONDS))
        for table in subject.tables:
            connection.execute(sql.clean_up.create_marks(table))
        _mark_all(removal, [*subject.old, *conditions], limit, archived)
        for table in subject.tables:
            connection.execute(sql.clean_up.index_marks(table))
        delete_marked(removal)
        for table in subject.tables:
            connection.execute(sql.clean_up.drop_marks(table))
    except LOCK_ERRORS as error:
        if not removal.done.examined:
            raise
        tried = Removed(removal.done.examined, last=removal.done.last)
        (tried.unsure if subject.planned else tried.stays)[BLOCKED_BY_OTHERS] = removal.tried_keys
        raise Blocked(tried) from error
    return removal.done


def _mark(removal: Removal, conditions: list[Composed], limit: int) -> None:
    """Mark the old rows of the rule's table."""
    rule, root = removal.subject.rule, removal.subject.root
    hold = sql.staging.in_brackets(rule.hold or "false")
    statement = sql.clean_up.mark_old(root, removal.subject.clock, conditions, hold, limit)
    for number, key, held, last in removal.written(statement).fetchall():
        removal.done.examined += 1
        removal.done.last = last
        removal.tried_keys.append(tuple(key))
        if held:
            removal.done.stays.setdefault(f"held: {rule.hold}", []).append(tuple(key))
        else:
            removal.roots[number] = tuple(key)


def _mark_dependent(removal: Removal) -> None:
    """Mark dependent rows: by a reference to marked rows, by a condition, and so on."""
    execute, subject = removal.connection.execute, removal.subject
    children = {child.table for child in subject.rule.children}
    pairs = [(subject.table_of(key["child"]), subject.table_of(key["parent"]), Link.of(key)) for key in subject.keys]
    steps = [
        sql.clean_up.mark_referring(child, parent, link, None if child.name in children else subject.going[child.name])
        for child, parent, link in pairs
        if child and parent and (child.name in children or child.name in subject.going)
    ]  # fmt: skip
    conditions = [sql.clean_up.mark_by_condition(table, subject.root, condition) for table, condition in subject.belonging]
    for table in subject.tables:
        execute(sql.clean_up.analyze_marks(table))
    while sum(execute(step).rowcount for step in steps) + sum(removal.written(step).rowcount for step in conditions):
        for table in subject.tables:
            execute(sql.clean_up.analyze_marks(table))


def _spare_changed(removal: Removal, archived: Mapping[int, tuple[int, Sequence[str]]]) -> None:
    """Keep rows that changed since they were archived, or that have a dependent row that did."""
    for table in removal.subject.tables:
        for leaf in removal.subject.leaves_of(table):
            statement = sql.clean_up.roots_changed(table, (leaf.schema, leaf.name), archived.get(leaf.oid))
            removal.stay([row[0] for row in removal.connection.execute(statement).fetchall()], CHANGED)


def _referenced(removal: Removal) -> dict[str, list[int]]:
    """Return by reason the rows that are referenced by rows that stay."""
    subject, reasons = removal.subject, dict[str, list[int]]()

    children = {child.table for child in subject.rule.children}

    def note(reason: str, rows: Iterable[tuple[int]], *, passing: bool = False) -> None:
        if roots := [row[0] for row in rows if row[0] in removal.roots]:
            reasons[reason] = roots
            removal.passing |= {reason} if passing else set()

    for key in subject.keys:
        parent, child = subject.table_of(key["parent"]), subject.table_of(key["child"])
        assert parent  # noqa: S101
        if key["readable"]:
            reason = f"{key['table']} references this row or a dependent row ({key['name']})"
            statement = sql.clean_up.roots_referred_to(key["table"], child, parent, Link.of(key))
            # An unmarked row of a dependent table is locked by another session.
            note(reason, removal.connection.execute(statement).fetchall(), passing=bool(child and child.name in children))
            # This row may be deleted with a later batch.
            removal.done.may_go |= bool(child) and reason in reasons
        elif (needed := _referenced_from_outside(removal, key, parent)) is not None:
            reasons |= {f"{key['table']} references this row or a dependent row ({key['name']})": needed} if needed else {}
        elif key["on_delete"] in ACTING:
            reason = (
                f"rows of {key['table']} may reference this row ({key['name']}, ON DELETE "
                f"{key['on_delete']}), and this login cannot "
                f'read them; GRANT SELECT ON {key["table"]} TO "{subject.login}"'
            )
            note(reason, removal.connection.execute(sql.clean_up.roots_of(parent)).fetchall())
        # With any other action the database itself refuses to delete referenced rows.
    for table, condition in subject.belonging:
        reason = f"rows of {table.name} that depend on this row are locked by other sessions, or were just inserted"
        note(reason, removal.written(sql.clean_up.roots_not_alone(table, subject.root, condition)).fetchall(), passing=True)
    return reasons


def _referenced_from_outside(removal: Removal, key: Mapping[str, Any], parent: Table) -> list[int] | None:
    """Return the rows that another table references, if this login cannot read that table.

    None if the run's own login cannot either.
    """
    rows = removal.connection.execute(sql.clean_up.values_of(parent, key["referenced"])).fetchall()
    counts = removal.subject.neighbours.count_referring(key, [row[1:] for row in rows])
    return None if counts is None else sorted({rows[number][0] for number in counts} & removal.roots.keys())
