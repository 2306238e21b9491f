"""Which backup set is newer: what the server's log says where it can be compared, else the clock."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

from tasks.core.manifest import Snapshot

T = TypeVar("T")


def newest_first(items: Iterable[T], snapshot_of: Callable[[T], Snapshot]) -> list[T]:
    """Order by LSN within one cluster and timeline, across them by instant."""
    lines = defaultdict[tuple[str, int], list[T]](list)
    for item in items:
        snapshot = snapshot_of(item)
        lines[snapshot.system_identifier, snapshot.timeline].append(item)
    by_lsn = [sorted(line, key=lambda item: _place(snapshot_of(item)), reverse=True) for line in lines.values()]
    return list(heapq.merge(*by_lsn, key=lambda item: snapshot_of(item).instant, reverse=True))


def _place(snapshot: Snapshot) -> tuple[int, float]:
    return lsn_position(snapshot.lsn), snapshot.instant.timestamp()


def lsn_position(lsn: str) -> int:
    """Return a log sequence number such as 16/B374D848 as a byte position."""
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)
