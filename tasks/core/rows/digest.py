"""The order-independent digest of a relation: one 128-bit number for a bag of rows.

A row is one line of COPY text format, newline included. Each row is hashed by XXH3-128, and the
hashes are added modulo 2**128. So the same rows in another physical order have the same digest, and
a duplicated row changes it. XXH3 is fast but not cryptographic: it detects lost and confused rows;
against tampering the stored bytes have a SHA-256.
"""

from dataclasses import dataclass

import xxhash

MODULUS = 1 << 128


@dataclass(slots=True)
class RowDigest:
    """The count and the digest of the rows added so far."""

    rows: int = 0
    total: int = 0
    plain_bytes: int = 0

    def add(self, rows: list[bytes], size: int) -> None:
        """Add rows whose lengths sum up to size bytes."""
        self.rows += len(rows)
        self.plain_bytes += size
        self.total = (self.total + sum(map(xxhash.xxh3_128_intdigest, rows))) % MODULUS

    def include(self, other: "RowDigest") -> None:
        """Add the rows of another digest."""
        self.rows += other.rows
        self.plain_bytes += other.plain_bytes
        self.total = (self.total + other.total) % MODULUS

    @property
    def hex(self) -> str:
        """The digest as 32 hexadecimal digits."""
        return f"{self.total:032x}"
