"""Rows that are gone since a backup: more of them than may go unnoticed are an alarm."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

from tasks.core.manifest import Manifest, Relation


def archived_since(previous: Manifest, archives: Iterable[Manifest]) -> frozenset[str]:
    """Return the relations of a backup whose rows an archive set has, as the backup has them or newer: they are not lost."""
    known = {one.qualified: one for one in previous.relations}
    return frozenset(
        then.qualified
        for archive in archives
        for one in archive.relations
        if (then := known.get(one.qualified)) and then.oid == one.oid
        and (archive.snapshot.instant >= previous.snapshot.instant or (one.rows, one.digest) == (then.rows, then.digest))
    )  # fmt: skip


def lost_rows(before: Iterable[tuple[str, int]], now: dict[str, int], allowed_share: float) -> Iterator[str]:
    """Yield each relation that is there and lost more than the allowed share of its rows, or all of them."""
    for relation, rows in before:
        found = now.get(relation)
        if found is not None and (found < rows * (1 - allowed_share) or (rows and not found)):
            yield f"{relation}: {found:,} of {rows:,} rows"


def losses_between(
    previous: Manifest, relations: Iterable[Relation], allowed_share: float, archived: Collection[str] = ()
) -> list[str]:  # fmt: skip
    """Return the relations, and partitioned tables as wholes, that lost too many rows since a backup.

    Rows of a partition that was archived meanwhile are not lost.
    """
    there = list(relations)
    names = {one.qualified for one in there}
    stayed = [one for one in previous.relations if one.qualified in names or one.qualified not in archived]
    before, now = _counts(stayed), _counts(there)
    return list(lost_rows(before.items(), now, allowed_share))


def _counts(relations: Iterable[Relation]) -> dict[str, int]:
    """Return rows by relation, and by the table that partitions belong to."""
    counts = defaultdict[str, int](int)
    for one in relations:
        counts[one.qualified] += one.rows
        if one.parent:
            counts[one.parent] += one.rows
    return dict(counts)
