"""Hash-partitioned tables: a row may belong to another partition in another database.

The hash of an enum's label is that of its oid, which differs between databases; that of a text may
depend on the processor and on the collation's version. So rows are compared by the partitioned
table, and loaded through it if a partition refuses them
(https://www.postgresql.org/docs/current/app-pgdump.html, --load-via-partition-root).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tasks.core.database.objects import InventoryItem
from tasks.core.rows.digest import RowDigest
from tasks.core.sets.manifest import Manifest, Relation
from tasks.core.sql.names import plain_name, split_name

BY_HASH = re.compile(r"(?:^| \| )key HASH \(")


@dataclass(frozen=True)
class Family:
    """A hash-partitioned table, as (schema, name), and the partitions with its rows."""

    table: tuple[str, str]
    relations: tuple[Relation, ...]

    @property
    def qualified(self) -> str:
        """schema.name, for people."""
        return ".".join(self.table)


def hash_tables(inventory: Iterable[InventoryItem], parents: Mapping[str, str | None]) -> dict[str, tuple[str, str]]:
    """Return, by partition (schema.name), its topmost hash-partitioned table as (schema, name)."""
    divided = {plain_name(item.name): item for item in inventory if item.kind == "partitioned table"}
    tables = dict[str, tuple[str, str]]()
    for relation, parent in parents.items():
        ancestor = divided.get(parent or "")
        while ancestor:
            if BY_HASH.search(ancestor.state):
                tables[relation] = split_name(ancestor.name)
            ancestor = divided.get(plain_name(ancestor.parent)) if ancestor.parent else None
    return tables


def families(manifest: Manifest) -> list[Family]:
    """Return the topmost hash-partitioned tables of a set, with their partitions."""
    tables = hash_tables(manifest.inventory, {relation.qualified: relation.parent for relation in manifest.relations})
    return [
        Family(table, tuple(relation for relation in manifest.relations if tables.get(relation.qualified) == table))
        for table in dict.fromkeys(tables.values())
    ]


def differences(relation: Relation, rows: int, digest: str) -> list[str]:
    """Return how the rows of a relation, as read, differ from the manifest."""
    if (rows, digest) == (relation.rows, relation.digest):
        return []
    return [f"{relation.qualified}: {rows} rows with digest {digest}, the backup has {relation.rows} with {relation.digest}"]


def unlike(manifest: Manifest, digests: Mapping[str, RowDigest]) -> list[str]:
    """Return how the relations that were read (by schema.name) differ from the manifest.

    Hash partitions are compared together: PostgreSQL itself keeps every row in the one that it
    belongs to. The rows of relations that are not in `digests` are known to be as in the manifest.
    """
    families_by_relation = dict[str, Family]()
    for family in families(manifest):
        read = tuple(relation for relation in family.relations if relation.qualified in digests)
        # Digests of rows with their columns in another order cannot be added up.
        if len({tuple(relation.columns) for relation in read}) == 1:
            families_by_relation |= {relation.qualified: Family(family.table, read) for relation in read}
    single = [
        relation
        for relation in manifest.relations
        if relation.qualified in digests and relation.qualified not in families_by_relation
    ]
    problems = [
        line
        for relation in single
        for line in differences(relation, digests[relation.qualified].rows, digests[relation.qualified].hex)
    ]
    for family in {family.table: family for family in families_by_relation.values()}.values():
        problems += _unlike_together(family, [digests[relation.qualified] for relation in family.relations])
    return problems


def _unlike_together(family: Family, digests: Iterable[RowDigest]) -> list[str]:
    expected, actual = RowDigest(), RowDigest()
    for relation, digest in zip(family.relations, digests, strict=True):
        expected.include(RowDigest(relation.rows, int(relation.digest, 16)))
        actual.include(digest)
    if (expected.rows, expected.hex) == (actual.rows, actual.hex):
        return []
    return [
        f"{family.qualified}: {actual.rows} rows with digest {actual.hex}, the backup has "
        f"{expected.rows} with {expected.hex}, all partitions together"
    ]
