"""Backup sets in the store: written object by object and read back, committed by their manifest, listed, staged, verified."""

import hashlib
import json
import math
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import zstandard
from prefect import get_run_logger

from tasks.core.blocks import Lines, parse_lines
from tasks.core.calendar import is_instant, parse_instant
from tasks.core.completeness import describe_lack
from tasks.core.errors import AlreadyExists, BadInput, ColdObject, DamagedSet, OperationError, StoreUnavailable, UntrustedSet
from tasks.core.histories import Adoption, Owner, parse_owner, render_owner, sets_aside
from tasks.core.kinds import LEGACY, OWNER_FILE, RULES, Kind, SetName, now, parse_set_reference, split_key
from tasks.core.known_sets import SetFacts
from tasks.core.losses import CleanedUp
from tasks.core.manifest import (
    MANIFEST_FILE,
    RESTORE_SCRIPT,
    Inherited,
    Manifest,
    Relation,
    StoredObject,
    parse_manifest,
    render_manifest,
)
from tasks.core.marks import CleanedMark, DamagedMark, parse_mark
from tasks.core.order import newest_first
from tasks.core.progress import Item, Moved, unmeasured
from tasks.core.pruning import CLEANED_FILE, DAMAGED_FILE, EXPIRED_FILE, HOLD, PINNED_FILE, SWEPT_FILE
from tasks.core.sources import RowSource, digest_sources
from tasks.core.unpacking import blocks_of
from tasks.runs import Run, staging, step
from tasks.store import ObjectInfo, Store, StoreAddress, persistent

# Manifests and lists are never colder than this: choosing a set must not need a thaw.
WARM_CLASS = "STANDARD"
RECENT = timedelta(days=30)
STATES = ("drilled", "decoded")
# What is stored last before the manifest may be there for so long, and no manifest: its run is about to write it.
ABOUT_TO_COMMIT = timedelta(hours=1)


@persistent
def upload(
    address: StoreAddress, run: Run, name: SetName, stored: StoredObject, file: Path, storage_class: str,
    moved: Moved = unmeasured,
) -> StoredObject:  # fmt: skip
    """Upload one object of a set, read it back and remove the staged file; each byte moves twice, there and back.

    Raises:
        StoreUnavailable: the store did not take it, or gives other bytes back.
    """
    store, key = address.opened, f"{name.folder}/{stored.path}"
    store.put(key, file, storage_class, {"sha256": stored.sha256, "run": run.id, "set": name.id}, moved)
    read_back(store, key, stored, lambda number: moved(stored.bytes + number))
    file.unlink()
    get_run_logger().info("%s: %d bytes stored and read back", address.path(key), stored.bytes)
    return stored


def read_back(store: Store, key: str, stored: StoredObject, moved: Moved) -> None:
    """Read an object whole and compare it with what was sent."""
    with Path("/dev/null").open("wb") as nowhere:
        found = store.fetch(key, nowhere, moved)
    if found != stored.sha256:
        raise StoreUnavailable(f"{key}: the store gives back other bytes than were sent (sha256 {found}); try again")


@step(name="cool {name.id}")
@persistent
def cool(address: StoreAddress, name: SetName, manifest: Manifest) -> None:
    """Give the data of a set that was read back the cold class of its kind; what chooses and lists sets stays warm."""
    data = [stored for relation in manifest.relations for stored in relation.objects]
    classes = {address.opened.set_class(f"{name.folder}/{one.path}", RULES[name.kind].storage_class) for one in data}
    get_run_logger().info("%s: %d objects lie in class %s", name.id, len(data), "/".join(sorted(classes)))


@persistent
def publish(address: StoreAddress, run: Run, name: SetName, manifest: Manifest) -> str:
    """Commit a set: write its manifest, signed if there is a key, create-only, and read it back; return the set's path."""
    store, key = address.opened, f"{name.folder}/{MANIFEST_FILE}"
    store.create(key, render_manifest(manifest, address.signer), WARM_CLASS, {"run": run.id, "set": name.id})
    if parse_manifest(store.read(key), address.path(key), address.trust) != manifest:
        raise StoreUnavailable(f"{address.path(key)}: the manifest read back is another; try again")
    return address.path(name.folder)


@persistent
def require_owner(address: StoreAddress, context: str, system_identifier: str) -> None:
    """Make sure that this cluster is the one that writes this context's sets; the first one to come is.

    Raises:
        BadInput: another cluster is.
    """
    store, key = address.opened, f"{context}/{OWNER_FILE}"
    if store.head(key) is None:
        try:
            store.create(key, render_owner(Owner(system_identifier=system_identifier)), WARM_CLASS, {})
        except AlreadyExists:
            get_run_logger().info("%s was written by another run meanwhile", key)
    owner = parse_owner(store.read(key), address.path(key)).system_identifier
    if owner != system_identifier:
        raise BadInput(
            f"{address.path(key)}: sets of {context} are written by the cluster with system identifier {owner}, this one is "
            f"{system_identifier}; after a disaster recovery take the store over: python -m deployments.register --adopt"
        )


@persistent
def require_store(address: StoreAddress, context: str) -> None:
    """Make sure that the store answers before anything else is done."""
    # A list, because a HEAD says of a bucket that is missing what it says of an object that is.
    list(address.opened.list(f"{context}/{OWNER_FILE}"))


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


@persistent
def fetch_manifest(address: StoreAddress, name: SetName) -> Manifest:
    """Read the manifest of one set.

    Raises:
        BadInput: there is no such set.
        DamagedSet: its manifest is damaged, or is another set's.
    """
    manifest = find_manifest(address.opened, address, name)
    if manifest is None:
        raise BadInput(
            f"no backup set {address.path(name.folder)} (no {MANIFEST_FILE} there); "
            f"list what there is: python -m flows.backup list_backups --context {name.context}"
        )
    return manifest


def find_manifest(store: Store, address: StoreAddress, name: SetName) -> Manifest | None:
    """Return the manifest of a set; None if there is none.

    Raises:
        DamagedSet: its manifest is damaged, or is another set's.
        UntrustedSet: it is not signed as it must be.
        ColdObject: it has to be thawed first.
    """
    key = f"{name.folder}/{MANIFEST_FILE}"
    if store.require_readable(key) is None:
        return None
    manifest = parse_manifest(store.read(key), address.path(name.folder), address.trust)
    if (manifest.context, manifest.id, manifest.kind) != (name.context, name.id, name.kind):
        raise DamagedSet(f"{address.path(name.folder)}: its manifest is that of set {manifest.id}; restore another set")
    return manifest


@step(name="download {stored.path}")
@persistent
def fetch(
    address: StoreAddress, name: SetName, stored: StoredObject, file: Path, moved: Moved = unmeasured
) -> Path:  # fmt: skip
    """Download one object of a set into a staged file, 0600, and compare it with the manifest.

    Raises:
        DamagedSet: it is absent, or its bytes are not those of the manifest.
        ColdObject: it has to be thawed first.
    """
    store, key = address.opened, f"{name.folder}/{stored.path}"
    if (there := store.require_readable(key)) is None:
        raise DamagedSet(f"{address.path(key)} is missing; restore another set")
    if there.bytes > stored.bytes:
        said = f"{there.bytes} bytes, the manifest says {stored.bytes}"
        remember_damage(address, name, f"{stored.path}: {said}")
        raise DamagedSet(f"{address.path(key)} is damaged: {said}; restore another set")
    file.unlink(missing_ok=True)
    with staging(file):
        file.touch(mode=0o600)
        with file.open("wb") as target:
            found = store.fetch(key, target, moved)
    size = file.stat().st_size
    if (size, found) != (stored.bytes, stored.sha256):
        said = f"{size} bytes with sha256 {found}, the manifest says {stored.bytes} with {stored.sha256}"
        remember_damage(address, name, f"{stored.path}: {said}")
        raise DamagedSet(f"{address.path(key)} is damaged: {said}; restore another set")
    return file


@persistent
def find_lack(address: StoreAddress, name: SetName, manifest: Manifest) -> str | None:
    """Return what the list of a set does not restore, or what else is wrong with it, as a sentence; only the list is read.

    Raises:
        ColdObject: it has to be thawed first.
    """
    store, stored = address.opened, manifest.schema_list
    key = f"{name.folder}/{stored.path}"
    if store.require_readable(key) is None:
        return f"{stored.path} is missing"
    data = store.read(key)
    if hashlib.sha256(data).hexdigest() != stored.sha256:
        return f"{stored.path} is not what was stored"
    return describe_lack(manifest, data.decode(errors="replace"))


def require_list(address: StoreAddress, name: SetName, manifest: Manifest) -> None:
    """Make sure that the list of a set restores everything that its manifest names.

    Raises:
        DamagedSet: it does not.
        ColdObject: it has to be thawed first.
    """
    if lack := find_lack(address, name, manifest):
        remember_damage(address, name, lack)
        raise DamagedSet(f"{address.path(name.folder)} is damaged: {lack}; restore another set")


def remember_damage(address: StoreAddress, name: SetName, found: str) -> None:
    """Let every listing know that a set was found damaged; who may only read from the store cannot."""
    try:
        _write_mark(address, name, DAMAGED_FILE, {"instant": now(), "found": found})
    except OperationError as error:
        get_run_logger().warning("that %s is damaged could not be recorded: %s", name.id, error)


def _write_mark(address: StoreAddress, name: SetName, file: str, facts: dict[str, Any]) -> None:
    data = (json.dumps(facts, ensure_ascii=False, default=str) + "\n").encode()
    address.opened.replace(f"{name.folder}/{file}", data, WARM_CLASS)


@contextmanager
def hold(address: StoreAddress, run: Run, names: Iterable[SetName]) -> Iterator[None]:
    """Keep sets from being pruned while they are read; who may only read from the store reads without."""
    said, held = json.dumps({"run": run.title, "since": f"{now():%Y-%m-%dT%H:%M:%SZ}"}) + "\n", list[str]()
    try:
        for name in names:
            held.append(f"{name.folder}/hold-{run.id}.json")
            address.opened.replace(held[-1], said.encode(), WARM_CLASS)
    except OperationError as error:
        get_run_logger().warning("read without a hold, which matters only if it is being pruned: %s", error)
    try:
        yield
    finally:
        try:
            for key in held:
                address.opened.delete(key)
        except OperationError as error:
            get_run_logger().warning("a hold may stay, for a week at most: %s", error)


def name_of(manifest: Manifest) -> SetName:
    """Return the set whose manifest it is."""
    return SetName(manifest.context, manifest.kind, manifest.id)


def read_base(address: StoreAddress, manifest: Manifest) -> Manifest | None:
    """Return the manifest of the full that a differential needs; a full needs none.

    Raises:
        DamagedSet: it is gone or damaged.
    """
    if manifest.base is None:
        return None
    try:
        return fetch_manifest(address, SetName(manifest.context, Kind.FULL, manifest.base))
    except (BadInput, DamagedSet) as error:
        raise DamagedSet(f"{manifest.id} cannot be restored without its base {manifest.base}: {error}") from error


def inherited_parts(manifest: Manifest, base: Manifest) -> list[StoredObject]:
    """Return the parts of a full that a differential needs.

    Raises:
        DamagedSet: the full has no such relation.
    """
    parts = {relation.qualified: relation.parts for relation in base.relations}
    inherited = [one.qualified for one in manifest.relations if one.inherited]
    if absent := [name for name in inherited if name not in parts]:
        raise DamagedSet(f"{manifest.id} needs rows of {', '.join(absent)}, which {base.id} does not have; restore another set")
    return [part for name in inherited for part in parts[name]]


@dataclass(frozen=True)
class StagedSet:
    """A set whose every object was downloaded and found as the manifest says; files by path in the set, and in its base."""

    name: SetName
    manifest: Manifest
    files: dict[str, Path]
    base: Manifest | None = None
    base_files: dict[str, Path] = field(default_factory=dict)

    def sources(self, relation: Relation) -> list[RowSource]:
        """Return where the rows of a relation come from: what it inherits from the base, then its own parts.

        Raises:
            DamagedSet: what it inherits cannot be read.
        """
        own = [RowSource([self.files[part.path] for part in relation.parts], relation.plain_bytes)] if relation.parts else []
        if not (relation.inherited and self.base):
            return own
        kept = next(one for one in self.base.relations if one.qualified == relation.qualified)
        files = [self.base_files[part.path] for part in kept.parts]
        return [RowSource(files, kept.plain_bytes, self._left_out(relation.inherited, kept.rows)), *own]

    def _left_out(self, inherited: Inherited, rows: int) -> list[Lines]:
        if inherited.left_out is None:
            return []
        stored = inherited.left_out
        try:
            return list(parse_lines(b"".join(blocks_of(self.files[stored.path], stored.most_plain_bytes)), rows))
        except (ValueError, zstandard.ZstdError) as error:
            raise DamagedSet(f"{stored.path} of {self.manifest.id} cannot be read: {error}; restore another set") from error


@dataclass(frozen=True)
class Candidate:
    """A set to try; `damage` is what its listing already shows to be wrong; if it was `named`, no other will do.

    Why it is `aside` is told of one that was not named: it is passed over then.

    `storage_class` is the one that its data lie in; of a set that was named nobody looked.
    """

    name: SetName
    damage: str | None = None
    named: bool = False
    storage_class: str = ""
    aside: str | None = None


def candidates(address: StoreAddress, context: str, backup: str) -> Iterator[Candidate]:
    """Yield the sets to try: the named one, or, newest first, every one that may be `latest`, or was taken by an instant.

    What cannot be read comes before all others, because it may be the newest: nobody is to believe it was not there.

    Raises:
        BadInput: the reference is none, or there is no set at all.
    """
    named = None if is_instant(backup) else parse_set_reference(backup, context, address.url)
    if named:
        require_store(address, context)
        yield Candidate(named, named=True)
        return
    listing = list_sets(address, context)
    usable = [one for one in listing.sets if RULES[one.name.kind].may_be_latest]
    if not usable:
        legacy = f" ({len(listing.legacy)} legacy files are there)" if listing.legacy else ""
        raise BadInput(
            f'no backup set of context "{context}" in {address.url}{legacy}; correct the context or BACKUP_STORE, '
            "or make one: python -m flows.backup daily_backup"
        )
    if is_instant(backup):
        usable = _taken_by(usable, parse_instant(backup, zone_of(listing)))
    for one in sorted(usable, key=lambda one: one.manifest is not None):
        yield Candidate(one.name, one.damage, storage_class=one.storage_class, aside=one.aside)


def _taken_by(sets: list[ListedSet], instant: datetime) -> list[ListedSet]:
    """Return the sets whose state is not newer than an instant, and those of which nobody can say.

    Raises:
        BadInput: every state is newer.
    """
    states = {one.name: one.manifest.snapshot.instant for one in sets if one.manifest}
    if not any(taken <= instant for taken in states.values()):
        oldest = min(states.values(), default=None)
        there = f"the oldest is of {oldest.astimezone(instant.tzinfo):%Y-%m-%d %H:%M:%S %Z}" if oldest else "none can be read"
        raise BadInput(f"no backup at or before {instant:%Y-%m-%d %H:%M:%S %Z}: {there}; name a later instant, or a set")
    return [one for one in sets if one.name not in states or states[one.name] <= instant]


def zone_of(listing: Listing) -> ZoneInfo:
    """Return the zone of the newest readable set, UTC if there is none."""
    return ZoneInfo(next((one.manifest.time_zone for one in listing.sets if one.manifest), "UTC"))


def newest_manifest(address: StoreAddress, context: str, backup: str) -> Manifest:
    """Return the manifest of the named set, or for `latest` of the newest one that looks whole.

    Raises:
        BadInput: there is no such set.
        DamagedSet: the named one, or every one, is damaged.
    """
    for one in candidates(address, context, backup):
        if not (one.damage or one.aside):
            return fetch_manifest(address, one.name)
    raise DamagedSet(f'every backup set of context "{context}" in {address.url} is damaged or set aside; see list_backups')


def why_aside(address: StoreAddress, name: SetName) -> str | None:
    """Return why a set is neither `latest` nor a base, though it is whole; None if it may be both."""
    return next((one.aside for one in list_sets(address, name.context).sets if one.name == name), None)


def newest_full(address: StoreAddress, context: str) -> Manifest | None:
    """Return the manifest of the newest full set that looks whole: what a differential is taken against."""
    fulls = [one for one in list_sets(address, context).sets if one.name.kind is Kind.FULL]
    for one in fulls:
        if one.damage:
            get_run_logger().warning("passed over as base: %s", one.damage)
    return next((one.usable for one in fulls if one.usable), None)


def newest_trusted(address: StoreAddress, context: str) -> Manifest | None:
    """Return the manifest of the newest full set that looks whole and lost no rows: what the next one is measured against."""
    listed = (one.usable for one in list_sets(address, context).sets)
    return next((manifest for manifest in listed if manifest and manifest.kind is Kind.FULL and not manifest.losses), None)


def archive_sets(address: StoreAddress, context: str) -> list[Manifest]:
    """Return the archive sets that look whole, the newest first."""
    return departed_sets(address, context)[0]


def departed_sets(address: StoreAddress, context: str) -> tuple[list[Manifest], list[CleanedUp]]:
    """Return what left the database on purpose, as far as its sets look whole: archived partitions, cleaned-up rows."""
    whole = [one for one in list_sets(address, context).sets if one.manifest and not one.damage]
    archives = [one.manifest for one in whole if one.manifest and one.name.kind is Kind.ARCHIVE]
    cleaned = [(one.manifest, one.cleaned) for one in whole if one.manifest and one.cleaned]
    return archives, [CleanedUp(one.snapshot.instant, rows, one.number) for one, rows in cleaned]


def unfinished_clean_ups(address: StoreAddress, context: str, table: str) -> tuple[list[Manifest], list[str]]:
    """Return the clean-up sets of a rule's table whose rows may not all be deleted, because the run died; the oldest first.

    Those that are damaged are returned by their ids, also where their manifest does not say of which table they are.
    """
    listed = [one for one in list_sets(address, context).sets if one.name.kind is Kind.CLEAN_UP and one.cleaned is None]
    mine = [one.manifest for one in reversed(listed) if one.manifest and not one.damage]
    damaged = [one.name.id for one in listed if one.damage and (one.manifest is None or one.manifest.cleaned_table == table)]
    return [one for one in mine if one.cleaned_table == table], damaged


@persistent
def finish_clean_up(address: StoreAddress, name: SetName, facts: dict[str, Any]) -> None:
    """Record beside the manifest that the rows of a clean-up set were deleted, but for those that stay."""
    _write_mark(address, name, CLEANED_FILE, facts)


def longest_unverified(address: StoreAddress, context: str, fraction: float) -> tuple[list[str], int]:
    """Return the ids of all sets, those never decoded first, then those longest ago, and how many a share of them is, rounded up.

    Raises:
        BadInput: there is no set.
    """
    sets = list_sets(address, context).sets
    if not sets:
        raise BadInput(f'no backup set of context "{context}" in {address.url}; make one: python -m flows.backup daily_backup')
    waiting = sorted(sets, key=lambda one: (one.verified or datetime.min.replace(tzinfo=UTC), one.name.id))
    return [one.name.id for one in waiting], math.ceil(fraction * len(sets))


def random_recent(address: StoreAddress, context: str, instant: datetime) -> str:
    """Return the id of one of the sets of the last 30 days that look whole, whichever chance names.

    Raises:
        BadInput: there is none.
    """
    listed = [(one, one.usable.snapshot.instant) for one in list_sets(address, context).sets if one.usable]
    recent = [one.name.id for one, taken in listed if RULES[one.name.kind].may_be_latest and instant - taken <= RECENT]
    if not recent:
        raise BadInput(f'no whole backup set of context "{context}" of the last {RECENT.days} days in {address.url}; name one')
    return secrets.choice(recent)


def unpack(staged: StagedSet, stored: StoredObject) -> Path:
    """Decompress a staged text of a set beside itself.

    Raises:
        DamagedSet: it cannot be unpacked, or is longer than the manifest says.
    """
    return unpack_file(staged.files[stored.path], stored, staged.manifest.id)


def unpack_file(packed: Path, stored: StoredObject, set_id: str) -> Path:
    """Decompress a staged file of a set beside itself.

    Raises:
        DamagedSet: it cannot be unpacked, or is longer than the manifest says.
    """
    plain = packed.with_suffix("")
    plain.touch(mode=0o600)
    try:
        with staging(plain), plain.open("wb") as target:
            target.writelines(blocks_of(packed, stored.most_plain_bytes))
    except zstandard.ZstdError as error:
        plain.unlink()
        raise DamagedSet(f"{stored.path} of {set_id} cannot be unpacked: {error}; restore another set") from error
    return plain


@step
def decode(staged: StagedSet, items: Mapping[str, Item]) -> list[str]:
    """Recompute rows and digest of every relation of a staged set; return what differs from its manifest."""
    relations = staged.manifest.relations
    return [problem for relation in relations for problem in _decoded(staged, relation, items[relation.qualified].at)]


def _decoded(staged: StagedSet, relation: Relation, moved: Moved) -> list[str]:
    try:
        digest = digest_sources(staged.sources(relation), moved)
    except zstandard.ZstdError as error:
        return [f"{relation.qualified}: its parts cannot be decompressed ({error})"]
    if (digest.rows, digest.hex) == (relation.rows, relation.digest):
        return []
    return [
        f"{relation.qualified}: {digest.rows} rows with digest {digest.hex} are stored, "
        f"the manifest says {relation.rows} with {relation.digest}"
    ]


@persistent
def mark(address: StoreAddress, name: SetName, state: str, facts: dict[str, Any]) -> None:
    """Record beside the manifest that every byte of a set was found good, whatever an earlier look found."""
    if state not in STATES:
        raise OperationError(f"{state} is no state of a set")
    _write_mark(address, name, f"{state}.json", facts)
    address.opened.delete(f"{name.folder}/{DAMAGED_FILE}")
