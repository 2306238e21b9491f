"""The store in a folder."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from tasks.core.errors import AlreadyExists, BadInput, StoreUnavailable
from tasks.core.run.progress import Moved, unmeasured
from tasks.store.interface import ObjectInfo, Upload, require_small

CHUNK_BYTES = 1 << 20
PARTIAL = ".partial-"
# Errors that a retry does not change, with the remedy.
OWNER = "give this account permission to write the folder"
ROOM = "free space on the store's disk, or have the quota raised"
REFUSALS = {
    errno.EACCES: OWNER, errno.EPERM: OWNER, errno.EROFS: "mount the store's disk read-write",
    errno.ENOSPC: ROOM, errno.EDQUOT: ROOM,
}  # fmt: skip


class FolderStore:
    """A folder on a disk, for sites without S3; files have mode 0600, folders 0700.

    Nothing outside the folder is read or written, even if a key or a symbolic link leads there.
    """

    keeps_metadata = False
    lacking: frozenset[str] = frozenset()

    def __init__(self, root: Path) -> None:
        self._root = root

    def _at(self, key: str) -> Path:
        """Return the path of a key.

        Raises:
            BadInput: the path is outside the folder, or cannot be resolved.
        """
        path = self._root / key
        if "\0" in key or not self._contains(path):
            raise BadInput(
                f"{key!r} leads out of the store's folder {self._root}, where nothing is read or written; remove the link"
            )
        return path

    def _contains(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self._root.resolve())
        except RuntimeError:
            # A link to itself.
            return False

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the files below a prefix."""
        with self._answering(prefix):
            self._require_root()
            for path in sorted(self._at(prefix.rpartition("/")[0]).rglob("*")):
                key = path.relative_to(self._root).as_posix()
                if key.startswith(prefix) and path.is_file() and not path.name.startswith(PARTIAL) and self._is_ours(path):
                    yield _file_info(key, path)

    def _is_ours(self, path: Path) -> bool:
        """Return whether a file is in the folder; links to files outside are not listed."""
        return not path.is_symlink() or self._contains(path)

    def _require_root(self) -> None:
        if not self._root.is_dir():
            raise BadInput(f"the store's folder {self._root} does not exist; mount or create it, or correct BACKUP_STORE")

    def head(self, key: str) -> ObjectInfo | None:
        """Return size and time of a file."""
        with self._answering(key):
            self._require_root()
            path = self._at(key)
            return _file_info(key, path) if path.is_file() else None

    def put(
        self, key: str, file: Path, storage_class: str, metadata: dict[str, str], moved: Moved = unmeasured
    ) -> None:  # fmt: skip
        """Copy a file under a temporary name, then rename it."""
        with file.open("rb") as source:
            self._write(key, lambda target: shutil.copyfileobj(source, target, CHUNK_BYTES), Path.replace)
        moved(file.stat().st_size)

    def create(self, key: str, data: bytes, storage_class: str, metadata: dict[str, str]) -> None:
        """Write a new file; never overwrite one."""
        try:
            self._write(key, lambda target: target.write(data), os.link)
        except FileExistsError as error:
            if self.read(key) != data:
                raise AlreadyExists(f"{key} is already in the store; it was not overwritten") from error

    def replace(self, key: str, data: bytes, storage_class: str) -> None:
        """Write a small file, and overwrite an existing one."""
        self._write(key, lambda target: target.write(data), Path.replace)

    def _write(self, key: str, fill: Callable[[IO[bytes]], Any], name_it: Callable[[Path, Path], Any]) -> None:
        with self._answering(key):
            self._require_root()
            path = self._at(key)
            partial = path.with_name(f"{PARTIAL}{os.urandom(8).hex()}")
            _make_folders(self._root, path.parent)
            try:
                with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
                    fill(target)
                    target.flush()
                    os.fsync(target.fileno())
                name_it(partial, path)
                _reach_disk(path.parent)
            finally:
                partial.unlink(missing_ok=True)

    def read(self, key: str) -> bytes:
        """Return a small file."""
        with self._answering(key):
            path = self._at(key)
            require_small(str(path), path.stat().st_size)
            return path.read_bytes()

    def fetch(self, key: str, target: IO[bytes], moved: Moved = unmeasured) -> str:
        """Copy a file out."""
        sha256 = hashlib.sha256()
        done = 0
        for chunk in self._chunks(key):
            target.write(chunk)
            sha256.update(chunk)
            done += len(chunk)
            moved(done)
        return sha256.hexdigest()

    def _chunks(self, key: str) -> Iterator[bytes]:
        with self._answering(key), self._at(key).open("rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                yield chunk

    def require_readable(self, key: str) -> ObjectInfo | None:
        """Return the file's facts; every file in a folder is readable."""
        return self.head(key)

    def require_writable(self, key: str, storage_class: str) -> None:
        """Create a file in the key's folder, or the nearest existing one above, and remove it."""
        with self._answering(key):
            self._require_root()
            path = self._at(key)
            folder = next(parent for parent in path.parents if parent.is_dir())
            probe = folder / f"{PARTIAL}{os.urandom(8).hex()}"
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            probe.unlink()

    def clock(self) -> datetime | None:
        """Return None: files have this machine's time."""
        return None

    def set_class(self, key: str, storage_class: str) -> str:
        """Do nothing: a folder has no classes."""
        return "folder"

    def thaw(self, key: str, days: int, tier: str) -> bool:
        """Do nothing: nothing in a folder is cold."""
        return False

    def delete(self, key: str) -> None:
        """Delete a file, and its folders if they are empty then."""
        with self._answering(key):
            self._require_root()
            path = self._at(key)
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self._root or not folder.is_dir() or any(folder.iterdir()):
                    break
                with suppress(OSError):  # Another process wrote there meanwhile.
                    folder.rmdir()

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Yield the files that still have their temporary names."""
        with self._answering(prefix):
            self._require_root()
            for path in sorted(self._at(prefix).rglob(f"{PARTIAL}*")):
                begun = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                yield Upload(path.relative_to(self._root).as_posix(), begun, path.name)

    def abort(self, upload: Upload) -> None:
        """Remove the file."""
        self.delete(upload.key)

    @contextmanager
    def _answering(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileExistsError:
            raise
        except OSError as error:
            what = f"{self._root / key}: {error.strerror}"
            if error.errno in REFUSALS:
                raise BadInput(f"{what}; {REFUSALS[error.errno]}") from error
            raise StoreUnavailable(f"{what}; check the folder, its disk and its permissions") from error


def _make_folders(root: Path, folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if path.is_relative_to(root) and not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
        # A new folder survives a crash only if its parent's entry is on disk too.
        _reach_disk(path)
        _reach_disk(path.parent)


def _reach_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_info(key: str, path: Path) -> ObjectInfo:
    facts = path.stat()
    return ObjectInfo(key, facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC), "folder")
