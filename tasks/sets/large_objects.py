"""Large objects of sets in the store and of staged ones: which there are, and their pages."""

from collections.abc import Collection, Iterator
from pathlib import Path

import zstandard

from tasks.core.errors import DamagedSet
from tasks.core.rows.sources import RowSource
from tasks.core.rows.unpacking import blocks_of
from tasks.core.sets.large_objects import LargeObject, by_object, digest_pages, named, other_contents, parse_index
from tasks.core.sets.manifest import Manifest
from tasks.run.run import Run
from tasks.sets.manifest import name_of
from tasks.sets.stage import StagedSet, fetch
from tasks.store.address import StoreAddress


def fetch_index(store: StoreAddress, run: Run, manifest: Manifest) -> list[LargeObject]:
    """Download what a set says of its large objects; one without them has none.

    Raises:
        DamagedSet: it is not what the manifest says.
    """
    if manifest.large_object_index is None:
        return []
    stored = manifest.large_object_index
    return _read_index(manifest, fetch(store, name_of(manifest), stored, run.folder / f"base-{stored.path}"))


def staged_objects(staged: StagedSet) -> list[LargeObject]:
    """Return the large objects of a staged set.

    Raises:
        DamagedSet: what it says of them cannot be read.
    """
    if staged.manifest.large_object_index is None:
        return []
    return _read_index(staged.manifest, staged.files[staged.manifest.large_object_index.path])


def _read_index(manifest: Manifest, file: Path) -> list[LargeObject]:
    assert manifest.large_objects and manifest.large_object_index  # noqa: S101
    stored, where = manifest.large_object_index, f"{manifest.large_object_index.path} of {manifest.id}"
    try:
        data = b"".join(blocks_of(file, stored.most_plain_bytes))
    except zstandard.ZstdError as error:
        raise DamagedSet(f"{where} cannot be unpacked: {error}; restore another set") from error
    return parse_index(data, manifest.large_objects, where)


def staged_pages(staged: StagedSet, inherited: Collection[int], wanted: Collection[int]) -> Iterator[list[bytes]]:
    """Yield the pages of some of a staged set's objects; those that are `inherited` lie in the base.

    Raises:
        zstandard.ZstdError, ValueError: they cannot be read.
    """
    if staged.base and (there := staged.base.large_object_pages) and inherited:
        for lines in RowSource([staged.base_files[there.path]], there.most_plain_bytes).batches():
            yield _of(lines, {*inherited} & {*wanted})
    if own := staged.manifest.large_object_pages:
        for lines in RowSource([staged.files[own.path]], own.most_plain_bytes).batches():
            yield _of(lines, {*wanted} - {*inherited})


def _of(lines: list[bytes], oids: Collection[int]) -> list[bytes]:
    return [line for oid, pages in by_object(lines) if oid in oids for line in pages]


def decode_large_objects(staged: StagedSet) -> list[str]:
    """Recompute the digest of every large object of a staged set; return what differs from its index."""
    objects = staged_objects(staged)
    inherited = {one.oid for one in objects if one.inherited}
    try:
        read = digest_pages(staged_pages(staged, inherited, {one.oid for one in objects}))
    except (zstandard.ZstdError, ValueError) as error:
        return [f"large objects: their pages cannot be read ({error})"]
    other = other_contents(objects, read)
    return [f"{named(other)} of the set: other pages are stored than its index says"] if other else []
