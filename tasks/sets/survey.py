"""Planning what to prune in a store, after clocks and locks were checked.

Everything else in the store is left alone: objects that belong to no set of this project, that
others wrote, or that cannot be read. The age of a set depends on the clocks of this machine, of the
database server, which dated the sets, and of the store: if these clocks differ, nothing is pruned.
Nothing is pruned either while there is no new full backup or the database cannot be reached,
because then the sets may be all that is left.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from tasks.core import sql
from tasks.core.context import Context
from tasks.core.errors import BadInput, DamagedSet, OperationError, ServerUnavailable
from tasks.core.run.clock import CLOCK_TOLERANCE, now
from tasks.core.sets.histories import open_disputes
from tasks.core.sets.manifest_file import parse_manifest
from tasks.core.sets.name import Kind, SetName, split_key
from tasks.core.sets.retention import (
    DEAD,
    EXPIRED_FILE,
    GRACE,
    HOLD,
    PINNED_FILE,
    SWEPT_FILE,
    Decision,
    StoredSet,
    is_written_by_a_backup,
    missing_full,
    plan,
    suspicion,
)
from tasks.database.locks import ContextLock, context_lock
from tasks.run import site
from tasks.run.run import Run, step
from tasks.sets.listing import ListedSet, Listing, UnfinishedSet, list_sets
from tasks.store.address import StoreAddress
from tasks.store.interface import ObjectInfo, Upload


@dataclass(frozen=True)
class Pruning:
    """The plan for a store: sets to expire, and to delete; unfinished sets to mark, and to delete.

    `suspended` is the reason if nothing is done.
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
        """Sets that expire, differentials before their fulls."""
        ids = [decision.set.id for decision in self.decisions if decision.expires]
        return sorted((self.listed[set_id] for set_id in ids), key=lambda set_id: set_id.name.kind is Kind.FULL)


def places(context: Context, store: StoreAddress) -> Iterator[tuple[str, StoreAddress, dict[str, str]]]:
    """Yield the places of a context's sets, with retention: the store, and a local copy if any."""
    retention, jobs = context.retention, {name: job.keep for name, job in context.long_term.items()}
    yield (
        "pruning",
        store,
        {Kind.FULL: retention.daily, Kind.DIFFERENTIAL: retention.differential, Kind.SAFETY: retention.safety, **jobs},
    )
    if local := context.local_copy:
        yield "pruning-local-copy", store.copy_in(local.folder), dict.fromkeys(map(str, (Kind.FULL, Kind.DIFFERENTIAL)), local.keep)


@contextmanager
def alone(context: str, run: Run) -> Iterator[ContextLock]:
    """Lock a context's pruning, apart from the lock under which backups and restores run.

    Raises:
        BadInput: the database cannot be reached; nothing is pruned.
    """
    with ExitStack() as stack:
        try:
            server = site.find_server(None, context)
            lock = stack.enter_context(context_lock(server, f"pruning of {context}", run.title, exclusive=True))
        except (BadInput, ServerUnavailable) as error:
            raise BadInput(f"nothing is pruned, because the database's clock and locks cannot be read: {error}") from error
        yield lock


@step
def survey(address: StoreAddress, context: Context, periods: dict[str, str], instant: datetime, lock: ContextLock) -> Pruning:
    """Make the plan for an instant, for sets of the kinds that have a retention period.

    Nothing is changed.

    Raises:
        OperationError: the clocks of this machine, the database server and the store differ, so
            that ages are not known.
    """
    _require_clock(address, lock)
    listing = list_sets(address, context.name)
    disputed = bool(open_disputes(listing.manifests, listing.adopted))
    stored = [_stored(entry, instant, disputed=disputed) for entry in listing.sets]
    suspended = suspicion(stored) or missing_full(stored, instant, context.objectives.rpo)
    decisions = plan(stored, instant, context.zone, periods, suspended)
    listed = {entry.name.id: entry for entry in listing.sets}
    if suspended:
        return Pruning(suspended, decisions, listed, left_alone=_lost(listing))
    decisions = [_unless_locked(address, listed, decision, instant) if decision.expires else decision for decision in decisions]
    pruning = Pruning(None, decisions, listed, left_alone=_lost(listing))
    _survey_expired(address, listing, instant, pruning)
    for unfinished in listing.unfinished:
        _survey_unfinished(address, listing, unfinished, instant, pruning)
    _survey_leftovers(address, context, listing, instant, pruning)
    return pruning


def _survey_expired(address: StoreAddress, listing: Listing, instant: datetime, pruning: Pruning) -> None:
    """Find the sets that expired long enough ago for their objects to be deleted."""
    needed = {decision.set.base for decision in pruning.decisions if not decision.expires}
    for expired in listing.expired:
        if expired.name.id in needed:
            pruning.left_alone.append(f"expired {expired.name.id}: a differential that is kept needs this set; put it back")
        elif instant - expired.since >= GRACE and not _is_recent(expired.held, instant):
            until = f"{PINNED_FILE} is in its folder" if expired.pinned else _locked_until(address, expired.name, instant)
            if until:
                pruning.left_alone.append(f"expired {expired.name.id}: {until}")
            else:
                pruning.to_delete.append(expired.name)


def _survey_leftovers(address: StoreAddress, context: Context, listing: Listing, instant: datetime, pruning: Pruning) -> None:
    """Find marks that no longer apply, and uploads that nobody will finish."""
    sweep_marks = {f"{entry.name.folder}/{SWEPT_FILE}" for entry in listing.sets}
    pruning.dead_marks.extend(
        info.key
        for info in address.opened.list(f"{context.name}/")
        if info.key in sweep_marks
        or (instant - info.modified >= DEAD and split_key(info.key) and HOLD.fullmatch(info.key.rpartition("/")[2]))
    )
    try:
        uploads = list(address.opened.uploads(f"{context.name}/"))
        pruning.to_abort.extend(upload for upload in uploads if instant - upload.begun >= DEAD and split_key(upload.key))
    except BadInput as error:
        pruning.left_alone.append(f"unfinished uploads, which cannot be listed: {error}")


def _lost(listing: Listing) -> list[str]:
    """Return notes on the sets whose manifest is unreadable or lost."""
    return [entry.damage for entry in listing.sets if entry.manifest is None and entry.damage]


def _require_clock(address: StoreAddress, lock: ContextLock) -> None:
    """Refuse to judge the age of sets if clocks differ; a folder has no clock of its own."""
    database: datetime = lock.connection.execute(sql.server.SERVER_CLOCK).fetchall()[0][0]
    _compare_clocks("the database server", database, now())
    if store := address.opened.clock():
        _compare_clocks(address.url, store, now())


def _compare_clocks(owner: str, other: datetime, ours: datetime) -> None:
    if abs(other - ours) > CLOCK_TOLERANCE:
        raise OperationError(
            f"the clock of this machine says {ours:%Y-%m-%d %H:%M:%S}Z, that of {owner} "
            f"{other.astimezone(ours.tzinfo):%Y-%m-%d %H:%M:%S}Z; clock skew: fix NTP; pruning is "
            "suspended until then, because ages of sets are not known"
        )


def _is_recent(held: datetime | None, instant: datetime) -> bool:
    return held is not None and instant - held < DEAD


def _stored(entry: ListedSet, instant: datetime, *, disputed: bool) -> StoredSet:
    manifest, held = entry.manifest, _is_recent(entry.held, instant)
    if manifest is None:
        return StoredSet(entry.name.id, entry.name.kind, None, restorable=False, held=held, pinned=entry.pinned)
    return StoredSet(
        manifest.id, manifest.kind, manifest.snapshot.instant, manifest.base, manifest.keep_until, entry.usable is not None,
        entry.verified is not None and not manifest.losses, bool(manifest.losses), held, entry.pinned,
        disputed and entry.aside is not None,
    )  # fmt: skip


def _unless_locked(address: StoreAddress, listed: dict[str, ListedSet], decision: Decision, instant: datetime) -> Decision:
    """Keep a set under object lock: deletion would be refused, or only add a delete marker."""
    until = _locked_until(address, listed[decision.set.id].name, instant)
    return Decision(decision.set, expires=False, why=until) if until else decision


def _locked_until(address: StoreAddress, name: SetName, instant: datetime) -> str | None:
    """Return until when an object of a set is locked, if one is."""
    for info in list(address.opened.list(f"{name.folder}/")):
        head = address.opened.head(info.key)
        if head and head.locked_until and head.locked_until > instant:
            return f"under object lock until {head.locked_until:%Y-%m-%d %H:%M %Z}"
    return None


def _survey_unfinished(
    address: StoreAddress, listing: Listing, unfinished: UnfinishedSet, instant: datetime, pruning: Pruning
) -> None:
    """Plan to delete a folder without manifest, if all its objects are old and of the run it names.

    The folder is marked first, and deleted a day later.
    """
    name = unfinished.name
    objects = [info for info in address.opened.list(f"{name.folder}/") if info.key != f"{name.folder}/{SWEPT_FILE}"]
    if any(instant - info.modified < DEAD for info in objects):
        return
    if reason := _locked_until(address, name, instant) or _needed(address, listing, name) or _strange(address, name, objects):
        pruning.left_alone.append(f"unfinished {name.id}: {reason}")
    elif unfinished.since is None:
        pruning.to_mark.append(name)
    elif instant - unfinished.since >= GRACE:
        pruning.to_sweep.append(name)


def _needed(address: StoreAddress, listing: Listing, name: SetName) -> str | None:
    """Return which expired or unreadable set may need this folder as its full backup."""
    if name.kind is not Kind.FULL:
        return None
    unreadable = [entry.name.id for entry in listing.sets if entry.name.kind is Kind.DIFFERENTIAL and entry.manifest is None]
    for expired in listing.expired:
        if expired.name.kind is Kind.DIFFERENTIAL:
            mark = f"{expired.name.folder}/{EXPIRED_FILE}"
            try:
                base = parse_manifest(address.opened.read(mark), address.path(mark)).base
            except DamagedSet:
                unreadable.append(expired.name.id)
            else:
                if base == name.id:
                    return f"its manifest is lost, and expired {expired.name.id} needs this set"
    # A full backup is older than the sets that need it.
    later = [set_id for set_id in unreadable if set_id[-20:] > name.id[-20:]]
    return f"{later[0]} may need this set, and cannot be read: delete or repair {later[0]} by hand" if later else None


def _strange(address: StoreAddress, name: SetName, objects: list[ObjectInfo]) -> str | None:
    foreign = [info.key for info in objects if not _is_of_its_run(address, name, info)]
    return f"{', '.join(foreign[:3])} was not written by the set's run; find out who wrote it" if foreign else None


def _is_of_its_run(address: StoreAddress, name: SetName, info: ObjectInfo) -> bool:
    path = info.key.removeprefix(f"{name.folder}/")
    if not is_written_by_a_backup(path):
        return False
    if HOLD.fullmatch(path) or not address.opened.keeps_metadata:
        return True
    head = address.opened.head(info.key)
    return head is not None and head.metadata.get("run") == name.run
