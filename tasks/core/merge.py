"""What a merge of a backup set into a live database would do, what it did, and how both are told."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from enum import StrEnum

from tasks.core.manifest import InventoryItem, Relation
from tasks.core.report import duration, headline, local_time, section, table

ACTING = frozenset({"CASCADE", "SET NULL", "SET DEFAULT"})
STATES = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


class Drift(StrEnum):
    """What to do where the live tables have other columns than the set's."""

    REFUSE = "refuse"
    COMMON_COLUMNS = "common-columns"


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

    @property
    def rows(self) -> tuple[int, int, int]:
        """Rows to insert, to update and to delete."""
        return sum(c.insert for c in self.changes), sum(c.update for c in self.changes), sum(c.delete for c in self.changes)

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all would be done."""
        return not (any(self.rows) or self.to_create or self.triggers)


@dataclass(frozen=True)
class Merged:
    """What a merge did: rows, seconds by phase, how long writers of the context were kept waiting, and what undoes it."""

    inserted: int
    updated: int
    deleted: int
    created: Sequence[str]
    locked_seconds: float
    phases: Mapping[str, float]
    safety: str
    notes: Sequence[str] = field(default_factory=tuple)


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
        f"{f', {len(plan.to_create)} objects to create' if plan.to_create else ''}: "
        f'database "{plan.database}" becomes {plan.backup}'
    )
    if plan.refusals:
        return f"REFUSED, nothing touched: {'; '.join(plan.refusals[:5])}"
    return f"PLANNED, nothing touched: {'nothing differs' if plan.is_empty else what}"


def plan_report(plan: MergePlan, zone: tzinfo, command: str) -> str:
    """Return the plan as markdown; `command` is what would carry it out."""
    facts = [
        ("set", f"`{plan.backup}`"), ("state of", local_time(plan.state_of, zone)), ("database", f"`{plan.database}`"),
        ("comparing took", duration(plan.comparing_seconds)),
        ("writers of the context would wait about", duration(2 * plan.comparing_seconds)),
    ]  # fmt: skip
    parts = [
        headline(plan_verdict(plan)), section("Why not", plan.refusals), table(["what", "value"], facts) + "\n",
        _changes(plan), section("Objects to create", plan.to_create), section("Triggers to switch", plan.triggers),
        section("Objects that differ and are left as they are", plan.unlike),
        section("Keys of other contexts", [one.line for one in plan.effects]),
        section("Who holds locks now", plan.holders), section("Passed over", plan.passed_over),
        "" if plan.refusals else f"## To carry it out\n\n```\n{command}\n```\n",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _changes(plan: MergePlan) -> str:
    """Return the relations that change as a table; all of them are in the table artifact."""
    changing = [one for one in plan.changes if one.rows]
    same = f"{len(plan.changes) - len(changing)} of {len(plan.changes)} relations are as in the set.\n"
    rows = [
        (one.relation, f"{one.live_rows:,}", f"{one.set_rows:,}", f"{one.insert:,}", f"{one.update:,}", f"{one.delete:,}")
        for one in changing
    ]
    shown = table(["relation", "live", "set", "insert", "update", "delete"], rows, range(1, 6)) + "\n\n" if rows else ""
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
    return (
        f'RESTORED: the rows of database "{plan.database}" are those of {plan.backup}: {merged.inserted:,} inserted, '
        f"{merged.updated:,} updated, {merged.deleted:,} deleted{created}{unlike}; writers waited {duration(merged.locked_seconds)}"
    )


def merged_report(plan: MergePlan, merged: Merged, undo: str) -> str:
    """Return the report of a merge as markdown."""
    phases = [(name, duration(seconds)) for name, seconds in merged.phases.items()]
    parts = [
        headline(merged_verdict(plan, merged)), f"## To undo it\n\n```\n{undo}\n```\n", _changes(plan),
        section("Created", merged.created), section("Triggers switched", plan.triggers),
        section("Objects that differ and were left as they are", plan.unlike),
        section("Keys of other contexts", [one.line for one in plan.effects]), section("Passed over", plan.passed_over),
        "## Phases\n\n" + table(["phase", "time"], phases, (1,)) + "\n",
        section("What a human still has to do", merged.notes, "Nothing.\n"),
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)
