"""The interface of a store. Keys are paths below the store's root.

Differences between servers, and network errors, are handled in this package only. A download that
was interrupted continues at the same byte; an object that must not exist yet is never overwritten.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol

from tasks.core.errors import DamagedSet
from tasks.core.run.progress import Moved, unmeasured

# The greatest size of an object that is read into memory: larger than any manifest, mark or record.
MOST_READ_BYTES = 512 << 20
ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})


@dataclass(frozen=True)
class ObjectInfo:
    """The facts that a store returns about an object without reading its content."""

    key: str
    bytes: int
    modified: datetime
    storage_class: str
    metadata: dict[str, str] = field(default_factory=dict)
    locked_until: datetime | None = None


@dataclass(frozen=True)
class Upload:
    """An unfinished upload, which is not listed but billed."""

    key: str
    begun: datetime
    id: str


class Store(Protocol):
    """The operations of a store.

    Every method raises StoreUnavailable if a retry may help, and BadInput if not.
    """

    keeps_metadata: bool

    @property
    def lacking(self) -> frozenset[str]:
        """Requested storage classes that the store lacks: such objects are in STANDARD."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys start with the prefix."""

    def head(self, key: str) -> ObjectInfo | None:
        """Return the facts of an object, or None if there is no such object."""

    def put(
        self, key: str, file: Path, storage_class: str, metadata: dict[str, str], moved: Moved = unmeasured
    ) -> None:  # fmt: skip
        """Store a file, also over an existing object; report the bytes sent to `moved`."""

    def create(self, key: str, data: bytes, storage_class: str, metadata: dict[str, str]) -> None:
        """Store a small object. Raise AlreadyExists if it exists with other content."""

    def replace(self, key: str, data: bytes, storage_class: str) -> None:
        """Store a small object, and overwrite an existing one."""

    def read(self, key: str) -> bytes:
        """Return a small object, or raise DamagedSet if it is too large for one."""

    def fetch(self, key: str, target: IO[bytes], moved: Moved = unmeasured) -> str:
        """Write an object to an open file, report bytes received to `moved`, return its SHA-256."""

    def require_readable(self, key: str) -> ObjectInfo | None:
        """Return a readable object's facts, or None; raise ColdObject if it is cold."""

    def require_writable(self, key: str, storage_class: str) -> None:
        """Check that an object could be stored under this key and class; leave nothing there."""

    def clock(self) -> datetime | None:
        """Return the time of the store's clock, or None if it has no clock of its own."""

    def set_class(self, key: str, storage_class: str) -> str:
        """Move an object to another storage class, and return the class that it has then.

        An object that is cold already is not moved. If the store lacks the class, no object is
        moved.
        """

    def thaw(self, key: str, days: int, tier: str) -> bool:
        """Request that a cold object be readable for days; False if that is already requested."""

    def delete(self, key: str) -> None:
        """Delete an object; an object that does not exist is no error."""

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Yield the unfinished uploads of objects whose keys start with the prefix."""

    def abort(self, upload: Upload) -> None:
        """Abort an unfinished upload; an upload that does not exist is no error."""


def require_small(place: str, size: int) -> None:
    """Refuse an object that is too large to be read into memory.

    Raises:
        DamagedSet: the object is too large.
    """
    if size > MOST_READ_BYTES:
        raise DamagedSet(f"{place} has {size:,} bytes, too many for a manifest, a mark or a record; find out who wrote it")


class SmallBuffer(io.BytesIO):
    """A buffer for a small object; it refuses more than fits into memory."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def write(self, data: Any) -> int:
        """Append to the buffer."""
        require_small(self._place, self.tell() + len(data))
        return super().write(data)
