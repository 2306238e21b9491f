"""zstd within bounds: no more is unpacked than the manifest says, whatever the packed bytes would expand to."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zstandard

BLOCK_BYTES = 1 << 18
# PostgreSQL sends no longer row; a row is kept in memory whole.
MOST_LINE_BYTES = 1 << 30


class Unpacked(io.RawIOBase):
    """The plain bytes of a packed file, up to a maximum, of which `left` may still follow.

    Raises, while it is read:
        zstandard.ZstdError: the file, or a line of it, is longer than allowed.
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
            raise zstandard.ZstdError(f"it unpacks to more than the {self._most:,} bytes of the manifest")
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
    """Open a packed file, to read at most so many plain bytes."""
    with file.open("rb") as packed, zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as plain:
        yield Unpacked(plain, most_bytes)


def blocks_of(file: Path, most_bytes: int) -> Iterator[bytes]:
    """Yield the plain bytes of a packed file in blocks of about 256 KB.

    Raises:
        zstandard.ZstdError: it is not zstd, is truncated, or is larger than that.
    """
    with unpacked(file, most_bytes) as plain:
        while block := plain.read(BLOCK_BYTES):
            yield block
