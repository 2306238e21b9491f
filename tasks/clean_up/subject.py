"""The rows that a rule is about: its table, the tables whose rows go with it, and a removal of them under way."""

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
from tasks.partitions.tables import TIME_TYPES

PRECISION = re.compile(r"\(\d\)")


@dataclass(frozen=True)
class Subject:
    """A rule as the database has it: its tables, the rule's own first, the keys that lead to them, and before when rows are old.

    `going` has by table where a plan keeps the keys of rows that would go: they are there still, and stand in the way of nothing.
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
        found = outcome.groups(range(len(self.tables)), pairs)
        return [[self.tables[number] for number in group] for group in found]

    @property
    def belonging(self) -> list[tuple[Table, Composed]]:
        """The tables whose rows belong to the rule's own by a condition."""
        by_name = {table.name: table for table in self.tables}
        return [(by_name[one.table], sql.staging.in_brackets(one.where)) for one in self.rule.children if one.where]

    @property
    def old(self) -> list[Composed]:
        """The conditions that make a row of the rule's table too old."""
        said = [sql.staging.in_brackets(self.rule.condition)] if self.rule.condition else []
        going = self.going.get(self.rule.table)
        stays = [SQL("NOT {}").format(sql.clean_up.is_going(self.root, self.root.bare, going))] if going else []
        return [sql.clean_up.is_old(self.cutoffs, each=bool(self.rule.clock.each)), *stays, *said]

    @property
    def clock(self) -> Composed:
        """Since when a row of the rule's table is old: by what rows are put in order."""
        return sql.clean_up.clock_of(self.root, self.rule.clock.columns, each=bool(self.rule.clock.each))

    @property
    def cutoff(self) -> str:
        """Before when rows are too old, for people."""
        return ", ".join(dict.fromkeys(said.removesuffix(outcome.MIDNIGHT) for said in self.cutoffs.values()))


def _table(number: int, member: Member, facts: Mapping[str, Any], login: str, parents: Collection[str | None]) -> Table:
    """Return a table of a rule, or refuse one of which this login cannot delete and archive rows by a key."""
    if not facts["owned"]:
        raise BadInput(f'{member.qualified} does not belong to "{login}"; GRANT its owner TO "{login}"')
    if not facts["key"]:
        raise BadInput(f"{member.qualified} has no primary key, by which rows could be told; give it one")
    if not {*facts["key"]} <= {*member.columns}:
        raise BadInput(f"the primary key of {member.qualified} is generated: rows cannot be archived with it")
    if member.kind == "r" and member.qualified in parents:
        raise BadInput(f"tables inherit from {member.qualified}: its key does not tell their rows; take it out of clean_up")
    return Table(number, member.schema, member.name, tuple(facts["key"]), tuple(facts["equal"]), tuple(facts["greater"]))


def read_subject(
    connection: Connection, context: Context, rule: CleanUpRule, instant: datetime, neighbours: Neighbours,
    going: Mapping[str, Identifier] | None = None, before: Iterable[str] = (),
) -> Subject:  # fmt: skip
    """Return what a rule means in a database, in a session with the fixed settings.

    A plan says where it keeps rows that would go, and from which tables rules before this one would take some.

    Raises:
        BadInput: a table or column is not there or not fit, or this login may not delete.
    """
    if not connection.execute(sql.deletion.COUNTS_ROWS).fetchall()[0][0]:
        raise BadInput(
            "track_counts is off, so that nobody sees which rows triggers delete; ALTER DATABASE … SET track_counts = on"
        )
    names = list(dict.fromkeys([*rule.tables, *before]))
    members = catalog.read_members(connection, context.narrowed(Scope(schema=context.namespace, tables=names)))
    named = {one.name: one for one in members.relations if one.schema == context.namespace}
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
    leaves = {one.oid: one for one in members.holding_rows}
    path = read_source_path(connection, context.namespace)
    # Not a copy: a plan keeps what would go there while it follows the rule.
    kept = {} if going is None else going
    return Subject(rule, context, cutoffs, tables, leaves, tops, keys, login, path, neighbours, kept, going is not None)


def _with_partitions(relations: Iterable[Member], top: Member) -> list[int]:
    found, oids = {top.qualified}, [top.oid]
    for _ in (several := list(relations)):
        more = [one for one in several if one.parent in found and one.qualified not in found]
        found |= {one.qualified for one in more}
        oids += [one.oid for one in more]
    return oids


def _clock_type(clock: str, member: Member) -> str:
    kind = PRECISION.sub("", dict(zip(member.columns, member.types, strict=True)).get(clock, ""))
    if kind not in TIME_TYPES:
        said = f"is a {kind}" if kind else "is not there, or generated"
        raise BadInput(f"its clock {clock} {said}; name a column of a date or timestamp type")
    return kind


def _require_children(rule: CleanUpRule, context: Context, referring: Collection[str]) -> None:
    if lost := [one.table for one in rule.children if one.where is None and one.table not in referring]:
        raise BadInput(
            f"{', '.join(lost)} of context {context.name} refers to none of its tables by a foreign key; "
            "say with `where` which rows belong to it"
        )


@dataclass
class Removal:
    """A removal under way: its rows by number, what was looked at, what came of it, and which reasons may be over soon."""

    connection: Connection
    subject: Subject
    roots: dict[int, Key] = field(default_factory=dict)
    looked_at: list[Key] = field(default_factory=list)
    done: Removed = field(default_factory=Removed)
    passing: set[str] = field(default_factory=set)

    def written(self, statement: Composed) -> Any:
        """Execute a statement with a condition of the context's file; return the cursor."""
        return execute_written(self.connection, statement, self.subject.path)

    def stay(self, roots: Iterable[int], reason: str, *, unsure: bool = False) -> None:
        """Let rows stay, with all that hangs on them; of a plan that is `unsure` nobody knows whether they do."""
        if staying := [root for root in roots if root in self.roots]:
            for table in self.subject.tables:
                self.connection.execute(sql.clean_up.unmark(table, staying))
            told = self.done.unsure if unsure and self.subject.planned else self.done.stays
            told.setdefault(reason, []).extend(self.roots.pop(root) for root in staying)
