"""The partitions of a table by time: their bounds, those to create, and those past retention."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

from tasks.core import sql
from tasks.core.calendar import before, name_of_period, next_start, start_of, starts_between
from tasks.core.context_keys import PartitionRule
from tasks.core.report import markdown
from tasks.core.restore.obstacle import Obstacle

BOUND = re.compile(r"FOR VALUES FROM \((?P<lower>MINVALUE|'[^']+')\) TO \((?P<upper>MAXVALUE|'[^']+')\)")
NEVER_BEFORE, NEVER_AFTER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
ENDLESS = frozenset({"MINVALUE", "MAXVALUE", "infinity", "-infinity"})
UNFINISHED = "has an unfinished DETACH … CONCURRENTLY, so that its table does not show its rows"


@dataclass(frozen=True)
class Partition:
    """A partition from the catalog.

    `lower` and `upper` are None where its range has no end, and for the DEFAULT partition. `rows`
    is PostgreSQL's estimate, None before the first ANALYZE. `strange` is the reason if its bound
    cannot be compared with a period.
    """

    oid: int
    schema: str
    name: str
    bound: str
    bytes: int
    rows: int | None = None
    lower: datetime | None = None
    upper: datetime | None = None
    is_default: bool = False
    detach_pending: bool = False
    is_divided: bool = False
    strange: str | None = None

    @property
    def qualified(self) -> str:
        """schema.name, for people."""
        return f"{self.schema}.{self.name}"

    def overlaps(self, lower: datetime, upper: datetime) -> bool:
        """Return whether a period overlaps the range of the partition."""
        return self.is_range and (self.lower is None or self.lower < upper) and (self.upper is None or lower < self.upper)

    @property
    def is_range(self) -> bool:
        """Whether the partition has the rows of a time range."""
        return not (self.is_default or self.detach_pending or self.strange)


def unfinished_detach(parent: tuple[str, str], partition: tuple[str, str]) -> Obstacle:
    """Return that a DETACH … CONCURRENTLY of a partition was interrupted, and how to finish it."""
    statement = sql.partitions.detach(parent, partition, finalize=True).as_string()
    return Obstacle(".".join(partition), UNFINISHED, f"finish it: {statement}")


def parse_bound(text: str, zone: tzinfo) -> tuple[datetime | None, datetime | None]:
    """Return the ends of a range, given as the catalog spells it.

    Timestamps without offset are taken to be in the zone.

    Raises:
        ValueError: the bound is not a range of one date or timestamp column.
    """
    match = BOUND.fullmatch(text)
    if not match:
        raise ValueError(f"{text} is not a range of one date or timestamp column")
    return _end(match["lower"], zone), _end(match["upper"], zone)


def _end(text: str, zone: tzinfo) -> datetime | None:
    plain = text.strip("'")
    if plain in ENDLESS:
        return None
    instant = datetime.fromisoformat(plain)
    return instant.astimezone(zone) if instant.tzinfo else instant.replace(tzinfo=zone)


def spell_end(instant: datetime, kind: str, zone: tzinfo) -> str:
    """Return an end of a range as a value of the partition column's type."""
    local = instant.astimezone(zone)
    if kind == "date":
        return local.date().isoformat()
    return (local if kind == "timestamp with time zone" else local.replace(tzinfo=None)).isoformat(" ")


@dataclass(frozen=True)
class NewPartition:
    """A partition to create."""

    name: str
    lower: datetime
    upper: datetime


def missing_partitions(
    rule: PartitionRule, existing: Sequence[Partition], now: datetime, zone: tzinfo, ahead: int
) -> list[NewPartition]:
    """Return the periods without a partition: the current one, `ahead` to come, and missed ones.

    A missed period lies between the oldest partition and now, and is not past retention.
    """
    current = start_of(rule.period, now, zone)
    last = next_start(rule.period, current, ahead)
    lowest = min((partition.lower for partition in existing if partition.lower), default=current)
    first = current
    while (previous := next_start(rule.period, first, -1)) >= lowest and first > before(now, rule.keep, zone):
        first = previous
    periods = ((start, next_start(rule.period, start)) for start in starts_between(rule.period, first, last))
    spans = _spans(existing)
    missing = ((lower, upper) for lower, upper in periods if not any(start <= lower and upper <= end for start, end in spans))
    return [NewPartition(name_of_period(rule.name, lower), lower, upper) for lower, upper in missing]


def _spans(existing: Sequence[Partition]) -> list[tuple[datetime, datetime]]:
    """Return the time ranges that partitions cover without a gap."""
    spans = list[tuple[datetime, datetime]]()
    for start, end in sorted(
        (partition.lower or NEVER_BEFORE, partition.upper or NEVER_AFTER) for partition in existing if partition.is_range
    ):
        if spans and start <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(spans[-1][1], end)
        else:
            spans.append((start, end))
    return spans


def is_over(partition: Partition, now: datetime) -> bool:
    """Return whether the period of a partition is over."""
    return partition.upper is not None and not partition.strange and partition.upper <= now


def is_past_retention(rule: PartitionRule, partition: Partition, now: datetime, zone: tzinfo) -> bool:
    """Return whether a partition is past retention, by its upper bound."""
    return is_over(partition, before(now, rule.keep, zone))


def is_frozen(rule: PartitionRule, partition: Partition, now: datetime, zone: tzinfo) -> bool:
    """Return whether rows of a partition must not change any more, by the rule's `frozen_after`."""
    return rule.frozen_after is not None and is_over(partition, before(now, rule.frozen_after, zone))


def due_partitions(rule: PartitionRule, existing: Iterable[Partition], now: datetime, zone: tzinfo) -> list[Partition]:
    """Return the partitions past retention, oldest first."""
    expired = [partition for partition in existing if is_past_retention(rule, partition, now, zone)]
    return sorted(expired, key=lambda partition: (partition.upper, partition.name))


@dataclass
class Timeline:
    """The partitions of one table, the partitions that this run created, and the problems."""

    table: str
    rule: PartitionRule
    partitions: list[Partition] = field(default_factory=list)
    made: list[NewPartition] = field(default_factory=list)
    moved: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def timeline_verdict(timelines: Sequence[Timeline]) -> str:
    """Return in one line whether every needed partition exists."""
    made = [partition.name for timeline in timelines for partition in timeline.made]
    problems = [problem for timeline in timelines for problem in timeline.problems]
    summary = f"created {', '.join(made)}" if made else "nothing was created" if problems else "nothing was missing"
    return f"FAIL: {summary}; {'; '.join(problems)}" if problems else f"PASS: {summary}"


def timeline_rows(timelines: Iterable[Timeline], now: datetime, zone: tzinfo) -> list[dict[str, object]]:
    """Return one row per partition, oldest first: bounds, rows, bytes, and what becomes of it."""
    return [
        {
            "table": timeline.table,
            "partition": partition.qualified,
            "from": _day(partition.lower, zone),
            "to": _day(partition.upper, zone),
            "rows (about)": "unknown" if partition.rows is None else partition.rows,
            "bytes": partition.bytes,
            "fate": _fate(timeline, partition, now, zone),
        }
        for timeline in timelines
        for partition in sorted(
            timeline.partitions, key=lambda partition: (partition.is_default, str(partition.lower or ""), partition.name)
        )
    ]


def _day(instant: datetime | None, zone: tzinfo) -> str:
    return f"{instant.astimezone(zone):%Y-%m-%d}" if instant else ""


def _fate(timeline: Timeline, partition: Partition, now: datetime, zone: tzinfo) -> str:
    if partition.strange:
        return f"never archived: {partition.strange}"
    if partition.is_default:
        return "the DEFAULT partition: has the rows that fit no other partition"
    if partition.detach_pending:
        return UNFINISHED
    if is_past_retention(timeline.rule, partition, now, zone):
        return f"older than {timeline.rule.keep}: to be archived by archive_partitions"
    made = "created now; " if partition.name in {new.name for new in timeline.made} else ""
    return f"{made}kept for {timeline.rule.keep} after {_day(partition.upper, zone)}" if partition.upper else f"{made}kept for ever"


def timeline_report(timelines: Sequence[Timeline], now: datetime, zone: tzinfo) -> str:
    """Return the report of the partitions of a context."""
    rows = timeline_rows(timelines, now, zone)
    made = [
        f"`{partition.name}`, {_day(partition.lower, zone)} to {_day(partition.upper, zone)}"
        + (f"; {moved:,} rows moved there from the DEFAULT partition" if (moved := timeline.moved.get(partition.name)) else "")
        for timeline in timelines for partition in timeline.made
    ]  # fmt: skip
    problems = [problem for timeline in timelines for problem in timeline.problems]
    table = [
        (f"`{row['partition']}`", row["from"], row["to"], row["rows (about)"], markdown.size(int(str(row["bytes"]))), row["fate"])
        for row in rows
    ]
    return "\n".join([
        markdown.headline(timeline_verdict(timelines)), markdown.section("Still to do", problems),
        markdown.section("Created", made, "Nothing: every period had its partition.\n"),
        "## Partitions\n", markdown.table(["partition", "from", "to", "rows, about", "size", "fate"], table, right=(3, 4)), "",
    ])  # fmt: skip
