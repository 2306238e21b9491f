"""Archiving partitions past retention: the plan for each, and the outcome."""

from collections.abc import Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from tasks.core.partitions.timeline import Partition
from tasks.core.report import markdown


@dataclass(frozen=True)
class Archiving:
    """A partition past the retention of its rule.

    `held` is the number of rows that match the rule's `hold` condition, so that the partition is
    not dropped. `backup` is the archive set that has its rows, if there is one.
    """

    table: str
    partition: Partition
    rows: int
    held: int
    hold: str | None = None
    backup: str | None = None
    dropped: bool = False
    problem: str | None = None
    notes: Sequence[str] = ()

    @property
    def plan(self) -> str:
        """What the plan would do with this partition, in words."""
        if self.problem:
            return f"stays: {self.problem}"
        before = "finish an interrupted DETACH … CONCURRENTLY, attach it again, " if self.partition.detach_pending else ""
        copied = f"archived already as {self.backup}" if self.backup else "archive"
        if self.held:
            return f"{before}{copied}, keep it: {self.hold} is true for {self.held:,} rows"
        return f"{before}{copied}, restore it for comparison, drop"

    @property
    def outcome(self) -> str:
        """What was done with this partition, in words."""
        if self.problem:
            return f"stays: {self.problem}"
        notes = "".join(f"; {note}" for note in self.notes)
        if self.dropped:
            return f"archived as {self.backup}, restored and compared, dropped{notes}"
        reason = f"{self.hold} is true for {self.held:,} rows" if self.held else "no row holds it any more"
        return f"archived as {self.backup}, restored and compared; stays: {reason}{notes}"


def plan_verdict(archivings: Sequence[Archiving]) -> str:
    """Return in one line which partitions would be archived."""
    leaving = [archiving.partition.name for archiving in archivings if not (archiving.held or archiving.problem)]
    staying = [archiving.partition.name for archiving in archivings if archiving.held and not archiving.problem]
    parts = [f"{', '.join(leaving)} would be archived and dropped"] if leaving else []
    parts += [f"{', '.join(staying)} would be archived and kept"] if staying else []
    parts += [f"{archiving.partition.qualified} stays: {archiving.problem}" for archiving in archivings if archiving.problem]
    return f"PLANNED, nothing touched: {'; '.join(parts) or 'no partition is past retention'}"


def verdict(archivings: Sequence[Archiving]) -> str:
    """Return in one line which partitions were archived."""
    dropped = [archiving.partition.name for archiving in archivings if archiving.dropped]
    held = [archiving.partition.name for archiving in archivings if not archiving.dropped and not archiving.problem]
    parts = [f"{', '.join(dropped)} archived and dropped"] if dropped else []
    parts += [f"{', '.join(held)} archived, kept because of rows that hold it"] if held else []
    problems = [f"{archiving.partition.qualified} stays: {archiving.problem}" for archiving in archivings if archiving.problem]
    if problems:
        return f"FAIL: {'; '.join([*parts, *problems])}"
    return f"ARCHIVED: {'; '.join(parts)}" if parts else "ARCHIVED: nothing, no partition is past retention"


def archive_report(verdict: str, archivings: Sequence[Archiving], zone: ZoneInfo, commands: Sequence[str], *, planned: bool) -> str:
    """Return the report of a plan or of its outcome."""
    rows = [
        (
            f"`{archiving.partition.qualified}`",
            f"{archiving.partition.upper.astimezone(zone):%Y-%m-%d}" if archiving.partition.upper else "",
            f"{archiving.rows:,}",
            f"{archiving.held:,}",
            markdown.size(archiving.partition.bytes),
            archiving.plan if planned else archiving.outcome,
        )
        for archiving in archivings
    ]
    parts = [markdown.headline(verdict)]
    if rows:
        heads = ["partition", "ended", "rows", "held", "size", "to do" if planned else "done"]
        parts += [markdown.table(heads, rows, right=(2, 3, 4)), ""]
    if commands:
        title = "To do it" if planned else "To restore a partition"
        parts += [f"## {title}\n", "```sh", *commands, "```", ""]
    return "\n".join(parts)


def archiving_rows(archivings: Sequence[Archiving], *, planned: bool) -> list[dict[str, object]]:
    """Return one row per partition, for the table artifact."""
    return [
        {
            "partition": archiving.partition.qualified,
            "rows": archiving.rows,
            "held rows": archiving.held,
            "bytes": archiving.partition.bytes,
            "set": archiving.backup or "",
            "fate": archiving.plan if planned else archiving.outcome,
        }
        for archiving in archivings
    ]
