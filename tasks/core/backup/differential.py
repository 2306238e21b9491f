"""Whether a differential can be taken against a full, and which relations have something to inherit from it."""

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

# Half of what age() can tell apart: a row that is younger than this may not look old.
MOST_TRANSACTIONS = 1 << 30
TYPES = frozenset({"type"})


@dataclass(frozen=True)
class Base:
    """The manifest of a full, the rows by block that it recorded of each relation, and its large objects by oid."""

    manifest: Manifest
    blocks: dict[str, BlockRows]
    large_objects: Mapping[int, LargeObject] = field(default_factory=dict)

    def part_of(self, oid: int, relfilenode: int, name: str, columns: Iterable[str], layout: str) -> "BasePart | None":
        """Return what the full has of a table in the same file; None if it has another's rows, or did not count their blocks.

        A row that did not change has another text where its table lays out rows otherwise: a column that was dropped and made
        again has its name, its type, and none of its values.
        """
        one = self._by_name.get(name)
        if one is None or not layout or (one.oid, one.relfilenode, one.layout) != (oid, relfilenode, layout):
            return None
        if one.columns != list(columns) or name not in self.blocks:
            return None
        return BasePart(one, BaseBlocks(self.manifest.snapshot.xmin, self.blocks[name]))

    @cached_property
    def _by_name(self) -> dict[str, Relation]:
        return {one.qualified: one for one in self.manifest.relations}


@dataclass(frozen=True)
class BasePart:
    """One relation of a base."""

    relation: Relation
    blocks: BaseBlocks


def misfit(base: Manifest, snapshot: Snapshot, xmax: int, database_oid: int, inventory: Iterable[InventoryItem]) -> str | None:
    """Return why rows that a full has cannot be told from those that a snapshot sees; None if they can.

    Transactions are compared by full transaction id: in one life of one server they never repeat. A server that starts again may
    have the data directory of another day, or be a copy: its log and its transactions then go on where another history did.
    """
    then = base.snapshot
    line = (then.system_identifier, then.timeline, base.database.oid), (
        snapshot.system_identifier, snapshot.timeline or then.timeline, database_oid,
    )  # fmt: skip
    names = ("cluster", "timeline", "database")
    if other := [name for name, was, found in zip(names, *line, strict=True) if was != found]:
        return f"it is of another {other[0]}"
    if lsn_position(snapshot.lsn) < lsn_position(then.lsn) or snapshot.xmin < then.xmin:
        return "this server is behind it"
    if not (snapshot.timeline and then.timeline):
        return "a standby did not say which timeline it follows (it receives nothing, or the login lacks pg_read_all_stats)"
    if other_life := _other_life(then, snapshot):
        return other_life
    if xmax - then.xmin >= MOST_TRANSACTIONS:
        return f"{xmax - then.xmin:,} transactions have come since"
    if moved := _moved(base.inventory, inventory):
        return f"{moved} is not as it was"
    return None


def _other_life(then: Snapshot, now: Snapshot) -> str | None:
    if then.incarnation is None or now.incarnation is None:
        return "it does not say in which life of the server it was taken"
    was, found = then.incarnation, now.incarnation
    if found == was:
        return None
    if found.address == was.address:
        return f"the server was restarted since ({found.started}, before that {was.started})"
    what = "address" if found.started == was.started else "server"
    return f"another {what} answers now ({found.address}, then {was.address})"


def _moved(before: Iterable[InventoryItem], after: Iterable[InventoryItem]) -> str | None:
    """Return a table that both have with other columns, or a type that is another: the same row may have another text now."""
    spelled = {item.identity: item.columns for item in before if item.kind in TABLES}
    for item in after:
        if item.kind in TABLES and spelled.get((item.kind, item.parent, item.name), item.columns) != item.columns:
            return f"{item.kind} {item.name}"
    types = [{(item.name, item.columns, item.state) for item in items if item.kind in TYPES} for items in (before, after)]
    return next((f"type {name}" for name, _, _ in sorted(types[0] ^ types[1])), None)


def render_block_rows(blocks: dict[str, BlockRows]) -> bytes:
    """Return rows by block as the bytes that are stored."""
    return json.dumps({name: one.plain for name, one in blocks.items()}, ensure_ascii=False).encode()


def parse_block_rows(data: bytes, where: str) -> dict[str, BlockRows]:
    """Return rows by block.

    Raises:
        DamagedSet: the bytes are none.
    """
    try:
        return {name: BlockRows.parse(one) for name, one in json.loads(data).items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedSet(f"{where} cannot be read: {error}") from error
