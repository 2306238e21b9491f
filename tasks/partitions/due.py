"""Partitions past retention: finding them, counting rows, and comparing them with archives."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import psycopg
from psycopg.sql import Composed

from tasks.core import sql
from tasks.core.backup.differential import incompatibility
from tasks.core.context import Context
from tasks.core.context_keys import PartitionRule
from tasks.core.errors import BadInput
from tasks.core.partitions.archive import Archiving
from tasks.core.partitions.timeline import Partition, due_partitions
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.messages import message_of
from tasks.core.sets.manifest import Manifest, Relation, Scope
from tasks.database import catalog
from tasks.database.catalog import Member
from tasks.database.partitions import below_each
from tasks.database.snapshot import position
from tasks.partitions.tables import PartitionedTable, read_table
from tasks.partitions.transaction import session
from tasks.run.run import Run, step
from tasks.run.site import Site
from tasks.sets.choose import archive_sets


@step(repeatable=True)
def find_due(site: Site, run: Run, instant: datetime) -> list[Archiving]:
    """Return the partitions past their rule's retention, by upper bound, oldest first."""
    archives = archive_sets(site.store, site.context.name)
    with session(site, run) as connection:
        return [archiving for rule in site.context.partitions for archiving in _of_table(connection, site, rule, instant, archives)]


def _of_table(
    connection: Connection, site: Site, rule: PartitionRule, instant: datetime, archives: Sequence[Manifest]
) -> list[Archiving]:
    """Return a table's partitions past retention; one query reads their own partitions.

    A table that does not fit its rule is returned as a problem, and does not stop the others.
    """
    schema = site.context.namespace
    try:
        table = read_table(connection, site.context, rule)
    except BadInput as error:
        return [Archiving(f"{schema}.{rule.table}", Partition(0, schema, rule.table, "", 0), 0, 0, problem=str(error))]
    partitions = due_partitions(rule, table.partitions, instant, table.zone)
    scope = Scope(schema=schema, tables=[rule.table])
    relations = catalog.read_relations(connection, site.context.narrowed(scope)) if partitions else ()
    divided = below_each(relations, (partition.oid for partition in partitions))
    return [_archiving(connection, table, *each, archives) for each in zip(partitions, divided, strict=True)]


def _archiving(
    connection: Connection, table: PartitionedTable, partition: Partition, relations: Sequence[Member], archives: Sequence[Manifest]
) -> Archiving:
    archiving = Archiving(table.qualified, partition, partition.rows or 0, 0, table.rule.hold)
    if foreign := [relation.qualified for relation in relations if relation.kind not in ("r", "p")]:
        return replace(archiving, problem=f"{', '.join(foreign)}: foreign tables cannot be backed up; detach them")
    leaves = [relation for relation in relations if relation.kind != "p"]
    try:
        rows, held = count_rows(connection, table, leaves)
        archiving = replace(archiving, rows=rows, held=held)
        if not partition.detach_pending:
            archive_set = archive_of(connection, table, partition, leaves, archives)
            archiving = replace(archiving, backup=archive_set.id if archive_set else None)
    except psycopg.Error as error:
        # The problem of one table does not stop the others.
        archiving = replace(archiving, problem=message_of(error))
    return archiving


def count_rows(connection: Connection, table: PartitionedTable, leaves: Sequence[Member]) -> tuple[int, int]:
    """Count the rows of a partition's leaves, and those that match the `hold` condition."""
    hold, rows, held = sql.staging.as_written(table.rule.hold or "false"), 0, 0
    for leaf in leaves:
        counts = connection.execute(sql.partitions.count_rows(leaf.schema, leaf.name, hold)).fetchall()[0]
        rows, held = rows + counts[0], held + counts[1]
    return rows, held


def leaves_of(connection: Connection, context: Context, table: PartitionedTable, partition: Partition) -> list[Member]:
    """Return the leaf partitions of a partition, or the partition itself if it has none."""
    relations = catalog.read_relations(connection, context.narrowed(table.scope(partition)))
    return [member for members in below_each(relations, [partition.oid]) for member in members if member.kind != "p"]


def archive_of(
    connection: Connection, table: PartitionedTable, partition: Partition, leaves: Sequence[Member], archives: Sequence[Manifest]
) -> Manifest | None:
    """Return the newest archive set that has exactly the present rows of a partition."""
    hold = sql.staging.as_written("false")
    scope = table.scope(partition)
    candidates = (manifest for manifest in archives if manifest.only == scope)
    return next((manifest for manifest in candidates if not find_changes(connection, leaves, manifest, hold)), None)


def find_changes(connection: Connection, leaves: Sequence[Member], manifest: Manifest, hold: Composed) -> list[str]:
    """Return how relations changed since a set of them was taken.

    Rows inserted or updated since then were written by a transaction not older than the set's
    snapshot; if there are none, the number of rows shows whether any were deleted. Rows for which
    `hold` is true are reported too.
    """
    snapshot, xmax, database = position(connection)
    if reason := incompatibility(manifest, snapshot, xmax, database, manifest.inventory):
        return [f"whether rows were written since {manifest.id} was taken is not known: {reason}"]
    relations = {relation.qualified: relation for relation in manifest.relations}
    if {leaf.qualified for leaf in leaves} != relations.keys():
        return [f"the partition now has other partitions of its own than in {manifest.id}"]
    return [change for leaf in leaves for change in _changes(connection, leaf, relations[leaf.qualified], manifest, hold)]


def _changes(connection: Connection, leaf: Member, archived: Relation, manifest: Manifest, hold: Composed) -> list[str]:
    if (leaf.oid, leaf.relfilenode) != (archived.oid, archived.relfilenode):
        return [f"{leaf.qualified} was rewritten since {manifest.id} was taken"]
    if (list(leaf.columns), list(leaf.types), leaf.layout) != (
        archived.columns,
        archived.types,
        archived.layout,
    ) or not leaf.layout:
        return [f"{leaf.qualified} has other columns than when {manifest.id} was taken"]
    is_old = sql.rows.is_old(manifest.snapshot.xmin)
    rows, old, held = connection.execute(sql.partitions.count_old_and_held(leaf.schema, leaf.name, is_old, hold)).fetchall()[0]
    if rows > old:
        return [f"{rows - old:,} rows of {leaf.qualified} were written since {manifest.id} was taken"]
    if rows != archived.rows:
        return [f"{leaf.qualified} has {rows:,} rows, {manifest.id} has {archived.rows:,}"]
    return [f"{held:,} rows of {leaf.qualified} hold the partition now"] if held else []
