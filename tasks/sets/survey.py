"""What is to be pruned in a store: a plan over what is there, made after clocks and locks were looked at.

Everything else in the store is left alone: what no set of ours names, what another wrote, what cannot be read. How old a set is
say the clocks of this machine, of the database's server, which dated the sets, and of the store: where they differ, nothing is
pruned. Nor is anything while no new full came, or while the database cannot be reached: the sets may be all that there is.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from tasks.core import sql
from tasks.core.context import Context
from tasks.core.errors import BadInput, DamagedSet, OperationError
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
    drought,
    is_written_by_a_backup,
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
            server = site.find_server(None, context)
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
    pruning = Pruning(None, decisions, listed, left_alone=_lost(listing))
    _survey_expired(address, listing, instant, pruning)
    for one in listing.unfinished:
        _survey_unfinished(address, listing, one, instant, pruning)
    _survey_leftovers(address, context, listing, instant, pruning)
    return pruning


def _survey_expired(address: StoreAddress, listing: Listing, instant: datetime, pruning: Pruning) -> None:
    """Find the sets that were called expired long enough ago for their objects to go."""
    needed = {one.set.base for one in pruning.decisions if not one.expires}
    for expired in listing.expired:
        if expired.name.id in needed:
            pruning.left_alone.append(f"expired {expired.name.id}: a differential that is kept needs it; make it a set again")
        elif instant - expired.since >= GRACE and not _is_recent(expired.held, instant):
            until = f"{PINNED_FILE} lies in its folder" if expired.pinned else _locked_until(address, expired.name, instant)
            if until:
                pruning.left_alone.append(f"expired {expired.name.id}: {until}")
            else:
                pruning.to_delete.append(expired.name)


def _survey_leftovers(address: StoreAddress, context: Context, listing: Listing, instant: datetime, pruning: Pruning) -> None:
    """Find marks that mean nothing any more, and uploads that nobody will end."""
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


def _lost(listing: Listing) -> list[str]:
    """Return what is wrong with the sets whose manifest cannot be read, or was lost."""
    return [one.damage for one in listing.sets if one.manifest is None and one.damage]


def _require_clock(address: StoreAddress, lock: ContextLock) -> None:
    """Refuse to say how old a set is by a clock that differs from another; a store that is a folder has none of its own."""
    database: datetime = lock.connection.execute(sql.server.SERVER_CLOCK).fetchall()[0][0]
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
