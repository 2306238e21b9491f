"""The rows of a rule: its table, the tables with dependent rows, and the state of a removal."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from psycopg.rows import dict_row
from psycopg.sql import SQL, Composed, Identifier

from tasks.core import sql
from tasks.core.clean_up import outcome
from tasks.core.clean_up.outcome import Key, Removed
from tasks.core.context import Context
from tasks.core.context_keys import CleanUpRule
from tasks.core.errors import BadInput
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.source_path import execute_written, read_source_path
from tasks.core.sets.manifest import Scope
from tasks.core.sql.clean_up import Table
from tasks.database import catalog
from tasks.database.catalog import Member
from tasks.database.neighbours import Neighbours
from tasks.database.partitions import TIME_TYPES

PRECISION = re.compile(r"\(\d\)")


@dataclass(frozen=True)
class Subject:
    """A rule's tables (its own first), foreign keys, and the time before which rows are old.

    `going` has, by table, the TEMP table in which a plan stores the keys of rows that would be
    deleted: they still exist, but must not block other deletions.
    """

    rule: CleanUpRule
    context: Context
    cutoffs: Mapping[str, str]
    tables: list[Table]
    leaves: dict[int, Member]
    tops: dict[int, int]
    keys: list[dict[str, Any]]
    login: str
    path: str
    neighbours: Neighbours
    going: Mapping[str, Identifier]
    planned: bool

    @property
    def root(self) -> Table:
        """The rule's own table."""
        return self.tables[0]

    @property
    def scope(self) -> Scope:
        """The rule's tables as a part of the context."""
        return Scope(schema=self.context.namespace, tables=self.rule.tables)

    def table_of(self, oid: int) -> Table | None:
        """Return the rule's table with this oid, or the one that has it as a partition."""
        number = self.tops.get(oid)
        return None if number is None else self.tables[number]

    def leaves_of(self, table: Table) -> list[Member]:
        """Return the relations that store a table's rows: itself or its leaf partitions."""
        return [leaf for oid, leaf in self.leaves.items() if self.tops[oid] == table.number]

    @property
    def groups(self) -> list[list[Table]]:
        """The tables in the order in which rows are deleted: those that reference others first."""
        pairs = [(self.tops[key["child"]], self.tops[key["parent"]]) for key in self.keys if key["child"] in self.tops]
        groups = outcome.groups(range(len(self.tables)), pairs)
        return [[self.tables[number] for number in group] for group in groups]

    @property
    def belonging(self) -> list[tuple[Table, Composed]]:
        """Tables whose rows depend on the rule's rows by a condition (`where`), not by a key."""
        by_name = {table.name: table for table in self.tables}
        return [(by_name[child.table], sql.staging.in_brackets(child.where)) for child in self.rule.children if child.where]

    @property
    def old(self) -> list[Composed]:
        """The conditions that select rows past retention of the rule's table."""
        conditions = [sql.staging.in_brackets(self.rule.condition)] if self.rule.condition else []
        going = self.going.get(self.rule.table)
        stays = [SQL("NOT {}").format(sql.clean_up.is_going(self.root, self.root.bare, going))] if going else []
        return [sql.clean_up.is_old(self.cutoffs, each=bool(self.rule.clock.each)), *stays, *conditions]

    @property
    def clock(self) -> Composed:
        """The SQL expression for the age of a row of the rule's table; rows are ordered by it."""
        return sql.clean_up.clock_of(self.root, self.rule.clock.columns, each=bool(self.rule.clock.each))

    @property
    def cutoff(self) -> str:
        """The time before which rows are past retention, as text for reports."""
        return ", ".join(dict.fromkeys(cutoff.removesuffix(outcome.MIDNIGHT) for cutoff in self.cutoffs.values()))


def _table(number: int, member: Member, facts: Mapping[str, Any], login: str, parents: Collection[str | None]) -> Table:
    """Return a table of a rule; refuse it without the right to delete or a usable key."""
    if not facts["owned"]:
        raise BadInput(f'login "{login}" is not a member of the owner of {member.qualified}; GRANT that owner TO "{login}"')
    if not facts["key"]:
        raise BadInput(f"{member.qualified} has no primary key to identify rows by; add one")
    if not {*facts["key"]} <= {*member.columns}:
        raise BadInput(f"the primary key of {member.qualified} is generated: rows cannot be archived with it")
    if member.kind == "r" and member.qualified in parents:
        raise BadInput(
            f"tables inherit from {member.qualified}: its key does not identify their rows; remove this table from clean_up"
        )
    key = tuple(facts["key"]), tuple(facts["equal"]), tuple(facts["greater"]), facts["structured"]
    return Table(number, member.schema, member.name, *key)


def read_subject(
    connection: Connection,
    context: Context,
    rule: CleanUpRule,
    instant: datetime,
    neighbours: Neighbours,
    going: Mapping[str, Identifier] | None = None,
    before: Iterable[str] = (),
) -> Subject:
    """Return a rule as read from the catalog, in a session with the fixed settings.

    A plan passes in which TEMP tables it stores keys of rows that would be deleted, and from which
    tables earlier rules would delete rows.

    Raises:
        BadInput: a table or column does not exist or does not fit, or this login may not delete.
    """
    if not connection.execute(sql.deletion.COUNTS_ROWS).fetchall()[0][0]:
        raise BadInput(
            "track_counts is off, so that rows deleted by triggers are not counted; ALTER DATABASE … SET track_counts = on"
        )
    names = list(dict.fromkeys([*rule.tables, *before]))
    members = catalog.read_members(connection, context.narrowed(Scope(schema=context.namespace, tables=names)))
    named = {relation.name: relation for relation in members.relations if relation.schema == context.namespace}
    cursor = connection.cursor(row_factory=dict_row)
    facts = {row["oid"]: row for row in cursor.execute(sql.staging.MERGE_FACTS, {"oids": members.oids}).fetchall()}
    login = str(connection.execute(sql.session.CURRENT_USER).fetchall()[0][0])
    parents = {relation.parent for relation in members.relations}
    tables = [_table(number, named[name], facts[named[name].oid], login, parents) for number, name in enumerate(names)]
    tops = {oid: number for number, name in enumerate(names) for oid in _with_partitions(members.relations, named[name])}
    keys = cursor.execute(sql.in_place.INBOUND_KEYS, {"oids": list(tops)}).fetchall()
    _require_children(rule, context, {names[tops[key["child"]]] for key in keys if key["child"] in tops})
    kinds = {clock: _clock_type(clock, named[rule.table]) for clock in rule.clock.columns}
    zones = context.zone, ZoneInfo(context.timestamps)
    cutoffs = {clock: outcome.cutoff(rule, instant, kind, *zones) for clock, kind in kinds.items()}
    leaves = {leaf.oid: leaf for leaf in members.holding_rows}
    path = read_source_path(connection, context.namespace)
    # Not a copy: a plan adds to it while it follows the rule.
    going_by_table = {} if going is None else going
    return Subject(rule, context, cutoffs, tables, leaves, tops, keys, login, path, neighbours, going_by_table, going is not None)


def _with_partitions(relations: Iterable[Member], top: Member) -> list[int]:
    names, oids = {top.qualified}, [top.oid]
    for _ in (pending := list(relations)):
        partitions = [partition for partition in pending if partition.parent in names and partition.qualified not in names]
        names |= {partition.qualified for partition in partitions}
        oids += [partition.oid for partition in partitions]
    return oids


def _clock_type(clock: str, member: Member) -> str:
    kind = PRECISION.sub("", dict(zip(member.columns, member.types, strict=True)).get(clock, ""))
    if kind not in TIME_TYPES:
        fault = f"is a {kind}" if kind else "does not exist, or is generated"
        raise BadInput(f"its `clock` column {clock} {fault}; name a column of a date or timestamp type")
    return kind


def _require_children(rule: CleanUpRule, context: Context, referring: Collection[str]) -> None:
    if unreferenced := [child.table for child in rule.children if child.where is None and child.table not in referring]:
        raise BadInput(
            f"{', '.join(unreferenced)} of context {context.name} has no foreign key to any of the "
            "rule's tables; add `where`, a condition that says which rows depend on a row of the "
            "rule's table"
        )


@dataclass
class Removal:
    """A removal in progress: rows by number, tried keys, result, reasons that may be resolved."""

    connection: Connection
    subject: Subject
    roots: dict[int, Key] = field(default_factory=dict)
    tried_keys: list[Key] = field(default_factory=list)
    done: Removed = field(default_factory=Removed)
    passing: set[str] = field(default_factory=set)

    def written(self, statement: Composed) -> Any:
        """Execute a statement with a condition from the context's file; return the cursor."""
        return execute_written(self.connection, statement, self.subject.path)

    def stay(self, roots: Iterable[int], reason: str, *, unsure: bool = False) -> None:
        """Unmark rows with dependent rows, so that they stay; with `unsure`, as not known."""
        if staying := [root for root in roots if root in self.roots]:
            for table in self.subject.tables:
                self.connection.execute(sql.clean_up.unmark(table, staying))
            reasons = self.done.unsure if unsure and self.subject.planned else self.done.stays
            reasons.setdefault(reason, []).extend(self.roots.pop(root) for root in staying)
