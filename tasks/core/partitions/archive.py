"""Archiving partitions that have had their time: what is to become of each, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from tasks.core.partitions.timeline import Partition
from tasks.core.report import markdown


@dataclass(frozen=True)
class Archiving:
    """One partition that is older than its rule keeps it; `held` is how many of its rows keep it from being dropped.

    `backup` is the archive set that has its rows, as far as there is one.
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
        """What is to be done."""
        if self.problem:
            return f"stays: {self.problem}"
        before = "finish somebody's DETACH … CONCURRENTLY, attach it again, " if self.partition.detach_pending else ""
        copied = f"archived already as {self.backup}" if self.backup else "archive"
        if self.held:
            return f"{before}{copied}; not drop: of {self.held:,} rows {self.hold} is true"
        return f"{before}{copied}, restore it for comparison, drop"

    @property
    def outcome(self) -> str:
        """What was done."""
        if self.problem:
            return f"stays: {self.problem}"
        said = "".join(f"; {note}" for note in self.notes)
        if self.dropped:
            return f"archived as {self.backup}, restored and compared, dropped{said}"
        stays = f"of {self.held:,} rows {self.hold} is true" if self.held else "its rows no longer hold it"
        return f"archived as {self.backup}, restored and compared; stays: {stays}{said}"


def plan_verdict(found: Sequence[Archiving]) -> str:
    """Return in one line what would be done."""
    leaving = [one.partition.name for one in found if not (one.held or one.problem)]
    staying = [one.partition.name for one in found if one.held and not one.problem]
    said = [f"{', '.join(leaving)} would be archived and dropped"] if leaving else []
    said += [f"{', '.join(staying)} would be archived and stay"] if staying else []
    said += [f"{one.partition.qualified} stays: {one.problem}" for one in found if one.problem]
    return f"PLANNED, nothing touched: {'; '.join(said) or 'no partition has had its time'}"


def verdict(found: Sequence[Archiving]) -> str:
    """Return in one line what was done."""
    gone = [one.partition.name for one in found if one.dropped]
    held = [one.partition.name for one in found if not one.dropped and not one.problem]
    said = [f"{', '.join(gone)} archived and dropped"] if gone else []
    said += [f"{', '.join(held)} archived, held by rows"] if held else []
    problems = [f"{one.partition.qualified} stays: {one.problem}" for one in found if one.problem]
    if problems:
        return f"FAIL: {'; '.join([*said, *problems])}"
    return f"ARCHIVED: {'; '.join(said)}" if said else "ARCHIVED: nothing, no partition has had its time"


def archive_report(said: str, found: Sequence[Archiving], zone: ZoneInfo, commands: Sequence[str], *, planned: bool) -> str:
    """Return the report of a plan, or of what was done."""
    rows = [
        (
            f"`{one.partition.qualified}`", f"{one.partition.upper.astimezone(zone):%Y-%m-%d}" if one.partition.upper else "",
            f"{one.rows:,}", f"{one.held:,}", markdown.size(one.partition.bytes), one.plan if planned else one.outcome,
        )
        for one in found
    ]  # fmt: skip
    parts = [markdown.headline(said)]
    if rows:
        heads = ["partition", "ended", "rows", "held", "size", "what is to be done" if planned else "what was done"]
        parts += [markdown.table(heads, rows, right=(2, 3, 4)), ""]
    if commands:
        title = "To do it" if planned else "To bring one back"
        parts += [f"## {title}\n", "```sh", *commands, "```", ""]
    return "\n".join(parts)


def archiving_rows(found: Sequence[Archiving], *, planned: bool) -> list[dict[str, object]]:
    """Return one row a partition, for the table artifact."""
    return [
        {
            "partition": one.partition.qualified, "rows": one.rows, "held rows": one.held, "bytes": one.partition.bytes,
            "set": one.backup or "", "fate": one.plan if planned else one.outcome,
        }
        for one in found
    ]  # fmt: skip
