"""What a merge of a set into a live database would do, found out without writing a row.

Rows are matched by primary key and compared as text. Nothing but TEMP tables is written, and nothing is locked but against
changes of its definition.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from tasks.backup.source import check_source
from tasks.backup.take import require_writable
from tasks.core import sql
from tasks.core.calendar import is_instant
from tasks.core.database.objects import TABLES
from tasks.core.errors import BadInput
from tasks.core.in_place.plan import Change, Effect, MergePlan, Need, trigger_states
from tasks.core.in_place.request import Mode, Request
from tasks.core.postgres.connection import connect
from tasks.core.sets.left_out import chores, in_short
from tasks.core.sets.name import Kind
from tasks.core.sql.names import plain_name
from tasks.database import catalog
from tasks.database.locks import LOCK_WAIT_SECONDS, patient
from tasks.database.logins import require_temporary
from tasks.in_place import collisions, differences, prerequisites, rights
from tasks.in_place.foreign_keys import empty_neighbours, find_effects, find_needs, refused
from tasks.in_place.large_objects import look_at_large_objects
from tasks.in_place.objects import said_by_the_set
from tasks.in_place.selection import choose_children, chosen_rows, names, unknown_keys
from tasks.in_place.session import Merge, Table, dicts, lineage
from tasks.in_place.stage import stage, stage_table
from tasks.in_place.undo import not_undone
from tasks.run.run import Run
from tasks.run.site import Site
from tasks.sets.choose import newest_manifest
from tasks.sets.stage import Staged, StagedSet, staged_context

# How much longer than to stage it, it takes to write a row with its indexes and keys, and to read it back (benchmarks/in_place.py).
WRITING, READING = 6.0, 0.6
# So many of two tables that are joined are no more than a row may have (MaxTupleAttributeNumber, 1664).
SOME_COLUMNS = 800


def cleaned_table(site: Site, run: Run, backup: str) -> str:
    """Return the table whose old rows a clean-up set has.

    Raises:
        BadInput: there is no such set, or it is of another kind.
    """
    if backup == "latest" or is_instant(backup):
        raise BadInput(
            f"backup {backup}: name the clean-up set that has the rows; the report of the clean-up does, and so does: "
            f"python -m flows.backup list_backups --context {site.context.name}"
        )
    manifest = newest_manifest(site.store, site.context.name, backup, run.started)
    if manifest.cleaned_table is None:
        raise BadInput(
            f"{manifest.id} has no rows that were cleaned up; name a clean-up set, or restore with table_restore: "
            f"python -m flows.backup list_backups --context {site.context.name}"
        )
    return manifest.cleaned_table


@contextmanager
def begin(site: Site, run: Run, staged: StagedSet, request: Request) -> Iterator[Merge]:
    """Open a session on the live database with everything that differs staged in TEMP tables; nothing else is touched.

    Nothing is staged where something stands in the way of the merge.

    Raises:
        BadInput: a right is missing, there is no such table, or keys that were asked for are wrong.
    """
    with patient(), connect(site.owners_login, site.database, run.title) as connection:
        require_temporary(connection)
        connection.execute(sql.session.set_lock_timeout(LOCK_WAIT_SECONDS))
        there = replace(site, context=catalog.present(connection, site.context))
        source = check_source(there, run, read_others=False)
        require_writable(there, run, Kind.SAFETY)
        connection.execute(sql.session.FIXED_SETTINGS)
        connection.execute(sql.staging.JOIN_IN_MEMORY)
        members = catalog.read_members(connection, there.context)
        inventory = differences.inventory_as_told(connection, members, staged.manifest)
        asked_for, keyed = names(request, site.context, members, staged.manifest)
        whole = staged_context(staged)
        merge = Merge(
            there, run, source, staged, request, connection, members, asked_for, keyed, [], inventory, whole, site.context,
        )  # fmt: skip
        merge.tables += _tables(merge)
        if request.table is not None and not merge.tables and not merge.absent:
            raise BadInput(f"{request.table} is not in {staged.manifest.id}; name another table, or an older or newer set")
        merge.refusals += prerequisites.refusals(merge)
        if not merge.refusals:
            merge.refusals += map(str, rights.to_read(merge))
        if not merge.refusals:
            merge.refusals += map(str, prerequisites.obstacles(merge))
        if not merge.refusals:
            with merge.phases.phase("staging"):
                stage(merge)
                merge.refusals += unknown_keys(merge)
                choose_children(merge)
        yield merge


def _tables(merge: Merge) -> Iterator[Table]:
    chosen = chosen_rows(merge)
    for table in _tables_of(merge, merge.names):
        table.mode, table.chosen = merge.request.mode, list(chosen) if table.name in merge.keyed else []
        yield table


def _tables_of(merge: Merge, names: Iterable[str]) -> Iterator[Table]:
    """Yield the live relations that hold rows and are among those named, with what the set has of each."""
    members, manifest, wanted = merge.members, merge.manifest, set(names)
    facts = {row["oid"]: row for row in dicts(merge.connection, sql.staging.MERGE_FACTS, {"oids": members.oids})}
    relations = {relation.qualified: relation for relation in manifest.relations}
    divided = {relation.parent for relation in manifest.relations}
    divided |= {plain_name(item.name) for item in manifest.inventory if item.kind == "partitioned table"}
    # A set of one partition says nothing of the others.
    chosen = manifest.only.partitions if manifest.only else None
    for number, member in enumerate(members.holding_rows):
        # A table that is newer than the set is left alone; a partition that is newer has rows that the set does not.
        if chosen is not None and not {*chosen} & {*lineage(members, member)}:
            continue
        if member.qualified not in wanted or (member.qualified not in relations and not divided & set(lineage(members, member))):
            continue
        # An identity that is always generated cannot be set by an update: rows that differ in it are others.
        always = facts[member.oid]["always"]
        primary = facts[member.oid]["key"]
        key = list(dict.fromkeys([*primary, *always])) if primary else []
        equal = dict(zip(primary, facts[member.oid]["equal"], strict=True))
        yield Table(number, member, relations.get(member.qualified), key, primary, equal)


def plan(merge: Merge, staged: Staged) -> MergePlan:
    """Compare the live relations with the set; nothing but TEMP tables is written."""
    found, effects = dict[str, Change](), list[Effect]()
    with merge.phases.phase("plan"):
        merge.found = differences.find(merge, merge.members, merge.inventory)
        if not merge.refusals:
            found |= {table.name: compare(merge, table) for table in merge.tables}
            found |= {one.qualified: Change(one.qualified, 0, one.rows, insert=one.rows) for one in merge.absent}
            # A row that another of the same table refers to, is a change of that one.
            found |= {one.relation: one for one in _include_parents(merge)}
            effects += find_effects(merge)
            merge.refusals += map(str, prerequisites.held_by_others(merge))
            if any(one.rows for one in found.values()) or any(one.is_done for one in merge.found):
                merge.refusals += map(str, rights.to_write(merge))
            if not merge.refusals:
                merge.refusals += map(str, prerequisites.row_obstacles(merge, found))
        large = look_at_large_objects(merge).changes
    changes = list(found.values())
    manifest, request = merge.manifest, merge.request
    in_the_way = [*collisions.refused(merge), *(line for table in merge.tables for line in collisions.doubles(merge, table))]
    makes_tables = any(item.kind in TABLES for item in merge.missing)
    refusals = [*merge.refusals, *refused(effects, accept_effects=request.accept_effects), *in_the_way]
    return MergePlan(
        manifest.id, manifest.snapshot.instant, merge.site.database, changes,
        objects=[
            *(one.change for one in merge.found), *large,
            *([] if any(c.rows for c in changes) else differences.stale_views(merge)),
        ],
        not_compared=_not_compared(merge),
        triggers=[f"{trigger} of {table}: {was} becomes {words}" for table, trigger, was, words in _switches(merge)],
        effects=[one for one in effects if one.rows != 0],
        holders=[row[0] for row in merge.connection.execute(sql.in_place.LOCK_HOLDERS_OF, {"oids": merge.members.oids})],
        passed_over=staged.passed_over, refusals=refusals, comparing_seconds=merge.phases.seconds["plan"],
        waiting_seconds=_waiting_seconds(merge, changes), staged_bytes=_staged_bytes(merge), about=merge.about, aside=staged.aside,
        said=[*merge.said, *said_by_the_set(merge)], notes=list(prerequisites.notes(merge)),
        collisions=merge.collisions, skipped=merge.skipped,
        seen=empty_neighbours(merge, changes), not_in_set=in_short(manifest) if makes_tables else "",
        chores=chores(manifest) if makes_tables else [], not_undone=[] if refusals else [
            *not_undone(merge), *(f"{one.what}; what is made of it stays" for one in large if one.is_done),
        ],
    )  # fmt: skip


def _not_compared(merge: Merge) -> str:
    then, now = merge.manifest.versions.server_major, merge.source.major
    return "" if then == now else f"definitions of objects were not compared: the set is of PostgreSQL {then}, the server {now}"


def _staged_bytes(merge: Merge) -> int:
    """Return how much room the staged rows take, with what differs, on the server."""
    return int(merge.connection.execute(sql.prerequisites.STAGED_BYTES).fetchall()[0][0])


def _waiting_seconds(merge: Merge, changes: Iterable[Change]) -> float:
    """Return about how long writers would wait, from how long it took to stage a row."""
    staged = sum(one.relation.rows for one in merge.tables if one.staged and one.relation)
    if not staged:
        return 0.0
    written = sum(one.rows for one in changes)
    return merge.phases.seconds["staging"] / staged * (WRITING * written + READING * staged)


def compare(merge: Merge, table: Table) -> Change:
    """Find out how a live relation differs from what is staged of it; the TEMP table with what is to be written stays."""
    there = table.relation.rows if table.relation else 0
    if table.unchanged:
        return Change(table.name, there, there, unchanged=True)
    member, execute = table.member, merge.connection.execute
    table.compared = _seen(merge, table)
    execute(sql.staging.drop_differences(table.number))
    merge.ask(sql.staging.find_differences(table.number, member.schema, member.name, table.columns, table.key, table.chosen_rows))
    counted = sql.staging.count_differences(table.number, table.chosen_rows)
    inserts, _, deletes, staged = execute(counted).fetchall()[0]
    live = staged + deletes - inserts
    if table.mode is not Mode.REPLACE:
        execute(sql.staging.keep_differences(table.number, table.mode.writes))
    collisions.settle(merge, table)
    inserts, updates, deletes, staged = execute(counted).fetchall()[0]
    execute(sql.staging.analyze_temp(sql.staging.DIFFERENCE.format(table.number)))
    if updates:
        found = list[bool]()
        for first in range(0, len(table.columns), SOME_COLUMNS):
            some = table.columns[first : first + SOME_COLUMNS]
            found += merge.ask(sql.staging.changed_columns(table.number, member.schema, member.name, some))[0]
        table.changed = [name for name, is_changed in zip(table.columns, found, strict=True) if is_changed]
    return Change(table.name, live, staged, inserts, updates, deletes, why=table.why)


def _seen(merge: Merge, table: Table) -> tuple[int, int]:
    """Return a transaction that no later change of a relation is older than, and how many rows it has."""
    xmin = int(dicts(merge.connection, sql.snapshot.SNAPSHOT_FACTS, {})[0]["xmin"])
    rows, _ = merge.ask(sql.rows.count_rows_and_old(table.member.schema, table.member.name, xmin))[0]
    return xmin, rows


def _include_parents(merge: Merge) -> list[Change]:
    """Add the rows that are gone and that restored rows refer to, where that was asked for; refuse what cannot be had.

    Returns what differs in the relations that this added.
    """
    tried, changes = set[Need](), dict[str, Change]()
    while needs := find_needs(merge):
        if hopeless := [one for one in needs if one in tried or not _may_come(merge, one)]:
            merge.refusals += [one.line(_remedy(merge, one)) for one in hopeless]
            break
        for need in needs:
            tried.add(need)
            changes |= {one.relation: one for one in _include(merge, need)}
    return list(changes.values())


def _may_come(merge: Merge, need: Need) -> bool:
    return merge.request.include_parents and any(one.qualified == need.parent for one in merge.members.relations)


def _remedy(merge: Merge, need: Need) -> str:
    if merge.is_undo:
        return (
            f"they were not there when {merge.manifest.id} was taken either; rows that refer to nothing come back only without the "
            f"key: ALTER TABLE {need.table} DROP CONSTRAINT {need.key};"
        )
    if all(one.qualified != need.parent for one in merge.members.relations):
        return f"{need.parent} is another context's: bring them back there first"
    return f"{merge.manifest.id} does not have them either" if merge.request.include_parents else "say include_parents=true"


def _include(merge: Merge, need: Need) -> list[Change]:
    """Merge the needed rows of a parent too: what is missing of them is inserted."""
    names = {one.qualified for one in merge.members.relations if need.parent in lineage(merge.members, one)}
    known = {one.name for one in merge.tables}
    for table in _tables_of(merge, names - known):
        table.mode, table.why = Mode.MISSING, f"{need.table} refers to it"
        merge.refusals += prerequisites.drifts(merge, table)
        stage_table(merge, table)
        merge.tables.append(table)
    changes = list[Change]()
    for table in merge.tables:
        # Of a relation that is merged whole every row comes anyhow.
        if table.name in names and (table.chosen or table.name not in known):
            table.chosen.append(sql.key_values.has_values(dict(zip(need.columns, need.operators, strict=True)), need.values))
            changes.append(compare(merge, table))
    return changes


def _switches(merge: Merge) -> list[tuple[str, str, str, str]]:
    """Return the triggers that are not switched as in the set: table, name, how they are, how they were."""
    if merge.request.table is not None:
        return []
    then, now = trigger_states(merge.manifest.inventory), trigger_states(merge.inventory)
    return [(*one, now[one], then[one]) for one in sorted(then.keys() & now.keys()) if then[one] != now[one]]
