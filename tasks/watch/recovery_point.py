"""Looking at the recovery point, and telling what was seen: as event, as artifact, as the state of the run."""

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
def look(store: StoreAddress, context: Context, instant: datetime, every: timedelta) -> RecoveryPoint:
    """Return the newest state that could be restored at an instant, as far as a listing and the list of its set can tell.

    Raises:
        OperationError: the store cannot be read, which is told like any other state.
    """
    try:
        listing = list_sets(store, context.name)
        listed = _listed_by(listing, instant)
        lacking = _not_whole(store, listed)
    except OperationError as error:
        emit(context.name, "recovery-point.unknown", {"verdict": f"FAIL: {error}"})
        raise
    good = [(one, one.usable) for one in listed if one.usable][len(lacking) :]
    seen = RecoveryPoint(instant, context.objectives.rpo, every, off_host=store.off_host)
    disputed = bool(open_disputes(listing.manifests, listing.adopted))
    if not good:
        seen = replace(seen, damaged=[*(one.damage for one in listed if one.damage), *lacking])
        return _with_asides(seen, listed, disputed=disputed)
    newest, manifest = good[0]
    # Nobody knows of what instant those are that cannot be read; they come last in a listing.
    newer = [one for one in listed if one.manifest is None] + listed[: listed.index(newest)]
    # What was stored by a clock that is ahead says nothing of how long others were the newest.
    stored = [(min(one.snapshot.instant, one.finished), one.finished) for _, one in good if one.finished <= instant]
    return replace(
        _with_asides(seen, newer, disputed=disputed),
        newest=manifest.id, taken=manifest.snapshot.instant, suspect=bool(manifest.losses),
        exposed=recovery_point.exposure(stored, instant - every),
        longest=max(LEAST_DURATION, *(one.finished - one.snapshot.instant for _, one in good[:DURATIONS])),
        damaged=[*(one.damage for one in newer if one.damage), *lacking],
    )  # fmt: skip


def _listed_by(listing: Listing, instant: datetime) -> list[ListedSet]:
    """Return the sets that may be `latest`, newest first, but for those that were stored after an instant of the past.

    What says that it is of the future is told.
    """
    sets = (one for one in listing.sets if RULES[one.name.kind].may_be_latest)
    return [one for one in sets if not (one.manifest and instant < one.manifest.finished <= now())]


def _not_whole(store: StoreAddress, listed: Iterable[ListedSet]) -> list[str]:
    """Return what is wrong with the newest sets that look whole, up to the first whose list restores everything."""
    lacking = list[str]()
    for one in listed:
        if one.usable:
            lack = find_lack(store, one.name, one.usable)
            if lack is None:
                break
            lacking.append(f"{store.path(one.name.folder)}: {lack}")
            get_run_logger().error("cannot be restored: %s", lacking[-1])
    return lacking


def _with_asides(seen: RecoveryPoint, listed: list[ListedSet], *, disputed: bool) -> RecoveryPoint:
    """Return what was seen with the sets that are set aside; while that is disputed, their states may be what is restored."""
    aside = [(one.manifest.snapshot.instant, one.aside) for one in listed if one.manifest and one.aside and not one.damage]
    taken = max((min(taken, seen.instant) for taken, _ in aside), default=None)
    return replace(seen, aside=[why for _, why in aside], disputed=taken if disputed else None)


@step
def tell(context: Context, point: RecoveryPoint, done: list[str]) -> str:
    """Emit the event, publish the artifact, and return the verdict.

    Raises:
        OperationError: the objective is missed, or will be before the next look.
    """
    said = "; ".join([recovery_point.verdict(point), *done])
    payload: dict[str, Any] = {
        "verdict": said, "set": point.newest, "rpo_seconds": point.rpo.total_seconds(),
        "age_seconds": point.age.total_seconds() if point.age is not None else None,
    }  # fmt: skip
    emit(context.name, f"recovery-point.{point.state.replace(' ', '-')}", payload)
    publish(f"{context.name}-recovery-point", said, recovery_point.report(point, said, context.zone), [])
    if point.state is not State.KEPT:
        raise OperationError(said)
    return said
