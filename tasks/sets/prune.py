"""Pruning: sets past retention expire, expired ones are deleted a day later, and what lies dead is swept likewise."""

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
    """Make a set none: its manifest gets another name. Another run may have done so meanwhile."""
    store, key = address.opened, f"{name.folder}/{MANIFEST_FILE}"
    if store.head(key) is None:
        return
    manifest = store.read(key)
    lock.require_held(f"{name.id} expired")
    store.replace(f"{name.folder}/{EXPIRED_FILE}", manifest, WARM_CLASS)
    _delete(address, lock, key)


def _delete(address: StoreAddress, lock: ContextLock, key: str) -> None:
    """Delete an object; the lock's session is asked right before, because no transaction holds both."""
    lock.require_held(f"{key} was deleted")
    address.opened.delete(key)


@step(name="delete {name.id}")
@persistent
def delete_expired(address: StoreAddress, lock: ContextLock, name: SetName) -> list[str]:
    """Delete the objects of an expired set, its last mark last; return what is left because it is not of the set.

    Raises:
        DamagedSet: nobody knows what belongs to it.
    """
    store, mark = address.opened, f"{name.folder}/{EXPIRED_FILE}"
    if store.head(mark) is None:
        return []
    manifest = parse_manifest(store.read(mark), address.path(mark))
    paths = [one.key.removeprefix(f"{name.folder}/") for one in store.list(f"{name.folder}/")]
    if MANIFEST_FILE in paths:
        return [f"{name.id}: it was made a set again"]
    ours = [path for path in paths if is_ours(path, (stored.path for stored in manifest.objects))]
    for path in sorted(ours, key=lambda path: path == EXPIRED_FILE):
        _delete(address, lock, f"{name.folder}/{path}")
    return [f"{name.folder}/{path}: not of the set" for path in sorted({*paths} - {*ours})]


@persistent
def mark_dead(address: StoreAddress, run: Run, lock: ContextLock, name: SetName) -> None:
    """Say that what a run that died left of a set is to be swept a day later."""
    lock.require_held(f"{name.id} was marked to be swept")
    said = json.dumps({"instant": f"{run.started:%Y-%m-%dT%H:%M:%SZ}", "run": run.id}) + "\n"
    address.opened.replace(f"{name.folder}/{SWEPT_FILE}", said.encode(), WARM_CLASS)


@step(name="sweep {name.id}")
@persistent
def sweep(address: StoreAddress, lock: ContextLock, name: SetName) -> None:
    """Delete what a run that died left of a set, its mark last, unless the set was committed, or made one again, meanwhile."""
    keys = [one.key for one in address.opened.list(f"{name.folder}/")]
    if not {f"{name.folder}/{file}" for file in (MANIFEST_FILE, EXPIRED_FILE, RESTORE_SCRIPT, PINNED_FILE)} & {*keys}:
        for key in sorted(keys, key=lambda key: key == f"{name.folder}/{SWEPT_FILE}"):
            _delete(address, lock, key)


def carry_out(address: StoreAddress, run: Run, lock: ContextLock, pruning: Pruning) -> None:
    """Do what was planned, in an order in which no set is ever listed whose base is gone; what expires is recorded before.

    Raises:
        LostLock: the lock was lost; what was done before is done, and the next run goes on.
    """
    if expiring := pruning.expiring:
        facts = [facts_of_set(one) for one in expiring]
        keep_record(address, run.context, ExpiryRecord(instant=run.started, run=run.id, sets=facts))
    for one in expiring:
        expire(address, lock, one.name)
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
        lock.require_held(f"the upload of {upload.key} was ended")
        address.opened.abort(upload)
        get_run_logger().info("%s: unfinished upload of %s ended", upload.key, upload.begun)
