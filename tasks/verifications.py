"""Verifying stored sets without restoring them: every byte downloaded, every row decoded and counted."""

import shutil
from collections.abc import Iterable

from prefect import get_run_logger

from tasks import progress, recoveries
from tasks.core.errors import ColdObject, DamagedSet
from tasks.core.kinds import now
from tasks.core.manifest import Manifest
from tasks.core.recovery_report import Purpose
from tasks.recoveries import Recovery
from tasks.recovery_reports import publish_verification
from tasks.runs import Run
from tasks.sets import decode, mark, remember_damage
from tasks.store import StoreAddress


def verify_set(store: StoreAddress, run: Run, backup: str) -> str:
    """Verify the newest or the named set and record that it is good; return the verdict.

    Raises:
        DamagedSet: it is not what its manifest says, or newer ones had to be passed over.
    """
    return decode_set(store, run, backup)[0]


def decode_set(store: StoreAddress, run: Run, backup: str) -> tuple[str, Manifest]:
    """Verify a set like that; return the verdict and the manifest that every row was compared with."""
    recovery = Recovery(store, run.started, Purpose.COPY, newest=False)
    with recovery.phases.phase("download and verification"):
        staged = recoveries.stage_newest_good(recovery, run, backup)
    try:
        manifest = staged.manifest
        with (
            recovery.phases.phase("decoding"),
            progress.of(run, f"decoding {manifest.id}", manifest.plain_bytes, manifest.zone) as items,
        ):
            recovery.differences += decode(staged, items)
        if recovery.differences:
            remember_damage(store, staged.name, "; ".join(recovery.differences))
        verdict = publish_verification(recovery, run)
    finally:
        shutil.rmtree(run.folder / staged.manifest.id)
    mark(store, staged.name, "decoded", {"instant": now(), "run": run.id})
    recovery.require_newest()
    return verdict, manifest


def verify_share(store: StoreAddress, run: Run, backups: Iterable[str], count: int) -> str:
    """Verify sets one after the other until so many were not damaged; return the verdict.

    Damaged ones do not count: they come first each time, and would keep the others from ever being looked at.

    Raises:
        DamagedSet: some are not what their manifests say; each is named.
    """
    good, cold, damaged = 0, list[str](), list[str]()
    for backup in backups:
        if good + len(cold) == count:
            break
        try:
            verify_set(store, run, backup)
        except ColdObject as error:
            # A listing compared its sizes; more takes a thaw.
            cold.append(str(error))
            get_run_logger().info("looked at from outside only: %s", error)
        except DamagedSet as error:
            damaged.append(str(error))
            get_run_logger().error("%s", error)
        else:
            good += 1
    said = f"{good} sets decoded" + (f", {len(cold)} cold ones looked at from outside" if cold else "")
    if damaged:
        raise DamagedSet(f"FAIL: {said}, {len(damaged)} damaged: {'; '.join(damaged)}")
    return f"PASS: {said}"
