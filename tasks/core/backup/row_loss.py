"""Rows lost since a backup.

A set is suspect if a table lost more than the allowed share of its rows.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from tasks.core.sets.hash_partitions import families
from tasks.core.sets.manifest import Manifest, Relation


def archived_since(previous: Manifest, archives: Iterable[Manifest]) -> frozenset[str]:
    """Return the relations in archive sets taken since the backup: their rows are not lost."""
    known = {relation.qualified: relation for relation in previous.relations}
    return frozenset(
        then.qualified
        for archive in archives
        for relation in archive.relations
        if (then := known.get(relation.qualified))
        and then.oid == relation.oid
        and (
            _is_since(archive.number, archive.snapshot.instant, previous)
            or (relation.rows, relation.digest) == (then.rows, then.digest)
        )
    )


@dataclass(frozen=True)
class CleanedUp:
    """The number of rows by relation that a clean-up deleted, and when they were archived."""

    instant: datetime
    rows: Mapping[str, int]
    number: int | None = None


def cleaned_since(previous: Manifest, cleaned: Iterable[CleanedUp]) -> Counter[str]:
    """Return by relation how many rows clean-ups deleted since a backup: they are not lost."""
    counts = Counter[str]()
    for clean_up in cleaned:
        if _is_since(clean_up.number, clean_up.instant, previous):
            counts.update(clean_up.rows)
    return counts


def _is_since(number: int | None, instant: datetime, previous: Manifest) -> bool:
    """Return whether a set was not taken before another: by number, or by time without numbers."""
    if number is None or previous.number is None:
        return instant >= previous.snapshot.instant
    return number >= previous.number


def lost_rows(before: Iterable[tuple[str, int]], now: dict[str, int], allowed_share: float) -> Iterator[str]:
    """Yield each existing relation that lost more than the allowed share of its rows, or all."""
    for relation, rows in before:
        left = now.get(relation)
        if left is not None and (left < rows * (1 - allowed_share) or (rows and not left)):
            yield f"{relation}: {left:,} of {rows:,} rows left"


def losses_between(
    previous: Manifest,
    relations: Iterable[Relation],
    allowed_share: float,
    archived: Collection[str] = (),
    cleaned: Mapping[str, int] | None = None,
) -> list[str]:
    """Return the relations, and whole partitioned tables, that lost too many rows since a backup.

    Rows of archived partitions and cleaned-up rows are not lost.
    """
    current = list(relations)
    names = {relation.qualified for relation in current}
    kept = [relation for relation in previous.relations if relation.qualified in names or relation.qualified not in archived]
    tables = tables_by_hash(previous)
    before, now = _counts(kept, cleaned or {}, tables), _counts(current, {}, tables)
    return list(lost_rows(before.items(), now, allowed_share))


def tables_by_hash(manifest: Manifest) -> dict[str, str]:
    """Return each hash partition's table: a recovery may move rows between its partitions."""
    return {leaf.qualified: family.qualified for family in families(manifest) for leaf in family.relations}


def _counts(relations: Iterable[Relation], cleaned: Mapping[str, int], tables: Mapping[str, str]) -> dict[str, int]:
    """Return rows by relation and by partitioned table, without cleaned-up ones."""
    counts = defaultdict[str, int](int)
    for relation in relations:
        rows = max(relation.rows - cleaned.get(relation.qualified, 0), 0)
        whole = tables.get(relation.qualified)
        for name in [whole] if whole else filter(None, (relation.qualified, relation.parent)):
            counts[name] += rows
    return dict(counts)
