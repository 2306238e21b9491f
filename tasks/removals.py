"""Old rows removed with all that hangs on them, as an application would: triggers fire, and nothing else goes by the way.

Rows that others work on, that are referred to, held, or changed since they were archived, and what a trigger or a key refuses,
stay and hold up no other; each is told with the reason. What is only to be found out is done and rolled back by the caller.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from psycopg.rows import dict_row
from psycopg.sql import Composed

from tasks import catalogue
from tasks.catalogue import Member
from tasks.core import clean_ups, merge_sql, partition_sql, removal_sql, sql
from tasks.core.clean_ups import Key, Removed
from tasks.core.complaints import message_of
from tasks.core.context import CleanUpRule, Context
from tasks.core.errors import BadInput
from tasks.core.manifest import Scope
from tasks.core.merge import ACTING
from tasks.core.merge_sql import Link
from tasks.core.removal_sql import Table
from tasks.core.servers import Connection
from tasks.core.source_path import execute_written, read_source_path, source_path
from tasks.locks import ContextLock
from tasks.neighbours import Neighbours
from tasks.partitions import TIME_TYPES

# Rows of a rule's table that go in one transaction: as long as that takes, others may wait for one.
BATCH_ROWS = 200
# Less than PostgreSQL's deadlock_timeout of 1 s: in a deadlock it is us who give way.
LOCK_SECONDS = 0.5
# After so many times in which others were in the way, what they need is passed over without a closer look.
PATIENCE = 40
GIVEN_UP = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
# Errors that say nothing of the rows: no disk, no memory, cancelled, broken.
NOT_OF_ROWS = ("53", "54", "57", "58", "F0", "XX")
IN_THE_WAY = f"others work on it, or on what its triggers write: not to be had in {LOCK_SECONDS:g} s"
CHANGED = "written since it was archived, by others or by the triggers of rows that went; or something that hangs on it was"
KEPT = "a trigger keeps it, or something that hangs on it, without a word"
RAISED_BY = re.compile(r"PL/pgSQL function ([^\s(]+\([^)]*\))")
# What differs from row to row in what a trigger says.
VALUES = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\d+")
PRECISION = re.compile(r"\(\d\)")


@dataclass(frozen=True)
class Subject:
    """A rule as the database has it: its tables, the rule's own first, the keys that lead to them, and before when rows are old."""

    rule: CleanUpRule
    context: Context
    cutoff: str
    tables: list[Table]
    leaves: dict[int, Member]
    tops: dict[int, int]
    keys: list[dict[str, Any]]
    login: str
    path: str
    neighbours: Neighbours

    @property
    def root(self) -> Table:
        """The rule's own table."""
        return self.tables[0]

    @property
    def scope(self) -> Scope:
        """The part of the context that it is."""
        return Scope(schema=self.context.namespace, tables=self.rule.tables)

    def table_of(self, oid: int) -> Table | None:
        """Return the table of an oid, if it is one of the rule's."""
        number = self.tops.get(oid)
        return None if number is None else self.tables[number]

    def leaves_of(self, table: Table) -> list[Member]:
        """Return the relations that hold a table's rows."""
        return [leaf for oid, leaf in self.leaves.items() if self.tops[oid] == table.number]

    @property
    def groups(self) -> list[list[Table]]:
        """The tables in the order in which rows are deleted: those that refer to others first."""
        pairs = [(self.tops[key["child"]], self.tops[key["parent"]]) for key in self.keys if key["child"] in self.tops]
        found = clean_ups.groups(range(len(self.tables)), pairs)
        return [[self.tables[number] for number in group] for group in found]

    @property
    def belonging(self) -> list[tuple[Table, Composed]]:
        """The tables whose rows belong to the rule's own by a condition."""
        by_name = {table.name: table for table in self.tables}
        return [(by_name[one.table], merge_sql.in_brackets(one.where)) for one in self.rule.children if one.where]

    @property
    def old(self) -> list[Composed]:
        """The conditions that make a row of the rule's table too old."""
        said = [merge_sql.in_brackets(self.rule.condition)] if self.rule.condition else []
        return [removal_sql.is_old(self.rule.clock, self.cutoff), *said]


def read_subject(
    connection: Connection, context: Context, rule: CleanUpRule, instant: datetime, neighbours: Neighbours
) -> Subject:  # fmt: skip
    """Return what a rule means in a database, in a session with the fixed settings.

    Raises:
        BadInput: a table or column is not there or not fit, or this login may not delete.
    """
    if not connection.execute(removal_sql.COUNTS_ROWS).fetchall()[0][0]:
        raise BadInput(
            "track_counts is off, so that nobody sees which rows triggers delete; ALTER DATABASE … SET track_counts = on"
        )
    members = catalogue.read_members(connection, context.narrowed(Scope(schema=context.namespace, tables=rule.tables)))
    named = {one.name: one for one in members.relations if one.schema == context.namespace}
    cursor = connection.cursor(row_factory=dict_row)
    facts = {row["oid"]: row for row in cursor.execute(merge_sql.MERGE_FACTS, {"oids": members.oids}).fetchall()}
    login = str(connection.execute(sql.CURRENT_USER).fetchall()[0][0])
    tables = list[Table]()
    for number, name in enumerate(rule.tables):
        found = facts[named[name].oid]
        if not found["owned"]:
            raise BadInput(f'{context.namespace}.{name} does not belong to "{login}"; GRANT its owner TO "{login}"')
        if not found["key"]:
            raise BadInput(f"{context.namespace}.{name} has no primary key, by which rows could be told; give it one")
        if not {*found["key"]} <= {*named[name].columns}:
            raise BadInput(f"the primary key of {context.namespace}.{name} is generated: rows cannot be archived with it")
        if named[name].kind == "r" and any(one.parent == named[name].qualified for one in members.relations):
            raise BadInput(
                f"tables inherit from {context.namespace}.{name}: its key does not tell their rows; take it out of clean_up"
            )
        operators = tuple(found["equal"]), tuple(found["greater"])
        tables.append(Table(number, context.namespace, name, tuple(found["key"]), *operators))
    tops = {oid: rule.tables.index(name) for name in rule.tables for oid in _with_partitions(members.relations, named[name])}
    keys = cursor.execute(merge_sql.INBOUND_KEYS, {"oids": list(tops)}).fetchall()
    _require_children(rule, context, keys, tops)
    cutoff = clean_ups.cutoff(rule, instant, _clock_type(rule, named[rule.table]), context.zone, ZoneInfo(context.timestamps))
    leaves = {one.oid: one for one in members.holding_rows}
    path = read_source_path(connection, context.namespace)
    return Subject(rule, context, cutoff, tables, leaves, tops, keys, login, path, neighbours)


def _with_partitions(relations: Iterable[Member], top: Member) -> list[int]:
    found, oids = {top.qualified}, [top.oid]
    for _ in (several := list(relations)):
        more = [one for one in several if one.parent in found and one.qualified not in found]
        found |= {one.qualified for one in more}
        oids += [one.oid for one in more]
    return oids


def _clock_type(rule: CleanUpRule, member: Member) -> str:
    kind = PRECISION.sub("", dict(zip(member.columns, member.types, strict=True)).get(rule.clock, ""))
    if kind not in TIME_TYPES:
        said = f"is a {kind}" if kind else "is not there, or generated"
        raise BadInput(f"its clock {rule.clock} {said}; name a column of a date or timestamp type")
    return kind


def _require_children(rule: CleanUpRule, context: Context, keys: Iterable[dict[str, Any]], tops: Mapping[int, int]) -> None:
    referring = {rule.tables[tops[key["child"]]] for key in keys if key["child"] in tops}
    if lost := [one.table for one in rule.children if one.where is None and one.table not in referring]:
        raise BadInput(
            f"{', '.join(lost)} of context {context.name} refers to none of its tables by a foreign key; "
            "say with `where` which rows belong to it"
        )


@dataclass
class _Removal:
    connection: Connection
    subject: Subject
    roots: dict[int, Key] = field(default_factory=dict)
    looked_at: list[Key] = field(default_factory=list)
    done: Removed = field(default_factory=Removed)

    def written(self, statement: Composed) -> Any:
        """Execute a statement with a condition of the context's file; return the cursor."""
        return execute_written(self.connection, statement, self.subject.path)

    def stay(self, roots: Iterable[int], reason: str) -> None:
        """Let rows stay, with all that hangs on them."""
        if staying := [root for root in roots if root in self.roots]:
            for table in self.subject.tables:
                self.connection.execute(removal_sql.unmark(table, staying))
            self.done.stays.setdefault(reason, []).extend(self.roots.pop(root) for root in staying)


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
        after = [removal_sql.is_after(subject.rule.clock, subject.root, last)] if last else []
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
    removal = _Removal(connection, subject)
    try:
        connection.execute(sql.set_zone(subject.context.timestamps))
        connection.execute(partition_sql.limit_waiting(LOCK_SECONDS))
        for table in subject.tables:
            connection.execute(removal_sql.create_marks(table))
        _mark(removal, [*subject.old, *conditions], limit)
        _mark_hanging(removal)
        if archived is not None:
            _spare_changed(removal, archived)
        while referred := _referred_to(removal):
            for reason, roots in referred.items():
                removal.stay(roots, reason)
        for table in subject.tables:
            connection.execute(removal_sql.index_marks(table))
        _delete(removal)
        for table in subject.tables:
            connection.execute(removal_sql.drop_marks(table))
    except GIVEN_UP as error:
        if not removal.done.found:
            raise
        looked_at = Removed(removal.done.found, {}, {IN_THE_WAY: removal.looked_at}, removal.done.last)
        raise InTheWay(looked_at) from error
    return removal.done


def _mark(removal: _Removal, conditions: list[Composed], limit: int) -> None:
    """Mark the old rows of the rule's table."""
    rule, root = removal.subject.rule, removal.subject.root
    hold = merge_sql.in_brackets(rule.hold or "false")
    asked = removal_sql.mark_old(root, rule.clock, conditions, hold, limit)
    for number, key, held, last in removal.written(asked).fetchall():
        removal.done.found += 1
        removal.done.last = last
        removal.looked_at.append(tuple(key))
        if held:
            removal.done.stays.setdefault(f"held: {rule.hold}", []).append(tuple(key))
        else:
            removal.roots[number] = tuple(key)


def _mark_hanging(removal: _Removal) -> None:
    """Mark what hangs on marked rows: what refers to them, what belongs to them by a condition, and so on."""
    execute, subject = removal.connection.execute, removal.subject
    children = {one.table for one in subject.rule.children}
    pairs = [(subject.table_of(key["child"]), subject.table_of(key["parent"]), Link.of(key)) for key in subject.keys]
    steps = [
        removal_sql.mark_referring(child, parent, link)
        for child, parent, link in pairs
        if child and parent and child.name in children
    ]  # fmt: skip
    conditions = [removal_sql.mark_by_condition(table, subject.root, condition) for table, condition in subject.belonging]
    for table in subject.tables:
        execute(removal_sql.analyze_marks(table))
    while sum(execute(step).rowcount for step in steps) + sum(removal.written(step).rowcount for step in conditions):
        for table in subject.tables:
            execute(removal_sql.analyze_marks(table))


def _spare_changed(removal: _Removal, archived: Mapping[int, tuple[int, Sequence[str]]]) -> None:
    """Let rows stay that are not as archived, or on which something hangs that is not."""
    for table in removal.subject.tables:
        for leaf in removal.subject.leaves_of(table):
            asked = removal_sql.roots_changed(table, (leaf.schema, leaf.name), archived.get(leaf.oid))
            removal.stay([row[0] for row in removal.connection.execute(asked).fetchall()], CHANGED)


def _referred_to(removal: _Removal) -> dict[str, list[int]]:
    """Return the rows that others need which do not go, by what does."""
    subject, found = removal.subject, dict[str, list[int]]()

    def note(reason: str, rows: Iterable[tuple[int]]) -> None:
        if roots := [row[0] for row in rows if row[0] in removal.roots]:
            found[reason] = roots

    for key in subject.keys:
        parent, child = subject.table_of(key["parent"]), subject.table_of(key["child"])
        assert parent  # noqa: S101
        if key["readable"]:
            reason = f"{key['table']} refers to it, or to something that hangs on it ({key['name']})"
            asked = removal_sql.roots_referred_to(key["table"], child, parent, Link.of(key))
            note(reason, removal.connection.execute(asked).fetchall())
            # It may go with the next ones.
            removal.done.may_go |= bool(child) and reason in found
        elif (needed := _referred_to_from_outside(removal, key, parent)) is not None:
            found |= {f"{key['table']} refers to it, or to something that hangs on it ({key['name']})": needed} if needed else {}
        elif key["on_delete"] in ACTING:
            reason = (
                f"rows of {key['table']} may refer to it ({key['name']}, ON DELETE {key['on_delete']}), and this login may not "
                f'look there; GRANT SELECT ON {key["table"]} TO "{subject.login}"'
            )
            note(reason, removal.connection.execute(removal_sql.roots_of(parent)).fetchall())
        # Else the database will refuse what is referred to.
    for table, condition in subject.belonging:
        reason = f"rows of {table.name} belong to it that others work on, or that came just now"
        note(reason, removal.written(removal_sql.roots_not_alone(table, subject.root, condition)).fetchall())
    return found


def _referred_to_from_outside(removal: _Removal, key: Mapping[str, Any], parent: Table) -> list[int] | None:
    """Return for whose sake rows go to which a table refers that this login may not read; None if the run's own may not either."""
    rows = removal.connection.execute(removal_sql.values_of(parent, key["referenced"])).fetchall()
    counts = removal.subject.neighbours.count_referring(key, [row[1:] for row in rows])
    return None if counts is None else sorted({rows[number][0] for number in counts} & removal.roots.keys())


def _delete(removal: _Removal) -> None:
    """Delete what is marked; what is refused is narrowed down to the rows that it is refused for."""
    pending = list(removal.roots)
    while pending:
        refused = dict[int, str]()
        _delete_or_halve(removal, pending, refused)
        if len(refused) == len(pending):
            for reason in dict.fromkeys(refused.values()):
                removal.stay([root for root in refused if refused[root] == reason], reason)
            return
        # What went may have been in the way of what was refused.
        pending = list(refused)


def _delete_or_halve(removal: _Removal, roots: list[int], refused: dict[int, str]) -> None:
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


def _try_to_delete(removal: _Removal, roots: list[int]) -> str:
    """Delete the rows marked for the sake of some roots, or say why not; a row that is gone already counts for nothing."""
    connection, subject = removal.connection, removal.subject
    try:
        with connection.transaction():
            connection.execute(removal_sql.DEFER)
            _require_no_effects(removal, roots)
            expected = sum(connection.execute(removal_sql.count_marked(table, roots)).fetchall()[0][0] for table in subject.tables)
            before = _deleted_by_table(connection)
            # What fires triggers, and nothing else.
            with source_path(connection, subject.path):
                gone = [
                    (leaf, tuple(key))
                    for group in subject.groups
                    for leaf, key in connection.execute(removal_sql.delete_marked(group, roots)).fetchall()
                ]
                connection.execute(merge_sql.END_DEFERRED)
            if len(gone) != expected:
                raise _Refused(KEPT)
            _require_no_others(_deleted_by_table(connection), before, gone)
            if taken := [row[0] for row in connection.execute(removal_sql.TAKEN).fetchall()]:
                raise _Refused(f"a trigger empties, or changes the definition of, {', '.join(taken)}")
    except psycopg.Error as error:
        if connection.broken or isinstance(error, GIVEN_UP) or (error.sqlstate or "XX").startswith(NOT_OF_ROWS):
            raise
        return _reason(error)
    except _Refused as error:
        return str(error)
    for table in subject.tables:
        connection.execute(removal_sql.unmark_gone(table, roots))
    for leaf, key in gone:
        removal.done.gone.setdefault(subject.leaves[leaf].qualified, []).append(key)
    return ""


def _require_no_effects(removal: _Removal, roots: Sequence[int]) -> None:
    """Refuse a deletion by which a key among the rule's own tables would empty or delete rows that do not go with it."""
    for key in removal.subject.keys:
        parent, child = removal.subject.table_of(key["parent"]), removal.subject.table_of(key["child"])
        if parent and child and key["on_delete"] in ACTING:
            asked = removal_sql.roots_referred_to(key["table"], child, parent, Link.of(key), roots)
            if removal.connection.execute(asked).fetchall():
                raise _Refused(f"{key['table']} refers to it, or to something that hangs on it ({key['name']})")


def _deleted_by_table(connection: Connection) -> dict[int, tuple[str, int]]:
    return {oid: (name, rows) for oid, name, rows in connection.execute(removal_sql.DELETED_BY_TABLE).fetchall()}


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
