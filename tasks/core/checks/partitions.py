"""What a comparison of past partitions with the newest good set found, and what an integrity check says of it.

A partition is over when its period is; then rows are not lost any more, but where a clean-up archived them first, and seldom
changed. From `frozen_after` on nothing of it may change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.core.checks.definition import Check, Finding, Severity, Verdict, judge
from tasks.core.checks.rotation import TURN

PARTITIONS = "partitions of the newest backup"


@dataclass(frozen=True)
class RowDifferences:
    """Rows by key: those that only the set has, those that are in both and not the same, those that only the database has.

    Without a primary key a changed row counts as lost and as new.
    """

    lost: int
    changed: int
    new: int


@dataclass(frozen=True)
class PartitionFinding:
    """What became of the comparison of one partition; `why` it was not compared, or, with `rows`, why no row was looked at."""

    name: str
    is_frozen: bool
    why: str = ""
    rows: tuple[int, int] | None = None
    differences: RowDifferences | None = None
    cleaned: int = 0
    last: str = ""

    @property
    def is_compared(self) -> bool:
        """Whether all its rows were read."""
        return self.rows is not None

    @property
    def is_equal(self) -> bool:
        """Whether it has the rows of the set, and no other."""
        return self.is_compared and self.differences is None and not self.why

    @property
    def differs(self) -> bool:
        """Whether it has other rows than the set, as far as that is remarkable: new rows are, if it is frozen."""
        if self.differences is None:
            return self.is_compared and bool(self.why)
        remarkable = self.differences.changed or (self.differences.new and self.is_frozen)
        return bool(remarkable) or self.is_grave

    @property
    def is_grave(self) -> bool:
        """Whether it fails a run: a frozen one differs, or rows are gone that no clean-up archived."""
        if self.is_frozen:
            return self.is_compared and (self.differences is not None or bool(self.why))
        before, now = self.rows or (0, 0)
        return (self.differences.lost if self.differences else before - now) > self.cleaned

    @property
    def line(self) -> str:
        """What differs, with numbers."""
        before, now = self.rows or (0, 0)
        text = f"{self.name}{' (frozen)' if self.is_frozen else ''}: {before:,} rows in the set, {now:,} now: "
        if rows := self.differences:
            text += f"{rows.lost:,} only in the set, {rows.changed:,} changed, {rows.new:,} only in the database"
        else:
            text += f"they are not the same; which ones differ is not known: {self.why}"
        return text + (f"; clean-ups archived {self.cleaned:,}" if self.cleaned else "")


def judge_partitions(
    set_id: str, partitions: Sequence[PartitionFinding], overdue: Sequence[str], seconds: float, most: int
) -> Finding:  # fmt: skip
    """Return what a check says of past partitions: never that they are equal if not all of them were compared.

    Args:
        set_id: the set that they were compared with.
        partitions: what became of each.
        overdue: those that were not compared within a turn.
        seconds: how long it took.
        most: how many of those that differ are described.
    """
    differing = sorted(filter(lambda partition: partition.differs, partitions), key=lambda partition: not partition.is_grave)
    compared = sum(partition.is_compared for partition in partitions)
    said = [f"{compared:,} of {len(partitions):,} partitions whose period is over were compared with {set_id}"]
    said += [f"not compared: {reason}: {', '.join(names)}" for reason, names in _by_reason(partitions).items()]
    if overdue:
        said.append(f"not compared within {TURN.days} days, raise `comparison_seconds`: {', '.join(overdue)}")
    severity = Severity.ERROR if any(partition.is_grave for partition in differing) else Severity.WARNING
    note = "; ".join(["if that was on purpose, take a backup now", *said] if differing else said)
    if not differing and compared < len(partitions):
        return Finding(PARTITIONS, severity, Verdict.NOT_RUN, note=note, seconds=seconds)
    return judge(Check(PARTITIONS, severity, ""), len(differing), [partition.line for partition in differing[:most]], seconds, note)


def _by_reason(partitions: Sequence[PartitionFinding]) -> dict[str, list[str]]:
    reasons = dict[str, list[str]]()
    for partition in partitions:
        if not partition.is_compared:
            reasons.setdefault(partition.why, []).append(f"{partition.name} (last compared {partition.last})")
    return reasons
