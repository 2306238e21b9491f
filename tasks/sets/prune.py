"""Pruning: sets past retention expire, and are deleted a day later; so are unfinished sets."""

import json

from prefect import get_run_logger

from tasks.core.errors import DamagedSet
from tasks.core.sets.facts import ExpiryRecord
from tasks.core.sets.manifest import RESTORE_SCRIPT
from tasks.core.sets.manifest_file import MANIFEST_FILE, parse_manifest
from tasks.core.sets.name import SetName
from tasks.core.sets.retention import EXPIRED_FILE, PINNED_FILE, SWEPT_FILE, is_ours
from tasks.database.locks import ContextLock
from tasks.run.retries import persistent
from tasks.run.run import Run, step
from tasks.sets.listing import facts_of_set
from tasks.sets.marks import WARM_CLASS
from tasks.sets.records import keep_record
from tasks.sets.survey import Pruning
from tasks.store.address import StoreAddress


@step(name="expire {name.id}")
@persistent
def expire(address: StoreAddress, lock: ContextLock, name: SetName) -> None:
    """Expire a set by renaming its manifest. Another run may have done so already."""
    store, key = address.opened, f"{name.folder}/{MANIFEST_FILE}"
    if store.head(key) is None:
        return
    manifest = store.read(key)
    lock.require_held(f"{name.id} expired")
    store.replace(f"{name.folder}/{EXPIRED_FILE}", manifest, WARM_CLASS)
    _delete(address, lock, key)


def _delete(address: StoreAddress, lock: ContextLock, key: str) -> None:
    """Delete an object; the lock is checked just before, because no transaction covers both."""
    lock.require_held(f"{key} was deleted")
    address.opened.delete(key)


@step(name="delete {name.id}")
@persistent
def delete_expired(address: StoreAddress, lock: ContextLock, name: SetName) -> list[str]:
    """Delete the objects of an expired set, its mark last.

    Return the objects in its folder that do not belong to it and are left.

    Raises:
        DamagedSet: its manifest cannot be read, so that its objects are not known.
    """
    store, mark = address.opened, f"{name.folder}/{EXPIRED_FILE}"
    if store.head(mark) is None:
        return []
    manifest = parse_manifest(store.read(mark), address.path(mark))
    paths = [info.key.removeprefix(f"{name.folder}/") for info in store.list(f"{name.folder}/")]
    if MANIFEST_FILE in paths:
        return [f"{name.id}: somebody put it back as a set"]
    ours = [path for path in paths if is_ours(path, (stored.path for stored in manifest.objects))]
    for path in sorted(ours, key=lambda path: path == EXPIRED_FILE):
        _delete(address, lock, f"{name.folder}/{path}")
    return [f"{name.folder}/{path}: does not belong to the set" for path in sorted({*paths} - {*ours})]


@persistent
def mark_dead(address: StoreAddress, run: Run, lock: ContextLock, name: SetName) -> None:
    """Mark the unfinished set of a killed run, to be deleted a day later."""
    lock.require_held(f"{name.id} was marked for deletion")
    content = json.dumps({"instant": f"{run.started:%Y-%m-%dT%H:%M:%SZ}", "run": run.id}) + "\n"
    address.opened.replace(f"{name.folder}/{SWEPT_FILE}", content.encode(), WARM_CLASS)


@step(name="sweep {name.id}")
@persistent
def sweep(address: StoreAddress, lock: ContextLock, name: SetName) -> None:
    """Delete a killed run's unfinished set, its mark last, unless it was committed or put back."""
    keys = [info.key for info in address.opened.list(f"{name.folder}/")]
    if not {f"{name.folder}/{file}" for file in (MANIFEST_FILE, EXPIRED_FILE, RESTORE_SCRIPT, PINNED_FILE)} & {*keys}:
        for key in sorted(keys, key=lambda key: key == f"{name.folder}/{SWEPT_FILE}"):
            _delete(address, lock, key)


def carry_out(address: StoreAddress, run: Run, lock: ContextLock, pruning: Pruning) -> None:
    """Carry out the plan, in such an order that no listed set ever lacks its base.

    Sets that expire are recorded first.

    Raises:
        LostLock: the lock was lost; what was done before stays done, and the next run continues.
    """
    if expiring := pruning.expiring:
        facts = [facts_of_set(entry) for entry in expiring]
        keep_record(address, run.context, ExpiryRecord(instant=run.started, run=run.id, sets=facts))
    for entry in expiring:
        expire(address, lock, entry.name)
    for name in pruning.to_delete:
        try:
            pruning.left_alone.extend(delete_expired(address, lock, name))
        except DamagedSet as error:
            pruning.left_alone.append(str(error))
    for name in pruning.to_mark:
        mark_dead(address, run, lock, name)
    for name in pruning.to_sweep:
        sweep(address, lock, name)
    for key in pruning.dead_marks:
        _delete(address, lock, key)
    for upload in pruning.to_abort:
        lock.require_held(f"the upload of {upload.key} was aborted")
        address.opened.abort(upload)
        get_run_logger().info("%s: unfinished upload of %s aborted", upload.key, upload.begun)
