"""Tables that are divided by hash: which of its partitions a row belongs to, is not the same everywhere.

The hash of an enum's label is that of its oid, which is another one in another database; that of a text may depend on the processor
and on the collation's version. So a set's rows are told by the table that is divided, and loaded through it where a partition
refuses them (https://www.postgresql.org/docs/current/app-pgdump.html, --load-via-partition-root).
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
    """A table that is divided by hash, as (schema, name), and the partitions that hold its rows."""

    table: tuple[str, str]
    relations: tuple[Relation, ...]

    @property
    def qualified(self) -> str:
        """schema.name, for people."""
        return ".".join(self.table)


def hash_tables(inventory: Iterable[InventoryItem], parents: Mapping[str, str | None]) -> dict[str, tuple[str, str]]:
    """Return the topmost table that is divided by hash, as (schema, name), of each relation that has one; all by schema.name."""
    divided = {plain_name(item.name): item for item in inventory if item.kind == "partitioned table"}
    found = dict[str, tuple[str, str]]()
    for relation, parent in parents.items():
        above = divided.get(parent or "")
        while above:
            if BY_HASH.search(above.state):
                found[relation] = split_name(above.name)
            above = divided.get(plain_name(above.parent)) if above.parent else None
    return found


def families(manifest: Manifest) -> list[Family]:
    """Return the tables of a set that are divided by hash, the topmost of each."""
    tables = hash_tables(manifest.inventory, {one.qualified: one.parent for one in manifest.relations})
    return [
        Family(table, tuple(one for one in manifest.relations if tables.get(one.qualified) == table))
        for table in dict.fromkeys(tables.values())
    ]


def differences(relation: Relation, rows: int, digest: str) -> list[str]:
    """Return how what was read of a relation differs from the manifest."""
    if (rows, digest) == (relation.rows, relation.digest):
        return []
    return [f"{relation.qualified}: {rows} rows with digest {digest}, the backup has {relation.rows} with {relation.digest}"]


def unlike(manifest: Manifest, found: Mapping[str, RowDigest]) -> list[str]:
    """Return how the relations that were read (by schema.name) differ from the manifest.

    Partitions by hash are compared together: PostgreSQL itself keeps every row in the one that it belongs to. Of those that are not
    among the found, the rows are known to be as the manifest has them.
    """
    together = dict[str, Family]()
    for family in families(manifest):
        read = tuple(one for one in family.relations if one.qualified in found)
        # Texts of rows whose columns stand in another order cannot be added up.
        if len({tuple(one.columns) for one in read}) == 1:
            together |= {one.qualified: Family(family.table, read) for one in read}
    alone = [one for one in manifest.relations if one.qualified in found and one.qualified not in together]
    said = [line for one in alone for line in differences(one, found[one.qualified].rows, found[one.qualified].hex)]
    for family in {one.table: one for one in together.values()}.values():
        said += _unlike_together(family, [found[one.qualified] for one in family.relations])
    return said


def _unlike_together(family: Family, found: Iterable[RowDigest]) -> list[str]:
    then, now = RowDigest(), RowDigest()
    for relation, digest in zip(family.relations, found, strict=True):
        then.include(RowDigest(relation.rows, int(relation.digest, 16)))
        now.include(digest)
    if (then.rows, then.hex) == (now.rows, now.hex):
        return []
    return [
        f"{family.qualified}: {now.rows} rows with digest {now.hex}, the backup has {then.rows} with {then.hex}, "
        "all partitions together"
    ]
