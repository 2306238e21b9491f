"""A merge of a backup set into a live database while it goes on: its session, what was asked for, and what was found."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from psycopg.rows import dict_row
from psycopg.sql import SQL, Composed

from tasks.backup.source import Source
from tasks.core import sql
from tasks.core.context import Context
from tasks.core.database.facts import ATTACHED, facts
from tasks.core.database.objects import TABLES, VIEWS, InventoryItem
from tasks.core.in_place.objects import Found, How
from tasks.core.in_place.plan import Collision, drift
from tasks.core.in_place.request import Mode, Objects, Request
from tasks.core.postgres.archive_script import Chunk
from tasks.core.postgres.archive_toc import NAMES_OF_KINDS, table_of
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.source_path import execute_written, read_source_path
from tasks.core.run.phases import Phases
from tasks.core.sets.hash_partitions import hash_tables
from tasks.core.sets.left_out import without_absent
from tasks.core.sets.manifest import Manifest, Relation
from tasks.core.sets.name import Kind
from tasks.core.sql.names import plain_name
from tasks.database.catalog import Member, Members
from tasks.run.run import Run
from tasks.run.site import Site
from tasks.sets.stage import StagedSet

# What a table may need that is no part of it.
NEEDED = frozenset({"schema", "type", "function", "sequence"})


@dataclass
class Table:
    """One live relation and what the set has of it; without a relation in the set, the set has no rows of it."""

    number: int
    member: Member
    relation: Relation | None
    identifying: list[str]
    primary: list[str] = field(default_factory=list)
    # By what operators the primary key compares its columns.
    equal: dict[str, str] = field(default_factory=dict)
    mode: Mode = Mode.REPLACE
    chosen: list[Composed] = field(default_factory=list)
    why: str = ""
    changed: list[str] = field(default_factory=list)
    compared: tuple[int, int] | None = None
    # Rows whose unique values live rows have: in the way of the restore, or skipped.
    collisions: list[Collision] = field(default_factory=list)
    skipped: list[Collision] = field(default_factory=list)
    unchanged: bool = False
    staged: bool = False

    @property
    def name(self) -> str:
        """schema.name, for people."""
        return self.member.qualified

    @property
    def columns(self) -> list[str]:
        """The columns that both have."""
        then = self.relation.columns if self.relation else list(self.member.columns)
        return [name for name in then if name in self.member.columns]

    @property
    def key(self) -> dict[str, str]:
        """The columns that rows are matched by, each with the operator for that.

        There are none where there is no primary key that both have, or it is generated.
        """
        if not set(self.identifying) <= set(self.columns):
            return {}
        return {name: self.equal.get(name, sql.staging.EQUAL) for name in self.identifying}

    @property
    def primary_key(self) -> dict[str, str]:
        """The columns of the primary key, each with the operator by which two values are equal."""
        return {name: self.equal[name] for name in self.primary}

    @property
    def is_replaced(self) -> bool:
        """Whether it is to have the rows of the set and no other."""
        return self.mode is Mode.REPLACE and not self.chosen

    @property
    def becomes_whole(self) -> bool:
        """Whether it is to have them in every column, so that digests compare."""
        return self.relation is not None and self.is_replaced and not drift(self.relation, self.member.columns, self.member.types)

    @property
    def chosen_rows(self) -> Composed:
        """The condition that is true of the rows that the merge is about."""
        return sql.staging.any_of(self.chosen)


@dataclass(frozen=True)
class Section:
    """Entries of a set's schema, which of them are wanted, and the path that their code expects."""

    settings: bytes = b""
    chunks: Sequence[Chunk] = ()
    wanted: Collection[int] = ()
    path: str = ""


@dataclass
class Merge:
    """A merge that is being prepared: the session with its staged rows, and what was found."""

    site: Site
    run: Run
    source: Source
    staged: StagedSet
    request: Request
    connection: Connection
    members: Members
    names: frozenset[str]
    keyed: frozenset[str]
    tables: list[Table]
    inventory: list[InventoryItem]
    # The context as the set has it, and as it is here, whether its tables are there or not.
    whole: Context
    context: Context
    refusals: list[str] = field(default_factory=list)
    # What the set alone says and is done all the same: told with the plan.
    said: list[str] = field(default_factory=list)
    safety: Manifest | None = None
    # How objects are not as in the set.
    found: list[Found] = field(default_factory=list)
    # What of the set's schema makes what is missing, before the rows and after them.
    sections: tuple[Section, Section] = (Section(), Section())
    phases: Phases = field(default_factory=Phases)

    @property
    def collisions(self) -> list[Collision]:
        """The rows that are in the way because live rows have their unique values."""
        return [one for table in self.tables for one in table.collisions]

    @property
    def skipped(self) -> list[Collision]:
        """The rows that are skipped because of that."""
        return [one for table in self.tables for one in table.skipped]

    @property
    def is_undo(self) -> bool:
        """Whether the set is what was there before another restore, damaged or not: its rows need not agree with anything."""
        return self.manifest.kind is Kind.SAFETY

    @property
    def manifest(self) -> Manifest:
        """The manifest of the set."""
        return self.staged.manifest

    @property
    def makes(self) -> list[InventoryItem]:
        """The objects that are not there and that the restore makes."""
        told = [one.item for one in self.found if one.is_done and one.remedy.how is How.CREATE]
        again, known = self.made_again, {item.identity for item in told}
        return [*told, *(one for one in self.missing if one.identity not in known | again)]

    @property
    def drops(self) -> list[Found]:
        """The objects that go because the restore made them that is undone."""
        return [one for one in self.found if one.remedy.how is How.DROP]

    def is_dropped(self, kind: str, parent: str, name: str) -> bool:
        """Say whether an object goes by that."""
        return any(one.item.identity == (kind, parent, name) for one in self.drops)

    @property
    def missing(self) -> list[InventoryItem]:
        """What the set has and the database does not, or will not have because it is dropped to be made again."""
        there = {item.identity for item in self.inventory} - self.made_again
        kept = without_absent(self.manifest.inventory, self.manifest.left_out)
        gone = [item for item in kept if item.identity not in there and item.kind in NAMES_OF_KINDS]
        if self.request.table is None:
            return gone
        # Of one table: what belongs to a table or partition that was dropped; what else is gone is told.
        if self.request.objects is Objects.RESTORE and not self.absent:
            about = [one for one in gone if one.identity in self.made_again or (self.is_about(one) and not self.may_break(one))]
            called = " ".join(item.state for item in about if item.kind == "trigger")
            return [*about, *(one for one in gone if one.kind == "function" and f" {one.name.partition('(')[0]}(" in called)]
        tables = {plain_name(item.name) for item in gone if item.kind in TABLES} & self.names
        if not tables or self.request.keys is not None:
            return []
        # What a table needs, and the views that went with it, whose indexes are of them.
        with_it = {item.name for item in gone if item.kind in VIEWS and self._reads_absent(item)}
        return [
            item for item in gone
            if item.kind in NEEDED or item.name in with_it or item.parent in with_it
            or table_of(item) in tables
        ]  # fmt: skip

    @property
    def made_again(self) -> set[tuple[str, str, str]]:
        """What is there and is made from the set's archive all the same, with the indexes that go when it is dropped."""
        chosen = [one.item for one in self.found if one.is_done and one.remedy.how in {How.ANEW, How.REPLACE}]
        dropped = {item.name for item in chosen if item.kind in {"index", "materialized view"}}
        with_them = [
            item for item in self.inventory
            if item.kind == "index" and (item.parent in dropped or facts(item).get(ATTACHED) in dropped)
        ]  # fmt: skip
        return {item.identity for item in (*chosen, *with_them)}

    @property
    def leaves_rows(self) -> bool:
        """Whether rows of the tables that are asked for may stay although the set has others."""
        return self.request.table is not None and (self.request.mode is not Mode.REPLACE or self.request.keys is not None)

    def may_break(self, item: InventoryItem) -> bool:
        """Say whether rows that stay may break what an object asks of rows."""
        return self.leaves_rows and (item.kind == "constraint" or item.state.startswith("CREATE UNIQUE INDEX"))

    def _reads_absent(self, view: InventoryItem) -> bool:
        tables = {name.partition(".")[2] for one in self.absent for name in (one.qualified, one.parent or "")} - {""}
        return bool(re.search(rf"\b(?:{'|'.join(map(re.escape, tables))})\b", view.state))

    def is_about(self, item: InventoryItem) -> bool:
        """Say whether an object is one of the tables that were asked for, or of one."""
        return table_of(item) in self.names

    @property
    def absent(self) -> list[Relation]:
        """The set's relations that were asked for and that the database does not have, not even empty."""
        if self.request.keys is not None:
            # Rows are chosen of what is there; a partition that somebody dropped stays away.
            return []
        known = {member.qualified for member in self.members.holding_rows}
        return [one for one in self.manifest.relations if one.qualified in self.names and one.qualified not in known]

    def ask(self, statement: Composed) -> list[tuple[Any, ...]]:
        """Execute what touches live tables, whose indexes may call SQL functions that find names on the source's path alone.

        The planner looks into those (https://www.postgresql.org/docs/current/xfunc-optimization.html).
        """
        cursor = execute_written(self.connection, statement, self.path)
        return list(cursor.fetchall()) if cursor.description else []

    @cached_property
    def path(self) -> str:
        """The path that code of the context expects in the live database."""
        return read_source_path(self.connection, self.context.namespace, self.manifest.database)

    @cached_property
    def divided(self) -> dict[str, tuple[str, str]]:
        """The table that is divided by hash, of each live partition that has one: their rows may be in another one here."""
        return hash_tables(self.inventory, {one.qualified: one.parent for one in self.members.relations})

    @property
    def about(self) -> str:
        """What is restored, where it is not the whole context."""
        request = self.request
        if request.table is None:
            return ""
        rows = "" if request.keys is None else ", the chosen rows"
        if request.with_children:
            return f'rows of {request.table} that {self.manifest.id} has come back into database "{self.site.database}"{rows}'
        return f'table {request.table} of database "{self.site.database}" from {self.manifest.id}, mode {request.mode}{rows}'


def lineage(members: Members, member: Member) -> dict[str, int]:
    """Return names and oids of a relation and of the tables that it is a partition of."""
    by_name = {one.qualified: one for one in members.relations}
    found, here = {member.qualified: member.oid}, member
    while here.parent and here.parent in by_name:
        here = by_name[here.parent]
        found[here.qualified] = here.oid
    return found


def has_rows(merge: Merge, member: Member, rows: int, xmin: int) -> bool:
    """Say whether a relation, in the file that it was in, has the rows that it had at xmin: as many, and none written since."""
    found, old = merge.ask(sql.rows.count_rows_and_old(member.schema, member.name, xmin))[0]
    return bool(found == old == rows)


def is_unchanged(merge: Merge, table: Table) -> bool:
    """Say whether a relation has the rows that the set has, and no other."""
    then = table.relation
    return then is not None and has_rows(merge, table.member, then.rows, merge.manifest.snapshot.xmin)


def is_as_compared(merge: Merge, table: Table) -> bool:
    """Say whether a relation has the rows that it had when it was compared."""
    if table.compared is None:
        return table.unchanged
    xmin, rows = table.compared
    return has_rows(merge, table.member, rows, xmin)


def dicts(connection: Connection, query: SQL, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows as dictionaries."""
    return connection.cursor(row_factory=dict_row).execute(query, parameters).fetchall()
