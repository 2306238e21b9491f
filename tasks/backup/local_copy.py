"""The copy of a set in a folder of this machine."""

from prefect import get_run_logger

from tasks.core.errors import OperationError, StoreUnavailable
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.manifest_file import MANIFEST_FILE, parse_manifest
from tasks.run.run import Run, step
from tasks.run.site import Site
from tasks.sets.manifest import name_of, read_base
from tasks.sets.stage import fetch
from tasks.store.address import StoreAddress


def keep_local_copy(site: Site, run: Run, manifest: Manifest) -> str | None:
    """Copy a stored set into the context's local folder, if it has one; return the outcome.

    The set is safe in the store: if the copy fails, that is reported, and the run does not fail.
    """
    local = site.context.local_copy
    if local is None:
        return None
    if manifest.aside and manifest.aside.holds(manifest.number or 0):
        return "none: the set is set aside"
    return copy_here(site, run, manifest, site.store.copy_in(local.folder))


@step(name="copy {manifest.id} to {copy.url}")
def copy_here(site: Site, run: Run, manifest: Manifest, copy: StoreAddress) -> str:
    """Copy a stored set into a folder of this machine; return its path, or why there is none."""
    try:
        # A differential cannot be restored without its full.
        for backup in filter(None, (read_base(site.store, manifest), manifest)):
            _copy_set(site.store, run, backup, copy)
    except OperationError as error:
        get_run_logger().error("no local copy: %s", error)
        return f"none: {error}"
    return copy.path(name_of(manifest).folder)


def _copy_set(store: StoreAddress, run: Run, manifest: Manifest, copy: StoreAddress) -> None:
    name = name_of(manifest)
    if copy.opened.head(f"{name.folder}/{MANIFEST_FILE}"):
        return
    for stored in manifest.objects:
        file = fetch(store, name, stored, run.folder / f"copy-{stored.path.replace('/', '-')}")
        copy.opened.put(f"{name.folder}/{stored.path}", file, "folder", {})
        file.unlink()
    data, where = store.opened.read(f"{name.folder}/{MANIFEST_FILE}"), store.path(name.folder)
    if parse_manifest(data, where, store.trust) != manifest:
        raise StoreUnavailable(f"{where}: its manifest changed while the set was copied; try again")
    copy.opened.create(f"{name.folder}/{MANIFEST_FILE}", data, "folder", {})
