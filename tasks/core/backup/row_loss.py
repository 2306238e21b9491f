"""Rows that are gone since a backup: more of them than may go unnoticed are an alarm."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from tasks.core.sets.hash_partitions import families
from tasks.core.sets.manifest import Manifest, Relation


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
    tables = tables_by_hash(previous)
    before, now = _counts(stayed, cleaned or {}, tables), _counts(there, {}, tables)
    return list(lost_rows(before.items(), now, allowed_share))


def tables_by_hash(manifest: Manifest) -> dict[str, str]:
    """Return the table that is divided by hash of each partition that has one: after a recovery they may have other rows of it."""
    return {one.qualified: family.qualified for family in families(manifest) for one in family.relations}


def _counts(relations: Iterable[Relation], cleaned: Mapping[str, int], tables: Mapping[str, str]) -> dict[str, int]:
    """Return rows by relation, and by the table that partitions belong to, without those that were cleaned up."""
    counts = defaultdict[str, int](int)
    for one in relations:
        rows = max(one.rows - cleaned.get(one.qualified, 0), 0)
        whole = tables.get(one.qualified)
        for name in [whole] if whole else [one.qualified, *([one.parent] if one.parent else [])]:
            counts[name] += rows
    return dict(counts)
