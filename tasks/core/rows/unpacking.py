"""zstd within bounds: what is unpacked is never more than a manifest says, whatever a few packed bytes would become."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zstandard

BLOCK_BYTES = 1 << 18
# PostgreSQL sends no longer row; it would have to be kept in memory whole.
MOST_LINE_BYTES = 1 << 30


class Unpacked(io.RawIOBase):
    """The plain bytes of a packed file, up to a number of bytes that is still `left`.

    Raises, while it is read:
        zstandard.ZstdError: there are more of them, or more in one line than any row has.
    """

    def __init__(self, packed: zstandard.ZstdDecompressionReader, most_bytes: int) -> None:
        self._packed, self._most, self.left, self._line = packed, most_bytes, most_bytes, 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most so many; none at the end."""
        block: bytes = self._packed.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise zstandard.ZstdError(f"it unpacks to more than {self._most:,} bytes, which is all that the manifest says")
        newline = block.rfind(b"\n")
        self._line = self._line + len(block) if newline < 0 else len(block) - newline
        if self._line > MOST_LINE_BYTES:
            raise zstandard.ZstdError(f"it has a line of more than {MOST_LINE_BYTES:,} bytes")
        return block

    def readinto(self, target: Any) -> int:
        """Read into a buffer."""
        block = self.read(len(target))
        target[: len(block)] = block
        return len(block)


@contextmanager
def unpacked(file: Path, most_bytes: int) -> Iterator[Unpacked]:
    """Open a packed file of which at most so many plain bytes are read."""
    with file.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as plain:
        yield Unpacked(plain, most_bytes)


def blocks_of(file: Path, most_bytes: int) -> Iterator[bytes]:
    """Yield the plain bytes of a packed file in blocks of about 256 KB.

    Raises:
        zstandard.ZstdError: it is not zstd, is cut short, or has more of them.
    """
    with unpacked(file, most_bytes) as plain:
        while block := plain.read(BLOCK_BYTES):
            yield block
