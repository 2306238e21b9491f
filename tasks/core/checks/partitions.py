"""Findings of the comparison of past partitions with the newest good set.

When the period of a partition is over, its rows change seldom, and only clean-ups delete rows,
which they archive first. After `frozen_after` no row may change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.core.checks.definition import Check, Finding, Severity, Verdict, judge
from tasks.core.checks.rotation import TURN

PARTITIONS = "partitions of the newest backup"


@dataclass(frozen=True)
class RowDifferences:
    """Row counts by key: only in the set (`lost`), different, only in the database (`new`).

    Without a primary key a changed row counts as lost and as new.
    """

    lost: int
    changed: int
    new: int


@dataclass(frozen=True)
class PartitionFinding:
    """The comparison of a partition.

    `why` is the reason if the partition was not compared, or, with `rows`, if it was not compared
    row by row.
    """

    name: str
    is_frozen: bool
    why: str = ""
    rows: tuple[int, int] | None = None
    differences: RowDifferences | None = None
    cleaned: int = 0
    last: str = ""

    @property
    def is_compared(self) -> bool:
        """Whether all rows of the partition were read."""
        return self.rows is not None

    @property
    def is_equal(self) -> bool:
        """Whether the partition has exactly the rows of the set."""
        return self.is_compared and self.differences is None and not self.why

    @property
    def differs(self) -> bool:
        """Whether a difference is reported: additional rows only in a frozen partition."""
        if self.differences is None:
            return self.is_compared and bool(self.why)
        remarkable = self.differences.changed or (self.differences.new and self.is_frozen)
        return bool(remarkable) or self.is_grave

    @property
    def is_grave(self) -> bool:
        """Whether it is an error: a frozen partition differs, or lost rows are not archived."""
        if self.is_frozen:
            return self.is_compared and (self.differences is not None or bool(self.why))
        before, now = self.rows or (0, 0)
        return (self.differences.lost if self.differences else before - now) > self.cleaned

    @property
    def line(self) -> str:
        """The differences, with numbers."""
        before, now = self.rows or (0, 0)
        text = f"{self.name}{' (frozen)' if self.is_frozen else ''}: {before:,} rows in the set, {now:,} now: "
        if rows := self.differences:
            text += f"{rows.lost:,} only in the set, {rows.changed:,} changed, {rows.new:,} only in the database"
        else:
            text += f"the rows differ; which ones differ is not known: {self.why}"
        return text + (f"; clean-ups archived {self.cleaned:,}" if self.cleaned else "")


def judge_partitions(
    set_id: str, partitions: Sequence[PartitionFinding], overdue: Sequence[str], seconds: float, most: int
) -> Finding:
    """Return the finding on past partitions: `ok` only if all were compared.

    Args:
        set_id: the set that they were compared with.
        partitions: the comparison of each.
        overdue: partitions not compared within the last `rotation.TURN` days.
        seconds: how long the comparison took.
        most: how many differing partitions are described.
    """
    differing = sorted(filter(lambda partition: partition.differs, partitions), key=lambda partition: not partition.is_grave)
    compared = sum(partition.is_compared for partition in partitions)
    notes = [f"{compared:,} of {len(partitions):,} partitions whose period is over were compared with {set_id}"]
    notes += [f"not compared: {reason}: {', '.join(names)}" for reason, names in _by_reason(partitions).items()]
    if overdue:
        notes.append(f"not compared within {TURN.days} days, raise `comparison_seconds`: {', '.join(overdue)}")
    severity = Severity.ERROR if any(partition.is_grave for partition in differing) else Severity.WARNING
    note = "; ".join(["if the change was on purpose, take a backup now", *notes] if differing else notes)
    if not differing and compared < len(partitions):
        return Finding(PARTITIONS, severity, Verdict.NOT_RUN, note=note, seconds=seconds)
    return judge(Check(PARTITIONS, severity, ""), len(differing), [partition.line for partition in differing[:most]], seconds, note)


def _by_reason(partitions: Sequence[PartitionFinding]) -> dict[str, list[str]]:
    reasons = dict[str, list[str]]()
    for partition in partitions:
        if not partition.is_compared:
            reasons.setdefault(partition.why, []).append(f"{partition.name} (last compared {partition.last})")
    return reasons
