"""Staged rows: the compressed parts of a relation, with or without some of their lines."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.rows.digest import RowDigest
from tasks.core.rows.file_blocks import Chosen, Lines, complement
from tasks.core.rows.unpacking import BLOCK_BYTES, Unpacked, unpacked
from tasks.core.run.progress import Moved, unmeasured


@dataclass(frozen=True)
class RowSource:
    """Parts of a relation in order, their maximum size unpacked, and the lines to leave out."""

    files: list[Path]
    most_bytes: int
    left_out: list[Lines] = field(default_factory=list)

    def blocks(self) -> Iterator[bytes]:
        """Yield the rows that are not left out, as COPY text, in blocks of about 256 KB.

        Raises:
            zstandard.ZstdError: a part is not zstd, is truncated, or is larger than allowed.
        """
        if self.left_out:
            yield from map(b"".join, self.batches())
            return
        for plain in self._open():
            while block := plain.read(BLOCK_BYTES):
                yield block

    def batches(self) -> Iterator[list[bytes]]:
        """Yield the rows that are not left out as lines of COPY text, in lists of about 256 KB.

        Raises:
            zstandard.ZstdError: a part is not zstd, or is truncated.
        """
        chosen = Chosen(complement(self.left_out))
        for plain in self._open():
            lines = io.BufferedReader(plain, BLOCK_BYTES)
            while batch := lines.readlines(BLOCK_BYTES):
                yield chosen.of(batch)

    def _open(self) -> Iterator[Unpacked]:
        bytes_left = self.most_bytes
        for file in self.files:
            with unpacked(file, bytes_left) as plain:
                yield plain
                bytes_left = plain.left


def reorder(sources: Iterable[RowSource], places: Sequence[int]) -> tuple[RowDigest, RowDigest]:
    """Return the digest of the rows of a relation as they are, and with their columns in the order of `places`.

    Raises:
        zstandard.ZstdError: a part is not zstd, or is truncated.
    """
    stored, reordered = RowDigest(), RowDigest()
    for source in sources:
        for batch in source.batches():
            size = sum(map(len, batch))
            stored.add(batch, size)
            # COPY escapes tabs within values.
            values = (row.rstrip(b"\n").split(b"\t") for row in batch)
            reordered.add([b"\t".join([row[place] for place in places]) + b"\n" for row in values], size)
    return stored, reordered


def digest_sources(sources: Iterable[RowSource], moved: Moved = unmeasured) -> RowDigest:
    """Return count and digest of the rows of a relation.

    Raises:
        zstandard.ZstdError: a part is not zstd, or is truncated.
    """
    digest = RowDigest()
    for source in sources:
        for batch in source.batches():
            digest.add(batch, sum(map(len, batch)))
            moved(digest.plain_bytes)
    return digest
