"""Pruning: sets that have had their time expire, expired ones are deleted a day later, and what lies dead is swept likewise.

Everything else in the store is left alone: what no set of ours names, what another wrote, what cannot be read. How old a set is
say the clocks of this machine, of the database's server, which dated the sets, and of the store: where they differ, nothing is
pruned. Nor is anything while no new full came, or while the database cannot be reached: the sets may be all that there is.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from prefect import get_run_logger

from tasks import sites
from tasks.core import report, sql
from tasks.core.context import Context
from tasks.core.errors import BadInput, DamagedSet, OperationError
from tasks.core.histories import open_disputes
from tasks.core.kinds import Kind, SetName, now, split_key
from tasks.core.known_sets import ExpiryRecord
from tasks.core.manifest import MANIFEST_FILE, RESTORE_SCRIPT, parse_manifest
from tasks.core.pruning import (
    DEAD,
    EXPIRED_FILE,
    GRACE,
    HOLD,
    PINNED_FILE,
    SWEPT_FILE,
    Decision,
    StoredSet,
    drought,
    is_ours,
    is_written_by_a_backup,
    plan,
    suspicion,
)
from tasks.core.recovery_point import CLOCK_TOLERANCE
from tasks.locks import ContextLock, context_lock
from tasks.records import keep_record
from tasks.reports import publish
from tasks.runs import Run, step
from tasks.sets import WARM_CLASS, ListedSet, Listing, UnfinishedSet, facts_of_set, list_sets
from tasks.store import ObjectInfo, StoreAddress, Upload, persistent


@dataclass(frozen=True)
class Pruning:
    """What is to be done in a store: sets that expire, expired ones to delete, unfinished sets to mark and then to sweep.

    `suspended` is why nothing is done at all.
    """

    suspended: str | None = None
    decisions: list[Decision] = field(default_factory=list)
    listed: dict[str, ListedSet] = field(default_factory=dict)
    to_delete: list[SetName] = field(default_factory=list)
    to_mark: list[SetName] = field(default_factory=list)
    to_sweep: list[SetName] = field(default_factory=list)
    to_abort: list[Upload] = field(default_factory=list)
    dead_marks: list[str] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)

    @property
    def expiring(self) -> list[ListedSet]:
        """Sets that expire, differentials before the fulls that they need."""
        ids = [one.set.id for one in self.decisions if one.expires]
        return sorted((self.listed[one] for one in ids), key=lambda one: one.name.kind is Kind.FULL)


def places(context: Context, store: StoreAddress) -> Iterator[tuple[str, StoreAddress, dict[str, str]]]:
    """Yield where sets of a context are kept, and for how long: the store, and the local copy if it has one."""
    kept, jobs = context.retention, {name: job.keep for name, job in context.long_term.items()}
    yield "pruning", store, {Kind.FULL: kept.daily, Kind.DIFFERENTIAL: kept.differential, Kind.SAFETY: kept.safety, **jobs}
    if local := context.local_copy:
        yield "pruning-local-copy", store.copy_in(local.folder), dict.fromkeys(map(str, (Kind.FULL, Kind.DIFFERENTIAL)), local.keep)


@contextmanager
def alone(context: str, run: Run) -> Iterator[ContextLock]:
    """Be the only one who prunes a context's sets; the lock is one of its own, because backups and restores may go on.

    Raises:
        BadInput: the database cannot be reached; nothing is pruned.
    """
    with ExitStack() as stack:
        try:
            server = sites.find_server(None, context)
            lock = stack.enter_context(context_lock(server, f"pruning of {context}", run.title, exclusive=True))
        except BadInput as error:
            raise BadInput(
                f"nothing is pruned while the database cannot be asked for the time, and for who else prunes: {error}"
            ) from error
        yield lock


@step
def survey(
    address: StoreAddress, context: Context, periods: dict[str, str], instant: datetime, lock: ContextLock
) -> Pruning:  # fmt: skip
    """Find out what is to be done at an instant with sets of kinds that have a period; nothing is touched.

    Raises:
        OperationError: the clocks of this machine, the database's server and the store differ: what is old cannot be said.
    """
    _require_clock(address, lock)
    listing = list_sets(address, context.name)
    disputed = bool(open_disputes(listing.manifests, listing.adopted))
    stored = [_stored(one, instant, disputed=disputed) for one in listing.sets]
    suspended = suspicion(stored) or drought(stored, instant, context.objectives.rpo)
    decisions = plan(stored, instant, context.zone, periods, suspended)
    listed = {one.name.id: one for one in listing.sets}
    if suspended:
        return Pruning(suspended, decisions, listed, left_alone=_lost(listing))
    decisions = [_unless_locked(address, listed, one, instant) if one.expires else one for one in decisions]
    needed = {one.set.base for one in decisions if not one.expires}
    pruning = Pruning(None, decisions, listed, left_alone=_lost(listing))
    for expired in listing.expired:
        if expired.name.id in needed:
            pruning.left_alone.append(f"expired {expired.name.id}: a differential that is kept needs it; make it a set again")
        elif instant - expired.since >= GRACE and not _is_recent(expired.held, instant):
            until = f"{PINNED_FILE} lies in its folder" if expired.pinned else _locked_until(address, expired.name, instant)
            if until:
                pruning.left_alone.append(f"expired {expired.name.id}: {until}")
            else:
                pruning.to_delete.append(expired.name)
    for one in listing.unfinished:
        _survey_unfinished(address, listing, one, instant, pruning)
    whole = {f"{one.name.folder}/{SWEPT_FILE}" for one in listing.sets}
    pruning.dead_marks.extend(
        one.key
        for one in address.opened.list(f"{context.name}/")
        if one.key in whole
        or (instant - one.modified >= DEAD and split_key(one.key) and HOLD.fullmatch(one.key.rpartition("/")[2]))
    )
    try:
        uploads = list(address.opened.uploads(f"{context.name}/"))
        pruning.to_abort.extend(one for one in uploads if instant - one.begun >= DEAD and split_key(one.key))
    except BadInput as error:
        pruning.left_alone.append(f"unfinished uploads, which cannot be listed: {error}")
    return pruning


def _lost(listing: Listing) -> list[str]:
    """Return what is wrong with the sets whose manifest cannot be read, or was lost."""
    return [one.damage for one in listing.sets if one.manifest is None and one.damage]


def _require_clock(address: StoreAddress, lock: ContextLock) -> None:
    """Refuse to say how old a set is by a clock that differs from another; a store that is a folder has none of its own."""
    database: datetime = lock.connection.execute(sql.SERVER_CLOCK).fetchall()[0][0]
    _compare_clocks("the database's server", database, now())
    if store := address.opened.clock():
        _compare_clocks(address.url, store, now())


def _compare_clocks(whose: str, theirs: datetime, ours: datetime) -> None:
    if abs(theirs - ours) > CLOCK_TOLERANCE:
        raise OperationError(
            f"the clock of this machine says {ours:%Y-%m-%d %H:%M:%S}Z, that of {whose} "
            f"{theirs.astimezone(ours.tzinfo):%Y-%m-%d %H:%M:%S}Z; set the wrong one (NTP): until then nobody knows how old a set "
            "is, and pruning is suspended"
        )


def _is_recent(held: datetime | None, instant: datetime) -> bool:
    return held is not None and instant - held < DEAD


def _stored(one: ListedSet, instant: datetime, *, disputed: bool) -> StoredSet:
    manifest, held = one.manifest, _is_recent(one.held, instant)
    if manifest is None:
        return StoredSet(one.name.id, one.name.kind, None, restorable=False, held=held, pinned=one.pinned)
    return StoredSet(
        manifest.id, manifest.kind, manifest.snapshot.instant, manifest.base, manifest.keep_until, one.usable is not None,
        one.verified is not None and not manifest.losses, bool(manifest.losses), held, one.pinned,
        disputed and one.aside is not None,
    )  # fmt: skip


def _unless_locked(address: StoreAddress, listed: dict[str, ListedSet], one: Decision, instant: datetime) -> Decision:
    """Keep what an object lock keeps: its deletion would be refused, or leave everything but a marker in place."""
    until = _locked_until(address, listed[one.set.id].name, instant)
    return Decision(one.set, expires=False, why=until) if until else one


def _locked_until(address: StoreAddress, name: SetName, instant: datetime) -> str | None:
    """Say until when an object of a set is locked, if one is."""
    for found in list(address.opened.list(f"{name.folder}/")):
        head = address.opened.head(found.key)
        if head and head.locked_until and head.locked_until > instant:
            return f"under object lock until {head.locked_until:%Y-%m-%d %H:%M %Z}"
    return None


def _survey_unfinished(
    address: StoreAddress, listing: Listing, one: UnfinishedSet, instant: datetime, pruning: Pruning
) -> None:  # fmt: skip
    """Sweep a folder without manifest if every object in it is dead and provably of the run that it is named after.

    It is marked first, and goes a day later.
    """
    name = one.name
    objects = [found for found in address.opened.list(f"{name.folder}/") if found.key != f"{name.folder}/{SWEPT_FILE}"]
    if any(instant - found.modified < DEAD for found in objects):
        return
    if said := _locked_until(address, name, instant) or _needed(address, listing, name) or _strange(address, name, objects):
        pruning.left_alone.append(f"unfinished {name.id}: {said}")
    elif one.since is None:
        pruning.to_mark.append(name)
    elif instant - one.since >= GRACE:
        pruning.to_sweep.append(name)


def _needed(address: StoreAddress, listing: Listing, name: SetName) -> str | None:
    """Say which set may need a folder without manifest that is none, but can be made one again, or cannot be read."""
    if name.kind is not Kind.FULL:
        return None
    unread = [one.name.id for one in listing.sets if one.name.kind is Kind.DIFFERENTIAL and one.manifest is None]
    for expired in listing.expired:
        if expired.name.kind is Kind.DIFFERENTIAL:
            mark = f"{expired.name.folder}/{EXPIRED_FILE}"
            try:
                base = parse_manifest(address.opened.read(mark), address.path(mark)).base
            except DamagedSet:
                unread.append(expired.name.id)
            else:
                if base == name.id:
                    return f"its manifest is lost, and expired {expired.name.id} needs it"
    # A full is older than what needs it.
    later = [one for one in unread if one[-20:] > name.id[-20:]]
    return f"{later[0]} may need it, and cannot be read: delete that by hand, or mend it" if later else None


def _strange(address: StoreAddress, name: SetName, objects: list[ObjectInfo]) -> str | None:
    strange = [one.key for one in objects if not _is_of_its_run(address, name, one)]
    return f"{', '.join(strange[:3])} is not of its run; look at it" if strange else None


def _is_of_its_run(address: StoreAddress, name: SetName, one: ObjectInfo) -> bool:
    path = one.key.removeprefix(f"{name.folder}/")
    if not is_written_by_a_backup(path):
        return False
    if HOLD.fullmatch(path) or not address.opened.keeps_metadata:
        return True
    head = address.opened.head(one.key)
    return head is not None and head.metadata.get("run") == name.run


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


@step
def publish_pruning(context: Context, key: str, pruning: Pruning, *, dry_run: bool) -> str:
    """Publish what is to be done, or was; return the verdict."""
    done = "would be " if dry_run else ""
    lines = [
        *(f"{'would expire' if dry_run else 'expired'}: {one.name.id}" for one in pruning.expiring),
        *(f"{done}deleted, expired a day ago and more: {name.id}" for name in pruning.to_delete),
        *(f"{done}marked to be swept a day later, never finished: {name.id}" for name in pruning.to_mark),
        *(f"{done}swept, never finished: {name.id}" for name in pruning.to_sweep),
        *(f"{done}ended, an upload of {one.begun:%Y-%m-%d}: {one.key}" for one in pruning.to_abort),
    ]
    counts = f"{len(pruning.expiring)} sets expire, {len(pruning.to_delete)} are deleted, {len(pruning.to_sweep)} swept"
    verdict = f"{'PLANNED, nothing touched' if dry_run else 'PRUNED'}: {counts}, {len(pruning.decisions)} looked at"
    verdict = f"SUSPENDED: {pruning.suspended}" if pruning.suspended else verdict
    rows: list[dict[str, Any]] = [
        {"id": one.set.id, "decision": "expires" if one.expires else "stays", "why": one.why} for one in pruning.decisions
    ]
    text = "\n".join([
        report.headline(verdict), report.section("Done" if not dry_run else "To do", lines, "Nothing.\n"),
        report.section("Left alone", pruning.left_alone),
        report.table(["set", "decision", "why"], [(f"`{row['id']}`", row["decision"], row["why"]) for row in rows]),
    ])  # fmt: skip
    publish(f"{context.name}-{key}", verdict, text, rows, of="sets")
    for one in pruning.left_alone:
        get_run_logger().warning("left alone: %s", one)
    return verdict
