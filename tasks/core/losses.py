"""Rows that are gone since a backup: more of them than may go unnoticed are an alarm."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from tasks.core.manifest import Manifest, Relation


def archived_since(previous: Manifest, archives: Iterable[Manifest]) -> frozenset[str]:
    """Return the relations of a backup whose rows an archive set has, as the backup has them or newer: they are not lost."""
    known = {one.qualified: one for one in previous.relations}
    return frozenset(
        then.qualified
        for archive in archives
        for one in archive.relations
        if (then := known.get(one.qualified)) and then.oid == one.oid
        and (_is_since(archive.number, archive.snapshot.instant, previous) or (one.rows, one.digest) == (then.rows, then.digest))
    )  # fmt: skip


@dataclass(frozen=True)
class CleanedUp:
    """Rows that were cleaned up, by relation, and when they were archived."""

    instant: datetime
    rows: Mapping[str, int]
    number: int | None = None


def cleaned_since(previous: Manifest, cleaned: Iterable[CleanedUp]) -> Counter[str]:
    """Return by relation how many rows were cleaned up since a backup: they are not lost."""
    counts = Counter[str]()
    for one in cleaned:
        if _is_since(one.number, one.instant, previous):
            counts.update(one.rows)
    return counts


def _is_since(number: int | None, instant: datetime, previous: Manifest) -> bool:
    """Say whether a set was not taken before another: by their numbers, or by the clock where an older one has none."""
    if number is None or previous.number is None:
        return instant >= previous.snapshot.instant
    return number >= previous.number


def lost_rows(before: Iterable[tuple[str, int]], now: dict[str, int], allowed_share: float) -> Iterator[str]:
    """Yield each relation that is there and lost more than the allowed share of its rows, or all of them."""
    for relation, rows in before:
        found = now.get(relation)
        if found is not None and (found < rows * (1 - allowed_share) or (rows and not found)):
            yield f"{relation}: {found:,} of {rows:,} rows"


def losses_between(
    previous: Manifest, relations: Iterable[Relation], allowed_share: float, archived: Collection[str] = (),
    cleaned: Mapping[str, int] | None = None,
) -> list[str]:  # fmt: skip
    """Return the relations, and partitioned tables as wholes, that lost too many rows since a backup.

    Rows of a partition that was archived meanwhile, and rows that were cleaned up, are not lost.
    """
    there = list(relations)
    names = {one.qualified for one in there}
    stayed = [one for one in previous.relations if one.qualified in names or one.qualified not in archived]
    before, now = _counts(stayed, cleaned or {}), _counts(there, {})
    return list(lost_rows(before.items(), now, allowed_share))


def _counts(relations: Iterable[Relation], cleaned: Mapping[str, int]) -> dict[str, int]:
    """Return rows by relation, and by the table that partitions belong to, without those that were cleaned up."""
    counts = defaultdict[str, int](int)
    for one in relations:
        rows = max(one.rows - cleaned.get(one.qualified, 0), 0)
        counts[one.qualified] += rows
        if one.parent:
            counts[one.parent] += rows
    return dict(counts)
