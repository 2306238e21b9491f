"""Whether a full backup can be the base of a differential; which relations inherit rows from it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tasks.core.database.objects import TABLES, InventoryItem
from tasks.core.errors import DamagedSet
from tasks.core.rows.file_blocks import BaseBlocks, BlockRows
from tasks.core.sets.large_objects import LargeObject
from tasks.core.sets.manifest import Manifest, Relation, Snapshot
from tasks.core.sets.order import lsn_position

# Half the range of age(): beyond it, PostgreSQL could take a young row for an old one.
MOST_TRANSACTIONS = 1 << 30
TYPES = frozenset({"type"})


@dataclass(frozen=True)
class Base:
    """The base of a differential: manifest, row counts by block, large objects by oid."""

    manifest: Manifest
    blocks: dict[str, BlockRows]
    large_objects: Mapping[int, LargeObject] = field(default_factory=dict)

    def part_of(self, oid: int, relfilenode: int, name: str, columns: Iterable[str], layout: str) -> "BasePart | None":
        """Return the base's part of a table, if file and layout are the same and rows were counted.

        With another layout even unchanged rows may be written as other text: a column that was
        dropped and added again has its old name and type, but none of its old values.
        """
        relation = self._by_name.get(name)
        if relation is None or not layout:
            return None
        if (relation.oid, relation.relfilenode, relation.layout) != (oid, relfilenode, layout):
            return None
        if relation.columns != list(columns) or name not in self.blocks:
            return None
        return BasePart(relation, BaseBlocks(self.manifest.snapshot.xmin, self.blocks[name]))

    @cached_property
    def _by_name(self) -> dict[str, Relation]:
        return {relation.qualified: relation for relation in self.manifest.relations}


@dataclass(frozen=True)
class BasePart:
    """One relation of a base: its rows, and their counts by block."""

    relation: Relation
    blocks: BaseBlocks


def incompatibility(
    base: Manifest, snapshot: Snapshot, xmax: int, database_oid: int, inventory: Iterable[InventoryItem]
) -> str | None:
    """Return why a full backup cannot be the base of a differential of this snapshot.

    None if it can. Changed rows are found by 64-bit transaction ids (xid8), which do not repeat
    while a server keeps running. After a restart it may run on an older data directory, or on a
    copy: its WAL and transaction ids then continue another history.
    """
    then = base.snapshot
    pairs = {
        "cluster": (then.system_identifier, snapshot.system_identifier),
        "timeline": (then.timeline, snapshot.timeline or then.timeline),
        "database": (base.database.oid, database_oid),
    }
    if other := [name for name, (before, after) in pairs.items() if before != after]:
        return f"it was taken from another {other[0]}"
    if lsn_position(snapshot.lsn) < lsn_position(then.lsn) or snapshot.xmin < then.xmin:
        return "this server has not reached the state of that backup"
    if not (snapshot.timeline and then.timeline):
        return "the standby did not report which timeline it follows (it receives no WAL, or the login lacks pg_read_all_stats)"
    if other_life := _other_life(then, snapshot):
        return other_life
    if xmax - then.xmin >= MOST_TRANSACTIONS:
        return f"{xmax - then.xmin:,} transactions began since that backup, too many to compare ids"
    if moved := _moved(base.inventory, inventory):
        return f"{moved} changed"
    return None


def _other_life(then: Snapshot, now: Snapshot) -> str | None:
    if then.incarnation is None or now.incarnation is None:
        return "it does not record when the server was started"
    was, current = then.incarnation, now.incarnation
    if current == was:
        return None
    if current.address == was.address:
        return f"the server was restarted since (started {current.started}, at that backup {was.started})"
    fact = "the server has another address" if current.started == was.started else "this is another server"
    return f"{fact} now ({current.address}, at that backup {was.address})"


def _moved(before: Iterable[InventoryItem], after: Iterable[InventoryItem]) -> str | None:
    """Return a table or type whose definition changed, which may change rows' texts, or None."""
    spelled = {item.identity: item.columns for item in before if item.kind in TABLES}
    for item in after:
        if item.kind in TABLES and spelled.get((item.kind, item.parent, item.name), item.columns) != item.columns:
            return f"{item.kind} {item.name}"
    types = [{(item.name, item.columns, item.state) for item in items if item.kind in TYPES} for items in (before, after)]
    return next((f"type {name}" for name, _, _ in sorted(types[0] ^ types[1])), None)


def render_block_rows(blocks: dict[str, BlockRows]) -> bytes:
    """Return row counts by block as the bytes that are stored."""
    return json.dumps({name: rows.plain for name, rows in blocks.items()}, ensure_ascii=False).encode()


def parse_block_rows(data: bytes, where: str) -> dict[str, BlockRows]:
    """Return the row counts by block that bytes contain.

    Raises:
        DamagedSet: the bytes are not row counts by block.
    """
    try:
        return {name: BlockRows.parse(rows) for name, rows in json.loads(data).items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedSet(f"{where} cannot be read: {error}") from error
