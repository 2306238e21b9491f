"""Bags of rows that are compared without a database: which of the rows, and which keys, one has and the other has not.

The digest of a relation says whether it has other rows; these say how many. A row is one line of COPY text, a key the text of
its key columns; of each 64 bits of XXH3 are kept: a collision, of a million rows one in 30 million, hides one row of the count.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

import xxhash

# So that only a small part of two bags is counted at a time.
PARTS = 256


class Bag:
    """Texts, each as the 64 bits of its hash; the same text may be in it several times."""

    def __init__(self) -> None:
        self._parts = [array("Q") for _ in range(PARTS)]

    def add(self, texts: Iterable[bytes]) -> None:
        """Add texts."""
        for number in map(xxhash.xxh3_64_intdigest, texts):
            self._parts[number % PARTS].append(number)

    def beyond(self, other: "Bag") -> int:
        """Return how many of its texts the other has not, equal ones counted off against each other."""
        return sum((Counter(own) - Counter(others)).total() for own, others in zip(self._parts, other._parts, strict=True))


class RowBag:
    """Rows of a relation, and the keys that they have; without key columns each row is its own key."""

    def __init__(self) -> None:
        self.rows, self.keys = Bag(), Bag()

    def add(self, rows: Sequence[bytes], key: Sequence[int]) -> None:
        """Add rows; the key columns are given by their places, counted from 0."""
        self.rows.add(rows)
        self.keys.add(_key_of(row, key) for row in rows) if key else self.keys.add(rows)


def _key_of(row: bytes, places: Sequence[int]) -> bytes:
    # Tabs and line breaks in values are escaped.
    values = row.removesuffix(b"\n").split(b"\t")
    return b"\t".join([values[place] for place in places])
