"""Measuring the recovery point, published as an event, an artifact and the state of the run."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from prefect import get_run_logger

from tasks.core.context import Context
from tasks.core.errors import OperationError
from tasks.core.run.clock import now
from tasks.core.sets.histories import open_disputes
from tasks.core.sets.name import RULES
from tasks.core.watch import recovery_point
from tasks.core.watch.recovery_point import LEAST_DURATION, RecoveryPoint, State
from tasks.run.artifacts import emit, publish
from tasks.run.run import step
from tasks.sets.listing import ListedSet, Listing, list_sets
from tasks.sets.manifest import find_lack
from tasks.store.address import StoreAddress

DURATIONS = 20


@step
def measure(store: StoreAddress, context: Context, instant: datetime, every: timedelta) -> RecoveryPoint:
    """Return the newest state that could be restored at an instant.

    It is judged by the listing of sets and by the -L list of the newest set.

    Raises:
        OperationError: the store cannot be read; the event says so.
    """
    try:
        listing = list_sets(store, context.name)
        listed = _listed_by(listing, instant)
        problems = _not_whole(store, listed)
    except OperationError as error:
        emit(context.name, "recovery-point.unknown", {"verdict": f"FAIL: {error}"})
        raise
    usable = [(entry, entry.usable) for entry in listed if entry.usable][len(problems) :]
    point = RecoveryPoint(instant, context.objectives.rpo, every, off_host=store.off_host)
    disputed = bool(open_disputes(listing.manifests, listing.adopted))
    if not usable:
        point = replace(point, damaged=[*(entry.damage for entry in listed if entry.damage), *problems])
        return _with_asides(point, listed, disputed=disputed)
    newest, manifest = usable[0]
    # The date of an unreadable set is not known; such sets come last in a listing.
    newer = [entry for entry in listed if entry.manifest is None] + listed[: listed.index(newest)]
    # A set whose date comes from a clock that is ahead does not show how long another set was the
    # newest.
    stored = [(min(each.snapshot.instant, each.finished), each.finished) for _, each in usable if each.finished <= instant]
    return replace(
        _with_asides(point, newer, disputed=disputed),
        newest=manifest.id, taken=manifest.snapshot.instant, suspect=bool(manifest.losses),
        exposed=recovery_point.exposure(stored, instant - every),
        longest=max(LEAST_DURATION, *(each.finished - each.snapshot.instant for _, each in usable[:DURATIONS])),
        damaged=[*(entry.damage for entry in newer if entry.damage), *problems],
    )  # fmt: skip


def _listed_by(listing: Listing, instant: datetime) -> list[ListedSet]:
    """Return the sets that may be `latest`, newest first.

    Sets stored after an instant in the past are left out; sets dated in the future are included, so
    that they are reported.
    """
    sets = (entry for entry in listing.sets if RULES[entry.name.kind].may_be_latest)
    return [entry for entry in sets if not (entry.manifest and instant < entry.manifest.finished <= now())]


def _not_whole(store: StoreAddress, listed: Iterable[ListedSet]) -> list[str]:
    """Return faults of the newest sets, down to the first whose -L list restores everything."""
    problems = list[str]()
    for entry in listed:
        if entry.usable:
            problem = find_lack(store, entry.name, entry.usable)
            if problem is None:
                break
            problems.append(f"{store.path(entry.name.folder)}: {problem}")
            get_run_logger().error("cannot be restored: %s", problems[-1])
    return problems


def _with_asides(point: RecoveryPoint, listed: list[ListedSet], *, disputed: bool) -> RecoveryPoint:
    """Add sets that are set aside: while undecided, one of their states may be the right one."""
    aside = [
        (entry.manifest.snapshot.instant, entry.aside) for entry in listed if entry.manifest and entry.aside and not entry.damage
    ]
    taken = max((min(taken, point.instant) for taken, _ in aside), default=None)
    return replace(point, aside=[reason for _, reason in aside], disputed=taken if disputed else None)


@step
def publish_point(context: Context, point: RecoveryPoint, done: list[str]) -> str:
    """Emit the event, publish the artifact, and return the verdict.

    Raises:
        OperationError: the objective is missed, or will be missed before the next run.
    """
    verdict = "; ".join([recovery_point.verdict(point), *done])
    payload: dict[str, Any] = {
        "verdict": verdict, "set": point.newest, "rpo_seconds": point.rpo.total_seconds(),
        "age_seconds": point.age.total_seconds() if point.age is not None else None,
    }  # fmt: skip
    emit(context.name, f"recovery-point.{point.state.replace(' ', '-')}", payload)
    publish(f"{context.name}-recovery-point", verdict, recovery_point.report(point, verdict, context.zone), [])
    if point.state is not State.KEPT:
        raise OperationError(verdict)
    return verdict
