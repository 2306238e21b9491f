"""Downloading and unpacking dump files of older scripts: pg_dump archives, also gzipped."""

import gzip
import zlib
from dataclasses import replace
from pathlib import Path

from tasks.core.errors import BadInput, DamagedSet
from tasks.core.sets.name import LEGACY
from tasks.run.run import Run, require_space, staging, step
from tasks.store.address import StoreAddress

PUBLIC = "public"
GZIP, CUSTOM_FORMAT = b"\x1f\x8b", b"PGDMP"


def is_archive(backup: str) -> bool:
    """Return whether a backup is given as the path of a legacy file."""
    return LEGACY.search(backup) is not None and "/" in backup


@step(repeatable=True)
def stage_archive(store: StoreAddress, run: Run, path: str) -> Path:
    """Download a legacy file from the store, another bucket or this machine, and unpack it, 0600.

    Raises:
        BadInput: the file does not exist, or is not in pg_dump's custom format.
        DamagedSet: the file cannot be unpacked.
        UntrustedSet: signatures are required, and a dump file cannot have one.
    """
    store.trust.require_signed(path)
    address, key = _place(store, path)
    if (info := address.opened.require_readable(key)) is None:
        raise BadInput(f"the file {path} does not exist; list_backups shows the legacy files in the store")
    require_space(run, info.bytes * 2)
    packed, file = run.folder / "archive.packed", run.folder / "archive.dump"
    with staging(packed):
        packed.touch(mode=0o600)
        with packed.open("wb") as target:
            address.opened.fetch(key, target)
    if _begins_with(packed, GZIP):
        _unpack(packed, file, path)
        packed.unlink()
    else:
        packed.rename(file)
    if not _begins_with(file, CUSTOM_FORMAT):
        raise BadInput(f"{path} is not an archive in pg_dump's custom format (pg_dump -Fc); restore plain SQL with psql")
    return file


def _begins_with(file: Path, magic: bytes) -> bool:
    with file.open("rb") as source:
        return source.read(len(magic)) == magic


def _place(store: StoreAddress, path: str) -> tuple[StoreAddress, str]:
    root = f"{store.url.rstrip('/')}/"
    if path.startswith(root):
        return store, path.removeprefix(root)
    if path.startswith("s3://"):
        bucket, _, key = path.removeprefix("s3://").partition("/")
        return replace(store, url=f"s3://{bucket}"), key
    file = Path(path).resolve()
    return StoreAddress(str(file.parent)), file.name


def _unpack(packed: Path, file: Path, path: str) -> None:
    try:
        file.touch(mode=0o600)
        with gzip.open(packed) as source, file.open("wb") as target:
            while block := source.read(1 << 20):
                with staging(file):
                    target.write(block)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DamagedSet(f"{path} cannot be unpacked ({error}); restore another file") from error
