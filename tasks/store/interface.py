"""What a store can do, and what it says of an object. Keys are paths below the store's root.

What servers do differently, and what a network does in between, is dealt with here and nowhere else: an object is written
and then compared by what the store says of it, a cut download goes on where it was cut, create-only is create-only.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol

from tasks.core.errors import DamagedSet
from tasks.core.run.progress import Moved, unmeasured

# More than any manifest, mark or record has: what is read whole is kept in memory.
MOST_READ_BYTES = 512 << 20
ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})


@dataclass(frozen=True)
class ObjectInfo:
    """What a store says of an object without reading it."""

    key: str
    bytes: int
    modified: datetime
    storage_class: str
    metadata: dict[str, str] = field(default_factory=dict)
    locked_until: datetime | None = None


@dataclass(frozen=True)
class Upload:
    """An upload that was begun and not ended: nothing lists it, and it is paid for."""

    key: str
    begun: datetime
    id: str


class Store(Protocol):
    """What the project asks of a store.

    Every method raises StoreUnavailable when it does not answer, and BadInput when it refuses for good.
    """

    keeps_metadata: bool

    @property
    def lacking(self) -> frozenset[str]:
        """The storage classes that it was asked for and does not have; what was to lie in one lies in STANDARD."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with the prefix, without reading any."""

    def head(self, key: str) -> ObjectInfo | None:
        """Return what the store says of one object, or None if it is absent."""

    def put(
        self, key: str, file: Path, storage_class: str, metadata: dict[str, str], moved: Moved = unmeasured
    ) -> None:  # fmt: skip
        """Store a file, replacing what is there, and say how many bytes have gone."""

    def create(self, key: str, data: bytes, storage_class: str, metadata: dict[str, str]) -> None:
        """Store a small object that must not be there yet (AlreadyExists); our own earlier attempt counts as success."""

    def replace(self, key: str, data: bytes, storage_class: str) -> None:
        """Store a small object in place of what is there."""

    def read(self, key: str) -> bytes:
        """Return a small object; one that is too large to be a manifest, a mark or a record is DamagedSet."""

    def fetch(self, key: str, target: IO[bytes], moved: Moved = unmeasured) -> str:
        """Write an object to an open file, say how many bytes have come, and return its SHA-256."""

    def require_readable(self, key: str) -> ObjectInfo | None:
        """Ask before reading: None if absent, ColdObject if it has to be thawed first."""

    def require_writable(self, key: str, storage_class: str) -> None:
        """Find out whether an object could be stored under a key, and in a class, and leave nothing there."""

    def clock(self) -> datetime | None:
        """Return what time it is for the store, if it has a clock of its own."""

    def set_class(self, key: str, storage_class: str) -> str:
        """Give an object another storage class where it lies, and look; return the one that it has.

        One that is cold already stays as it is, and so does one that is asked for a class that the store lacks.
        """

    def thaw(self, key: str, days: int, tier: str) -> bool:
        """Ask for a cold object to be made readable for some days; return False if it is being done already."""

    def delete(self, key: str) -> None:
        """Delete one object; that it is gone already is as good."""

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Yield the unfinished uploads of objects whose key starts with the prefix."""

    def abort(self, upload: Upload) -> None:
        """End an unfinished upload; that it is gone already is as good."""


def require_small(place: str, size: int) -> None:
    """Refuse to read what is too large to be read whole.

    Raises:
        DamagedSet: it is.
    """
    if size > MOST_READ_BYTES:
        raise DamagedSet(f"{place} has {size:,} bytes, which is more than anything has that is read whole; look at it")


class SmallBuffer(io.BytesIO):
    """What is read whole; it takes no more than fits into memory."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self._place = place

    def write(self, data: Any) -> int:
        """Take more of it."""
        require_small(self._place, self.tell() + len(data))
        return super().write(data)
