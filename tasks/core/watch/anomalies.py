"""What a person should look at in the backups of some days, in words; the watch and the checks have alarms of their own."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median

from tasks.core.backup.report import ACCEPT
from tasks.core.checks.definition import is_failure
from tasks.core.report.markdown import age, clock, duration, local_time, several, size
from tasks.core.sets.facts import SetFacts
from tasks.core.sets.name import Kind
from tasks.core.watch.history import Overview
from tasks.core.watch.recovery_point import LEAST_DURATION, Gap

# A day, and what a run may begin or end later than the one before.
FULL_EVERY = timedelta(hours=26)
# A month, a week: what is scheduled so often, and may begin or end later.
DRILL_EVERY, LOOK_EVERY = timedelta(days=35), timedelta(days=8)
# What is unusual is measured by the median of so many sets before; of fewer than the least nobody knows what is usual.
COMPARED, LEAST_COMPARED = 14, 3
MUCH_LARGER, MUCH_SLOWER = 1.5, 3.0
SHOWN = 5


@dataclass(frozen=True)
class Anomaly:
    """One thing to look at, and the cases of it."""

    said: str
    cases: Sequence[str] = field(default_factory=tuple)

    @property
    def line(self) -> str:
        """The item of a list, with the first cases below it."""
        more = [f"… and {len(self.cases) - SHOWN} more"] if len(self.cases) > SHOWN else []
        return "".join([self.said, *(f"\n    - {case}" for case in [*self.cases[:SHOWN], *more])])


def anomalies(seen: Overview) -> list[Anomaly]:
    """Return what to look at, the worst first."""
    return [*_states(seen), *_sets(seen), *_unusual(seen), *_drills(seen), *_looks(seen), *_checks(seen), *_place(seen)]


def _states(seen: Overview) -> Iterator[Anomaly]:
    rpo = clock(seen.objectives.rpo.total_seconds())
    if not seen.can_be_restored:
        yield Anomaly("nothing in the store can be restored: take a full now, `daily_backup`")
    if seen.missed:
        yield Anomaly(f"more than {rpo} would have been lost (RPO): {several(len(seen.missed), 'time')}", _gaps(seen, seen.missed))
    if late := [gap for gap in seen.gaps_between_fulls if gap.age > FULL_EVERY]:
        yield Anomaly(f"no full for more than {clock(FULL_EVERY.total_seconds())}: {several(len(late), 'time')}", _gaps(seen, late))


def _gaps(seen: Overview, gaps: Iterable[Gap]) -> list[str]:
    longest_first = sorted(gaps, key=lambda gap: gap.age, reverse=True)
    return [
        f"{clock(gap.age.total_seconds())} from {local_time(gap.taken, seen.zone)} to {local_time(gap.until, seen.zone)}"
        for gap in longest_first
    ]


def _sets(seen: Overview) -> Iterator[Anomaly]:
    # A full first: what builds on it is damaged because it is.
    if damaged := sorted((one for one in seen.listed if one.is_damaged), key=lambda one: one.kind is not Kind.FULL):
        yield Anomaly(f"damaged: {several(len(damaged), 'set')}", [one.note for one in damaged])
    if suspect := [one for one in seen.listed if one.state == "suspect" and seen.is_recent(one)]:
        yield Anomaly(f"suspect: {several(len(suspect), 'set')}; {ACCEPT}", [f"`{one.id}`: {one.note}" for one in suspect])
    if aside := [one for one in seen.listed if one.state == "set aside" and seen.is_recent(one)]:
        yield Anomaly(f"of another history: {several(len(aside), 'set')}", [f"`{one.id}`: {one.note}" for one in aside])
    if ahead := seen.of_the_future:
        said = f"of the future: {several(len(ahead), 'set')}; set the clocks of this machine and of the database's server"
        yield Anomaly(said, [f"`{one.id}`" for one in ahead])


def _unusual(seen: Overview) -> Iterator[Anomaly]:
    fulls = seen.whole(Kind.FULL)
    sizes = unlike_before([one.bytes for one in fulls], MUCH_LARGER, 1 / MUCH_LARGER)
    if cases := [
        f"`{fulls[number].id}`: {size(fulls[number].bytes)}, the median before was {size(round(usual))}"
        for number, usual in sizes.items()
        if seen.is_recent(fulls[number])
    ]:
        yield Anomaly("fulls are much larger or smaller than those before", cases[::-1])
    if slow := [case for kind in (Kind.FULL, Kind.DIFFERENTIAL) for case in _slow(seen, seen.whole(kind))]:
        yield Anomaly(f"backups took more than {MUCH_SLOWER:.0f} times as long as those before", slow)


def _slow(seen: Overview, sets: Sequence[SetFacts]) -> list[str]:
    took = [one.took.total_seconds() if one.took else 0.0 for one in sets]
    return [
        f"`{sets[number].id}`: {duration(took[number])}, the median before was {duration(usual)}"
        for number, usual in unlike_before(took, MUCH_SLOWER).items()
        if took[number] - usual > LEAST_DURATION.total_seconds() and seen.is_recent(sets[number])
    ][::-1]


def unlike_before(values: Sequence[float], above: float, below: float = 0.0) -> dict[int, float]:
    """Return which values are above or below those multiples of the median of the values before them, with that median."""
    usual = {
        number: median(values[max(0, number - COMPARED) : number]) for number in range(LEAST_COMPARED, len(values))
    }  # fmt: skip
    return {number: one for number, one in usual.items() if not below * one <= values[number] <= above * one}


def _drills(seen: Overview) -> Iterator[Anomaly]:
    last = next(iter(seen.drill_records), None)
    if last is None or seen.instant - last.instant > DRILL_EVERY:
        when = f"the last was at {local_time(last.instant, seen.zone)}" if last else "there is no record of any"
        yield Anomaly(f"no drill in the last {DRILL_EVERY.days} days, {when}: `recovery_drill`")
    if last and (not last.passed or timedelta(seconds=last.rto_seconds) > seen.objectives.rto):
        yield Anomaly(f"the last drill did not pass, or would not by what is promised now: {last.verdict}")


def _looks(seen: Overview) -> Iterator[Anomaly]:
    last = seen.looked_at[0][0] if seen.looked_at else None
    if last is None or seen.instant - last > LOOK_EVERY:
        when = f"for {age((seen.instant - last).total_seconds())}" if last else "of all that is in the store"
        yield Anomaly(f"nothing was decoded {when}: `verify_backups`")


def _checks(seen: Overview) -> Iterator[Anomaly]:
    if not seen.checks:
        yield Anomaly("no integrity check of these days is recorded: `integrity_check`")
        return
    last = seen.checks[0]
    if failing := [f"{one.check}: {one.said}" for one in last.results if is_failure(one.severity, one.verdict)]:
        when = local_time(last.instant, seen.zone)
        yield Anomaly(f"failing as of {when}: {several(len(failing), 'integrity check')}", failing)


def _place(seen: Overview) -> Iterator[Anomaly]:
    if not seen.off_host:
        yield Anomaly("the store is not off-host: if this machine is lost, so are the backups")
