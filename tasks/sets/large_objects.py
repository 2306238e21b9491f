"""The large objects of stored and staged sets, and their pages."""

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
    """Download the index of a set's large objects; return an empty list if it has none.

    Raises:
        DamagedSet: the index differs from the manifest.
    """
    if manifest.large_object_index is None:
        return []
    stored = manifest.large_object_index
    return _read_index(manifest, fetch(store, name_of(manifest), stored, run.folder / f"base-{stored.path}"))


def staged_objects(staged: StagedSet) -> list[LargeObject]:
    """Return the large objects of a staged set.

    Raises:
        DamagedSet: their index cannot be read.
    """
    if staged.manifest.large_object_index is None:
        return []
    return _read_index(staged.manifest, staged.files[staged.manifest.large_object_index.path])


def _read_index(manifest: Manifest, file: Path) -> list[LargeObject]:
    assert manifest.large_objects and manifest.large_object_index  # noqa: S101
    stored, path = manifest.large_object_index, f"{manifest.large_object_index.path} of {manifest.id}"
    try:
        data = b"".join(blocks_of(file, stored.most_plain_bytes))
    except zstandard.ZstdError as error:
        raise DamagedSet(f"{path} cannot be unpacked: {error}; restore another set") from error
    return parse_index(data, manifest.large_objects, path)


def staged_pages(staged: StagedSet, inherited: Collection[int], oids: Collection[int]) -> Iterator[list[bytes]]:
    """Yield the pages of some of a staged set's objects.

    Those of `inherited` objects are in the base.

    Raises:
        zstandard.ZstdError, ValueError: they cannot be read.
    """
    if staged.base and (base_pages := staged.base.large_object_pages) and inherited:
        for lines in RowSource([staged.base_files[base_pages.path]], base_pages.most_plain_bytes).batches():
            yield _of(lines, {*inherited} & {*oids})
    if own_pages := staged.manifest.large_object_pages:
        for lines in RowSource([staged.files[own_pages.path]], own_pages.most_plain_bytes).batches():
            yield _of(lines, {*oids} - {*inherited})


def _of(lines: list[bytes], oids: Collection[int]) -> list[bytes]:
    return [line for oid, pages in by_object(lines) if oid in oids for line in pages]


def decode_large_objects(staged: StagedSet) -> list[str]:
    """Recompute digests of a staged set's large objects; return how they differ from its index."""
    objects = staged_objects(staged)
    inherited = {large_object.oid for large_object in objects if large_object.inherited}
    try:
        digests = digest_pages(staged_pages(staged, inherited, {large_object.oid for large_object in objects}))
    except (zstandard.ZstdError, ValueError) as error:
        return [f"large objects: their pages cannot be read ({error})"]
    differing = other_contents(objects, digests)
    return [f"{named(differing)} of the set: the stored pages differ from its index"] if differing else []
