"""Pruning: sets that have had their time expire, expired ones are deleted a day later, and what lies dead is swept.

Everything else in the store is left alone: what no set of ours names, what another wrote, what cannot be read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from prefect import get_run_logger

from tasks.core import report
from tasks.core.context import Context
from tasks.core.errors import BadInput, DamagedSet, OperationError
from tasks.core.histories import open_disputes
from tasks.core.kinds import Kind, SetName, now, split_key
from tasks.core.known_sets import ExpiryRecord
from tasks.core.manifest import MANIFEST_FILE, parse_manifest
from tasks.core.pruning import (
    DEAD,
    EXPIRED_FILE,
    GRACE,
    HOLD,
    PINNED_FILE,
    Decision,
    StoredSet,
    is_ours,
    is_written_by_a_backup,
    plan,
)
from tasks.core.recovery_point import CLOCK_TOLERANCE
from tasks.records import keep_record
from tasks.reports import publish
from tasks.runs import Run, step
from tasks.sets import WARM_CLASS, ListedSet, facts_of_set, list_sets
from tasks.store import ObjectInfo, StoreAddress, Upload, persistent


@dataclass(frozen=True)
class Pruning:
    """What is to be done in a store: sets that expire, expired ones to delete, unfinished sets and uploads to sweep."""

    decisions: list[Decision] = field(default_factory=list)
    listed: dict[str, ListedSet] = field(default_factory=dict)
    to_delete: list[SetName] = field(default_factory=list)
    to_sweep: list[SetName] = field(default_factory=list)
    to_abort: list[Upload] = field(default_factory=list)
    dead_holds: list[str] = field(default_factory=list)
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
        yield "pruning-local-copy", StoreAddress(local.folder), dict.fromkeys(map(str, (Kind.FULL, Kind.DIFFERENTIAL)), local.keep)


@step
def survey(address: StoreAddress, context: Context, periods: dict[str, str], instant: datetime) -> Pruning:
    """Find out what is to be done at an instant with sets of kinds that have a period; nothing is touched.

    Raises:
        OperationError: this machine's clock and the store's differ: what is old cannot be said.
    """
    _require_clock(address)
    listing = list_sets(address, context.name)
    disputed = bool(open_disputes(listing.manifests, listing.adopted))
    sets = [_stored(one, instant, disputed=disputed) for one in listing.sets]
    decisions = plan(sets, instant, context.zone, periods)
    listed = {one.name.id: one for one in listing.sets}
    decisions = [_unless_locked(address, listed, one, instant) if one.expires else one for one in decisions]
    needed = {one.set.base for one in decisions if not one.expires}
    pruning = Pruning(decisions, listed)
    for expired in listing.expired:
        if expired.name.id in needed:
            pruning.left_alone.append(f"expired {expired.name.id}: a differential that is kept needs it; make it a set again")
        elif instant - expired.since >= GRACE and not _is_recent(expired.held, instant):
            until = f"{PINNED_FILE} lies in its folder" if expired.pinned else _locked_until(address, expired.name, instant)
            if until:
                pruning.left_alone.append(f"expired {expired.name.id}: {until}")
            else:
                pruning.to_delete.append(expired.name)
    for name in listing.unfinished:
        _survey_unfinished(address, name, instant, pruning)
    pruning.dead_holds.extend(
        one.key
        for one in address.opened.list(f"{context.name}/")
        if instant - one.modified >= DEAD and split_key(one.key) and HOLD.fullmatch(one.key.rpartition("/")[2])
    )
    try:
        uploads = list(address.opened.uploads(f"{context.name}/"))
        pruning.to_abort.extend(one for one in uploads if instant - one.begun >= DEAD and split_key(one.key))
    except BadInput as error:
        pruning.left_alone.append(f"unfinished uploads, which cannot be listed: {error}")
    return pruning


def _require_clock(address: StoreAddress) -> None:
    theirs, ours = address.opened.clock(), now()
    if theirs and abs(theirs - ours) > CLOCK_TOLERANCE:
        raise OperationError(
            f"the clock of this machine says {ours:%Y-%m-%d %H:%M:%S}Z, that of {address.url} {theirs:%Y-%m-%d %H:%M:%S}Z; "
            "set the wrong one: until then nobody knows how old a set is, and nothing is pruned"
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


def _survey_unfinished(address: StoreAddress, name: SetName, instant: datetime, pruning: Pruning) -> None:
    """Sweep a folder without manifest if every object in it is dead and provably of the run that it is named after."""
    objects = list(address.opened.list(f"{name.folder}/"))
    if not objects or instant - max(one.modified for one in objects) < DEAD:
        return
    if until := _locked_until(address, name, instant):
        pruning.left_alone.append(f"unfinished {name.id}: {until}")
        return
    strange = [one.key for one in objects if not _is_of_its_run(address, name, one)]
    if strange:
        pruning.left_alone.append(f"unfinished {name.id}: {', '.join(strange[:3])} is not of its run; look at it")
    else:
        pruning.to_sweep.append(name)


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
def expire(address: StoreAddress, name: SetName) -> None:
    """Make a set none: its manifest gets another name. Another run may have done so meanwhile."""
    store, key = address.opened, f"{name.folder}/{MANIFEST_FILE}"
    if store.head(key) is None:
        return
    store.replace(f"{name.folder}/{EXPIRED_FILE}", store.read(key), WARM_CLASS)
    store.delete(key)


@step(name="delete {name.id}")
@persistent
def delete_expired(address: StoreAddress, name: SetName) -> list[str]:
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
        store.delete(f"{name.folder}/{path}")
    return [f"{name.folder}/{path}: not of the set" for path in sorted({*paths} - {*ours})]


@step(name="sweep {name.id}")
@persistent
def sweep(address: StoreAddress, name: SetName) -> None:
    """Delete what a run that died left of a set, unless it was committed meanwhile."""
    store = address.opened
    if store.head(f"{name.folder}/{MANIFEST_FILE}") is None:
        for one in list(store.list(f"{name.folder}/")):
            store.delete(one.key)


def carry_out(address: StoreAddress, run: Run, pruning: Pruning) -> None:
    """Do what was planned, in an order in which no set is ever listed whose base is gone; what expires is recorded before."""
    if expiring := pruning.expiring:
        facts = [facts_of_set(one) for one in expiring]
        keep_record(address, run.context, ExpiryRecord(instant=run.started, run=run.id, sets=facts))
    for one in expiring:
        expire(address, one.name)
    for name in pruning.to_delete:
        try:
            pruning.left_alone.extend(delete_expired(address, name))
        except DamagedSet as error:
            pruning.left_alone.append(str(error))
    for name in pruning.to_sweep:
        sweep(address, name)
    for key in pruning.dead_holds:
        address.opened.delete(key)
    for upload in pruning.to_abort:
        address.opened.abort(upload)
        get_run_logger().info("%s: unfinished upload of %s ended", upload.key, upload.begun)


@step
def publish_pruning(context: Context, key: str, pruning: Pruning, *, dry_run: bool) -> str:
    """Publish what is to be done, or was; return the verdict."""
    lines = [
        *(f"{'would expire' if dry_run else 'expired'}: {one.name.id}" for one in pruning.expiring),
        *(f"{'would be deleted' if dry_run else 'deleted'}, expired a day ago and more: {name.id}" for name in pruning.to_delete),
        *(f"{'would be swept' if dry_run else 'swept'}, never finished: {name.id}" for name in pruning.to_sweep),
        *(f"{'would be ended' if dry_run else 'ended'}, an upload of {one.begun:%Y-%m-%d}: {one.key}" for one in pruning.to_abort),
    ]
    counts = f"{len(pruning.expiring)} sets expire, {len(pruning.to_delete)} are deleted, {len(pruning.to_sweep)} swept"
    verdict = f"{'PLANNED, nothing touched' if dry_run else 'PRUNED'}: {counts}, {len(pruning.decisions)} looked at"
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
