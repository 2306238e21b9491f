"""Two bags (multisets) of rows compared without a database: how many rows and keys only one has.

The digest of a relation shows whether rows differ; bags show how many. A row is one line of COPY
text, a key the text of its key columns. Of each text only 64 bits of XXH3 are kept. If two texts
have the same hash, the count is too low by one row; with a million rows the probability is one in
30 million.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

import xxhash

# Bags are divided into parts, so that only a small part of two bags is compared at a time.
PARTS = 256


class Bag:
    """A multiset of texts, each kept as the 64 bits of its hash."""

    def __init__(self) -> None:
        self._parts = [array("Q") for _ in range(PARTS)]

    def add(self, texts: Iterable[bytes]) -> None:
        """Add texts."""
        for number in map(xxhash.xxh3_64_intdigest, texts):
            self._parts[number % PARTS].append(number)

    def beyond(self, other: "Bag") -> int:
        """Return how many texts of this bag have no counterpart in the other bag."""
        return sum((Counter(own) - Counter(others)).total() for own, others in zip(self._parts, other._parts, strict=True))


class RowBag:
    """The rows of a relation, and their keys. Without key columns each row is its own key."""

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
