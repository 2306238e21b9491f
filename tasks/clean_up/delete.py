"""Old rows removed with all that hangs on them, as an application would: marked, cleared of those that must stay, deleted.

Rows that others work on, that are referred to, held, or changed since they were archived, and what a trigger or a key refuses,
stay and hold up no other; each is told with the reason. What is only to be found out is done and rolled back by the caller.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from psycopg.sql import Composed

from tasks.clean_up.subject import Removal, Subject
from tasks.clean_up.trial import GIVEN_UP, delete_marked
from tasks.core import sql
from tasks.core.clean_up.outcome import Removed
from tasks.core.database.objects import ACTING
from tasks.core.postgres.connection import Connection
from tasks.core.sql.clean_up import Table
from tasks.core.sql.staging import Link
from tasks.database.locks import ContextLock

# Rows of a rule's table that go in one transaction: as long as that takes, others may wait for one.
BATCH_ROWS = 200
# Less than PostgreSQL's deadlock_timeout of 1 s: in a deadlock it is us who give way, unless the others wait for long already.
LOCK_SECONDS = 0.5
# After so many times in which others were in the way, what they need is passed over without a closer look.
PATIENCE = 40
IN_THE_WAY = f"others work on it, or on what its triggers write: not to be had in {LOCK_SECONDS:g} s"
CHANGED = "written since it was archived, by others or by the triggers of rows that went; or something that hangs on it was"


class InTheWay(Exception):
    """Others work on rows that a removal needs; `looked_at` has those that it was about, and nothing of it is done."""

    def __init__(self, looked_at: Removed) -> None:
        self.looked_at = looked_at


def sweep(
    connection: Connection, subject: Subject, conditions: Sequence[Composed] = (), last: Sequence[str] | None = None,
    archived: Mapping[int, tuple[int, Sequence[str]]] | None = None, lock: ContextLock | None = None,
) -> Iterator[Removed]:  # fmt: skip
    """Remove old rows some at a time, the oldest first, each time in a transaction, or savepoint, of its own.

    Where others are in the way, fewer rows are tried, in the end each alone; those that are not to be had stay. What is not
    rolled back takes the context's lock.

    Raises:
        LostLock: it was lost; what was removed before stays so.
    """
    size, failures = BATCH_ROWS, 0
    while True:
        after = [sql.clean_up.is_after(subject.clock, subject.root, last)] if last else []
        try:
            with connection.transaction():
                done = remove(connection, subject, [*conditions, *after], size, archived)
                if lock:
                    lock.require_held(f"the next {done.found} rows of {subject.root.name} were removed", connection)
        except InTheWay as way:
            failures += 1
            if size > 1 and failures < PATIENCE:
                size = max(1, size // 10)
                continue
            done = way.looked_at
        yield done
        if done.found < size:
            return
        last, size = done.last, min(size * 10, BATCH_ROWS)


def _mark_all(
    removal: Removal, conditions: list[Composed], limit: int, archived: Mapping[int, tuple[int, Sequence[str]]] | None
) -> None:
    """Mark the rows that go: old ones with their dependent rows, but for those that changed or that others still refer to."""
    _mark(removal, conditions, limit)
    _mark_hanging(removal)
    if archived is not None:
        _spare_changed(removal, archived)
    while referred := _referred_to(removal):
        for reason, roots in referred.items():
            removal.stay(roots, reason, unsure=reason in removal.passing)


def remove(
    connection: Connection, subject: Subject, conditions: Sequence[Composed], limit: int,
    archived: Mapping[int, tuple[int, Sequence[str]]] | None = None,
) -> Removed:  # fmt: skip
    """Delete old rows of a rule's table, and what hangs on them, in the session's transaction; what cannot go stays and is told.

    Args:
        connection: a session with a transaction and the fixed settings.
        subject: the rule.
        conditions: more conditions on rows of the rule's table, besides those of the rule.
        limit: at most so many rows of it, the oldest.
        archived: only what is as archived, by oid of the relation: number and columns of what is staged of it.

    Raises:
        InTheWay: a lock was not to be had; the transaction has to be given up.
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
    except GIVEN_UP as error:
        if not removal.done.found:
            raise
        looked_at = Removed(removal.done.found, last=removal.done.last)
        (looked_at.unsure if subject.planned else looked_at.stays)[IN_THE_WAY] = removal.looked_at
        raise InTheWay(looked_at) from error
    return removal.done


def _mark(removal: Removal, conditions: list[Composed], limit: int) -> None:
    """Mark the old rows of the rule's table."""
    rule, root = removal.subject.rule, removal.subject.root
    hold = sql.staging.in_brackets(rule.hold or "false")
    asked = sql.clean_up.mark_old(root, removal.subject.clock, conditions, hold, limit)
    for number, key, held, last in removal.written(asked).fetchall():
        removal.done.found += 1
        removal.done.last = last
        removal.looked_at.append(tuple(key))
        if held:
            removal.done.stays.setdefault(f"held: {rule.hold}", []).append(tuple(key))
        else:
            removal.roots[number] = tuple(key)


def _mark_hanging(removal: Removal) -> None:
    """Mark what hangs on marked rows: what refers to them, what belongs to them by a condition, and so on."""
    execute, subject = removal.connection.execute, removal.subject
    children = {one.table for one in subject.rule.children}
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
    """Let rows stay that are not as archived, or on which something hangs that is not."""
    for table in removal.subject.tables:
        for leaf in removal.subject.leaves_of(table):
            asked = sql.clean_up.roots_changed(table, (leaf.schema, leaf.name), archived.get(leaf.oid))
            removal.stay([row[0] for row in removal.connection.execute(asked).fetchall()], CHANGED)


def _referred_to(removal: Removal) -> dict[str, list[int]]:
    """Return the rows that others need which do not go, by what does."""
    subject, found = removal.subject, dict[str, list[int]]()

    children = {one.table for one in subject.rule.children}

    def note(reason: str, rows: Iterable[tuple[int]], *, passing: bool = False) -> None:
        if roots := [row[0] for row in rows if row[0] in removal.roots]:
            found[reason] = roots
            removal.passing |= {reason} if passing else set()

    for key in subject.keys:
        parent, child = subject.table_of(key["parent"]), subject.table_of(key["child"])
        assert parent  # noqa: S101
        if key["readable"]:
            reason = f"{key['table']} refers to it, or to something that hangs on it ({key['name']})"
            asked = sql.clean_up.roots_referred_to(key["table"], child, parent, Link.of(key))
            # What is not marked of a table whose rows go with it, others work on.
            note(reason, removal.connection.execute(asked).fetchall(), passing=bool(child and child.name in children))
            # It may go with the next ones.
            removal.done.may_go |= bool(child) and reason in found
        elif (needed := _referred_to_from_outside(removal, key, parent)) is not None:
            found |= {f"{key['table']} refers to it, or to something that hangs on it ({key['name']})": needed} if needed else {}
        elif key["on_delete"] in ACTING:
            reason = (
                f"rows of {key['table']} may refer to it ({key['name']}, ON DELETE {key['on_delete']}), and this login may not "
                f'look there; GRANT SELECT ON {key["table"]} TO "{subject.login}"'
            )
            note(reason, removal.connection.execute(sql.clean_up.roots_of(parent)).fetchall())
        # Else the database will refuse what is referred to.
    for table, condition in subject.belonging:
        reason = f"rows of {table.name} belong to it that others work on, or that came just now"
        note(reason, removal.written(sql.clean_up.roots_not_alone(table, subject.root, condition)).fetchall(), passing=True)
    return found


def _referred_to_from_outside(removal: Removal, key: Mapping[str, Any], parent: Table) -> list[int] | None:
    """Return for whose sake rows go to which a table refers that this login may not read; None if the run's own may not either."""
    rows = removal.connection.execute(sql.clean_up.values_of(parent, key["referenced"])).fetchall()
    counts = removal.subject.neighbours.count_referring(key, [row[1:] for row in rows])
    return None if counts is None else sorted({rows[number][0] for number in counts} & removal.roots.keys())
