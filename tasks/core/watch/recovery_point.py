"""The recovery point: the age of the newest restorable state, and whether a differential is due."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from tasks.core.backup.report import ACCEPT
from tasks.core.report.markdown import clock, headline, local_time, section, table
from tasks.core.restore.drill import recovery_point_age
from tasks.core.run.clock import CLOCK_TOLERANCE

# The watch takes a differential early enough to try again once if it fails.
RUNS_AHEAD = 2
LEAST_DURATION = timedelta(minutes=1)


class State(StrEnum):
    """The state of the recovery point objective."""

    KEPT = "kept"
    AT_RISK = "at risk"
    MISSED = "missed"


@dataclass(frozen=True)
class RecoveryPoint:
    """The newest restorable set at an instant, its state's time (`taken`), newer damaged sets.

    `longest` is how long the slowest of the last backups took from its snapshot to its manifest;
    `every` is the time between two measurements; `exposed` is the most that a disaster would have
    lost since the last measurement, before a newer set was stored; `aside` has the reasons why
    newer sets are set aside; `disputed` is the newest of their states while an operator has to
    decide between two servers.
    """

    instant: datetime
    rpo: timedelta
    every: timedelta
    longest: timedelta = LEAST_DURATION
    newest: str | None = None
    taken: datetime | None = None
    exposed: timedelta = timedelta(0)
    suspect: bool = False
    off_host: bool = True
    damaged: Sequence[str] = field(default_factory=tuple)
    aside: Sequence[str] = field(default_factory=tuple)
    disputed: datetime | None = None

    @property
    def age(self) -> timedelta | None:
        """The data loss, as a time, if a disaster came now; None if everything would be lost."""
        return recovery_point_age(self.taken, self.instant) if self.taken else None

    @property
    def is_due(self) -> bool:
        """Whether a differential is due now, because the next measurement could come too late."""
        # While an operator has to decide which server is right, more sets of the same state would
        # only fill the store.
        ages = [recovery_point_age(instant, self.instant) for instant in (self.taken, self.disputed) if instant]
        return not ages or min(ages) + RUNS_AHEAD * self.every + self.longest > self.rpo

    @property
    def state(self) -> State:
        """Whether the objective is met, and still will be when the next run has stored a state."""
        if self.age is None or max(self.age, self.exposed) > self.rpo or self._is_of_the_future or self.aside:
            return State.MISSED
        return State.AT_RISK if self.suspect or self.age + self.every + self.longest > self.rpo else State.KEPT

    @property
    def _is_of_the_future(self) -> bool:
        return self.taken is not None and self.taken - self.instant > CLOCK_TOLERANCE


def verdict(point: RecoveryPoint) -> str:
    """Return in one line whether the objective is kept."""
    aside = f"; {len(point.aside)} newer sets are SET ASIDE: {point.aside[0]}" if point.aside else ""
    if point.age is None:
        damaged = "".join(f"; {damage}" for damage in point.damaged)
        return f"FAIL: no set can be restored; the RPO is {clock(point.rpo.total_seconds())}{damaged}{aside}"
    words = [f"{point.newest}, age {clock(point.age.total_seconds())} of {clock(point.rpo.total_seconds())}"]
    if not point.off_host:
        words.append("not off-host")
    if point.damaged:
        words.append(f"{len(point.damaged)} newer or equally new sets are damaged")
    facts = ", ".join(words)
    if aside:
        return f"FAIL: {facts}{aside}"
    if point.suspect:
        return f"FAIL: {facts}, is SUSPECT: tables lost rows since the last good full backup; {ACCEPT}"
    if point.age <= point.rpo < point.exposed:
        return f"FAIL: {facts}: a disaster just before it was stored would have lost {clock(point.exposed.total_seconds())}"
    if point._is_of_the_future:
        return f"FAIL: {facts}: its state is dated in the future; set the clocks of this machine and of the database server"
    return {
        State.KEPT: f"PASS: {facts}",
        State.AT_RISK: f"FAIL: {facts}: the age will exceed the RPO before the next run can store a newer state",
        State.MISSED: f"FAIL: {facts}: a disaster now would lose more than the RPO allows",
    }[point.state]


@dataclass(frozen=True)
class Gap:
    """How long a state was the newest: taken and stored when, and when the next was stored."""

    taken: datetime
    stored: datetime
    until: datetime

    @property
    def age(self) -> timedelta:
        """The most that a disaster in this gap would have lost."""
        return self.until - self.taken


def gaps(states: Iterable[tuple[datetime, datetime]], end: datetime | None = None) -> list[Gap]:
    """Return the gaps between states, oldest first, with the one until the end if it is given.

    A state is a pair of times: when it was taken and when it was stored. A state that was stored
    after a newer one closes no gap.
    """
    newest = list[tuple[datetime, datetime]]()
    for taken, stored in sorted(states, key=lambda state: (state[1], state[0])):
        if not newest or taken > newest[-1][0]:
            newest.append((taken, stored))
    ends = [*(stored for _, stored in newest[1:]), *([end] if end else [])]
    return [Gap(*state, until) for state, until in zip(newest, ends, strict=False)]


def exposure(states: Iterable[tuple[datetime, datetime]], since: datetime) -> timedelta:
    """Return the largest data loss that a disaster since an instant could have caused."""
    return max((gap.age for gap in gaps(states) if gap.until > since), default=timedelta(0))


def report(point: RecoveryPoint, verdict: str, zone: ZoneInfo) -> str:
    """Return the report in Markdown, below its verdict."""
    facts = [
        ("measured at", local_time(point.instant, zone)),
        ("newest restorable state", local_time(point.taken, zone) if point.taken else "none"),
        ("set", f"`{point.newest}`" if point.newest else "none"),
        ("age", clock(point.age.total_seconds()) if point.age is not None else "-"),
        ("objective (RPO)", clock(point.rpo.total_seconds())),
        ("next run within", clock(point.every.total_seconds())),
    ]  # fmt: skip
    remedy = ["find out why: the runs of `daily_backup` and `differential_backup`", "then: `differential_backup`, by hand"]
    parts = [
        headline(verdict), section("Sets that cannot be restored", point.damaged),
        section("Newer sets that are set aside", sorted({*point.aside})),
        table(["what", "value"], facts) + "\n",
        section("Still to do", remedy if point.state is not State.KEPT else [], "Nothing.\n"),
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)
