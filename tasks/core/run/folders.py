"""Private folders, removed at the end of the block, or by the next run if their process was killed.

A folder belongs to a running process while a file in it is locked
(https://man7.org/linux/man-pages/man2/flock.2.html). That file also marks the folder as ours: other
programs may have folders in the same place.
"""

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks.core.errors import BadInput

# In each folder: the folder's name, locked as long as its process lives.
MARKER = ".owner"


def require_own(base: Path, mode: int = 0o700) -> Path:
    """Create a folder, or check that only this account can write to it.

    Raises:
        BadInput: it cannot be created, or other users can write to it.
    """
    try:
        if not base.exists():
            base.mkdir(mode=mode, parents=True, exist_ok=True)
            base.chmod(mode)
    except OSError as error:
        raise BadInput(f"folder {base} cannot be created: {error.strerror}; set BACKUP_STAGING to another") from error
    facts = base.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise BadInput(f"folder {base} is writable by other users; set BACKUP_STAGING to a folder that only this account can write")
    return base


@contextmanager
def private_folder(base: Path, name: str, names: re.Pattern[str]) -> Iterator[Path]:
    """Create a folder, 0700, for the block; first remove dead processes' folders, by `names`."""
    sweep(base, names)
    folder = base / name
    folder.mkdir(mode=0o700)
    descriptor = os.open(folder / MARKER, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # A concurrent sweep skips the folder: the file does not contain its name yet.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, name.encode())
        yield folder
    finally:
        _remove(folder)
        os.close(descriptor)


def sweep(base: Path, names: re.Pattern[str]) -> list[Path]:
    """Remove the folders of dead processes, and return them; those without our marker are kept."""
    return [folder for folder in base.iterdir() if names.fullmatch(folder.name) and _swept(folder)]


def _swept(folder: Path) -> bool:
    if not folder.is_dir() or folder.is_symlink():
        return False
    try:
        descriptor = os.open(folder / MARKER, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        # There is no marker, or it belongs to another account.
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        facts = os.fstat(descriptor)
        is_ours = stat.S_ISREG(facts.st_mode) and facts.st_uid == os.getuid() and os.read(descriptor, 256) == folder.name.encode()
        if is_ours:
            _remove(folder)
        return is_ours
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Remove a folder, its marker last: after an interruption it is still recognised as ours."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != MARKER:
                path.unlink(missing_ok=True)
    if not [path for path in folder.glob("*") if path.name != MARKER]:
        shutil.rmtree(folder, ignore_errors=True)
