"""Thawing cold sets: request the thaw and wait until the set can be read.

A run that a worker started does not occupy the worker meanwhile: it ends, and reschedules itself
for the time when the thaw should be done. A run that was started by hand waits.
"""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.runtime import deployment, flow_run
from prefect.states import Scheduled

from tasks.core.errors import BadInput, ColdObject, DamagedSet, StoreUnavailable, TierUnavailable
from tasks.core.report import markdown
from tasks.core.run.clock import now
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.marks import ThawMark
from tasks.core.sets.name import COLD_CLASSES, SetName, is_cold
from tasks.core.sets.retention import THAW_FILE
from tasks.core.sets.thaw import DAYS, Tier, deadline, fitting_tier, possible_tier, slower_tier, usual_time
from tasks.core.values import parse_or_none
from tasks.run import site
from tasks.run.retries import persistent
from tasks.run.run import Run
from tasks.sets.choose import candidates
from tasks.sets.manifest import fetch_manifest, inherited_parts, name_of, read_base
from tasks.sets.marks import WARM_CLASS
from tasks.store.address import StoreAddress

FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=2), timedelta(minutes=15)


@dataclass(frozen=True)
class Thaw:
    """A requested thaw: the time of the request, the tier, and the flow run."""

    requested: datetime
    tier: Tier
    flow_run: str


@dataclass(frozen=True)
class Cold:
    """The objects of a set that cannot be read yet, their classes, and the zone for messages."""

    name: SetName
    keys: list[str]
    classes: list[str]
    zone: ZoneInfo


def thaw_in_time(store: StoreAddress, run: Run, backup: str) -> datetime | None:
    """Thaw the set that a recovery is about to read, within half of its RTO, if that is known.

    Returns the time at which the thaw was requested; None if the run did not have to wait for one.

    Raises:
        ColdObject: the store cannot thaw it, or it took far longer than usual.
    """
    try:
        objective = site.find_context(run.context).objectives.rto
    except BadInput:
        # After a disaster there may be neither block nor folder; then the thaw is as fast as
        # possible.
        objective = timedelta()
    return require_warm(store, run, backup, objective=objective)


def require_warm(
    store: StoreAddress, run: Run, backup: str, tier: Tier | None = None, objective: timedelta | None = None
) -> datetime | None:
    """Thaw every object that a restore of a set reads.

    Without a tier, choose one that thaws within half of an objective. Returns the time at which the
    thaw was requested; None if the run did not have to wait for one.

    Raises:
        ColdObject: the store cannot thaw it, or it took far longer than usual.
    """
    manifest = _set_to_read(store, run, backup)
    if manifest is None:
        return None
    name, keys = name_of(manifest), _cold_keys(store, manifest)
    waiting = _unreadable(store, keys)
    if not waiting:
        return _requested_before(store, name) if keys else None
    cold = Cold(name, waiting, sorted({keys[key] for key in waiting}), manifest.zone)
    limit = objective / 2 if objective is not None else timedelta(hours=2)
    thaw = _request(store, cold, tier or fitting_tier(cold.classes, limit))
    _log_thaw(run, cold, thaw, objective)
    _wait(store, cold, thaw)
    return thaw.requested


def _set_to_read(store: StoreAddress, run: Run, backup: str) -> Manifest | None:
    """Return the manifest of the set to read: the named one, or, if all are cold, the newest."""
    try:
        fitting = [
            candidate
            for candidate in candidates(store, run.context, backup, run.started)
            if not (candidate.damage or candidate.aside)
        ]
        is_read = bool(fitting) and (fitting[0].named or all(is_cold(candidate.storage_class) for candidate in fitting))
        return fetch_manifest(store, fitting[0].name) if is_read else None
    except (BadInput, DamagedSet, ColdObject):
        # The restore itself reports what is wrong with the set.
        return None


def _cold_keys(store: StoreAddress, manifest: Manifest) -> dict[str, str]:
    """Return the cold objects that a restore of a set reads, with their storage classes."""
    folders = [name_of(manifest).folder]
    needed = {f"{folders[0]}/{stored.path}" for stored in manifest.objects}
    with suppress(DamagedSet):
        if base := read_base(store, manifest):
            folders.append(name_of(base).folder)
            needed |= {f"{folders[1]}/{stored.path}" for stored in inherited_parts(manifest, base)}
    infos = [info for folder in folders for info in store.opened.list(f"{folder}/")]
    return {info.key: info.storage_class for info in infos if info.key in needed and info.storage_class in COLD_CLASSES}


@persistent
def _unreadable(store: StoreAddress, keys: Iterable[str]) -> list[str]:
    """Return the objects that cannot be read yet."""
    unreadable = list[str]()
    for key in keys:
        try:
            store.opened.require_readable(key)
        except ColdObject:
            unreadable.append(key)
    return unreadable


@persistent
def _request(store: StoreAddress, cold: Cold, tier: Tier) -> Thaw:
    """Request every object; if a tier is unavailable, with the next slower one."""
    usable_tier, is_new, name = possible_tier(cold.classes, tier), False, cold.name
    for key in cold.keys:
        while True:
            try:
                is_new |= store.opened.thaw(key, DAYS, usable_tier)
            except TierUnavailable as error:
                slower = slower_tier(usable_tier)
                if slower is None:
                    raise
                get_run_logger().warning("%s; requested with tier %s", error, slower)
                usable_tier = slower
            else:
                break
    mark = _read_mark(store, name)
    # The mark of an old request is not valid for a later one.
    if mark and not is_new and (mark.flow_run == _this_run() or now() < deadline(mark.requested, cold.classes, mark.tier)):
        return mark
    thaw = Thaw(now(), usable_tier, _this_run())
    content = {"asked": thaw.requested.isoformat(), "tier": usable_tier, "flow_run": thaw.flow_run}
    try:
        store.opened.replace(f"{name.folder}/{THAW_FILE}", (json.dumps(content) + "\n").encode(), WARM_CLASS)
    except (BadInput, StoreUnavailable) as error:
        get_run_logger().warning("the time of the request for %s could not be recorded: %s", name.id, error)
    return thaw


def _this_run() -> str:
    return str(flow_run.id or "")


def _read_mark(store: StoreAddress, name: SetName) -> Thaw | None:
    key = f"{name.folder}/{THAW_FILE}"
    if store.opened.head(key) is None:
        return None
    # The mark only has the time of the request; which objects are readable is asked of the store.
    mark = parse_or_none(ThawMark, store.opened.read(key))
    return Thaw(mark.asked, mark.tier, mark.flow_run) if mark else None


def _requested_before(store: StoreAddress, name: SetName) -> datetime | None:
    """Return when this flow run requested the thaw, before it was rescheduled."""
    mark = _read_mark(store, name)
    return mark.requested if mark and mark.flow_run and mark.flow_run == _this_run() else None


def _log_thaw(run: Run, cold: Cold, thaw: Thaw, objective: timedelta | None) -> None:
    ready = thaw.requested + usual_time(cold.classes, thaw.tier)
    remaining = "" if objective is None or not objective else (
        f"; {markdown.clock((run.started + objective - ready).total_seconds())} of the recovery "
        "time objective remain then"
        if ready < run.started + objective else "; by then the recovery time objective is missed"
    )  # fmt: skip
    get_run_logger().warning(
        "%s is cold (%d objects in %s): requested with tier %s, usually readable by %s%s",
        cold.name.id, len(cold.keys), ", ".join(cold.classes), thaw.tier, markdown.local_time(ready, cold.zone), remaining,
    )  # fmt: skip


def _wait(store: StoreAddress, cold: Cold, thaw: Thaw) -> None:
    """Wait until the objects can be read; a run that a worker started ends, and is rescheduled.

    Raises:
        ColdObject: the objects could not be read before the deadline.
    """
    usual = usual_time(cold.classes, thaw.tier)
    waiting, pause, last = cold.keys, FIRST_PAUSE, deadline(thaw.requested, cold.classes, thaw.tier)
    while waiting := _unreadable(store, waiting):
        if now() >= last:
            raise ColdObject(
                f"{cold.name.id}: {len(waiting)} objects cannot be read although they were "
                f"requested with tier {thaw.tier} at "
                f"{markdown.local_time(thaw.requested, cold.zone)}, {store.path(waiting[0])} among "
                "them; ask the store's operator, then run again"
            )
        if deployment.id:
            soon = max(thaw.requested + usual, now() + usual / 10)
            _reschedule(
                soon,
                f"{cold.name.id} is being thawed ({thaw.tier}); this run checks again at {markdown.local_time(soon, cold.zone)}",
            )
        time.sleep(pause.total_seconds())
        pause = min(pause * 2, LONGEST_PAUSE, last - now() if last > now() else FIRST_PAUSE)


def _reschedule(at: datetime, reason: str) -> None:
    """End this process, and reschedule the run for an instant.

    Raises:
        Pause: tells Prefect's engine that the run continues later.
    """
    state: State[Any] = Scheduled(name="AwaitingThaw", scheduled_time=at, message=reason)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(_this_run()), state, force=True)
    raise Pause(state=state)
