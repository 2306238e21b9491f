"""The plan of a restore into a live database, its effects on other contexts, and its result."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tasks.core.database.objects import ACTING, InventoryItem
from tasks.core.in_place.objects import STATES, How, ObjectChange
from tasks.core.sets.manifest import Relation

SHOWN = 5


@dataclass(frozen=True)
class Need:
    """Missing rows of `parent` that restored rows refer to; `operators` test the key's equality."""

    key: str
    table: str
    parent: str
    columns: tuple[str, ...]
    operators: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    def line(self, remedy: str) -> str:
        """Return a sentence: how many rows are missing, by which key, and the remedy."""
        return (
            f"{self.table} needs {len(self.values):,} rows of {self.parent} that are missing "
            f"({self.key}: {', '.join(self.columns)}); {remedy}"
        )


@dataclass(frozen=True)
class Change:
    """How many rows of a live relation differ; `unchanged` if none was written since the set."""

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
        """The number of rows to write."""
        return self.insert + self.update + self.delete


@dataclass(frozen=True)
class Collision:
    """A row of the set with the same unique value as a kept live row, both given by key."""

    table: str
    constraint: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    holder: tuple[str, ...]

    @property
    def line(self) -> str:
        """The collision as a sentence with keys: for reports, never for a log, state or error."""
        columns = ", ".join(self.columns)
        return (
            f"{self.table}: the row with {columns} = {', '.join(self.key)} of the set has the same "
            f"value of {self.constraint} as the live row with {columns} = {', '.join(self.holder)}"
        )


def collision_counts(collisions: Sequence[Collision]) -> list[str]:
    """Return how many rows collide, by table and constraint, without values."""
    counts = Counter(
        (collision.table, collision.constraint)
        for collision in {(collision.table, collision.constraint, collision.key): collision for collision in collisions}.values()
    )
    return [f"{count:,} rows of {table} ({constraint})" for (table, constraint), count in counts.items()]


@dataclass(frozen=True)
class Effect:
    """Another context's foreign key, and how many rows refer to deleted or changed rows.

    The number is None if this login may not read them.
    """

    key: str
    table: str
    on_delete: str
    rows: int | None

    @property
    def acts(self) -> bool:
        """Whether the key (ON DELETE CASCADE, SET NULL …) would delete or change referring rows."""
        return self.on_delete in ACTING

    def is_refused(self, *, accepted: bool) -> bool:
        """Whether the database would refuse the restore, or rows of other contexts would change."""
        if self.rows == 0:
            return False
        if self.acts:
            return not accepted
        return self.rows is not None

    @property
    def line(self) -> str:
        """The effect as a sentence."""
        count = "rows that this login may not count (it lacks SELECT)" if self.rows is None else f"{self.rows:,} rows"
        return (
            f"foreign key {self.key} of {self.table} (ON DELETE {self.on_delete}): {count} refer "
            "to rows that would be deleted or changed"
        )


@dataclass(frozen=True)
class MergePlan:
    """All that a restore into a live database would do."""

    backup: str
    state_of: datetime
    database: str
    changes: Sequence[Change]
    objects: Sequence[ObjectChange] = ()
    triggers: Sequence[str] = ()
    effects: Sequence[Effect] = ()
    holders: Sequence[str] = ()
    passed_over: Sequence[str] = ()
    refusals: Sequence[str] = ()
    comparing_seconds: float = 0
    waiting_seconds: float = 0
    staged_bytes: int = 0
    about: str = ""
    taken_from_set: Sequence[str] = ()
    notes: Sequence[str] = ()
    aside: str = ""
    collisions: Sequence[Collision] = ()
    skipped: Sequence[Collision] = ()
    not_compared: str = ""
    # Tables of other contexts that seem damaged, and are not restored.
    seen: Sequence[str] = ()
    # If a table is re-created: what may have gone with it that the set lacks, in short and as
    # tasks.
    not_in_set: str = ""
    chores: Sequence[str] = ()
    # What an undo would not revert, or only after something else.
    not_undone: Sequence[str] = ()

    @property
    def rows(self) -> tuple[int, int, int]:
        """Rows to insert, to update and to delete."""
        return sum(c.insert for c in self.changes), sum(c.update for c in self.changes), sum(c.delete for c in self.changes)

    @property
    def is_empty(self) -> bool:
        """Whether the restore would change nothing."""
        return not (any(self.rows) or self.done or self.triggers)

    @property
    def done(self) -> list[ObjectChange]:
        """Objects that are created or changed back; triggers to switch are listed apart."""
        return [change for change in self.objects if change.is_done and change.remedy.how is not How.SWITCH]

    @property
    def left(self) -> list[ObjectChange]:
        """The objects that differ from the set and are not changed."""
        return [change for change in self.objects if not change.is_done]

    @property
    def caution(self) -> str:
        """Warnings about the set, for the verdict."""
        aside = f"; {self.backup} is SET ASIDE: {self.aside}" if self.aside else ""
        return f"{f'; {self.not_compared}' if self.not_compared else ''}{aside}"

    @property
    def aim(self) -> str:
        """The goal of the restore in words: the database, or rows of one table, as in the set."""
        return self.about or f'database "{self.database}" from {self.backup}'

    def does_as(self, other: "MergePlan") -> bool:
        """Return whether another plan would do the same; its lock holders and times may differ."""
        same = (
            "backup",
            "database",
            "changes",
            "objects",
            "triggers",
            "effects",
            "collisions",
            "skipped",
            "refusals",
            "about",
            "taken_from_set",
        )
        return all(getattr(self, name) == getattr(other, name) for name in same)


@dataclass(frozen=True)
class Merged:
    """The result of a restore into a live database: rows, times, writers' waits, how to undo it."""

    inserted: int
    updated: int
    deleted: int
    created: Sequence[ObjectChange]
    locked_seconds: float
    phases: Mapping[str, float]
    undo: str
    changes: Sequence[Change]
    notes: Sequence[str] = field(default_factory=tuple)
    repaired: Sequence[str] = ()
    # What still differs from the set.
    left: Sequence[ObjectChange] = ()
    skipped: Sequence[Collision] = ()


def drift(relation: Relation, columns: Sequence[str], types: Sequence[str]) -> list[str]:
    """Return as sentences how the columns of a live table differ from those in the set."""
    then = dict(zip(relation.columns, relation.types or [""] * len(relation.columns), strict=True))
    now = dict(zip(columns, types, strict=True))
    gone = [f"{relation.qualified} no longer has column {name}" for name in then.keys() - now.keys()]
    new = [f"{relation.qualified} has a column {name} {now[name]} that the set does not have" for name in now.keys() - then.keys()]
    other = [
        f"{relation.qualified}.{name} has type {now[name]}, in the set {then[name]}"
        for name in then
        if name in now and then[name] and then[name] != now[name]
    ]
    return sorted(gone + new + other)


def trigger_states(inventory: Iterable[InventoryItem]) -> dict[tuple[str, str], str]:
    """Return the state of each trigger, by table and name."""
    triggers = (
        (item.parent, item.name, item.state.partition(" | enabled ")[2][:1]) for item in inventory if item.kind == "trigger"
    )
    return {(parent, name): STATES[state] for parent, name, state in triggers if state in STATES}
