"""Planning a merge of a set into a live database, without writing a row.

Rows are matched by primary key and compared as text. Only TEMP tables are written; live tables are
locked only against changes of their definition.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg

from tasks.backup.source import check_source
from tasks.backup.take import require_writable
from tasks.core import sql
from tasks.core.calendar import is_instant
from tasks.core.database.objects import TABLES
from tasks.core.errors import BadInput
from tasks.core.in_place.objects import Finding
from tasks.core.in_place.plan import Change, Effect, MergePlan, Need, trigger_states
from tasks.core.in_place.request import Mode, Request
from tasks.core.postgres.connection import connect
from tasks.core.sets.left_out import chores, in_short, is_forgotten
from tasks.core.sets.name import Kind
from tasks.core.sets.shared_schema import not_recorded
from tasks.core.sql.names import plain_name
from tasks.database import catalog
from tasks.database.catalog import dicts
from tasks.database.locks import LOCK_WAIT_SECONDS, patient
from tasks.database.logins import require_temporary
from tasks.in_place import collisions, differences, prerequisites, rights
from tasks.in_place.detached import find_detached, find_moved, misfits, named_as_in_set, read_members, with_tables
from tasks.in_place.foreign_keys import empty_neighbours, find_effects, find_needs, refused
from tasks.in_place.large_objects import look_at_large_objects
from tasks.in_place.objects import definitions_taken
from tasks.in_place.selection import choose_children, chosen_rows, names, unknown_keys
from tasks.in_place.session import Merge, Table, lineage
from tasks.in_place.stage import stage, stage_table
from tasks.in_place.undo import not_undone
from tasks.run.run import Run
from tasks.run.site import Site
from tasks.sets.choose import newest_manifest
from tasks.sets.stage import Staged, StagedSet, staged_context

# The time to write a row with its indexes and keys, and to read it back, relative to staging it
# (benchmarks/in_place.py).
WRITING, READING = 6.0, 0.6
# Columns compared at once: two joined tables may have 1664 (MaxTupleAttributeNumber).
SOME_COLUMNS = 800


def cleaned_table(site: Site, run: Run, backup: str) -> str:
    """Return the table whose deleted rows a clean-up set holds.

    Raises:
        BadInput: there is no set of that name, or it is no clean-up set.
    """
    if backup == "latest" or is_instant(backup):
        raise BadInput(
            f"backup {backup}: pass the id of the clean-up set that has the rows; the report of "
            "the clean-up has it, and so has: python -m flows.backup list_backups --context "
            f"{site.context.name}"
        )
    manifest = newest_manifest(site.store, site.context.name, backup, run.started)
    if manifest.cleaned_table is None:
        raise BadInput(
            f"{manifest.id} is not a clean-up set; name one, or restore with table_restore: python "
            f"-m flows.backup list_backups --context {site.context.name}"
        )
    return manifest.cleaned_table


@contextmanager
def begin(site: Site, run: Run, staged: StagedSet, request: Request) -> Iterator[Merge]:
    """Open a session on the live database, and stage all rows of the set that may differ in it.

    Nothing is staged if the plan has refusals already.

    Raises:
        BadInput: a privilege is missing, the table does not exist, or the keys are wrong.
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
        asked_for, keyed = names(request, site.context, members, staged.manifest)
        detached = find_detached(connection, there.context, staged.manifest, members, asked_for) if request.keys is None else {}
        there = replace(there, context=with_tables(there.context, detached))
        members = read_members(connection, there.context, detached)
        moved = find_moved(staged.manifest, members, detached)
        inventory = differences.inventory_named_as_in_set(connection, members, staged.manifest)
        inventory = named_as_in_set(staged.manifest, moved, inventory)
        whole = staged_context(staged)
        merge = Merge(
            there, run, source, staged, request, connection, members, asked_for, keyed, [], inventory, whole, site.context,
            detached, moved,
        )  # fmt: skip
        merge.tables += _tables(merge)
        if request.table is not None and not merge.tables and not merge.absent:
            raise BadInput(f"{request.table} is not in {staged.manifest.id}; name another table, or an older or newer set")
        merge.refusals += [*prerequisites.refusals(merge), *misfits(merge)]
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
    """Yield the named live relations that store rows, with their counterparts in the set."""
    members, manifest, wanted = merge.members, merge.manifest, set(names)
    facts = {row["oid"]: row for row in dicts(merge.connection, sql.staging.MERGE_FACTS, {"oids": members.oids})}
    relations = {relation.qualified: relation for relation in manifest.relations}
    divided = {relation.parent for relation in manifest.relations}
    divided |= {plain_name(item.name) for item in manifest.inventory if item.kind == "partitioned table"}
    # A set of some partitions has no rows of the others.
    chosen = manifest.only.partitions if manifest.only else None
    for number, member in enumerate(members.holding_rows):
        # A table newer than the set is left alone; a newer partition is included, without rows in
        # the set.
        if chosen is not None and not {*chosen} & {*lineage(members, member)}:
            continue
        if member.qualified not in wanted or (member.qualified not in relations and not divided & set(lineage(members, member))):
            continue
        # GENERATED ALWAYS identities cannot be updated: rows that differ in such a column count as
        # different rows.
        always = facts[member.oid]["always"]
        primary = facts[member.oid]["key"]
        key = list(dict.fromkeys([*primary, *always])) if primary else []
        equal = dict(zip(primary, facts[member.oid]["equal"], strict=True))
        yield Table(number, member, relations.get(member.qualified), key, primary, equal, facts[member.oid]["structured"])


def plan(merge: Merge, staged: Staged) -> MergePlan:
    """Compare the live relations with the set; only TEMP tables are written."""
    compared, effects = dict[str, Change](), list[Effect]()
    with merge.phases.phase("plan"):
        merge.findings = _find_differences(merge)
        if not merge.refusals:
            compared |= {table.name: compare(merge, table) for table in merge.tables}
            compared |= {
                relation.qualified: Change(relation.qualified, 0, relation.rows, insert=relation.rows) for relation in merge.absent
            }
            # Rows of one table may refer to each other: then the change is added to that table.
            compared |= {change.relation: change for change in _include_parents(merge)}
            effects += find_effects(merge)
            merge.refusals += map(str, prerequisites.held_by_others(merge))
            if any(change.rows for change in compared.values()) or any(finding.is_done for finding in merge.findings):
                merge.refusals += map(str, rights.to_write(merge))
            if not merge.refusals:
                merge.refusals += map(str, prerequisites.row_obstacles(merge, compared))
        large = look_at_large_objects(merge).changes
    changes = list(compared.values())
    manifest, request = merge.manifest, merge.request
    in_the_way = [*collisions.refused(merge), *(line for table in merge.tables for line in collisions.doubles(merge, table))]
    # Tables that belong to no context are not reported here.
    # No schema goes with a table.
    of_context = [item for item in manifest.by_hand if not (is_forgotten(item) or item.name.startswith("schema "))]
    left_out = manifest.model_copy(update={"forgotten_tables": [], "by_hand": of_context})
    makes_tables = any(item.kind in TABLES for item in merge.missing)
    refusals = [*merge.refusals, *refused(effects, accept_effects=request.accept_effects), *in_the_way]
    return MergePlan(
        manifest.id, manifest.snapshot.instant, merge.site.database, changes,
        objects=[
            *(finding.change for finding in merge.findings), *large,
            *([] if any(c.rows for c in changes) else differences.stale_views(merge)),
        ],
        not_compared=_not_compared(merge),
        triggers=[f"{trigger} of {table}: {was} becomes {words}" for table, trigger, was, words in _switches(merge)],
        effects=[effect for effect in effects if effect.rows != 0],
        holders=[row[0] for row in merge.connection.execute(sql.in_place.LOCK_HOLDERS_OF, {"oids": merge.members.oids})],
        passed_over=staged.passed_over, refusals=refusals, comparing_seconds=merge.phases.seconds["plan"],
        waiting_seconds=_waiting_seconds(merge, changes), staged_bytes=_staged_bytes(merge), about=merge.about, aside=staged.aside,
        taken_from_set=[*merge.taken_from_set, *definitions_taken(merge)], notes=list(prerequisites.notes(merge)),
        collisions=merge.collisions, skipped=merge.skipped,
        seen=empty_neighbours(merge, changes), not_in_set=in_short(left_out) if makes_tables else "",
        chores=chores(left_out) if makes_tables else [], not_undone=[] if refusals else [
            *not_undone(merge), *(f"{change.what}; an undo does not remove what this restore creates"
            for change in large if change.is_done),
        ],
    )  # fmt: skip


def _find_differences(merge: Merge) -> list[Finding]:
    try:
        return differences.find(merge)
    except psycopg.errors.InsufficientPrivilege:
        # The refusals name what this login may not read.
        if merge.refusals:
            return []
        raise


def _not_compared(merge: Merge) -> str:
    then, now = merge.manifest.versions.server_major, merge.source.major
    if then != now:
        return f"object definitions were not compared: the set is of PostgreSQL {then}, the server runs {now}"
    return not_recorded(merge.manifest)


def _staged_bytes(merge: Merge) -> int:
    """Return the bytes of staged rows and differences on the server."""
    return int(merge.connection.execute(sql.prerequisites.STAGED_BYTES).fetchall()[0][0])


def _waiting_seconds(merge: Merge, changes: Iterable[Change]) -> float:
    """Estimate how many seconds writers would wait, from how long it took to stage a row."""
    staged = sum(table.relation.rows for table in merge.tables if table.staged and table.relation)
    if not staged:
        return 0.0
    written = sum(change.rows for change in changes)
    return merge.phases.seconds["staging"] / staged * (WRITING * written + READING * staged)


def compare(merge: Merge, table: Table) -> Change:
    """Compare a live relation with its staged rows; the TEMP table of differences stays."""
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
        flags = list[bool]()
        for first in range(0, len(table.columns), SOME_COLUMNS):
            some = table.columns[first : first + SOME_COLUMNS]
            flags += merge.ask(sql.staging.changed_columns(table.number, member.schema, member.name, some))[0]
        table.changed = [name for name, is_changed in zip(table.columns, flags, strict=True) if is_changed]
    return Change(table.name, live, staged, inserts, updates, deletes, why=table.why)


def _seen(merge: Merge, table: Table) -> tuple[int, int]:
    """Return an xmin older than all later changes of a relation, and the relation's row count."""
    xmin = int(dicts(merge.connection, sql.snapshot.SNAPSHOT_FACTS, {})[0]["xmin"])
    rows, _ = merge.ask(sql.rows.count_rows_and_old(table.member.schema, table.member.name, xmin))[0]
    return xmin, rows


def _include_parents(merge: Merge) -> list[Change]:
    """Add missing rows that restored rows refer to, if requested; refuse if the set lacks them.

    Returns the changes of the relations that were added for that.
    """
    tried, changes = set[Need](), dict[str, Change]()
    while needs := find_needs(merge):
        if hopeless := [need for need in needs if need in tried or not _may_come(merge, need)]:
            merge.refusals += [need.line(_remedy(merge, need)) for need in hopeless]
            break
        for need in needs:
            tried.add(need)
            changes |= {change.relation: change for change in _include(merge, need)}
    return list(changes.values())


def _may_come(merge: Merge, need: Need) -> bool:
    return merge.request.include_parents and any(relation.qualified == need.parent for relation in merge.members.relations)


def _remedy(merge: Merge, need: Need) -> str:
    if merge.is_undo:
        return (
            f"these rows were missing already when {merge.manifest.id} was taken; to restore rows "
            f"that refer to missing rows, drop the key: ALTER TABLE {need.table} DROP CONSTRAINT "
            f"{need.key};"
        )
    if all(relation.qualified != need.parent for relation in merge.members.relations):
        return f"{need.parent} belongs to another context: restore these rows there first"
    return f"{merge.manifest.id} does not have these rows either" if merge.request.include_parents else "pass include_parents=true"


def _include(merge: Merge, need: Need) -> list[Change]:
    """Add the needed rows of a parent table to the restore: missing rows are inserted."""
    names = {relation.qualified for relation in merge.members.relations if need.parent in lineage(merge.members, relation)}
    known = {table.name for table in merge.tables}
    for table in _tables_of(merge, names - known):
        table.mode, table.why = Mode.MISSING, f"{need.table} refers to these rows"
        merge.refusals += prerequisites.drifts(merge, table)
        stage_table(merge, table)
        merge.tables.append(table)
    changes = list[Change]()
    for table in merge.tables:
        # A relation that is restored as a whole includes every row already.
        if table.name in names and (table.chosen or table.name not in known):
            columns = dict(zip(need.columns, need.operators, strict=True))
            table.chosen.append(sql.key_values.has_values(columns, need.values, table.structured))
            changes.append(compare(merge, table))
    return changes


def _switches(merge: Merge) -> list[tuple[str, str, str, str]]:
    """Return triggers whose state differs: table, name, state in the database, state in the set."""
    if merge.request.table is not None:
        return []
    then, now = trigger_states(merge.manifest.inventory), trigger_states(merge.inventory)
    return [
        (*trigger, now[trigger], then[trigger]) for trigger in sorted(then.keys() & now.keys()) if then[trigger] != now[trigger]
    ]
