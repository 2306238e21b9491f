"""Anomalies: what needs attention in the backups of the last days.

The watch and the checks have alarms of their own.
"""

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

# A day, and by how much a run may begin or end later than the previous one.
FULL_EVERY = timedelta(hours=26)
# Scheduled monthly and weekly, with some tolerance.
DRILL_EVERY, DECODE_EVERY = timedelta(days=35), timedelta(days=8)
# A value is compared with the median of up to COMPARED sets before it; with fewer than
# LEAST_COMPARED sets before it, no value counts as unusual.
COMPARED, LEAST_COMPARED = 14, 3
MUCH_LARGER, MUCH_SLOWER = 1.5, 3.0
SHOWN = 5


@dataclass(frozen=True)
class Anomaly:
    """A kind of anomaly, and its cases."""

    text: str
    cases: Sequence[str] = field(default_factory=tuple)

    @property
    def line(self) -> str:
        """The anomaly as a list item, with its first cases below."""
        and_more = [f"… and {len(self.cases) - SHOWN} more"] if len(self.cases) > SHOWN else []
        return "".join([self.text, *(f"\n    - {case}" for case in [*self.cases[:SHOWN], *and_more])])


def anomalies(overview: Overview) -> list[Anomaly]:
    """Return the anomalies, the worst first."""
    return [
        *_states(overview),
        *_sets(overview),
        *_unusual(overview),
        *_drills(overview),
        *_decodings(overview),
        *_checks(overview),
        *_place(overview),
    ]


def _states(overview: Overview) -> Iterator[Anomaly]:
    rpo = clock(overview.objectives.rpo.total_seconds())
    if not overview.can_be_restored:
        yield Anomaly("no set in the store can be restored: take a full backup now, `daily_backup`")
    if overview.missed:
        yield Anomaly(
            f"more than {rpo} would have been lost (RPO): {several(len(overview.missed), 'time')}", _gaps(overview, overview.missed)
        )
    if late := [gap for gap in overview.gaps_between_fulls if gap.age > FULL_EVERY]:
        yield Anomaly(
            f"no full backup for more than {clock(FULL_EVERY.total_seconds())}: {several(len(late), 'time')}", _gaps(overview, late)
        )


def _gaps(overview: Overview, gaps: Iterable[Gap]) -> list[str]:
    longest_first = sorted(gaps, key=lambda gap: gap.age, reverse=True)
    return [
        f"{clock(gap.age.total_seconds())} from {local_time(gap.taken, overview.zone)} to {local_time(gap.until, overview.zone)}"
        for gap in longest_first
    ]


def _sets(overview: Overview) -> Iterator[Anomaly]:
    # Fulls first: a differential is damaged if its full is.
    if damaged := sorted((facts for facts in overview.listed if facts.is_damaged), key=lambda facts: facts.kind is not Kind.FULL):
        yield Anomaly(f"damaged: {several(len(damaged), 'set')}", [facts.note for facts in damaged])
    if suspect := [facts for facts in overview.listed if facts.state == "suspect" and overview.is_recent(facts)]:
        yield Anomaly(f"suspect: {several(len(suspect), 'set')}; {ACCEPT}", [f"`{facts.id}`: {facts.note}" for facts in suspect])
    if aside := [facts for facts in overview.listed if facts.state == "set aside" and overview.is_recent(facts)]:
        yield Anomaly(
            f"set aside, because they belong to another history: {several(len(aside), 'set')}",
            [f"`{facts.id}`: {facts.note}" for facts in aside],
        )
    if ahead := overview.of_the_future:
        text = f"dated in the future: {several(len(ahead), 'set')}; set the clocks of this machine and of the database server"
        yield Anomaly(text, [f"`{facts.id}`" for facts in ahead])


def _unusual(overview: Overview) -> Iterator[Anomaly]:
    fulls = overview.restorable_sets(Kind.FULL)
    sizes = unusual_values([facts.bytes for facts in fulls], MUCH_LARGER, 1 / MUCH_LARGER)
    if cases := [
        f"`{fulls[number].id}`: {size(fulls[number].bytes)}, the median before was {size(round(usual))}"
        for number, usual in sizes.items()
        if overview.is_recent(fulls[number])
    ]:
        yield Anomaly("full backups are much larger or smaller than those before", cases[::-1])
    if slow := [case for kind in (Kind.FULL, Kind.DIFFERENTIAL) for case in _slow(overview, overview.restorable_sets(kind))]:
        yield Anomaly(f"backups took more than {MUCH_SLOWER:.0f} times as long as those before", slow)


def _slow(overview: Overview, sets: Sequence[SetFacts]) -> list[str]:
    took = [facts.took.total_seconds() if facts.took else 0.0 for facts in sets]
    return [
        f"`{sets[number].id}`: {duration(took[number])}, the median before was {duration(usual)}"
        for number, usual in unusual_values(took, MUCH_SLOWER).items()
        if took[number] - usual > LEAST_DURATION.total_seconds() and overview.is_recent(sets[number])
    ][::-1]


def unusual_values(values: Sequence[float], above: float, below: float = 0.0) -> dict[int, float]:
    """Return values outside these multiples of the median before, by index, with that median."""
    usual = {
        number: median(values[max(0, number - COMPARED) : number]) for number in range(LEAST_COMPARED, len(values))
    }  # fmt: skip
    return {
        number: median_before
        for number, median_before in usual.items()
        if not below * median_before <= values[number] <= above * median_before
    }


def _drills(overview: Overview) -> Iterator[Anomaly]:
    last = next(iter(overview.drill_records), None)
    if last is None or overview.instant - last.instant > DRILL_EVERY:
        when = f"the last drill was at {local_time(last.instant, overview.zone)}" if last else "no drill is recorded"
        yield Anomaly(f"no drill in the last {DRILL_EVERY.days} days, {when}: run `recovery_drill`")
    if last and (not last.passed or timedelta(seconds=last.rto_seconds) > overview.objectives.rto):
        yield Anomaly(f"the last drill did not pass, or would not pass with the present objectives: {last.verdict}")


def _decodings(overview: Overview) -> Iterator[Anomaly]:
    last = overview.verified_sets[0][0] if overview.verified_sets else None
    if last is None or overview.instant - last > DECODE_EVERY:
        when = f"for {age((overview.instant - last).total_seconds())}" if last else "yet"
        yield Anomaly(f"no set was verified (decoded) {when}: run `verify_backups`")


def _checks(overview: Overview) -> Iterator[Anomaly]:
    if not overview.checks:
        yield Anomaly("no integrity check is recorded in these days: run `integrity_check`")
        return
    last = overview.checks[0]
    if failing := [f"{result.check}: {result.outcome}" for result in last.results if is_failure(result.severity, result.verdict)]:
        when = local_time(last.instant, overview.zone)
        yield Anomaly(f"failing as of {when}: {several(len(failing), 'integrity check')}", failing)


def _place(overview: Overview) -> Iterator[Anomaly]:
    if not overview.off_host:
        yield Anomaly("the store is not off-host: if this machine is lost, so are the backups")
