"""Sets downloaded into a run's folder and verified against the manifest."""

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import zstandard
from prefect import get_run_logger

from tasks.core.context import CONTEXT_FILE, Context, parse_context
from tasks.core.errors import BadInput, ColdObject, DamagedSet
from tasks.core.rows.file_blocks import Lines, parse_lines
from tasks.core.rows.sources import RowSource
from tasks.core.rows.unpacking import blocks_of
from tasks.core.run.progress import Moved, unmeasured
from tasks.core.sets.manifest import Inherited, Manifest, Relation, StoredObject
from tasks.core.sets.name import RULES, Kind, SetName
from tasks.run import progress
from tasks.run.run import Run, require_space, staging, step
from tasks.run.spread import spread
from tasks.sets.choose import candidates, why_aside
from tasks.sets.manifest import fetch_manifest, inherited_parts, name_of, read_base, require_list
from tasks.sets.marks import hold, remember_damage
from tasks.store.address import StoreAddress

# More than any file of a context needs.
MOST_CONTEXT_BYTES = 4 << 20


@step(name="download {stored.path}", repeatable=True)
def fetch(address: StoreAddress, name: SetName, stored: StoredObject, file: Path, moved: Moved = unmeasured) -> Path:
    """Download one object of a set into a staged file, 0600, and compare it with the manifest.

    Raises:
        DamagedSet: the object is missing, or differs from the manifest.
        ColdObject: the object has to be thawed first.
    """
    store, key = address.opened, f"{name.folder}/{stored.path}"
    if (info := store.require_readable(key)) is None:
        raise DamagedSet(f"{address.path(key)} is missing; restore another set")
    if info.bytes > stored.bytes:
        problem = f"{info.bytes} bytes, the manifest says {stored.bytes}"
        remember_damage(address, name, f"{stored.path}: {problem}")
        raise DamagedSet(f"{address.path(key)} is damaged: {problem}; restore another set")
    file.unlink(missing_ok=True)
    with staging(file):
        file.touch(mode=0o600)
        with file.open("wb") as target:
            sha256 = store.fetch(key, target, moved)
    size = file.stat().st_size
    if (size, sha256) != (stored.bytes, stored.sha256):
        problem = f"{size} bytes with sha256 {sha256}, the manifest says {stored.bytes} with {stored.sha256}"
        remember_damage(address, name, f"{stored.path}: {problem}")
        raise DamagedSet(f"{address.path(key)} is damaged: {problem}; restore another set")
    return file


@dataclass(frozen=True)
class StagedSet:
    """A downloaded set whose objects match the manifest; `files` by path, also of its base."""

    name: SetName
    manifest: Manifest
    files: dict[str, Path]
    base: Manifest | None = None
    base_files: dict[str, Path] = field(default_factory=dict)

    def sources(self, relation: Relation) -> list[RowSource]:
        """Return the sources of a relation's rows: the base's inherited ones, then its own parts.

        Raises:
            DamagedSet: the inherited rows cannot be read.
        """
        own = [RowSource([self.files[part.path] for part in relation.parts], relation.plain_bytes)] if relation.parts else []
        if not (relation.inherited and self.base):
            return own
        base_relation = self._of_base[relation.qualified]
        files = [self.base_files[part.path] for part in base_relation.parts]
        return [RowSource(files, base_relation.plain_bytes, self._left_out(relation.inherited, base_relation.rows)), *own]

    @cached_property
    def _of_base(self) -> dict[str, Relation]:
        return {relation.qualified: relation for relation in self.base.relations} if self.base else {}

    def sources_of(self, relations: Iterable[Relation]) -> dict[str, list[RowSource]]:
        """Return the sources of some relations, by schema.name."""
        return {relation.qualified: self.sources(relation) for relation in relations}

    def _left_out(self, inherited: Inherited, rows: int) -> list[Lines]:
        if inherited.left_out is None:
            return []
        stored = inherited.left_out
        try:
            return list(parse_lines(b"".join(blocks_of(self.files[stored.path], stored.most_plain_bytes)), rows))
        except (ValueError, zstandard.ZstdError) as error:
            raise DamagedSet(f"{stored.path} of {self.manifest.id} cannot be read: {error}; restore another set") from error


@dataclass(frozen=True)
class Staged:
    """A chosen and downloaded set, and the newer sets that were passed over.

    `aside` is the reason if the set was named although it is set aside.
    """

    set: StagedSet
    passed_over: Sequence[str] = ()
    aside: str = ""

    def require_newest(self) -> None:
        """Refuse a set if newer, damaged ones were passed over.

        Raises:
            DamagedSet: sets were passed over; each is named.
        """
        if self.passed_over:
            raise DamagedSet(f"{self.set.manifest.id} is good, but newer sets were passed over: {'; '.join(self.passed_over)}")


def unpack(staged: StagedSet, stored: StoredObject) -> Path:
    """Decompress a downloaded text of a set in its folder; return the new file.

    Raises:
        DamagedSet: the file cannot be decompressed, or is longer than the manifest states.
    """
    return unpack_file(staged.files[stored.path], stored, staged.manifest.id)


def unpack_file(packed: Path, stored: StoredObject, set_id: str) -> Path:
    """Decompress a downloaded file of a set in its folder; return the new file.

    Raises:
        DamagedSet: the file cannot be decompressed, or is longer than the manifest states.
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


def stage_newest_good(store: StoreAddress, run: Run, backup: str, check: Callable[[Manifest], None] | None = None) -> Staged:
    """Download and verify the named set, or the newest complete set that passes `check`.

    A set that `check` refuses is not downloaded.

    Raises:
        DamagedSet: the named set is damaged, or every set is.
        BadInput, UnsafeTarget: there is no such set, or the set cannot be restored into the target;
            nothing was changed.
    """
    passed_over = list[str]()
    for candidate in candidates(store, run.context, backup, run.started):
        try:
            if candidate.damage:
                raise DamagedSet(candidate.damage)
            if candidate.aside:
                raise DamagedSet(f"{candidate.name.id} is set aside: {candidate.aside}")
            manifest = fetch_manifest(store, candidate.name)
            if check:
                check(manifest)
            staged = _stage(store, run, candidate.name, manifest)
        except (DamagedSet, ColdObject) as error:
            if candidate.named:
                raise
            passed_over.append(str(error))
            get_run_logger().warning("passed over: %s", error)
        else:
            return Staged(staged, tuple(passed_over), _why_aside(store, staged) if candidate.named else "")
    raise DamagedSet(f'no backup set of context "{run.context}" in {store.url} can be restored now: {"; ".join(passed_over)}')


def _why_aside(store: StoreAddress, staged: StagedSet) -> str:
    """Return why a named set is set aside, or None: it must not be taken for the newest state."""
    may_be_latest = staged.manifest.number is not None and RULES[staged.manifest.kind].may_be_latest
    return (why_aside(store, staged.name) or "") if may_be_latest else ""


def _stage(address: StoreAddress, run: Run, name: SetName, manifest: Manifest) -> StagedSet:
    """Download a set, and the rows that it inherits from its full backup."""
    base_name, needed = None, list[StoredObject]()
    # Checked first, so that no hours are spent on downloading a set that cannot be restored.
    require_list(address, name, manifest)
    if base := read_base(address, manifest):
        base_name = SetName(name.context, Kind.FULL, base.id)
        needed = inherited_parts(manifest, base)
    require_space(run, manifest.bytes + sum(stored.bytes for stored in needed))
    folder = run.folder / manifest.id
    folder.mkdir(mode=0o700, exist_ok=True)
    downloads = [(name, stored, folder / stored.path.replace("/", "-")) for stored in manifest.objects]
    downloads += [(base_name, stored, folder / f"base-{stored.path.replace('/', '-')}") for stored in needed if base_name]
    sizes = {str(file): stored.bytes for _, stored, file in downloads}
    try:
        with (
            hold(address, run, filter(None, (name, base_name))),
            progress.of(run, f"downloading {manifest.id}", sizes, manifest.zone) as items,
        ):
            calls = [(address, *download, items[str(download[-1])].at) for download in downloads]
            paths = spread(run, fetch, calls, sizes.values())
    except BaseException:
        shutil.rmtree(folder)
        raise
    own = len(manifest.objects)
    files = {stored.path: path for stored, path in zip(manifest.objects, paths[:own], strict=True)}
    return StagedSet(name, manifest, files, base, {stored.path: path for stored, path in zip(needed, paths[own:], strict=True)})


@contextmanager
def stage_relations(address: StoreAddress, run: Run, manifest: Manifest, relations: Collection[Relation]) -> Iterator[StagedSet]:
    """Download, for the block, some relations' rows of a set, with those inherited from its full.

    Raises:
        DamagedSet: an object is missing or differs from the manifest.
        ColdObject: the object has to be thawed first.
    """
    name, base, folder = name_of(manifest), read_base(address, manifest), run.folder / f"{manifest.id}-rows"
    part = manifest.model_copy(update={"relations": [*relations], "large_objects": None})
    own = [stored for relation in relations for stored in relation.objects]
    inherited = inherited_parts(part, base) if base else []
    require_space(run, sum(stored.bytes for stored in [*own, *inherited]))
    folder.mkdir(mode=0o700)
    try:
        files = {stored.path: fetch(address, name, stored, folder / stored.staged_name) for stored in own}
        of_base = {
            stored.path: fetch(address, name_of(base), stored, folder / f"base-{stored.staged_name}")
            for stored in inherited
            if base
        }
        yield StagedSet(name, part, files, base, of_base)
    finally:
        shutil.rmtree(folder)


def staged_context(staged: StagedSet) -> Context:
    """Return the context as it was when the set was taken."""
    path, only = f"context/{CONTEXT_FILE}", staged.manifest.only
    try:
        context = parse_context(context_text(staged, path), f"{staged.manifest.id}/{path}")
    except BadInput as error:
        raise DamagedSet(f"{error}; restore another set") from error
    return context.narrowed(only) if only else context


def context_text(staged: StagedSet, path: str) -> str:
    """Return a file of the context folder as the set has it.

    Raises:
        DamagedSet: the file is not in the set, is too large, or is not UTF-8.
    """
    where, file = f"{staged.manifest.id}/{path}", staged.files.get(path)
    if file is None:
        raise DamagedSet(f"{where} is not in the set; restore another set")
    if file.stat().st_size > MOST_CONTEXT_BYTES:
        raise DamagedSet(f"{where} has more than {MOST_CONTEXT_BYTES:,} bytes; restore another set")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedSet(f"{where} is not UTF-8 text; restore another set") from error
