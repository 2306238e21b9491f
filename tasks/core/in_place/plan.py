"""What a restore into a live database would do, and what it did: changes, needs, effects on others."""

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
class Collision:
    """A row of the set whose unique value a live row has that the restore leaves; both by the values of their key."""

    table: str
    constraint: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    holder: tuple[str, ...]

    @property
    def line(self) -> str:
        """What it is, as a sentence, with the values: for reports, never for a log, a state or an error."""
        columns = ", ".join(self.columns)
        return (
            f"{self.table}: the row with {columns} = {', '.join(self.key)} has the value of {self.constraint} that the live row "
            f"with {columns} = {', '.join(self.holder)} holds"
        )


def collisions_told(collisions: Sequence[Collision]) -> list[str]:
    """Return the same by constraint, without values."""
    counts = Counter(
        (one.table, one.constraint) for one in {(one.table, one.constraint, one.key): one for one in collisions}.values()
    )
    return [f"{count:,} rows of {table} ({constraint})" for (table, constraint), count in counts.items()]


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
    said: Sequence[str] = ()
    notes: Sequence[str] = ()
    aside: str = ""
    collisions: Sequence[Collision] = ()
    skipped: Sequence[Collision] = ()
    not_compared: str = ""
    # What of others' tables was seen and is not restored.
    seen: Sequence[str] = ()
    # Where a table is made again: what the set has not of what may have gone with it, in short and as tasks for a person.
    not_in_set: str = ""
    chores: Sequence[str] = ()
    # What would stay as it is made, and rows that would come back only after something else, if it were undone.
    not_undone: Sequence[str] = ()

    @property
    def rows(self) -> tuple[int, int, int]:
        """Rows to insert, to update and to delete."""
        return sum(c.insert for c in self.changes), sum(c.update for c in self.changes), sum(c.delete for c in self.changes)

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all would be done."""
        return not (any(self.rows) or self.done or self.triggers)

    @property
    def done(self) -> list[ObjectChange]:
        """The objects that are made or set back; triggers that are switched are told by themselves."""
        return [one for one in self.objects if one.is_done and one.remedy.how is not How.SWITCH]

    @property
    def left(self) -> list[ObjectChange]:
        """The objects that are not as in the set and stay so."""
        return [one for one in self.objects if not one.is_done]

    @property
    def caution(self) -> str:
        """What has to be known of the set before anything else."""
        aside = f"; {self.backup} is SET ASIDE: {self.aside}" if self.aside else ""
        return f"{f'; {self.not_compared}' if self.not_compared else ''}{aside}"

    @property
    def aim(self) -> str:
        """What is to be: the whole database, or rows of one table, as the set has them."""
        return self.about or f'database "{self.database}" becomes {self.backup}'

    def does_as(self, other: "MergePlan") -> bool:
        """Say whether it would do what another plan would; who holds locks now, and how long comparing took, may differ."""
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
            "said",
        )
        return all(getattr(self, name) == getattr(other, name) for name in same)


@dataclass(frozen=True)
class Merged:
    """What a merge did: rows, seconds by phase, how long writers of the context were kept waiting, and what undoes it."""

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
    # What is not as in the set now that all is done.
    left: Sequence[ObjectChange] = ()
    skipped: Sequence[Collision] = ()


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
