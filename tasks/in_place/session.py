"""The state of a restore into a live database in preparation: session, request, differences."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from psycopg.sql import Composed

from tasks.backup.source import Source
from tasks.core import sql
from tasks.core.context import Context
from tasks.core.database.facts import ATTACHED, columns_by_relation, facts
from tasks.core.database.objects import TABLES, VIEWS, InventoryItem
from tasks.core.in_place.objects import Finding, How
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
from tasks.core.spelling import foreign_key_of
from tasks.core.sql.names import plain_name
from tasks.database.catalog import Member, Members
from tasks.run.run import Run
from tasks.run.site import Site
from tasks.sets.stage import StagedSet

# Kinds of objects that a table may need and that are not dropped with it.
NEEDED = frozenset({"schema", "type", "function", "sequence"})


@dataclass
class Table:
    """A live relation, and its counterpart in the set (None if the set has no rows of it)."""

    number: int
    member: Member
    relation: Relation | None
    identifying: list[str]
    primary: list[str] = field(default_factory=list)
    # The equality operator of each primary key column.
    equal: dict[str, str] = field(default_factory=dict)
    # The types of columns of array and composite types.
    structured: dict[str, str] = field(default_factory=dict)
    mode: Mode = Mode.REPLACE
    chosen: list[Composed] = field(default_factory=list)
    why: str = ""
    changed: list[str] = field(default_factory=list)
    compared: tuple[int, int] | None = None
    # Rows of the set whose unique values live rows hold: they block the restore, or are skipped.
    collisions: list[Collision] = field(default_factory=list)
    skipped: list[Collision] = field(default_factory=list)
    unchanged: bool = False
    staged: bool = False

    @property
    def name(self) -> str:
        """schema.name, for messages."""
        return self.member.qualified

    @property
    def columns(self) -> list[str]:
        """The columns that both the live table and the set have."""
        then = self.relation.columns if self.relation else list(self.member.columns)
        return [name for name in then if name in self.member.columns]

    @property
    def key(self) -> dict[str, str]:
        """The primary key columns by which rows are matched, each with its equality operator.

        Empty if the set and the live table do not have the same primary key, or if the key is
        generated.
        """
        if not set(self.identifying) <= set(self.columns):
            return {}
        return {name: self.equal.get(name, sql.staging.EQUAL) for name in self.identifying}

    @property
    def primary_key(self) -> dict[str, str]:
        """The columns of the primary key, each with its equality operator."""
        return {name: self.equal[name] for name in self.primary}

    def has_keys(self, keys: Sequence[Sequence[str]]) -> Composed:
        """Return the condition that the primary key has one of some values, given as text."""
        return sql.key_values.has_values(self.primary_key, keys, self.structured)

    @property
    def is_replaced(self) -> bool:
        """Whether the restore makes its rows exactly those of the set."""
        return self.mode is Mode.REPLACE and not self.chosen

    @property
    def becomes_whole(self) -> bool:
        """Whether the rows will be the set's in every column, so that digests can be compared."""
        return self.relation is not None and self.is_replaced and not drift(self.relation, self.member.columns, self.member.types)

    @property
    def chosen_rows(self) -> Composed:
        """The condition that selects the rows to merge."""
        return sql.staging.any_of(self.chosen)


@dataclass(frozen=True)
class Section:
    """Entries of a set's schema archive, which to execute, and the search_path of their code."""

    settings: bytes = b""
    chunks: Sequence[Chunk] = ()
    wanted: Collection[int] = ()
    path: str = ""
    # Those that attach indexes within a detached partition: they come before it is attached.
    within_detached: Collection[int] = ()


@dataclass
class Merge:
    """A restore into a live database in preparation: session, staged rows, differences."""

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
    # The context as in the set, and as configured here, including tables that do not exist.
    whole: Context
    context: Context
    # Partitions that are detached here, and those to attach or detach, as they are when attached.
    detached: dict[str, InventoryItem] = field(default_factory=dict)
    moved: dict[str, InventoryItem] = field(default_factory=dict)
    # The conditions that rows of detached partitions have to meet, by schema.name.
    bounds: dict[str, str] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    # Definitions and conditions that are taken from the set; the plan lists them.
    taken_from_set: list[str] = field(default_factory=list)
    safety: Manifest | None = None
    # Objects that differ from the set.
    findings: list[Finding] = field(default_factory=list)
    # Partitions that are attached already.
    attached: list[Finding] = field(default_factory=list)
    # The parts of the set's schema that create missing objects, before and after the rows.
    sections: tuple[Section, Section] = (Section(), Section())
    phases: Phases = field(default_factory=Phases)

    @property
    def collisions(self) -> list[Collision]:
        """The rows of the set that are refused, because live rows hold their unique values."""
        return [collision for table in self.tables for collision in table.collisions]

    @property
    def skipped(self) -> list[Collision]:
        """The rows of the set that are skipped, because live rows hold their unique values."""
        return [collision for table in self.tables for collision in table.skipped]

    @property
    def is_undo(self) -> bool:
        """Whether this restore is an undo: of a safety set, whose rows may violate checks."""
        return self.manifest.kind is Kind.SAFETY

    @property
    def manifest(self) -> Manifest:
        """The manifest of the set."""
        return self.staged.manifest

    @property
    def makes(self) -> list[InventoryItem]:
        """The missing objects that the restore creates."""
        created = [finding.item for finding in self.findings if finding.is_done and finding.remedy.how in {How.CREATE, How.ATTACH}]
        again, known = self.made_again, {item.identity for item in created}
        return [*created, *(item for item in self.missing if item.identity not in known | again)]

    @property
    def drops(self) -> list[Finding]:
        """The objects that an undo drops, because the restore to be undone created them."""
        return [finding for finding in self.findings if finding.remedy.how is How.DROP]

    def is_dropped(self, kind: str, parent: str, name: str) -> bool:
        """Return whether an undo drops this object."""
        return any(drop.item.identity == (kind, parent, name) for drop in self.drops)

    @property
    def missing(self) -> list[InventoryItem]:
        """Objects of the set that the database lacks, or that are dropped to be re-created."""
        there = {item.identity for item in self.inventory} - self.made_again
        kept = without_absent(self.manifest.inventory, self.manifest.left_out)
        gone = [
            item for item in kept
            if item.identity not in there and item.kind in NAMES_OF_KINDS and not self.comes_with_partition(item)
            and not self.needs_lost_column(item)
        ]  # fmt: skip
        if self.request.table is None:
            return gone
        # For one table: parts of a dropped table or partition; others are only reported.
        if self.request.objects is Objects.RESTORE and not self.absent:
            again = self.made_again
            about = [item for item in gone if item.identity in again or (self.is_about(item) and not self.may_break(item))]
            called = " ".join(item.state for item in about if item.kind == "trigger")
            return [*about, *(item for item in gone if item.kind == "function" and f" {item.name.partition('(')[0]}(" in called)]
        tables = {plain_name(item.name) for item in gone if item.kind in TABLES} & self.names
        attached = {plain_name(name) for name in self.within_detached}
        if self.request.keys is not None:
            return []
        if not tables:
            return [item for item in gone if table_of(item) in attached]
        # What a table needs, and the views dropped with it, with their indexes.
        with_it = {item.name for item in gone if item.kind in VIEWS and self._reads_absent(item)}
        return [
            item for item in gone
            if item.kind in NEEDED or item.name in with_it or item.parent in with_it
            or table_of(item) in tables | attached
        ]  # fmt: skip

    @property
    def within_detached(self) -> set[str]:
        """The partitions to attach, with the partitions that are attached to them, as SQL writes them."""
        within = {name for name in self.moved if name in self.detached}
        parents = {item.name: item.parent for item in self.inventory if item.kind in TABLES and item.name not in self.moved}
        while more := {name for name, parent in parents.items() if parent in within} - within:
            within |= more
        return within

    def needs_lost_column(self, item: InventoryItem) -> bool:
        """Return whether an object of a table or view names a column that it lacks here."""
        names = self._lost_columns.get(item.parent, ())
        return any(re.search(rf"(?<![\w$]){re.escape(name)}(?![\w$])", item.state) for name in names)

    @cached_property
    def _lost_columns(self) -> dict[str, set[str]]:
        """The columns that relations have in the set and not here; views that are to be re-created lack none."""
        then, now = (columns_by_relation(items) for items in (self.manifest.inventory, self.inventory))
        remade = {item.name for item in self.inventory if item.kind in VIEWS and self.request.objects is Objects.RESTORE}
        return {name: lost for name in then.keys() & now.keys() - remade if (lost := then[name] - now[name])}

    def comes_with_partition(self, item: InventoryItem) -> bool:
        """Return whether a trigger or foreign key comes with attaching its partition."""
        if item.parent not in self.moved:
            return False
        whole = self.moved[item.parent].parent
        if item.kind == "trigger":
            return any(other.identity == ("trigger", whole, item.name) for other in (*self.manifest.inventory, *self.inventory))
        return item.kind == "constraint" and foreign_key_of(item.state) is not None

    @property
    def made_again(self) -> set[tuple[str, str, str]]:
        """Existing objects that are dropped and re-created, with the indexes dropped with them."""
        chosen = [finding.item for finding in self.findings if finding.is_done and finding.remedy.how in {How.ANEW, How.REPLACE}]
        dropped = {item.name for item in chosen if item.kind in {"index", "materialized view"}}
        with_them = [
            item
            for item in self.inventory
            if item.kind == "index" and (item.parent in dropped or facts(item).get(ATTACHED) in dropped)
        ]
        return {item.identity for item in (*chosen, *with_them)}

    @property
    def leaves_rows(self) -> bool:
        """Whether the restore may keep rows of the requested tables that differ from the set."""
        return self.request.table is not None and (self.request.mode is not Mode.REPLACE or self.request.keys is not None)

    def may_break(self, item: InventoryItem) -> bool:
        """Return whether rows that stay may violate an object: a constraint or a unique index."""
        return self.leaves_rows and (item.kind == "constraint" or item.state.startswith("CREATE UNIQUE INDEX"))

    def _reads_absent(self, view: InventoryItem) -> bool:
        tables = {name.partition(".")[2] for relation in self.absent for name in (relation.qualified, relation.parent or "")} - {""}
        return bool(re.search(rf"\b(?:{'|'.join(map(re.escape, tables))})\b", view.state))

    def is_about(self, item: InventoryItem) -> bool:
        """Return whether an object is a requested table, or belongs to a requested table."""
        return table_of(item) in self.names

    @property
    def absent(self) -> list[Relation]:
        """The requested relations of the set that do not exist in the database."""
        if self.request.keys is not None:
            # Keys select rows of existing relations: no dropped partition is re-created.
            return []
        known = {member.qualified for member in self.members.holding_rows}
        asked_for = self.names - known
        return [relation for relation in self.manifest.relations if relation.qualified in asked_for]

    def ask(self, statement: Composed) -> list[tuple[Any, ...]]:
        """Execute a statement on live tables with the source's search_path, and return its rows.

        Functions in index expressions may need that path, because the planner inlines them
        (https://www.postgresql.org/docs/current/xfunc-optimization.html).
        """
        cursor = execute_written(self.connection, statement, self.path)
        return list(cursor.fetchall()) if cursor.description else []

    @cached_property
    def path(self) -> str:
        """The search_path that code of the context expects in the live database."""
        return read_source_path(self.connection, self.context.namespace, self.manifest.database)

    @cached_property
    def divided(self) -> dict[str, tuple[str, str]]:
        """Each live partition's hash-partitioned table: here the set's rows may be in others."""
        return hash_tables(self.inventory, {relation.qualified: relation.parent for relation in self.members.relations})

    @property
    def about(self) -> str:
        """The restored table in words; empty for the whole context."""
        request = self.request
        if request.table is None:
            return ""
        rows = "" if request.keys is None else ", the chosen rows"
        if request.with_children:
            return f'rows of {request.table} from {self.manifest.id} to database "{self.site.database}"{rows}'
        return f'table {request.table} of database "{self.site.database}" from {self.manifest.id}, mode {request.mode}{rows}'


def lineage(members: Members, member: Member) -> dict[str, int]:
    """Return names and oids of a relation and of its partitioned ancestors."""
    by_name = {relation.qualified: relation for relation in members.relations}
    oids, here = {member.qualified: member.oid}, member
    while here.parent and here.parent in by_name:
        here = by_name[here.parent]
        oids[here.qualified] = here.oid
    return oids


def has_rows(merge: Merge, member: Member, rows: int, xmin: int) -> bool:
    """Return whether a relation has its old file and as many rows, none written since `xmin`."""
    count, old = merge.ask(sql.rows.count_rows_and_old(member.schema, member.name, xmin))[0]
    return bool(count == old == rows)


def is_unchanged(merge: Merge, table: Table) -> bool:
    """Return whether a relation has exactly the rows of the set."""
    then = table.relation
    return then is not None and has_rows(merge, table.member, then.rows, merge.manifest.snapshot.xmin)


def is_as_compared(merge: Merge, table: Table) -> bool:
    """Return whether a relation has the rows that it had when it was compared."""
    if table.compared is None:
        return table.unchanged
    xmin, rows = table.compared
    return has_rows(merge, table.member, rows, xmin)
