"""Decompressing zstd within limits: never more bytes than the manifest states."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zstandard

BLOCK_BYTES = 1 << 18
# PostgreSQL sends no row longer than this; each row is kept in memory as a whole.
MOST_LINE_BYTES = 1 << 30


class Unpacked(io.RawIOBase):
    """The decompressed bytes of a file, up to a maximum; `left` more may follow.

    Raises, while it is read: zstandard.ZstdError: the decompressed file, or a line of it, is longer
    than allowed.
    """

    def __init__(self, packed: zstandard.ZstdDecompressionReader, most_bytes: int) -> None:
        self._packed, self._most, self.left, self._line = packed, most_bytes, most_bytes, 0

    def readable(self) -> bool:
        """Return True: the stream is readable."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most so many; none at the end."""
        block: bytes = self._packed.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise zstandard.ZstdError(f"decompressed it has more than the {self._most:,} bytes that the manifest states")
        newline = block.rfind(b"\n")
        self._line = self._line + len(block) if newline < 0 else len(block) - newline
        if self._line > MOST_LINE_BYTES:
            raise zstandard.ZstdError(f"decompressed it has a line of more than {MOST_LINE_BYTES:,} bytes")
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
        zstandard.ZstdError: the file is not zstd, is truncated, or is larger than allowed.
    """
    with unpacked(file, most_bytes) as plain:
        while block := plain.read(BLOCK_BYTES):
            yield block
