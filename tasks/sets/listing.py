"""The sets of a context in a store, and their states; only manifests and marks are read."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from prefect import get_run_logger

from tasks.core.errors import BadInput, ColdObject, DamagedSet, OperationError, UntrustedSet
from tasks.core.run.clock import now
from tasks.core.sets.facts import SetFacts
from tasks.core.sets.histories import Adoption, parse_owner, sets_aside
from tasks.core.sets.manifest import RESTORE_SCRIPT, Manifest
from tasks.core.sets.manifest_file import MANIFEST_FILE
from tasks.core.sets.marks import CleanedMark, DamagedMark
from tasks.core.sets.name import LEGACY, OWNER_FILE, Kind, SetName, split_key
from tasks.core.sets.order import newest_first
from tasks.core.sets.retention import CLEANED_FILE, DAMAGED_FILE, EXPIRED_FILE, HOLD, PINNED_FILE, SWEPT_FILE
from tasks.core.values import parse_or_none
from tasks.run.retries import persistent
from tasks.sets.manifest import find_manifest
from tasks.sets.marks import STATES
from tasks.store.address import StoreAddress
from tasks.store.interface import ObjectInfo, Store

# How long the last object of a set may exist without the manifest, which its run is about to write.
ABOUT_TO_COMMIT = timedelta(hours=1)


@dataclass(frozen=True)
class ListedSet:
    """A set as a listing shows it.

    `damage` is what is wrong with the set, as far as a listing can show it. `verified` is when it
    was last decoded, `held` since when a restore reads it, `pinned` whether an operator keeps it.
    `cleaned` is the number of deleted rows of a clean-up set by relation, once all are deleted.
    `aside` is why a complete set is set aside, so that it is neither `latest` nor a base.
    """

    name: SetName
    manifest: Manifest | None
    state: str
    storage_class: str
    damage: str | None
    verified: datetime | None = None
    held: datetime | None = None
    pinned: bool = False
    cleaned: dict[str, int] | None = None
    aside: str | None = None

    @property
    def usable(self) -> Manifest | None:
        """The manifest of the set, unless the set is known to be damaged or is set aside."""
        return None if self.damage or self.aside else self.manifest


def facts_of_set(entry: ListedSet) -> SetFacts:
    """Return the facts of a set for a report, and for the record of its expiry."""
    manifest = entry.manifest
    return SetFacts(
        id=entry.name.id, kind=entry.name.kind, state=entry.state, instant=manifest.snapshot.instant if manifest else None,
        finished=manifest.finished if manifest else None, bytes=manifest.bytes if manifest else 0, verified=entry.verified,
        note=entry.damage or entry.aside or "; ".join(manifest.losses if manifest else []),
    )  # fmt: skip


@dataclass(frozen=True)
class ExpiredSet:
    """An expired set, whose data are kept for a while, and since when."""

    name: SetName
    since: datetime
    storage_class: str
    bytes: int
    held: datetime | None = None
    pinned: bool = False


@dataclass(frozen=True)
class UnfinishedSet:
    """A set whose run died before it wrote the manifest; `since` is when it was marked for deletion."""

    name: SetName
    since: datetime | None = None


@dataclass(frozen=True)
class LegacyFile:
    """A file of the scripts that this project replaces; never touched."""

    key: str
    bytes: int
    modified: datetime
    storage_class: str


@dataclass(frozen=True)
class Listing:
    """The contents of a store for a context; sets newest first."""

    sets: list[ListedSet]
    legacy: list[LegacyFile]
    unfinished: list[UnfinishedSet]
    expired: list[ExpiredSet] = field(default_factory=list)
    adopted: list[Adoption] = field(default_factory=list)

    @property
    def manifests(self) -> list[Manifest]:
        """The manifests that can be read."""
        return [entry.manifest for entry in self.sets if entry.manifest]

    @property
    def is_empty(self) -> bool:
        """Whether the store has nothing of the context."""
        return not (self.sets or self.legacy or self.unfinished or self.expired)


@persistent
def list_sets(address: StoreAddress, context: str) -> Listing:
    """List a context's sets, newest first, reading nothing but their manifests.

    A folder without manifest counts as a damaged set, whose manifest was lost, if it has the object
    that is stored last before the manifest, or if another set needs it.
    """
    store = address.opened
    folders, legacy, adopted = defaultdict[SetName, dict[str, ObjectInfo]](dict), list[LegacyFile](), list[Adoption]()
    for info in store.list(f"{context}/"):
        if place := split_key(info.key):
            folders[place[0]][place[1]] = info
        elif info.key == f"{context}/{OWNER_FILE}":
            adopted = _adopted(store, info.key)
        elif LEGACY.search(info.key):
            legacy.append(LegacyFile(info.key, info.bytes, info.modified, info.storage_class))
    committed = {name: objects for name, objects in folders.items() if MANIFEST_FILE in objects}
    listed = (_listed(store, address, name, objects) for name, objects in committed.items())
    sets = [entry for entry in listed if entry]
    uncommitted = {name: objects for name, objects in folders.items() if name not in committed}
    expired = [_expired(name, objects) for name, objects in uncommitted.items() if EXPIRED_FILE in objects]
    unfinished_folders = {
        name: uncommitted[name]
        for name in sorted(uncommitted.keys() - {expired_set.name for expired_set in expired}, key=lambda name: name.id)
    }
    lost = list(_lost(address, unfinished_folders, sets))
    lost_names = {entry.name for entry in lost}
    unfinished = [
        UnfinishedSet(name, objects[SWEPT_FILE].modified if SWEPT_FILE in objects else None)
        for name, objects in unfinished_folders.items() if name not in lost_names
    ]  # fmt: skip
    expired.sort(key=lambda expired_set: expired_set.name.id, reverse=True)
    sets = _with_asides(_with_bases([*sets, *lost]), adopted)
    return Listing(_newest_first(sets), legacy, unfinished, expired, adopted)


def _lost(
    address: StoreAddress, folders: Mapping[SetName, dict[str, ObjectInfo]], sets: Iterable[ListedSet]
) -> Iterator[ListedSet]:
    """Yield the sets whose manifest was lost, with a note on how they can still be restored."""
    needing = defaultdict[str, list[str]](list)
    for entry in sets:
        if entry.manifest and entry.manifest.base:
            needing[entry.manifest.base].append(entry.name.id)
    for name, objects in folders.items():
        script = objects.get(RESTORE_SCRIPT)
        evidence = ["restorable by its restore.sh"] if script and now() - script.modified > ABOUT_TO_COMMIT else []
        evidence += [f"needed by {', '.join(needing[name.id])}"] if name.id in needing else []
        if evidence:
            damage = (
                f"{address.path(name.folder)}: manifest lost, {', '.join(evidence)}; never pruned: "
                f"put its {MANIFEST_FILE} back, or delete the folder by hand"
            )
            yield ListedSet(name, None, "damaged", _class_of(objects), damage, held=_held(objects), pinned=PINNED_FILE in objects)


def _adopted(store: Store, key: str) -> list[Adoption]:
    try:
        return parse_owner(store.read(key), key).adopted
    except BadInput as error:
        # Sets can be listed and restored without owner.json.
        get_run_logger().warning("%s", error)
        return []


def _expired(name: SetName, objects: dict[str, ObjectInfo]) -> ExpiredSet:
    size = sum(info.bytes for info in objects.values())
    return ExpiredSet(name, objects[EXPIRED_FILE].modified, _class_of(objects), size, _held(objects), PINNED_FILE in objects)


def _held(objects: dict[str, ObjectInfo]) -> datetime | None:
    return max((info.modified for path, info in objects.items() if HOLD.fullmatch(path)), default=None)


def _class_of(objects: dict[str, ObjectInfo]) -> str:
    return "/".join(sorted({info.storage_class for path, info in objects.items() if path.startswith("data/")})) or "-"


def _listed(store: Store, address: StoreAddress, name: SetName, objects: dict[str, ObjectInfo]) -> ListedSet | None:
    """Return a set as listed; None if it expired since its objects were listed."""
    storage_class = _class_of(objects)
    try:
        manifest = find_manifest(store, address, name)
        if manifest is None:
            return None
    except (DamagedSet, ColdObject) as error:
        state = "untrusted" if isinstance(error, UntrustedSet) else "damaged"
        return ListedSet(name, None, state, storage_class, str(error), held=_held(objects), pinned=PINNED_FILE in objects)
    damage = _recorded_damage(store, name, objects) or _damage(manifest, objects)
    mark_state = "suspect" if manifest.losses else next((state for state in STATES if f"{state}.json" in objects), "stored")
    state = "damaged" if damage else mark_state
    verified = max((objects[f"{mark}.json"].modified for mark in STATES if f"{mark}.json" in objects), default=None)
    problem = damage and f"{address.path(name.folder)}: {damage}"
    marked = PINNED_FILE in objects, _cleaned(store, name, manifest) if CLEANED_FILE in objects else None
    return ListedSet(name, manifest, state, storage_class, problem, verified, _held(objects), *marked)


def _cleaned(store: Store, name: SetName, manifest: Manifest) -> dict[str, int]:
    """Return how many rows of a clean-up set were deleted; empty if that is not known."""
    try:
        mark = parse_or_none(CleanedMark, store.read(f"{name.folder}/{CLEANED_FILE}"))
    except OperationError:
        return {}
    # No more rows can be deleted than the set has: a mark must not hide another loss.
    archived_rows = {relation.qualified: relation.rows for relation in manifest.relations}
    return {relation: min(rows, archived_rows.get(relation, 0)) for relation, rows in mark.deleted.items()} if mark else {}


def _with_bases(sets: list[ListedSet]) -> list[ListedSet]:
    """Return the sets, those whose base is missing or damaged as damaged."""
    good_fulls = {entry.name.id for entry in sets if entry.name.kind is Kind.FULL and not entry.damage}

    def with_base(entry: ListedSet) -> ListedSet:
        if entry.damage or entry.manifest is None or entry.manifest.base is None or entry.manifest.base in good_fulls:
            return entry
        return replace(entry, state="damaged", damage=f"{entry.name.id}: its base {entry.manifest.base} is missing or damaged")

    return [with_base(entry) for entry in sets]


def _with_asides(sets: list[ListedSet], adopted: list[Adoption]) -> list[ListedSet]:
    """Return the sets, those of another or an unknown history as set aside."""
    aside = sets_aside([entry.manifest for entry in sets if entry.manifest], adopted)

    def marked(entry: ListedSet) -> ListedSet:
        reason = aside.get(entry.name.id)
        return replace(entry, aside=reason, state=entry.state if entry.damage else "set aside") if reason else entry

    return [marked(entry) for entry in sets]


def _recorded_damage(store: Store, name: SetName, objects: dict[str, ObjectInfo]) -> str | None:
    """Return the damage that an earlier verification recorded."""
    if DAMAGED_FILE not in objects:
        return None
    try:
        mark = parse_or_none(DamagedMark, store.read(f"{name.folder}/{DAMAGED_FILE}"))
    except OperationError:
        mark = None
    problem = mark.problem if mark else f"see {DAMAGED_FILE}"
    return f"damaged, found at {objects[DAMAGED_FILE].modified:%Y-%m-%d %H:%M %Z}: {problem}; verify_backups checks it again"


def _damage(manifest: Manifest, objects: dict[str, ObjectInfo]) -> str | None:
    """Return what a listing shows to be wrong: an object is missing or has another size."""
    for stored in manifest.objects:
        info = objects.get(stored.path)
        if info is None:
            return f"{stored.path} is missing"
        if info.bytes != stored.bytes:
            return f"{stored.path} has {info.bytes} bytes, but {stored.bytes} in the manifest"
    return None


def _newest_first(sets: Iterable[ListedSet]) -> list[ListedSet]:
    """Order sets by their snapshots, newest first; unreadable ones last."""
    pairs = [(entry, entry.manifest) for entry in sets if entry.manifest]
    unreadable = [entry for entry in sets if not entry.manifest]
    ordered = newest_first(pairs, lambda pair: pair[1].snapshot, lambda pair: pair[1].number, lambda pair: bool(pair[0].aside))
    readable = [entry for entry, _ in ordered]
    return readable + sorted(unreadable, key=lambda entry: entry.name.id, reverse=True)
