"""What a merge of a backup set into a live database would do, what it did, and how both are told."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from enum import StrEnum

from tasks.core.errors import BadInput
from tasks.core.manifest import InventoryItem, Relation
from tasks.core.report import duration, headline, local_time, section, table
from tasks.core.toc import plain_name

ACTING = frozenset({"CASCADE", "SET NULL", "SET DEFAULT"})
SHOWN = 5
STATES = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


class Drift(StrEnum):
    """What to do where the live tables have other columns than the set's."""

    REFUSE = "refuse"
    COMMON_COLUMNS = "common-columns"


class Mode(StrEnum):
    """Which differences a restore writes: rows that are missing, those that are other too, those that are not in the set too."""

    MISSING = "missing"
    MERGE = "merge"
    REPLACE = "replace"

    @property
    def writes(self) -> str:
        """The kinds of difference, as the statements of a merge name them."""
        return {Mode.MISSING: "I", Mode.MERGE: "IU", Mode.REPLACE: "IUD"}[self]


KeyValue = str | int | float | bool
# A list of key values, or of objects that name several key columns; or a condition on key columns.
Keys = str | Sequence[KeyValue | Mapping[str, KeyValue]]


@dataclass(frozen=True)
class Request:
    """What an operator asked to be restored into a live database: the whole context, or one table of it."""

    backup: str
    on_drift: Drift = Drift.REFUSE
    accept_effects: bool = False
    table: str | None = None
    mode: Mode = Mode.REPLACE
    keys: Keys | None = None
    include_parents: bool = False
    # Of a clean-up set: with the rows of other tables that hung on the rows of this one.
    with_children: bool = False

    def command(self, context: str, database: str) -> str:
        """Return what an operator types to have it done."""
        flow, keys = "table_restore" if self.table else "full_restore --in-place true", self.keys
        said = keys if keys is None or isinstance(keys, str) else json.dumps(keys, ensure_ascii=False)
        one_table = self.table if self.table and not self.with_children else None
        words = [
            f"python -m flows.restore {'restore_cleaned_up' if self.with_children else flow} --context {context} "
            f"--backup {shlex.quote(self.backup)}",
            *([f"--table {shlex.quote(one_table)} --mode {self.mode}"] if one_table else []),
            *([f"--keys {shlex.quote(said)}"] if said else []),
            *(["--include-parents true"] if self.include_parents and one_table else []),
            *([f"--on-schema-drift {self.on_drift}"] if self.on_drift is not Drift.REFUSE else []),
            *(["--accept-effects-on-others true"] if self.accept_effects else []),
            f"--dry-run false --confirm-database {shlex.quote(database)}",
        ]  # fmt: skip
        return " \\\n    ".join(words)


def tables_named(said: str, namespace: str, parents: Mapping[str, str], where: str) -> frozenset[str]:
    """Return schema.name of the table that is meant, with its partitions; `parents` has the parent of every table, or nothing.

    Raises:
        BadInput: there is no such table.
    """
    wanted = plain_name(said).removeprefix(".")
    found = {name for name in (wanted, f"{namespace}.{wanted}") if name in parents}
    if not found:
        tops = sorted(name for name, parent in parents.items() if parent not in parents)
        raise BadInput(f'table "{said}" is not {where}; name one of {", ".join(tops)}, or a partition')
    while more := {name for name, parent in parents.items() if parent in found} - found:
        found |= more
    return frozenset(found)


def name_beside(table: str, set_id: str) -> str:
    """Return the name of a table restored beside a live one, of at most 63 bytes: `invoices_restored_20251103_020000`."""
    suffix = f"_restored_{'_'.join(set_id.split('_')[-3:-1])}"
    kept = table.encode()[: 63 - len(suffix)].decode(errors="ignore")
    return f"{kept}{suffix}"


def parse_keys(said: Keys, key: Sequence[str]) -> str | list[dict[str, str]]:
    """Return which rows are meant: those that a condition on key columns is true of, or those with listed values.

    A list has values of the first key column, or objects that name key columns: `["6f0c…"]`, `[{"id": "6f0c…", "issued_at":
    "2025-11-03 01:02:03"}]`.

    Raises:
        BadInput: the table has no key, or it is neither.
    """
    listed = _parse_list(said) if isinstance(said, str) and said.lstrip().startswith("[") else said
    if not key:
        raise BadInput("keys: rows of a table without primary key cannot be named; leave keys away")
    if isinstance(listed, str):
        if not listed.strip():
            raise BadInput("keys is empty; leave it away, or name rows by their key")
        return listed
    rows = [dict(one) if isinstance(one, Mapping) else {key[0]: one} for one in listed]
    if not rows or any(row.keys() != rows[0].keys() or not row or not row.keys() <= set(key) for row in rows):
        raise BadInput(f"keys: name rows by values of {key[0]}, or by objects with the same of the key columns {', '.join(key)}")
    return [{name: _as_text(value) for name, value in row.items()} for row in rows]


def _parse_list(said: str) -> Sequence[KeyValue | Mapping[str, KeyValue]]:
    try:
        return list(json.loads(said))
    except ValueError as error:
        raise BadInput(f"keys: no JSON list ({error}); write for example {json.dumps(['a key', 'another'])}") from None


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise BadInput(f"keys: a {type(value).__name__} is no value of a key column; write a text or a number")


@dataclass(frozen=True)
class Need:
    """Rows that are gone and that restored rows refer to: of a table, by the values of the columns that a foreign key names.

    The operators are those by which the key compares them.
    """

    key: str
    table: str
    parent: str
    columns: tuple[str, ...]
    operators: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    def line(self, remedy: str) -> str:
        """Say how many rows are gone, by which key, and what to do."""
        return (
            f"{self.table} needs {len(self.values):,} rows of {self.parent} that are gone ({self.key}: {', '.join(self.columns)}); "
            f"{remedy}"
        )


@dataclass(frozen=True)
class Change:
    """What differs between a live relation and the set's, in rows; `unchanged` if no row was written since the set was taken."""

    relation: str
    live_rows: int
    set_rows: int
    insert: int = 0
    update: int = 0
    delete: int = 0
    unchanged: bool = False
    why: str = ""

    @property
    def rows(self) -> int:
        """Rows that would be written."""
        return self.insert + self.update + self.delete


@dataclass(frozen=True)
class Effect:
    """A foreign key of another context, and how many of its rows refer to what would go; None if nobody here may look."""

    key: str
    table: str
    on_delete: str
    rows: int | None

    @property
    def acts(self) -> bool:
        """Whether it would delete or change the rows that refer."""
        return self.on_delete in ACTING

    def is_refused(self, *, accepted: bool) -> bool:
        """Say whether the merge must not be begun for it: the database would refuse, or rows of others would change."""
        if self.rows == 0:
            return False
        if self.acts:
            return not accepted
        return self.rows is not None

    @property
    def line(self) -> str:
        """What it is, as a sentence."""
        count = "rows that this login may not count (it needs SELECT there)" if self.rows is None else f"{self.rows:,} rows"
        return f"foreign key {self.key} of {self.table} (ON DELETE {self.on_delete}): {count} refer to rows that would go or change"


@dataclass(frozen=True)
class MergePlan:
    """All that a merge would do."""

    backup: str
    state_of: datetime
    database: str
    changes: Sequence[Change]
    to_create: Sequence[str] = ()
    unlike: Sequence[str] = ()
    triggers: Sequence[str] = ()
    effects: Sequence[Effect] = ()
    holders: Sequence[str] = ()
    passed_over: Sequence[str] = ()
    refusals: Sequence[str] = ()
    comparing_seconds: float = 0
    waiting_seconds: float = 0
    about: str = ""
    said: Sequence[str] = ()
    aside: str = ""

    @property
    def rows(self) -> tuple[int, int, int]:
        """Rows to insert, to update and to delete."""
        return sum(c.insert for c in self.changes), sum(c.update for c in self.changes), sum(c.delete for c in self.changes)

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all would be done."""
        return not (any(self.rows) or self.to_create or self.triggers)

    @property
    def caution(self) -> str:
        """What has to be known of the set before anything else."""
        return f"; {self.backup} is SET ASIDE: {self.aside}" if self.aside else ""

    @property
    def aim(self) -> str:
        """What is to be: the whole database, or rows of one table, as the set has them."""
        return self.about or f'database "{self.database}" becomes {self.backup}'

    def does_as(self, other: "MergePlan") -> bool:
        """Say whether it would do what another plan would; who holds locks now, and how long comparing took, may differ."""
        same = "backup", "database", "changes", "to_create", "unlike", "triggers", "effects", "refusals", "about", "said"
        return all(getattr(self, name) == getattr(other, name) for name in same)


@dataclass(frozen=True)
class Merged:
    """What a merge did: rows, seconds by phase, how long writers of the context were kept waiting, and what undoes it."""

    inserted: int
    updated: int
    deleted: int
    created: Sequence[str]
    locked_seconds: float
    phases: Mapping[str, float]
    undo: str
    changes: Sequence[Change]
    notes: Sequence[str] = field(default_factory=tuple)
    repaired: Sequence[str] = ()


def drift(relation: Relation, columns: Sequence[str], types: Sequence[str]) -> list[str]:
    """Say how a live table's columns differ from the set's: table, column, type."""
    then = dict(zip(relation.columns, relation.types or [""] * len(relation.columns), strict=True))
    now = dict(zip(columns, types, strict=True))
    gone = [f"{relation.qualified} has no column {name} any more" for name in then.keys() - now.keys()]
    new = [f"{relation.qualified} has a column {name} {now[name]} that the set does not have" for name in now.keys() - then.keys()]
    other = [
        f"{relation.qualified}.{name} was {then[name]}, is {now[name]}"
        for name in then
        if name in now and then[name] and then[name] != now[name]
    ]
    return sorted(gone + new + other)


def trigger_states(inventory: Iterable[InventoryItem]) -> dict[tuple[str, str], str]:
    """Return by table and name how each trigger was switched."""
    found = ((item.parent, item.name, item.state.partition(" | enabled ")[2][:1]) for item in inventory if item.kind == "trigger")
    return {(parent, name): STATES[state] for parent, name, state in found if state in STATES}


def plan_verdict(plan: MergePlan) -> str:
    """Return the one line that says what would be done."""
    inserts, updates, deletes = plan.rows
    touched = sum(bool(change.rows) for change in plan.changes)
    what = (
        f"{inserts:,} rows to insert, {updates:,} to update, {deletes:,} to delete in {touched} relations"
        f"{f', {len(plan.to_create)} objects to create' if plan.to_create else ''}: {plan.aim}"
    )
    if plan.refusals:
        return f"REFUSED, nothing touched: {'; '.join(plan.refusals[:5])}"
    return f"PLANNED, nothing touched: {'nothing differs' if plan.is_empty else what}{plan.caution}"


def plan_report(plan: MergePlan, zone: tzinfo, command: str = "") -> str:
    """Return the plan as markdown; `command` is what would carry it out, where nobody is asked."""
    facts = [
        ("set", f"`{plan.backup}`"), ("state of", local_time(plan.state_of, zone)), ("database", f"`{plan.database}`"),
        ("comparing took", duration(plan.comparing_seconds)),
        ("writers of the context would wait about", duration(plan.waiting_seconds)),
    ]  # fmt: skip
    parts = [
        headline(plan_verdict(plan)), section("Why not", plan.refusals), table(["what", "value"], facts) + "\n",
        _changes(plan.changes), section("Objects to create", plan.to_create), section("Triggers to switch", plan.triggers),
        section("Objects that differ and are left as they are", plan.unlike),
        section("Said by the set alone", plan.said),
        section("Keys of other contexts", [one.line for one in plan.effects]),
        section("Who holds locks now", plan.holders), section("Passed over", plan.passed_over),
        "" if plan.refusals or plan.is_empty or not command else f"## To carry it out\n\n```\n{command}\n```\n",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _changes(changes: Sequence[Change]) -> str:
    """Return the relations that change as a table; all of them are in the table artifact."""
    changing = [one for one in changes if one.rows]
    same = f"{len(changes) - len(changing)} of {len(changes)} relations are as in the set.\n"
    rows = [
        (one.relation, f"{one.insert:,}", f"{one.update:,}", f"{one.delete:,}", f"{one.live_rows:,}", f"{one.set_rows:,}", one.why)
        for one in changing
    ]
    titles = ["relation", "insert", "update", "delete", "live", "set", "why"][: None if any(one.why for one in changing) else -1]
    shown = table(titles, [row[: len(titles)] for row in rows], range(1, 6)) + "\n\n" if rows else ""
    return f"## Rows\n\n{shown}{same}"


def change_rows(changes: Iterable[Change]) -> list[dict[str, object]]:
    """Return one row a relation, for the table artifact."""
    return [
        {
            "relation": one.relation, "live": one.live_rows, "in the set": one.set_rows, "insert": one.insert,
            "update": one.update, "delete": one.delete, "unchanged since the set": one.unchanged,
        }
        for one in changes
    ]  # fmt: skip


def merged_verdict(plan: MergePlan, merged: Merged) -> str:
    """Return the one line that says what was done."""
    created = f", {len(merged.created)} objects created" if merged.created else ""
    unlike = f", {len(plan.unlike)} objects differ and were left" if plan.unlike else ""
    rows = plan.about or f'the rows of database "{plan.database}" are those of {plan.backup}'
    return (
        f"RESTORED: {rows}: {merged.inserted:,} inserted, {merged.updated:,} updated, {merged.deleted:,} deleted{created}{unlike}; "
        f"writers waited {duration(merged.locked_seconds)}{plan.caution}"
    )


def merged_report(plan: MergePlan, merged: Merged) -> str:
    """Return the report of a merge as markdown."""
    phases = [(name, duration(seconds)) for name, seconds in merged.phases.items()]
    parts = [
        headline(merged_verdict(plan, merged)), f"## To undo it\n\n```\n{merged.undo}\n```\n",
        "It makes the tables that were written, or the rows of them that it names, what they were before: rows that came since go. "
        "Without its last line it only plans.\n",
        _changes(merged.changes),
        section("Created", merged.created), section("Mended afterwards, to agree with it", merged.repaired),
        section("Triggers switched", plan.triggers),
        section("Objects that differ and were left as they are", plan.unlike),
        section("Keys of other contexts", [one.line for one in plan.effects]), section("Passed over", plan.passed_over),
        "## Phases\n\n" + table(["phase", "time"], phases, (1,)) + "\n",
        section("What a human still has to do", merged.notes, "Nothing.\n"),
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Beside:
    """A table that was restored under another name."""

    name: str
    table: str
    backup: str
    state_of: datetime
    database: str
    rows: int
    all_rows: int
    seconds: float
    key: Sequence[str] = ()
    notes: Sequence[str] = ()
    aside: str = ""


def beside_verdict(beside: Beside) -> str:
    """Return the one line that says what is there now."""
    part = "" if beside.rows == beside.all_rows else f" of {beside.all_rows:,}"
    return (
        f"RESTORED: {beside.rows:,}{part} rows of {beside.table} as of {beside.backup} are in {beside.name} of database "
        f'"{beside.database}"; nothing else was touched'
    ) + (f"; {beside.backup} is SET ASIDE: {beside.aside}" if beside.aside else "")


def beside_report(beside: Beside, zone: tzinfo, passed_over: Sequence[str]) -> str:
    """Return the report of a restore beside the live table as markdown, with what an operator does next."""
    facts = [
        ("set", f"`{beside.backup}`"), ("state of", local_time(beside.state_of, zone)), ("table", f"`{beside.name}`"),
        ("rows", f"{beside.rows:,} of {beside.all_rows:,}, read back and compared"), ("took", duration(beside.seconds)),
    ]  # fmt: skip
    gone = " AND ".join(f"l.{name} = r.{name}" for name in beside.key)
    look = f"SELECT r.* FROM {beside.name} r WHERE NOT EXISTS (SELECT FROM {beside.table} l WHERE {gone});\n"  # noqa: S608
    parts = [
        headline(beside_verdict(beside)), table(["what", "value"], facts) + "\n",
        f"## What to do with it\n\n```sql\n{look if beside.key else ''}DROP TABLE {beside.name};\n```\n",
        section("Worth knowing", beside.notes), section("Passed over", passed_over),
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)
