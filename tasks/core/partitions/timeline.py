"""The partitions of a table that is partitioned by time: what bounds say, what is to be made, and what has had its time."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

from tasks.core.calendar import before, name_of_period, next_start, start_of, starts_between
from tasks.core.context_keys import PartitionRule
from tasks.core.report import markdown

BOUND = re.compile(r"FOR VALUES FROM \((?P<lower>MINVALUE|'[^']+')\) TO \((?P<upper>MAXVALUE|'[^']+')\)")
NEVER_BEFORE, NEVER_AFTER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
ENDLESS = frozenset({"MINVALUE", "MAXVALUE", "infinity", "-infinity"})


@dataclass(frozen=True)
class Partition:
    """A partition as the catalogue has it; `lower` and `upper` are None where it has no end, or is the DEFAULT one.

    `rows` is PostgreSQL's estimate, None before the first ANALYZE; `strange` is why the bound cannot be compared with a period.
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
        """Say whether some instant of a period belongs to it."""
        return self.is_range and (self.lower is None or self.lower < upper) and (self.upper is None or lower < self.upper)

    @property
    def is_range(self) -> bool:
        """Whether it takes the rows of a span of time."""
        return not (self.is_default or self.detach_pending or self.strange)


def parse_bound(text: str, zone: tzinfo) -> tuple[datetime | None, datetime | None]:
    """Return the ends of a range as the catalogue spells them; what has no offset means a zone.

    Raises:
        ValueError: it is no range of one column of dates or timestamps.
    """
    found = BOUND.fullmatch(text)
    if not found:
        raise ValueError(f"{text} is no range of one column of dates or timestamps")
    return _end(found["lower"], zone), _end(found["upper"], zone)


def _end(text: str, zone: tzinfo) -> datetime | None:
    plain = text.strip("'")
    if plain in ENDLESS:
        return None
    instant = datetime.fromisoformat(plain)
    return instant.astimezone(zone) if instant.tzinfo else instant.replace(tzinfo=zone)


def spell_end(instant: datetime, kind: str, zone: tzinfo) -> str:
    """Return an end of a range as a value of the type of the partition column."""
    local = instant.astimezone(zone)
    if kind == "date":
        return local.date().isoformat()
    return (local if kind == "timestamp with time zone" else local.replace(tzinfo=None)).isoformat(" ")


@dataclass(frozen=True)
class Wanted:
    """A partition that is to be made."""

    name: str
    lower: datetime
    upper: datetime


def wanted(rule: PartitionRule, there: Sequence[Partition], now: datetime, zone: tzinfo, ahead: int) -> list[Wanted]:
    """Return the periods that need a partition of their own and have none: the current one, some to come, and any missed.

    A period is missed where it lies between the oldest partition and now, and is not so old that it would be archived.
    """
    current = start_of(rule.period, now, zone)
    last = next_start(rule.period, current, ahead)
    lowest = min((one.lower for one in there if one.lower), default=current)
    first = current
    while (previous := next_start(rule.period, first, -1)) >= lowest and first > before(now, rule.keep, zone):
        first = previous
    periods = ((start, next_start(rule.period, start)) for start in starts_between(rule.period, first, last))
    spans = _spans(there)
    missing = ((lower, upper) for lower, upper in periods if not any(start <= lower and upper <= end for start, end in spans))
    return [Wanted(name_of_period(rule.name, lower), lower, upper) for lower, upper in missing]


def _spans(there: Sequence[Partition]) -> list[tuple[datetime, datetime]]:
    """Return the spans of time of which every instant belongs to some partition: one, or several that follow each other."""
    spans = list[tuple[datetime, datetime]]()
    for start, end in sorted((one.lower or NEVER_BEFORE, one.upper or NEVER_AFTER) for one in there if one.is_range):
        if spans and start <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(spans[-1][1], end)
        else:
            spans.append((start, end))
    return spans


def has_had_its_time(rule: PartitionRule, partition: Partition, now: datetime, zone: tzinfo) -> bool:
    """Say whether a partition is older than its rule keeps it: by its upper bound."""
    return partition.upper is not None and not partition.strange and partition.upper <= before(now, rule.keep, zone)


def due(rule: PartitionRule, there: Iterable[Partition], now: datetime, zone: tzinfo) -> list[Partition]:
    """Return the partitions that have had their time, oldest first."""
    found = [one for one in there if has_had_its_time(rule, one, now, zone)]
    return sorted(found, key=lambda one: (one.upper, one.name))


@dataclass
class Timeline:
    """The partitions of one table, what was made, and what could not be."""

    table: str
    rule: PartitionRule
    partitions: list[Partition] = field(default_factory=list)
    made: list[Wanted] = field(default_factory=list)
    moved: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def timeline_verdict(timelines: Sequence[Timeline]) -> str:
    """Return in one line whether every partition is there that is needed."""
    made = [one.name for timeline in timelines for one in timeline.made]
    problems = [problem for timeline in timelines for problem in timeline.problems]
    said = f"made {', '.join(made)}" if made else "nothing was made" if problems else "nothing was missing"
    return f"FAIL: {said}; {'; '.join(problems)}" if problems else f"PASS: {said}"


def timeline_rows(timelines: Iterable[Timeline], now: datetime, zone: tzinfo) -> list[dict[str, object]]:
    """Return one row a partition, oldest first: bounds, rows, bytes, fate."""
    return [
        {
            "table": timeline.table, "partition": one.qualified, "from": _day(one.lower, zone), "to": _day(one.upper, zone),
            "rows (about)": "unknown" if one.rows is None else one.rows, "bytes": one.bytes,
            "fate": _fate(timeline, one, now, zone),
        }
        for timeline in timelines
        for one in sorted(timeline.partitions, key=lambda one: (one.is_default, str(one.lower or ""), one.name))
    ]  # fmt: skip


def _day(instant: datetime | None, zone: tzinfo) -> str:
    return f"{instant.astimezone(zone):%Y-%m-%d}" if instant else ""


def _fate(timeline: Timeline, one: Partition, now: datetime, zone: tzinfo) -> str:
    if one.strange:
        return f"never archived: {one.strange}"
    if one.is_default:
        return "takes what no other partition takes"
    if one.detach_pending:
        return "somebody's DETACH … CONCURRENTLY is not finished: its rows cannot be seen"
    if has_had_its_time(timeline.rule, one, now, zone):
        return f"older than {timeline.rule.keep}: archive_partitions takes it"
    made = "made now; " if one.name in {wanted.name for wanted in timeline.made} else ""
    return f"{made}kept for {timeline.rule.keep} after {_day(one.upper, zone)}" if one.upper else f"{made}kept for ever"


def timeline_report(timelines: Sequence[Timeline], now: datetime, zone: tzinfo) -> str:
    """Return the report of the partitions of a context."""
    rows = timeline_rows(timelines, now, zone)
    made = [
        f"`{one.name}`, {_day(one.lower, zone)} to {_day(one.upper, zone)}"
        + (f"; {moved:,} rows moved there from the DEFAULT partition" if (moved := timeline.moved.get(one.name)) else "")
        for timeline in timelines for one in timeline.made
    ]  # fmt: skip
    problems = [problem for timeline in timelines for problem in timeline.problems]
    table = [
        (f"`{row['partition']}`", row["from"], row["to"], row["rows (about)"], markdown.size(int(str(row["bytes"]))), row["fate"])
        for row in rows
    ]
    return "\n".join([
        markdown.headline(timeline_verdict(timelines)), markdown.section("What a human has to do", problems),
        markdown.section("Made", made, "Nothing: every period had its partition.\n"),
        "## Partitions\n", markdown.table(["partition", "from", "to", "rows, about", "size", "fate"], table, right=(3, 4)), "",
    ])  # fmt: skip
