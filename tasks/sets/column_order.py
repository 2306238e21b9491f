"""Partitions whose columns have different orders: digests of rows are added up only in one order.

Sets of older releases have the rows of each partition in the order of its own columns.
"""

from collections.abc import Sequence

import zstandard

from tasks.core.errors import DamagedSet
from tasks.core.rows.sources import reorder
from tasks.core.sets.hash_partitions import differences, families
from tasks.core.sets.manifest import Manifest, Relation
from tasks.sets.stage import StagedSet


def comparable_manifest(staged: StagedSet) -> Manifest:
    """Return the manifest, with the partitions of each hash-partitioned table in one column order.

    Raises:
        DamagedSet: as in_one_order.
    """
    manifest, ordered = staged.manifest, dict[str, Relation]()
    for family in families(manifest):
        ordered |= {relation.qualified: relation for relation in in_one_order(staged, family.relations)}
    relations = [ordered.get(relation.qualified, relation) for relation in manifest.relations]
    return manifest.model_copy(update={"relations": relations})


def in_one_order(staged: StagedSet, relations: Sequence[Relation]) -> list[Relation]:
    """Return relations with their columns, and digests, in the column order of the first one.

    Raises:
        DamagedSet: the rows cannot be read, or are not those of the manifest.
    """
    return [_reordered(staged, relation, relations[0].columns) for relation in relations]


def _reordered(staged: StagedSet, relation: Relation, columns: list[str]) -> Relation:
    if relation.columns == columns or {*relation.columns} != {*columns}:
        return relation
    places, title = [relation.columns.index(name) for name in columns], staged.manifest.id
    try:
        stored, reordered = reorder(staged.sources(relation), places)
    except zstandard.ZstdError as error:
        raise DamagedSet(f"{relation.qualified} of {title} cannot be read: {error}; restore another set") from error
    if problems := differences(relation, stored.rows, stored.hex):
        raise DamagedSet(f"{title}: {'; '.join(problems)}; restore another set")
    types = [relation.types[place] for place in places] if relation.types else []
    return relation.model_copy(update={"columns": columns, "types": types, "digest": reordered.hex})
