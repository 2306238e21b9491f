"""Cold sets: asked for, waited for, and read when they can be.

A run that a worker started waits without the worker: it schedules itself for when the thaw should be done, and begins again.
A run that was started by hand waits where it is.
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
from tasks.core.sets.marks import ThawMark, parse_mark
from tasks.core.sets.name import COLD_CLASSES, SetName, is_cold
from tasks.core.sets.retention import THAW_FILE
from tasks.core.sets.thaw import DAYS, Tier, deadline, fitting_tier, possible_tier, slower_tier, usual_time
from tasks.run import site
from tasks.run.retries import persistent
from tasks.run.run import Run
from tasks.sets.choose import candidates
from tasks.sets.manifest import fetch_manifest, inherited_parts, name_of, read_base
from tasks.sets.marks import WARM_CLASS
from tasks.store.address import StoreAddress

FIRST_LOOK, LAST_LOOK = timedelta(seconds=2), timedelta(minutes=15)


@dataclass(frozen=True)
class Thaw:
    """A thaw that was asked for: when, how fast, and by which flow run."""

    asked: datetime
    tier: Tier
    flow_run: str


@dataclass(frozen=True)
class Cold:
    """Objects of a set that cannot be read yet, their storage classes, and the zone in which people are told of it."""

    name: SetName
    keys: list[str]
    classes: list[str]
    zone: ZoneInfo


def thaw_in_time(store: StoreAddress, run: Run, backup: str) -> datetime | None:
    """Return when the set can be read that a recovery is about to read: in half of its objective's time, if that is known.

    Returns when the thaw was asked for that this run had to wait for; None if there was nothing to wait for.

    Raises:
        ColdObject: the store cannot thaw it, or it took far longer than usual.
    """
    try:
        objective = site.find_context(run.context).objectives.rto
    except BadInput:
        # On the worst day there may be neither block nor folder: as fast as can be.
        objective = timedelta()
    return require_warm(store, run, backup, objective=objective)


def require_warm(
    store: StoreAddress, run: Run, backup: str, tier: Tier | None = None, objective: timedelta | None = None
) -> datetime | None:  # fmt: skip
    """Return when every object that a restore of a set reads can be read; without a tier, in half of an objective's time.

    Returns when the thaw was asked for that this run had to wait for; None if there was nothing to wait for.

    Raises:
        ColdObject: the store cannot thaw it, or it took far longer than usual.
    """
    manifest = _set_to_read(store, run, backup)
    if manifest is None:
        return None
    name, keys = name_of(manifest), _cold_keys(store, manifest)
    waiting = _unreadable(store, keys)
    if not waiting:
        return _asked_before(store, name) if keys else None
    cold = Cold(name, waiting, sorted({keys[key] for key in waiting}), manifest.zone)
    limit = objective / 2 if objective is not None else timedelta(hours=2)
    thaw = _ask(store, cold, tier or fitting_tier(cold.classes, limit))
    _tell(run, cold, thaw, objective)
    _wait(store, cold, thaw)
    return thaw.asked


def _set_to_read(store: StoreAddress, run: Run, backup: str) -> Manifest | None:
    """Return the manifest of the set that is about to be read: the named one, or the newest, where all that fit are cold."""
    try:
        fitting = [one for one in candidates(store, run.context, backup, run.started) if not (one.damage or one.aside)]
        is_read = bool(fitting) and (fitting[0].named or all(is_cold(one.storage_class) for one in fitting))
        return fetch_manifest(store, fitting[0].name) if is_read else None
    except (BadInput, DamagedSet, ColdObject):
        # What is wrong with it, the restore says.
        return None


def _cold_keys(store: StoreAddress, manifest: Manifest) -> dict[str, str]:
    """Return the cold objects that a restore of a set reads, with their storage classes."""
    folders = [name_of(manifest).folder]
    wanted = {f"{folders[0]}/{stored.path}" for stored in manifest.objects}
    with suppress(DamagedSet):
        if base := read_base(store, manifest):
            folders.append(name_of(base).folder)
            wanted |= {f"{folders[1]}/{stored.path}" for stored in inherited_parts(manifest, base)}
    found = [one for folder in folders for one in store.opened.list(f"{folder}/")]
    return {one.key: one.storage_class for one in found if one.key in wanted and one.storage_class in COLD_CLASSES}


@persistent
def _unreadable(store: StoreAddress, keys: Iterable[str]) -> list[str]:
    """Return the objects that cannot be read yet; a store that lets cold objects be read has none."""
    found = list[str]()
    for key in keys:
        try:
            store.opened.require_readable(key)
        except ColdObject:
            found.append(key)
    return found


@persistent
def _ask(store: StoreAddress, cold: Cold, tier: Tier) -> Thaw:
    """Ask for every object; where a tier is not to be had, with the next slower one."""
    wanted, is_new, name = possible_tier(cold.classes, tier), False, cold.name
    for key in cold.keys:
        while True:
            try:
                is_new |= store.opened.thaw(key, DAYS, wanted)
            except TierUnavailable as error:
                slower = slower_tier(wanted)
                if slower is None:
                    raise
                get_run_logger().warning("%s; asked for with tier %s", error, slower)
                wanted = slower
            else:
                break
    known = _read_mark(store, name)
    # One of another day says nothing of what somebody asked for since.
    if known and not is_new and (known.flow_run == _this_run() or now() < deadline(known.asked, cold.classes, known.tier)):
        return known
    thaw = Thaw(now(), wanted, _this_run())
    said = {"asked": thaw.asked.isoformat(), "tier": wanted, "flow_run": thaw.flow_run}
    try:
        store.opened.replace(f"{name.folder}/{THAW_FILE}", (json.dumps(said) + "\n").encode(), WARM_CLASS)
    except (BadInput, StoreUnavailable) as error:
        get_run_logger().warning("when %s was asked for could not be recorded: %s", name.id, error)
    return thaw


def _this_run() -> str:
    return str(flow_run.id or "")


def _read_mark(store: StoreAddress, name: SetName) -> Thaw | None:
    key = f"{name.folder}/{THAW_FILE}"
    if store.opened.head(key) is None:
        return None
    # It only says since when; what is readable, the store says.
    said = parse_mark(ThawMark, store.opened.read(key))
    return Thaw(said.asked, said.tier, said.flow_run) if said else None


def _asked_before(store: StoreAddress, name: SetName) -> datetime | None:
    """Return when this very run asked for the set, before it was scheduled again."""
    mark = _read_mark(store, name)
    return mark.asked if mark and mark.flow_run and mark.flow_run == _this_run() else None


def _tell(run: Run, cold: Cold, thaw: Thaw, objective: timedelta | None) -> None:
    ready = thaw.asked + usual_time(cold.classes, thaw.tier)
    left = "" if objective is None or not objective else (
        f"; {markdown.clock((run.started + objective - ready).total_seconds())} of the recovery time objective are left then"
        if ready < run.started + objective else "; by then the recovery time objective is missed"
    )  # fmt: skip
    get_run_logger().warning(
        "%s is cold (%d objects in %s): asked for with tier %s, usually there by %s%s",
        cold.name.id, len(cold.keys), ", ".join(cold.classes), thaw.tier, markdown.local_time(ready, cold.zone), left,
    )  # fmt: skip


def _wait(store: StoreAddress, cold: Cold, thaw: Thaw) -> None:
    """Wait until the objects can be read: without this process where a worker can start it again.

    Raises:
        ColdObject: they could not be read when the deadline was over.
    """
    usual = usual_time(cold.classes, thaw.tier)
    waiting, pause, last = cold.keys, FIRST_LOOK, deadline(thaw.asked, cold.classes, thaw.tier)
    while waiting := _unreadable(store, waiting):
        if now() >= last:
            raise ColdObject(
                f"{cold.name.id}: {len(waiting)} objects cannot be read although they were asked for with tier {thaw.tier} at "
                f"{markdown.local_time(thaw.asked, cold.zone)}, {store.path(waiting[0])} among them; "
                "ask the store's operator, then run again"
            )
        if deployment.id:
            soon = max(thaw.asked + usual, now() + usual / 10)
            _begin_again(
                soon, f"{cold.name.id} is being thawed ({thaw.tier}); looks again at {markdown.local_time(soon, cold.zone)}"
            )
        time.sleep(pause.total_seconds())
        pause = min(pause * 2, LAST_LOOK, last - now() if last > now() else FIRST_LOOK)


def _begin_again(at: datetime, why: str) -> None:
    """End this process, and have the run begin again at an instant.

    Raises:
        Pause: what tells Prefect's engine that the run goes on later.
    """
    state: State[Any] = Scheduled(name="AwaitingThaw", scheduled_time=at, message=why)
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(_this_run()), state, force=True)
    raise Pause(state=state)
