"""Private folders that are gone when their owner is: at the end of the block, or, if it was killed, when the next one comes.

A dead owner is known by the lock on a file beside the folder (https://man7.org/linux/man-pages/man2/flock.2.html).
"""

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.core.errors import BadInput


def require_own(base: Path, mode: int = 0o700) -> Path:
    """Make a folder, or make sure that only this account can write to it.

    Raises:
        BadInput: it cannot be made, or is not this account's alone.
    """
    try:
        if not base.exists():
            base.mkdir(mode=mode, parents=True, exist_ok=True)
            base.chmod(mode)
    except OSError as error:
        raise BadInput(f"folder {base} cannot be made: {error.strerror}; set BACKUP_STAGING to another") from error
    facts = base.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise BadInput(f"folder {base} is not ours alone; set BACKUP_STAGING to a folder only this account can write")
    return base


@contextmanager
def private_folder(base: Path, name: str) -> Iterator[Path]:
    """Make a folder, 0700, for as long as the block lasts; first remove those of dead owners."""
    sweep(base)
    lock, folder = base / f"{name}.lock", base / name
    descriptor = _locked(lock)
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(lock: Path) -> int:
    """Return the descriptor of a locked file that no sweep took away between its making and its locking."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
            return descriptor
        os.close(descriptor)


def sweep(base: Path) -> list[Path]:
    """Remove the folders of dead owners, and return them."""
    removed = []
    for lock in base.glob("*.lock"):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
            removed.append(lock.with_suffix(""))
        finally:
            os.close(descriptor)
    return removed
