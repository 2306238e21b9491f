"""What became of the backups of some days: sets, the recovery point over time, drills, integrity checks."""

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
    """One day of the context's zone: what was taken, and the gap in which most would have been lost, as far as it had come."""

    start: datetime
    sets: Sequence[SetFacts]
    worst: Gap | None

    @property
    def bytes(self) -> int:
        """What was stored."""
        return sum(one.bytes for one in self.sets)


@dataclass(frozen=True)
class Overview:
    """All that is known of the days up to an instant; sets and records also from before, if something is compared with them.

    `fulls_since` and `states_since` say since when all fulls, and all restorable states, are known.
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
        """What integrity checks found otherwise than the run before, newest first."""
        return changes(self.check_records)

    def _of_these_days(self, records: Sequence[R]) -> list[R]:
        return [one for one in records if self.since <= one.instant <= self.instant]

    @property
    def listed(self) -> list[SetFacts]:
        """The sets that are in the store now."""
        return [one for one in self.sets if not one.expired]

    @cached_property
    def of_the_future(self) -> list[SetFacts]:
        """Sets whose state is newer than now: some clock is wrong."""
        return [one for one in self.sets if one.instant and one.instant > self.instant + CLOCK_TOLERANCE]

    @cached_property
    def taken(self) -> list[SetFacts]:
        """The sets of these days, newest first; then those of which nobody knows when they were taken."""
        unreadable = [one for one in self.sets if not one.instant]
        return [one for one in reversed(in_order(self.sets)) if self.is_recent(one)] + unreadable

    def is_recent(self, one: SetFacts) -> bool:
        """Say whether a set was taken in these days."""
        return one.instant is not None and self.since <= one.instant <= self.instant

    def count(self, kind: Kind) -> int:
        """Return how many sets of a kind were taken."""
        return sum(one.kind is kind for one in self.taken)

    def whole(self, kind: Kind) -> list[SetFacts]:
        """Return the sets of a kind that can be restored, or could until they expired, oldest first, also from before."""
        whole = [one for one in self.sets if one.kind is kind and not one.is_damaged]
        return [one for one in in_order(whole) if one not in self.of_the_future]

    @cached_property
    def gaps(self) -> list[Gap]:
        """How long each state was the newest that could be restored, oldest first, as far as all states are known.

        What was newer than a state of before, and expired, is not known: its gap counts from when all states are known.
        """
        states = [state for one in self.sets if (state := one.recovery_state) and state[1] <= self.instant]
        seen = [gap for gap in gaps(states, self.instant) if gap.until > max(self.since, self.states_since)]
        return [replace(gap, taken=max(gap.taken, self.states_since)) for gap in seen]

    @property
    def told_since(self) -> datetime | None:
        """Since when the recovery point can be told; it cannot before there was a first state."""
        return max(self.since, self.states_since, self.gaps[0].stored) if self.gaps else None

    @property
    def worst(self) -> Gap | None:
        """The gap in which most would have been lost."""
        return max(self.gaps, key=lambda gap: gap.age, default=None)

    @property
    def missed(self) -> list[Gap]:
        """The gaps in which more would have been lost than is promised."""
        return [gap for gap in self.gaps if gap.age > self.objectives.rpo]

    @property
    def can_be_restored(self) -> bool:
        """Whether there is anything now."""
        return any(one.recovery_state for one in self.listed)

    @property
    def gaps_between_fulls(self) -> list[Gap]:
        """How long it was from each full to the next, or up to now, as far as all fulls are known."""
        fulls = [one.instant for one in self.whole(Kind.FULL) if one.instant]
        seen = [pair for pair in pairwise([*fulls, self.instant]) if pair[1] > max(self.since, self.fulls_since)]
        return [Gap(max(first, self.fulls_since), first, then) for first, then in seen]

    @cached_property
    def by_day(self) -> list[Day]:
        """The days, newest first."""
        starts = [start_of_day(self.instant, self.zone)]
        while starts[-1] > self.since:
            starts.append(starts[-1] - timedelta(days=1))
        taken = defaultdict[date, list[SetFacts]](list)
        for one in self.taken:
            if one.instant:
                taken[one.instant.astimezone(self.zone).date()].append(one)
        spans = [(start, end) for start, end in zip(starts, [self.instant, *starts], strict=False) if end > self.since]
        return [Day(start, taken[start.date()], self._worst_between(start, end)) for start, end in spans]

    def _worst_between(self, midnight: datetime, next_midnight: datetime) -> Gap | None:
        # In UTC, in which instants are compared as they passed, also where a clock was put back.
        start, end = midnight.astimezone(UTC), next_midnight.astimezone(UTC)
        # Of thousands of gaps those of a day lie side by side.
        first = bisect_right(self.gaps, max(start, self.states_since, self.since), key=lambda gap: gap.until)
        seen = takewhile(lambda gap: gap.stored < end, self.gaps[first:])
        cut = [Gap(gap.taken, gap.stored, min(gap.until, end)) for gap in seen]
        return max(cut, key=lambda gap: gap.age, default=None)

    @property
    def looked_at(self) -> list[tuple[datetime, SetFacts]]:
        """The sets in the store that were ever decoded or drilled, with when they last were, newest first."""
        dated = [(one.verified, one) for one in self.listed if one.verified]
        return sorted(dated, key=lambda pair: pair[0], reverse=True)


def in_order(sets: Iterable[SetFacts]) -> list[SetFacts]:
    """Return the sets of which it is known when they were taken, the oldest first."""
    dated = [(one.instant, one) for one in sets if one.instant]
    return [one for _, one in sorted(dated, key=lambda pair: pair[0])]
