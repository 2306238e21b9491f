"""What a store has of a context: its sets and their states, reading nothing but manifests and marks."""

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
from tasks.core.sets.marks import CleanedMark, DamagedMark, parse_mark
from tasks.core.sets.name import LEGACY, OWNER_FILE, Kind, SetName, split_key
from tasks.core.sets.order import newest_first
from tasks.core.sets.retention import CLEANED_FILE, DAMAGED_FILE, EXPIRED_FILE, HOLD, PINNED_FILE, SWEPT_FILE
from tasks.run.retries import persistent
from tasks.sets.manifest import find_manifest
from tasks.sets.marks import STATES
from tasks.store.address import StoreAddress
from tasks.store.interface import ObjectInfo, Store

# What is stored last before the manifest may be there for so long, and no manifest: its run is about to write it.
ABOUT_TO_COMMIT = timedelta(hours=1)


@dataclass(frozen=True)
class ListedSet:
    """A set as a listing shows it; `damage` is what is wrong with it, as far as a listing can tell.

    `verified` is when it was last decoded, `held` since when a restore reads it, `pinned` whether people want it kept, `cleaned`
    how many rows of a clean-up set were deleted, by relation, once that is done; `aside` is why the set, whole as it is, is neither
    `latest` nor a base.
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
        """Its manifest, if nothing is known to be wrong with it, nor with whose history it is of."""
        return None if self.damage or self.aside else self.manifest


def facts_of_set(one: ListedSet) -> SetFacts:
    """Return what a report, and the record of an expired set, say of it."""
    manifest = one.manifest
    return SetFacts(
        id=one.name.id, kind=one.name.kind, state=one.state, instant=manifest.snapshot.instant if manifest else None,
        finished=manifest.finished if manifest else None, bytes=manifest.bytes if manifest else 0, verified=one.verified,
        note=one.damage or one.aside or "; ".join(manifest.losses if manifest else []),
    )  # fmt: skip


@dataclass(frozen=True)
class ExpiredSet:
    """A set that is none any more: its data are still there for a while, and since when."""

    name: SetName
    since: datetime
    storage_class: str
    bytes: int
    held: datetime | None = None
    pinned: bool = False


@dataclass(frozen=True)
class UnfinishedSet:
    """What a run left that died before its manifest; `since` is when it was found dead, and marked to be swept."""

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
    """What a store holds for a context; sets newest first."""

    sets: list[ListedSet]
    legacy: list[LegacyFile]
    unfinished: list[UnfinishedSet]
    expired: list[ExpiredSet] = field(default_factory=list)
    adopted: list[Adoption] = field(default_factory=list)

    @property
    def manifests(self) -> list[Manifest]:
        """The manifests that can be read."""
        return [one.manifest for one in self.sets if one.manifest]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing at all."""
        return not (self.sets or self.legacy or self.unfinished or self.expired)


@persistent
def list_sets(address: StoreAddress, context: str) -> Listing:
    """List a context's sets, newest first, reading nothing but their manifests.

    A folder without manifest is a set all the same, a damaged one, where it has what is stored last before the manifest, or
    where another set needs it: then the manifest was lost.
    """
    store = address.opened
    folders, legacy, adopted = defaultdict[SetName, dict[str, ObjectInfo]](dict), list[LegacyFile](), list[Adoption]()
    for one in store.list(f"{context}/"):
        if found := split_key(one.key):
            folders[found[0]][found[1]] = one
        elif one.key == f"{context}/{OWNER_FILE}":
            adopted = _adopted(store, one.key)
        elif LEGACY.search(one.key):
            legacy.append(LegacyFile(one.key, one.bytes, one.modified, one.storage_class))
    committed = {name: objects for name, objects in folders.items() if MANIFEST_FILE in objects}
    listed = (_listed(store, address, name, objects) for name, objects in committed.items())
    sets = [one for one in listed if one]
    rest = {name: objects for name, objects in folders.items() if name not in committed}
    expired = [_expired(name, objects) for name, objects in rest.items() if EXPIRED_FILE in objects]
    without = {name: rest[name] for name in sorted(rest.keys() - {one.name for one in expired}, key=lambda name: name.id)}
    lost = list(_lost(address, without, sets))
    gone = {one.name for one in lost}
    unfinished = [
        UnfinishedSet(name, objects[SWEPT_FILE].modified if SWEPT_FILE in objects else None)
        for name, objects in without.items() if name not in gone
    ]  # fmt: skip
    expired.sort(key=lambda one: one.name.id, reverse=True)
    sets = _with_asides(_with_bases([*sets, *lost]), adopted)
    return Listing(_newest_first(sets), legacy, unfinished, expired, adopted)


def _lost(
    address: StoreAddress, folders: Mapping[SetName, dict[str, ObjectInfo]], sets: Iterable[ListedSet]
) -> Iterator[ListedSet]:  # fmt: skip
    """Yield the sets among folders without manifest, with what is left of them to restore by."""
    needing = defaultdict[str, list[str]](list)
    for one in sets:
        if one.manifest and one.manifest.base:
            needing[one.manifest.base].append(one.name.id)
    for name, objects in folders.items():
        script = objects.get(RESTORE_SCRIPT)
        left = ["restorable by its restore.sh"] if script and now() - script.modified > ABOUT_TO_COMMIT else []
        left += [f"needed by {', '.join(needing[name.id])}"] if name.id in needing else []
        if left:
            damage = (
                f"{address.path(name.folder)}: manifest lost, {', '.join(left)}; it is never pruned: put its {MANIFEST_FILE} back, "
                "or delete the folder by hand"
            )
            yield ListedSet(name, None, "damaged", _class_of(objects), damage, held=_held(objects), pinned=PINNED_FILE in objects)


def _adopted(store: Store, key: str) -> list[Adoption]:
    try:
        return parse_owner(store.read(key), key).adopted
    except BadInput as error:
        # Sets can be listed and restored all the same.
        get_run_logger().warning("%s", error)
        return []


def _expired(name: SetName, objects: dict[str, ObjectInfo]) -> ExpiredSet:
    size = sum(one.bytes for one in objects.values())
    return ExpiredSet(name, objects[EXPIRED_FILE].modified, _class_of(objects), size, _held(objects), PINNED_FILE in objects)


def _held(objects: dict[str, ObjectInfo]) -> datetime | None:
    return max((one.modified for path, one in objects.items() if HOLD.fullmatch(path)), default=None)


def _class_of(objects: dict[str, ObjectInfo]) -> str:
    return "/".join(sorted({one.storage_class for path, one in objects.items() if path.startswith("data/")})) or "-"


def _listed(store: Store, address: StoreAddress, name: SetName, objects: dict[str, ObjectInfo]) -> ListedSet | None:
    """Return how a set looks; None if it expired since its objects were listed."""
    storage_class = _class_of(objects)
    try:
        manifest = find_manifest(store, address, name)
        if manifest is None:
            return None
    except (DamagedSet, ColdObject) as error:
        state = "untrusted" if isinstance(error, UntrustedSet) else "damaged"
        return ListedSet(name, None, state, storage_class, str(error), held=_held(objects), pinned=PINNED_FILE in objects)
    damage = _found_before(store, name, objects) or _damage(manifest, objects)
    found = "suspect" if manifest.losses else next((state for state in STATES if f"{state}.json" in objects), "stored")
    state = "damaged" if damage else found
    verified = max((objects[f"{mark}.json"].modified for mark in STATES if f"{mark}.json" in objects), default=None)
    said = damage and f"{address.path(name.folder)}: {damage}"
    marked = PINNED_FILE in objects, _cleaned(store, name, manifest) if CLEANED_FILE in objects else None
    return ListedSet(name, manifest, state, storage_class, said, verified, _held(objects), *marked)


def _cleaned(store: Store, name: SetName, manifest: Manifest) -> dict[str, int]:
    """Return how many rows of a clean-up set were deleted; none, where nobody can say."""
    try:
        mark = parse_mark(CleanedMark, store.read(f"{name.folder}/{CLEANED_FILE}"))
    except OperationError:
        return {}
    # No more can be gone than it has: a mark must hide no other loss.
    has = {relation.qualified: relation.rows for relation in manifest.relations}
    return {relation: min(rows, has.get(relation, 0)) for relation, rows in mark.deleted.items()} if mark else {}


def _with_bases(sets: list[ListedSet]) -> list[ListedSet]:
    """Return the sets with those called damaged whose base is gone or damaged."""
    whole = {one.name.id for one in sets if one.name.kind is Kind.FULL and not one.damage}

    def with_base(one: ListedSet) -> ListedSet:
        if one.damage or one.manifest is None or one.manifest.base is None or one.manifest.base in whole:
            return one
        return replace(one, state="damaged", damage=f"{one.name.id}: its base {one.manifest.base} is gone or damaged")

    return [with_base(one) for one in sets]


def _with_asides(sets: list[ListedSet], adopted: list[Adoption]) -> list[ListedSet]:
    """Return the sets with those marked that are of another history, or of one of which nobody knows."""
    aside = sets_aside([one.manifest for one in sets if one.manifest], adopted)

    def marked(one: ListedSet) -> ListedSet:
        why = aside.get(one.name.id)
        return replace(one, aside=why, state=one.state if one.damage else "set aside") if why else one

    return [marked(one) for one in sets]


def _found_before(store: Store, name: SetName, objects: dict[str, ObjectInfo]) -> str | None:
    """Return what an earlier look at the data of a set found to be damaged."""
    if DAMAGED_FILE not in objects:
        return None
    try:
        mark = parse_mark(DamagedMark, store.read(f"{name.folder}/{DAMAGED_FILE}"))
    except OperationError:
        mark = None
    found = mark.found if mark else f"its data, see {DAMAGED_FILE}"
    return f"damaged, as was found at {objects[DAMAGED_FILE].modified:%Y-%m-%d %H:%M %Z}: {found}; verify_backups looks again"


def _damage(manifest: Manifest, objects: dict[str, ObjectInfo]) -> str | None:
    """Return what a listing alone shows to be wrong: an object that is absent or has another size."""
    for stored in manifest.objects:
        found = objects.get(stored.path)
        if found is None:
            return f"{stored.path} is missing"
        if found.bytes != stored.bytes:
            return f"{stored.path} has {found.bytes} bytes, the manifest says {stored.bytes}"
    return None


def _newest_first(sets: Iterable[ListedSet]) -> list[ListedSet]:
    """Order sets as their snapshots were taken; unreadable ones last."""
    pairs = [(one, one.manifest) for one in sets if one.manifest]
    unreadable = [one for one in sets if not one.manifest]
    ordered = newest_first(pairs, lambda pair: pair[1].snapshot, lambda pair: pair[1].number, lambda pair: bool(pair[0].aside))
    readable = [one for one, _ in ordered]
    return readable + sorted(unreadable, key=lambda one: one.name.id, reverse=True)
