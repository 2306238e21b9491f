"""The backups of the last days: sets, the recovery point over time, drills, integrity checks."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from itertools import pairwise, takewhile
from zoneinfo import ZoneInfo

from tasks.core.calendar import start_of_day
from tasks.core.checks.record import Change, CheckRecord, changes
from tasks.core.context_keys import Objectives
from tasks.core.restore.drill import DrillRecord
from tasks.core.run.clock import CLOCK_TOLERANCE
from tasks.core.sets.facts import SetFacts
from tasks.core.sets.name import Kind
from tasks.core.sets.records import R
from tasks.core.watch.recovery_point import Gap, gaps


@dataclass(frozen=True)
class Day:
    """A day in the context's zone: the sets taken, and the gap in which a disaster costs most."""

    start: datetime
    sets: Sequence[SetFacts]
    worst: Gap | None

    @property
    def bytes(self) -> int:
        """Stored bytes."""
        return sum(facts.bytes for facts in self.sets)


@dataclass(frozen=True)
class Overview:
    """The backups of the days up to an instant, with earlier sets and records for comparison.

    All full backups are known from `fulls_since` on, all restorable states from `states_since` on.
    """

    context: str
    url: str
    off_host: bool
    zone: ZoneInfo
    objectives: Objectives
    instant: datetime
    since: datetime
    days: int
    fulls_since: datetime
    states_since: datetime
    sets: Sequence[SetFacts]
    legacy: int = 0
    drill_records: Sequence[DrillRecord] = field(default_factory=tuple)
    check_records: Sequence[CheckRecord] = field(default_factory=tuple)

    @property
    def drills(self) -> list[DrillRecord]:
        """The drills of these days, newest first."""
        return self._of_these_days(self.drill_records)

    @property
    def checks(self) -> list[CheckRecord]:
        """The integrity checks of these days, newest first."""
        return self._of_these_days(self.check_records)

    @property
    def changed_checks(self) -> list[Change]:
        """The changed results of integrity checks, newest first."""
        return changes(self.check_records)

    def _of_these_days(self, records: Sequence[R]) -> list[R]:
        return [record for record in records if self.since <= record.instant <= self.instant]

    @property
    def listed(self) -> list[SetFacts]:
        """The sets that are in the store now."""
        return [facts for facts in self.sets if not facts.expired]

    @cached_property
    def of_the_future(self) -> list[SetFacts]:
        """Sets dated in the future: a clock is wrong."""
        return [facts for facts in self.sets if facts.instant and facts.instant > self.instant + CLOCK_TOLERANCE]

    @cached_property
    def taken(self) -> list[SetFacts]:
        """The sets of these days, newest first; then the sets whose date is not known."""
        unreadable = [facts for facts in self.sets if not facts.instant]
        return [facts for facts in reversed(in_order(self.sets)) if self.is_recent(facts)] + unreadable

    def is_recent(self, facts: SetFacts) -> bool:
        """Return whether a set was taken in these days."""
        return facts.instant is not None and self.since <= facts.instant <= self.instant

    def count(self, kind: Kind) -> int:
        """Return how many sets of a kind were taken."""
        return sum(facts.kind is kind for facts in self.taken)

    def restorable_sets(self, kind: Kind) -> list[SetFacts]:
        """Return a kind's sets that are restorable, or were until they expired, oldest first."""
        restorable = [facts for facts in self.sets if facts.kind is kind and not facts.is_damaged]
        return [facts for facts in in_order(restorable) if facts not in self.of_the_future]

    @cached_property
    def gaps(self) -> list[Gap]:
        """The gaps between restorable states, oldest first, from the time from which all are known.

        A gap that began before that time counts from that time, because states that expired earlier
        are not known.
        """
        states = [state for facts in self.sets if (state := facts.recovery_state) and state[1] <= self.instant]
        recent_gaps = [gap for gap in gaps(states, self.instant) if gap.until > max(self.since, self.states_since)]
        return [replace(gap, taken=max(gap.taken, self.states_since)) for gap in recent_gaps]

    @property
    def known_since(self) -> datetime | None:
        """The time since when the recovery point is known: not before the first state."""
        return max(self.since, self.states_since, self.gaps[0].stored) if self.gaps else None

    @property
    def worst(self) -> Gap | None:
        """The gap in which a disaster would have lost most."""
        return max(self.gaps, key=lambda gap: gap.age, default=None)

    @property
    def missed(self) -> list[Gap]:
        """The gaps that exceed the recovery point objective."""
        return [gap for gap in self.gaps if gap.age > self.objectives.rpo]

    @property
    def can_be_restored(self) -> bool:
        """Whether any set in the store can be restored now."""
        return any(facts.recovery_state for facts in self.listed)

    @property
    def gaps_between_fulls(self) -> list[Gap]:
        """Times from each full backup to the next, or until now, since all of them are known."""
        fulls = [facts.instant for facts in self.restorable_sets(Kind.FULL) if facts.instant]
        pairs = [pair for pair in pairwise([*fulls, self.instant]) if pair[1] > max(self.since, self.fulls_since)]
        return [Gap(max(first, self.fulls_since), first, next_instant) for first, next_instant in pairs]

    @cached_property
    def by_day(self) -> list[Day]:
        """The days, newest first."""
        starts = [start_of_day(self.instant, self.zone)]
        while starts[-1] > self.since:
            starts.append(starts[-1] - timedelta(days=1))
        taken = defaultdict[date, list[SetFacts]](list)
        for facts in self.taken:
            if facts.instant:
                taken[facts.instant.astimezone(self.zone).date()].append(facts)
        spans = [(start, end) for start, end in zip(starts, [self.instant, *starts], strict=False) if end > self.since]
        return [Day(start, taken[start.date()], self._worst_between(start, end)) for start, end in spans]

    def _worst_between(self, midnight: datetime, next_midnight: datetime) -> Gap | None:
        # In UTC, so that instants compare correctly when a zone's clock is put back.
        start, end = midnight.astimezone(UTC), next_midnight.astimezone(UTC)
        # Gaps are in order of time: those of one day follow each other.
        first = bisect_right(self.gaps, max(start, self.states_since, self.since), key=lambda gap: gap.until)
        overlapping = takewhile(lambda gap: gap.stored < end, self.gaps[first:])
        cut = [Gap(gap.taken, gap.stored, min(gap.until, end)) for gap in overlapping]
        return max(cut, key=lambda gap: gap.age, default=None)

    @property
    def verified_sets(self) -> list[tuple[datetime, SetFacts]]:
        """Sets in the store that were decoded or drilled, newest first, each with the last time."""
        dated = [(facts.verified, facts) for facts in self.listed if facts.verified]
        return sorted(dated, key=lambda pair: pair[0], reverse=True)


def in_order(sets: Iterable[SetFacts]) -> list[SetFacts]:
    """Return the sets whose date is known, the oldest first."""
    dated = [(facts.instant, facts) for facts in sets if facts.instant]
    return [facts for _, facts in sorted(dated, key=lambda pair: pair[0])]
