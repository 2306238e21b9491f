"""The age of backup sets: by LSN where LSNs can be compared, else by the order of storing.

Never by a clock.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from tasks.core.sets.manifest import Snapshot

T = TypeVar("T")
Key = tuple[float, ...]


def newest_first(
    items: Iterable[T],
    snapshot_of: Callable[[T], Snapshot],
    number_of: Callable[[T], int | None],
    is_aside: Callable[[T], bool] = lambda _: False,
) -> list[T]:
    """Order by LSN within one incarnation of a server, and by number across incarnations.

    Sets that are set aside count as another incarnation, whatever their manifests state: a server
    that was restored to an older state has lower LSNs. Sets of older releases have no number: they
    come after all others, by their instants.
    """
    numbered, old = defaultdict[object, list[T]](list), defaultdict[object, list[T]](list)
    for item in items:
        snapshot = snapshot_of(item)
        line = snapshot.system_identifier, snapshot.timeline, snapshot.incarnation, is_aside(item)
        (old if number_of(item) is None else numbered)[line].append(item)

    def place(item: T) -> Key:
        snapshot = snapshot_of(item)
        return lsn_position(snapshot.lsn), number_of(item) or 0, snapshot.instant.timestamp()

    return [
        *_merged(numbered, place, lambda item: (number_of(item) or 0, *place(item))),
        *_merged(old, place, lambda item: (snapshot_of(item).instant.timestamp(),)),
    ]


def _merged(lines: Mapping[object, list[T]], within: Callable[[T], Key], across: Callable[[T], Key]) -> list[T]:
    ordered = [sorted(line, key=within, reverse=True) for line in lines.values()]
    return list(heapq.merge(*ordered, key=across, reverse=True))


def lsn_position(lsn: str) -> int:
    """Return a log sequence number such as 16/B374D848 as a byte position."""
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)
