"""Ranges of a heap's pages: a large table is read by several processes, each some of its pages.

A condition on ctid is a TID range scan from PostgreSQL 14 on, which reads no other pages
(https://www.postgresql.org/docs/current/release-14.html).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tasks.core.rows.file_blocks import shift_for

# A larger table is read in parts of about this size on disk.
PART_BYTES = 512 << 20


@dataclass(frozen=True)
class Pages:
    """Pages from `first` up to, not including, `end`; without an end all that follow.

    Rows are counted in groups of 2**shift pages, as in the other ranges of the table.
    """

    first: int
    end: int | None
    shift: int

    @property
    def bounds(self) -> tuple[int, int | None]:
        """The first page, and the one after the last."""
        return self.first, self.end

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> Self:
        """Return the range that another process sent."""
        return cls(**plain)


def page_ranges(pages: int, parts: int) -> list[Pages]:
    """Return about so many ranges that together are all pages of a table, in order.

    No group of pages is in two ranges. The last range has no end: the table may have grown.
    """
    shift = shift_for(pages)
    groups = ((max(pages, 1) - 1) >> shift) + 1
    starts = sorted({groups * number // parts << shift for number in range(parts)})
    return [Pages(first, end, shift) for first, end in zip(starts, [*starts[1:], None], strict=True)]
