"""Objects of a set: uploaded and read back, and committed by the manifest."""

from pathlib import Path

from prefect import get_run_logger

from tasks.core.context_keys import StorageClasses, class_key
from tasks.core.errors import StoreUnavailable
from tasks.core.run.progress import Moved, unmeasured
from tasks.core.sets.manifest import Manifest, StoredObject
from tasks.core.sets.manifest_file import MANIFEST_FILE, parse_manifest, render_manifest
from tasks.core.sets.name import Kind, SetName
from tasks.run.retries import persistent
from tasks.run.run import Run, step
from tasks.sets.marks import WARM_CLASS
from tasks.store.address import StoreAddress
from tasks.store.interface import Store


@persistent
def upload(
    address: StoreAddress,
    run: Run,
    name: SetName,
    stored: StoredObject,
    file: Path,
    storage_class: str,
    moved: Moved = unmeasured,
) -> StoredObject:
    """Upload one object of a set, read it back, and remove the staged file.

    Each byte is transferred twice.

    Raises:
        StoreUnavailable: the store did not accept it, or returns other bytes.
    """
    store, key = address.opened, f"{name.folder}/{stored.path}"
    store.put(key, file, storage_class, {"sha256": stored.sha256, "run": run.id, "set": name.id}, moved)
    read_back(store, key, stored, lambda number: moved(stored.bytes + number))
    file.unlink()
    get_run_logger().info("%s: %d bytes stored and read back", address.path(key), stored.bytes)
    return stored


def read_back(store: Store, key: str, stored: StoredObject, moved: Moved) -> None:
    """Read a whole object and compare it with the bytes that were sent."""
    if (sha256 := stored_sha256(store, key, moved)) != stored.sha256:
        raise StoreUnavailable(f"{key}: the store returns other bytes than were sent (their SHA-256 is {sha256}); try again")


def stored_sha256(store: Store, key: str, moved: Moved = unmeasured) -> str:
    """Return the SHA-256 of an object that is read whole and not kept."""
    with Path("/dev/null").open("wb") as nowhere:
        return store.fetch(key, nowhere, moved)


@step(name="cool {name.id}", repeatable=True)
def cool(address: StoreAddress, name: SetName, manifest: Manifest, storage_class: str) -> None:
    """Move a set's data, not its manifest and list, to the set's storage class if there is one."""
    classes = {address.opened.set_class(f"{name.folder}/{stored.path}", storage_class) for stored in manifest.data}
    get_run_logger().info("%s: %d objects are in class %s", name.id, len(manifest.data), "/".join(sorted(classes)))


def missing_class(address: StoreAddress, classes: StorageClasses, kind: Kind) -> list[str]:
    """Return a warning if the store lacks the storage class of a kind of set."""
    storage_class = classes.of(kind)
    if storage_class not in address.opened.lacking:
        return []
    return [
        f"the store has no storage class {storage_class}: the data are in STANDARD; have the class "
        f"set up there, or write storage_classes: {{{class_key(kind)}: STANDARD}} into the "
        "context's context.yaml and register it"
    ]


@step(name="publish {name.id}", repeatable=True)
def publish(address: StoreAddress, run: Run, name: SetName, manifest: Manifest) -> str:
    """Commit a set: write its manifest, create-only and signed if there is a key, and read it back.

    Return the set's path.
    """
    store, key = address.opened, f"{name.folder}/{MANIFEST_FILE}"
    store.create(key, render_manifest(manifest, address.signer), WARM_CLASS, {"run": run.id, "set": name.id})
    if parse_manifest(store.read(key), address.path(key), address.trust) != manifest:
        raise StoreUnavailable(f"{address.path(key)}: manifest read-back mismatch; try again")
    return address.path(name.folder)
