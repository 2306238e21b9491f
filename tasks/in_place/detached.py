"""Partitions that the set has and that are detached here: attached again, detached by an undo.

A detached partition is read, locked, compared and written as if it was attached. It is attached
after the rows are written, as that locks the tables that its foreign keys reference.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import psycopg

from tasks.core import sql
from tasks.core.context import Context
from tasks.core.database.comparison import named
from tasks.core.database.facts import BOUND, facts
from tasks.core.database.objects import TABLES, InventoryItem
from tasks.core.in_place.remedies import attaches, made
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.messages import message_of
from tasks.core.restore.obstacle import Obstacle
from tasks.core.sets.manifest import Manifest
from tasks.core.sql.names import plain_name, quoted, quoted_name, split_name
from tasks.core.sql.staging import Link
from tasks.database import catalog
from tasks.database.catalog import Member, Members, dicts
from tasks.in_place.session import Merge, lineage


def find_detached(
    connection: Connection, context: Context, manifest: Manifest, members: Members, wanted: Collection[str]
) -> dict[str, InventoryItem]:
    """Return the wanted partitions that are separate tables here, each by name as when attached.

    The set has them attached; or detached, if the restore that it undoes attached them.
    """
    if manifest.only and manifest.only.partitions:
        return {}
    known = {member.qualified for member in members.relations}
    there = {plain_name(item.name) for item in manifest.inventory if item.kind in TABLES} & {*wanted}
    partitions = {
        item.name: item for item in _partitions((*manifest.inventory, *manifest.made)) if plain_name(item.name) in there - known
    }
    asked = {"schema": context.namespace, "names": [*partitions]}
    tables = connection.execute(sql.partitions.STANDALONE, asked).fetchall()
    detached = {name: partitions[name] for kind, name in tables if partitions[name].kind == kind}
    while orphans := [
        name for name, item in detached.items() if plain_name(item.parent) not in known | {plain_name(other) for other in detached}
    ]:
        detached = {name: item for name, item in detached.items() if name not in orphans}
    return detached


def _partitions(items: Iterable[InventoryItem]) -> Iterator[InventoryItem]:
    return (item for item in items if item.kind in TABLES and BOUND in facts(item))


def find_moved(manifest: Manifest, members: Members, detached: Mapping[str, InventoryItem]) -> dict[str, InventoryItem]:
    """Return the partitions to attach and those to detach, each by name as when attached."""
    then = {item.name: item.parent for item in manifest.inventory if item.kind in TABLES}
    known = {member.qualified for member in members.relations}
    to_attach = {name: item for name, item in detached.items() if then[name]}
    made = {item.name: item for item in _partitions(manifest.made) if then.get(item.name) == ""}
    return to_attach | {name: item for name, item in made.items() if name not in detached and plain_name(name) in known}


def with_tables(context: Context, partitions: Collection[str]) -> Context:
    """Return the context with partitions as further tables."""
    return context.model_copy(update={"tables": [*context.tables, *(split_name(name)[1] for name in partitions)]})


def read_members(connection: Connection, context: Context, detached: Mapping[str, InventoryItem]) -> Members:
    """Return a context's members with these partitions, with their parents as when attached."""
    members = catalog.read_members(connection, context)
    parents = {plain_name(name): split_name(item.parent) for name, item in detached.items()}
    relations = tuple(
        replace(member, parent_schema=parents[member.qualified][0], parent_name=parents[member.qualified][1])
        if member.qualified in parents
        else member
        for member in members.relations
    )
    return replace(members, relations=relations)


def named_as_in_set(manifest: Manifest, moved: Mapping[str, InventoryItem], inventory: list[InventoryItem]) -> list[InventoryItem]:
    """Return the live objects, but partitions to attach or detach with the parent as in the set."""
    then = {item.name: item.parent for item in manifest.inventory if item.kind in TABLES}
    return [
        item.model_copy(update={"parent": then[item.name]}) if item.kind in TABLES and item.name in moved else item
        for item in inventory
    ]


def lacking(merge: Merge, partition: str) -> list[InventoryItem]:
    """Return what a detached partition lacks, so that it is attached only after that was created."""
    return [item for item in merge.missing if item.parent == partition]


def attached_too_late(merge: Merge) -> Iterator[Obstacle]:
    """Yield detached partitions that lack something, and to whose rows other rows refer that are to be written before."""
    by_name = {member.qualified: member for member in merge.members.relations}
    keys = dicts(merge.connection, sql.key_values.OUTBOUND_KEYS_OF, {"oids": merge.members.oids})
    for name, item in merge.moved.items():
        absent = lacking(merge, name) if name in merge.detached else []
        member = by_name[plain_name(name)]
        above = {*lineage(merge.members, member).values()} - {member.oid}
        for key in keys if absent else ():
            if key["parent"] in above and _is_needed(merge, key, member):
                yield Obstacle(
                    name,
                    f"is detached from {item.parent} and cannot be attached before rows of {key['table']} are written that refer "
                    f"to its rows ({key['name']}), because it lacks {', '.join(map(named, absent))}",
                    f"create that, then restore again: {_statements(absent)}",
                )


def _statements(absent: Collection[InventoryItem]) -> str:
    """Return the statements that create what a partition lacks; an index of a constraint comes with it."""
    constraints = {item.name for item in absent if item.kind == "constraint"}
    alone = (item for item in absent if item.kind != "index" or split_name(item.name)[1] not in constraints)
    return " ".join(made(item).replace(" ON ONLY ", " ON ", 1) for item in alone).removesuffix(";")


def _is_needed(merge: Merge, key: dict[str, Any], member: Member) -> bool:
    """Return whether rows to write refer by a key to rows of a partition that its table does not show."""
    place, link = (member.schema, member.name), Link.of(key)
    within = [
        table.number for table in merge.tables if table.staged and member.oid in lineage(merge.members, table.member).values()
    ]
    for table in merge.tables:
        if table.staged and not table.unchanged and key["child"] in lineage(merge.members, table.member).values():
            own = table.member.schema, table.member.name
            unseen = merge.ask(
                sql.key_values.needed_values(table.number, own, link, (key["parent_schema"], key["parent_name"]), [])
            )
            elsewhere = merge.ask(sql.key_values.needed_values(table.number, own, link, place, within))
            if {*unseen} - {*elsewhere}:
                return True
    return False


def misfits(merge: Merge) -> Iterator[str]:
    """Yield why a detached partition cannot be attached again, each with the remedy.

    PostgreSQL tells from empty TEMP tables with the same names, so that no lock is taken.
    """
    for name, item in merge.moved.items():
        if name not in merge.detached:
            continue
        bound = facts(item)[BOUND]
        try:
            with merge.connection.transaction(force_rollback=True):
                reason = _misfit(merge, item, bound)
        except psycopg.Error as error:
            if merge.connection.broken:
                raise
            reason = f"{message_of(error)}; fix that, or rename {name} if it is another table"
        if reason:
            statement = f", or run: {attaches(item, bound)}" if attaches(item, bound) else ""
            yield f"{name} is detached from {item.parent} and cannot be attached again: {reason}; then restore again{statement}"


def _misfit(merge: Merge, item: InventoryItem, bound: str) -> str:
    parent, place = split_name(item.parent), split_name(item.name)
    if not attaches(item, bound):
        return "its bound in the set could not be parsed; attach it by hand"
    oid = next(member.oid for member in merge.members.relations if (member.schema, member.name) == parent)
    key, condition = merge.connection.execute(sql.partitions.KEY_AND_CONDITION, {"oid": oid}).fetchall()[0]
    if key is None:
        return f"{item.parent} is not partitioned; rename one of these two tables"
    siblings = dicts(merge.connection, sql.partitions.PARTITIONS, {"oid": oid})
    own = _attach_likeness(merge, item, bound, key, [(sibling["name"], sibling["bound"]) for sibling in siblings])
    bounds = [text for text in (own, condition) if text]
    if bounds and (outside := merge.ask(sql.partitions.count_rows_where(*place, bounds, hold=False))[0][0]):
        return f"{outside:,} of its rows are outside its bound {bound}; move or delete them"
    for sibling in siblings if own else ():
        if sibling["bound"] == "DEFAULT":
            other = sibling["schema"], sibling["name"]
            if inside := merge.ask(sql.partitions.count_rows_where(*other, [own], hold=True))[0][0]:
                return (
                    f"{inside:,} rows of the DEFAULT partition {'.'.join(other)} are within its bound {bound}; move or delete them"
                )
    # The condition of a hash names the partitioned table by its oid.
    likeness = merge.connection.execute(sql.partitions.OID_OF, {"name": f"pg_temp.{quoted(parent[1])}"}).fetchall()[0][0]
    merge.bounds[plain_name(item.name)] = " AND ".join(bounds).replace(f"'{likeness}'::oid", f"'{oid}'::oid") or "true"
    return ""


def overlapping(merge: Merge) -> Iterator[str]:
    """Yield missing partitions that cannot be created beside the present ones, each with the remedy."""
    live = {member.qualified: member for member in merge.members.relations if member.kind == "p"}
    for item in merge.missing:
        parent, bound = live.get(plain_name(item.parent)) if item.kind in TABLES else None, facts(item).get(BOUND, "")
        if parent is None or not attaches(item, bound):
            continue
        siblings = dicts(merge.connection, sql.partitions.PARTITIONS, {"oid": parent.oid})
        key = merge.connection.execute(sql.partitions.KEY_AND_CONDITION, {"oid": parent.oid}).fetchall()[0][0]
        try:
            with merge.connection.transaction(force_rollback=True):
                merge.connection.execute(sql.partitions.create_likeness(parent.schema, parent.name, key))
                for sibling in siblings:
                    likeness = sql.partitions.create_likeness_of_partition(parent.name, sibling["name"], sibling["bound"])
                    merge.connection.execute(likeness)
                wanted = f"missing {split_name(item.name)[1]}"
                merge.connection.execute(sql.partitions.create_likeness_of_partition(parent.name, wanted, bound))
        except psycopg.Error as error:
            if merge.connection.broken:
                raise
            same = next((sibling for sibling in siblings if sibling["bound"] == bound), None)
            yield f"{item.name} cannot be created: {message_of(error)}; {_moved_back(item, same)}"


def _moved_back(item: InventoryItem, present: dict[str, Any] | None) -> str:
    """Return how to give a partition the place that it has in the set, or room for one that is missing."""
    if present is None:
        return f"detach the other partition from {item.parent} first"
    schema, name = split_name(item.name)
    here = quoted_name(present["schema"], present["name"])
    place = [f"ALTER TABLE {here} SET SCHEMA {quoted(schema)}"] if present["schema"] != schema else []
    called = [f"ALTER TABLE {quoted_name(schema, present['name'])} RENAME TO {quoted(name)}"] if present["name"] != name else []
    return f"if {here} is that partition, run: {'; '.join([*place, *called])}; else detach it"


def _attach_likeness(merge: Merge, item: InventoryItem, bound: str, key: str, siblings: Iterable[tuple[str, str]]) -> str:
    """Attach an empty TEMP table like a partition to one like its parent; return the condition of its bound."""
    connection, parent, place = merge.connection, split_name(item.parent), split_name(item.name)
    connection.execute(sql.partitions.create_likeness(*parent, key))
    for missing in merge.missing:
        # A missing check is created before the partition is attached.
        if missing.kind == "constraint" and missing.parent == item.name:
            connection.execute(
                sql.staging.as_written(sql.staging.drop_constraint(f"pg_temp.{quoted(parent[1])}", quoted(missing.name)))
            )
    for name, bound_of_it in siblings:
        connection.execute(sql.partitions.create_likeness_of_partition(parent[1], name, bound_of_it))
    connection.execute(sql.partitions.create_likeness(*place))
    connection.execute(sql.partitions.attach(("pg_temp", parent[1]), ("pg_temp", place[1]), bound))
    likeness = {"name": f"pg_temp.{quoted(place[1])}"}
    return connection.execute(sql.partitions.CONDITION_OF_LIKENESS, likeness).fetchall()[0][0] or ""
