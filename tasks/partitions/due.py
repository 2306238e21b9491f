"""Partitions that have had their time: which they are, what they hold, and whether an archive set has every row of them."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

import psycopg
from psycopg.sql import Composed

from tasks.core import sql
from tasks.core.backup.differential import misfit
from tasks.core.context import Context
from tasks.core.context_keys import PartitionRule
from tasks.core.errors import BadInput
from tasks.core.partitions.archive import Archiving
from tasks.core.partitions.timeline import Partition, due
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.messages import message_of
from tasks.core.sets.manifest import Manifest, Relation, Scope
from tasks.database import catalog
from tasks.database.catalog import Member
from tasks.database.snapshot import position
from tasks.partitions.tables import PartitionedTable, read_table
from tasks.partitions.transaction import session
from tasks.run.run import Run, step
from tasks.run.site import Site
from tasks.sets.choose import archive_sets


@step
def find_due(site: Site, run: Run, instant: datetime) -> list[Archiving]:
    """Find the partitions whose upper bound is older than their rule keeps them, oldest first; nothing is touched."""
    archives = archive_sets(site.store, site.context.name)
    with session(site, run) as connection:
        return [one for rule in site.context.partitions for one in _look_at(connection, site, rule, instant, archives)]


def _look_at(
    connection: Connection, site: Site, rule: PartitionRule, instant: datetime, archives: Sequence[Manifest]
) -> list[Archiving]:  # fmt: skip
    """Return the partitions of a table that are due; what they are divided into is read once for all.

    A table that is not as its rule says stops no other; it is told in their place.
    """
    schema = site.context.namespace
    try:
        table = read_table(connection, site.context, rule)
    except BadInput as error:
        return [Archiving(f"{schema}.{rule.table}", Partition(0, schema, rule.table, "", 0), 0, 0, problem=str(error))]
    partitions = due(rule, table.partitions, instant, table.zone)
    whole = Scope(schema=schema, tables=[rule.table])
    relations = catalog.read_relations(connection, site.context.narrowed(whole)) if partitions else ()
    divided = below_each(relations, (partition.oid for partition in partitions))
    return [_look(connection, table, *each, archives) for each in zip(partitions, divided, strict=True)]


def _look(
    connection: Connection, table: PartitionedTable, partition: Partition, relations: Sequence[Member], archives: Sequence[Manifest]
) -> Archiving:  # fmt: skip
    due = Archiving(table.qualified, partition, partition.rows or 0, 0, table.rule.hold)
    if odd := [one.qualified for one in relations if one.kind not in ("r", "p")]:
        return replace(due, problem=f"{', '.join(odd)}: foreign tables cannot be backed up; detach them")
    leaves = [one for one in relations if one.kind != "p"]
    try:
        rows, held = count_rows(connection, table, leaves)
        due = replace(due, rows=rows, held=held)
        if not partition.detach_pending:
            archived = archive_of(connection, table, partition, leaves, archives)
            due = replace(due, backup=archived.id if archived else None)
    except psycopg.Error as error:
        # It holds up no other one.
        due = replace(due, problem=message_of(error))
    return due


def count_rows(connection: Connection, table: PartitionedTable, leaves: Sequence[Member]) -> tuple[int, int]:
    """Count the rows of a partition's leaves, and those that keep it from being dropped."""
    hold, rows, held = sql.staging.as_written(table.rule.hold or "false"), 0, 0
    for leaf in leaves:
        found = connection.execute(sql.partitions.count_rows(leaf.schema, leaf.name, hold)).fetchall()[0]
        rows, held = rows + found[0], held + found[1]
    return rows, held


def leaves_of(connection: Connection, context: Context, table: PartitionedTable, partition: Partition) -> list[Member]:
    """Return the relations that hold the rows of a partition: itself, or what it is divided into."""
    relations = catalog.read_relations(connection, context.narrowed(table.scope(partition)))
    return [one for found in below_each(relations, [partition.oid]) for one in found if one.kind != "p"]


def below_each(relations: Sequence[Member], oids: Iterable[int]) -> Iterator[list[Member]]:
    """Return relations, each with all that it is divided into."""
    by_oid, children = {one.oid: one for one in relations}, defaultdict[str | None, list[Member]](list)
    for one in relations:
        children[one.parent].append(one)
    for oid in oids:
        found = [by_oid[oid]] if oid in by_oid else []
        for parent in found:
            found += children[parent.qualified]
        yield found


def archive_of(
    connection: Connection, table: PartitionedTable, partition: Partition, leaves: Sequence[Member], archives: Sequence[Manifest]
) -> Manifest | None:
    """Return the newest archive set that has the rows that a partition has now."""
    hold = sql.staging.as_written("false")
    scope = table.scope(partition)
    mine = (one for one in archives if one.only == scope)
    return next((one for one in mine if not find_changes(connection, leaves, one, hold)), None)


def find_changes(connection: Connection, leaves: Sequence[Member], manifest: Manifest, hold: Composed) -> list[str]:
    """Return how relations are not what they were when a set of them was taken.

    A row that was inserted or updated since was written by a transaction that is not older than the set's snapshot; after that
    only the number of rows tells what was deleted. Rows that `hold` is true of are told too.
    """
    here, xmax, database = position(connection)
    if unfit := misfit(manifest, here, xmax, database, manifest.inventory):
        return [f"whether rows were written since {manifest.id} was taken cannot be said: {unfit}"]
    relations = {one.qualified: one for one in manifest.relations}
    if {one.qualified for one in leaves} != relations.keys():
        return [f"it has other partitions than {manifest.id}"]
    return [said for leaf in leaves for said in _changes(connection, leaf, relations[leaf.qualified], manifest, hold)]


def _changes(connection: Connection, leaf: Member, then: Relation, manifest: Manifest, hold: Composed) -> list[str]:
    if (leaf.oid, leaf.relfilenode) != (then.oid, then.relfilenode):
        return [f"{leaf.qualified} was written anew since {manifest.id} was taken"]
    if (list(leaf.columns), list(leaf.types), leaf.layout) != (then.columns, then.types, then.layout) or not leaf.layout:
        return [f"{leaf.qualified} has other columns than when {manifest.id} was taken"]
    is_old = sql.rows.is_old(manifest.snapshot.xmin)
    rows, old, held = connection.execute(sql.partitions.count_old_and_held(leaf.schema, leaf.name, is_old, hold)).fetchall()[0]
    if rows > old:
        return [f"{rows - old:,} rows of {leaf.qualified} were written since {manifest.id} was taken"]
    if rows != then.rows:
        return [f"{leaf.qualified} has {rows:,} rows, {manifest.id} has {then.rows:,}"]
    return [f"{held:,} rows of {leaf.qualified} hold it by now"] if held else []
