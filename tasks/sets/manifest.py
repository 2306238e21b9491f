"""Manifests of sets in the store: read, and compared with the store."""

import hashlib

from tasks.core.errors import BadInput, DamagedSet
from tasks.core.sets.completeness import describe_lack
from tasks.core.sets.manifest import Manifest, StoredObject
from tasks.core.sets.manifest_file import MANIFEST_FILE, parse_manifest
from tasks.core.sets.name import Kind, SetName
from tasks.run.retries import persistent
from tasks.sets.marks import remember_damage
from tasks.store.address import StoreAddress
from tasks.store.interface import Store


@persistent
def fetch_manifest(address: StoreAddress, name: SetName) -> Manifest:
    """Read the manifest of one set.

    Raises:
        BadInput: there is no such set.
        DamagedSet: its manifest is damaged, or belongs to another set.
    """
    manifest = find_manifest(address.opened, address, name)
    if manifest is None:
        raise BadInput(
            f"no backup set {address.path(name.folder)} (no {MANIFEST_FILE} there); list the sets: "
            f"python -m flows.backup list_backups --context {name.context}"
        )
    return manifest


def find_manifest(store: Store, address: StoreAddress, name: SetName) -> Manifest | None:
    """Return the manifest of a set; None if there is none.

    Raises:
        DamagedSet: its manifest is damaged, or belongs to another set.
        UntrustedSet: the manifest lacks a required signature, or has a wrong one.
        ColdObject: the object has to be thawed first.
    """
    key = f"{name.folder}/{MANIFEST_FILE}"
    if store.require_readable(key) is None:
        return None
    manifest = parse_manifest(store.read(key), address.path(name.folder), address.trust)
    if (manifest.context, manifest.id, manifest.kind) != (name.context, name.id, name.kind):
        raise DamagedSet(f"{address.path(name.folder)}: its manifest is that of set {manifest.id}; restore another set")
    return manifest


@persistent
def find_lack(address: StoreAddress, name: SetName, manifest: Manifest) -> str | None:
    """Return which objects the -L list of a set does not restore, or what else is wrong with it.

    Only the list is read.

    Raises:
        ColdObject: the object has to be thawed first.
    """
    store, stored = address.opened, manifest.schema_list
    key = f"{name.folder}/{stored.path}"
    if store.require_readable(key) is None:
        return f"{stored.path} is missing"
    data = store.read(key)
    if hashlib.sha256(data).hexdigest() != stored.sha256:
        return f"{stored.path} has another checksum than in the manifest"
    return describe_lack(manifest, data.decode(errors="replace"))


def require_list(address: StoreAddress, name: SetName, manifest: Manifest) -> None:
    """Make sure that the -L list of a set restores everything in its manifest.

    Raises:
        DamagedSet: the list does not restore everything.
        ColdObject: the object has to be thawed first.
    """
    if problem := find_lack(address, name, manifest):
        remember_damage(address, name, problem)
        raise DamagedSet(f"{address.path(name.folder)} is damaged: {problem}; restore another set")


def name_of(manifest: Manifest) -> SetName:
    """Return the name of the set of a manifest."""
    return SetName(manifest.context, manifest.kind, manifest.id)


def read_base(address: StoreAddress, manifest: Manifest) -> Manifest | None:
    """Return the manifest of the full backup that a differential needs; None for a full backup.

    Raises:
        DamagedSet: the full backup is missing or damaged.
    """
    if manifest.base is None:
        return None
    try:
        return fetch_manifest(address, SetName(manifest.context, Kind.FULL, manifest.base))
    except (BadInput, DamagedSet) as error:
        raise DamagedSet(f"{manifest.id} cannot be restored without its base {manifest.base}: {error}") from error


def inherited_parts(manifest: Manifest, base: Manifest) -> list[StoredObject]:
    """Return the parts of a full backup that a differential needs.

    Raises:
        DamagedSet: the full backup lacks a relation that the differential needs.
    """
    parts = {relation.qualified: relation.parts for relation in base.relations}
    inherited = [relation.qualified for relation in manifest.relations if relation.inherited]
    if absent := [name for name in inherited if name not in parts]:
        raise DamagedSet(f"{manifest.id} needs rows of {', '.join(absent)}, which {base.id} does not have; restore another set")
    return [*(part for name in inherited for part in parts[name]), *_inherited_pages(manifest, base)]


def _inherited_pages(manifest: Manifest, base: Manifest) -> list[StoredObject]:
    if not (manifest.large_objects and manifest.large_objects.inherited):
        return []
    if base.large_object_pages is None:
        raise DamagedSet(f"{manifest.id} needs large objects, which {base.id} does not have; restore another set")
    return [base.large_object_pages]
