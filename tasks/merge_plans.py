"""What a merge of a backup set into a live database would do: the set staged beside the live rows, and compared with them.

Rows are matched by primary key and compared as text. Nothing but TEMP tables is written, and nothing is locked but against
changes of its definition.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from tasks import catalogue, progress
from tasks.backups import check_source, position
from tasks.core import merge_sql, sql
from tasks.core.bases import misfit
from tasks.core.calendar import is_instant
from tasks.core.compare import compare_inventories, missing_objects
from tasks.core.errors import BadInput
from tasks.core.manifest import TABLES, VIEWS, InventoryItem
from tasks.core.merge import Change, Drift, Effect, MergePlan, Mode, Need, Request, drift, trigger_states
from tasks.core.progress import Moved, unmeasured
from tasks.core.servers import connect
from tasks.core.toc import plain_name, table_of
from tasks.logins import require_temporary
from tasks.merge_choice import choose_children, chosen_rows, names, unknown_keys
from tasks.merge_keys import find_effects, find_needs, refused
from tasks.merge_objects import said_by_the_set
from tasks.merge_session import Merge, Table, dicts, is_unchanged, lineage
from tasks.recoveries import Recovery, staged_context
from tasks.runs import Run
from tasks.schema import LOCK_WAIT_SECONDS
from tasks.sets import newest_manifest
from tasks.sites import Site
from tasks.snapshots import patient
from tasks.tables import load_rows

# How much longer than to stage it, it takes to write a row with its indexes and keys, and to read it back (benchmarks/in_place.py).
WRITING, READING = 6.0, 0.6


def cleaned_table(site: Site, backup: str) -> str:
    """Return the table whose old rows a clean-up set has.

    Raises:
        BadInput: there is no such set, or it is of another kind.
    """
    if backup == "latest" or is_instant(backup):
        raise BadInput(
            f"backup {backup}: name the clean-up set that has the rows; the report of the clean-up does, and so does: "
            f"python -m flows.backup list_backups --context {site.context.name}"
        )
    manifest = newest_manifest(site.store, site.context.name, backup)
    if manifest.cleaned_table is None:
        raise BadInput(
            f"{manifest.id} has no rows that were cleaned up; name a clean-up set, or restore with table_restore: "
            f"python -m flows.backup list_backups --context {site.context.name}"
        )
    return manifest.cleaned_table


@contextmanager
def begin(site: Site, run: Run, recovery: Recovery, request: Request) -> Iterator[Merge]:
    """Open a session on the live database with everything that differs staged in TEMP tables; nothing else is touched.

    Nothing is staged where something stands in the way of the merge.

    Raises:
        BadInput: a right is missing, there is no such table, or keys that were asked for are wrong.
    """
    staged = recovery.staged_set
    with patient(), connect(site.owners_login, site.database, run.title) as connection:
        require_temporary(connection)
        connection.execute(sql.set_lock_timeout(LOCK_WAIT_SECONDS))
        there = replace(site, context=catalogue.present(connection, site.context))
        source = check_source(there, run, read_others=False)
        connection.execute(sql.FIXED_SETTINGS)
        connection.execute(merge_sql.JOIN_IN_MEMORY)
        members = catalogue.read_members(connection, there.context)
        inventory = catalogue.read_inventory(connection, members)
        asked_for, keyed = names(request, site.context, members, staged.manifest)
        whole = staged_context(recovery)
        merge = Merge(
            there, run, source, staged, request, connection, members, asked_for, keyed, [], inventory, whole, site.context,
            phases=recovery.phases,
        )  # fmt: skip
        merge.tables += _tables(merge)
        if request.table is not None and not merge.tables and not merge.absent:
            raise BadInput(f"{request.table} is not in {staged.manifest.id}; name another table, or an older or newer set")
        merge.refusals += _refusals(merge)
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
    facts = {row["oid"]: row for row in dicts(merge.connection, merge_sql.MERGE_FACTS, {"oids": members.oids})}
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


def stage(merge: Merge) -> None:
    """Stage the rows of every relation but of those in which no row was written since the set was taken."""
    same_file = _same_line(merge)
    expected = {table.name: table.relation.plain_bytes if table.relation else 0 for table in merge.tables}
    with progress.of(merge.run, "staging", expected, merge.manifest.zone) as items:
        for table in merge.tables:
            table.unchanged = not table.chosen and table.member.qualified in same_file and is_unchanged(merge, table)
            if not table.unchanged and not table.staged:
                _stage_table(merge, table, items[table.name].at)
            items[table.name].at(expected[table.name])


def _same_line(merge: Merge) -> set[str]:
    """Return the relations whose rows can be told from the set's by the transactions that wrote them."""
    with merge.connection.transaction():
        here, xmax, database = position(merge.connection)
    # A clean-up set never had all rows of a relation.
    if merge.manifest.cleaned_table or misfit(merge.manifest, here, xmax, database, merge.inventory):
        return set()
    return {
        one.name
        for one in merge.tables
        if (kept := one.relation) and kept.layout and (kept.oid, kept.relfilenode, kept.layout, kept.columns)
        == (one.member.oid, one.member.relfilenode, one.member.layout, list(one.member.columns))
    }  # fmt: skip


def _stage_table(merge: Merge, table: Table, moved: Moved = unmeasured) -> None:
    member, own = table.member, list(table.member.columns)
    columns = table.relation.columns if table.relation else own
    merge.connection.execute(merge_sql.create_staging(table.number, member.schema, member.name, columns, own))
    if table.relation:
        sources, encoding = merge.staged.sources(table.relation), merge.manifest.database.encoding
        load_rows(merge.connection, table.relation, sources, encoding, into=merge_sql.staging_place(table.number), moved=moved)
        merge.connection.execute(merge_sql.analyze_temp(merge_sql.STAGED.format(table.number)))
    table.staged = True


def plan(merge: Merge, recovery: Recovery) -> MergePlan:
    """Compare the live relations with the set; nothing but TEMP tables is written."""
    found, effects = dict[str, Change](), list[Effect]()
    with merge.phases.phase("plan"):
        if not merge.refusals:
            found |= {table.name: compare(merge, table) for table in merge.tables}
            found |= {one.qualified: Change(one.qualified, 0, one.rows, insert=one.rows) for one in merge.absent}
            # A row that another of the same table refers to, is a change of that one.
            found |= {one.relation: one for one in _include_parents(merge)}
            effects += find_effects(merge)
    changes = list(found.values())
    manifest, request = merge.manifest, merge.request
    refusals = [*merge.refusals, *refused(effects, accept_effects=request.accept_effects)]
    return MergePlan(
        manifest.id, manifest.snapshot.instant, merge.site.database, changes,
        to_create=missing_objects(merge.missing, []), unlike=_unlike(merge),
        triggers=[f"{trigger} of {table}: {was} becomes {words}" for table, trigger, was, words in _switches(merge)],
        effects=[one for one in effects if one.rows != 0],
        holders=[row[0] for row in merge.connection.execute(merge_sql.LOCK_HOLDERS_OF, {"oids": merge.members.oids})],
        passed_over=recovery.passed_over, refusals=refusals, comparing_seconds=merge.phases.seconds["plan"],
        waiting_seconds=_waiting_seconds(merge, changes), about=merge.about, aside=recovery.aside,
        said=[*merge.said, *said_by_the_set(merge)],
    )  # fmt: skip


def _waiting_seconds(merge: Merge, changes: Iterable[Change]) -> float:
    """Return about how long writers would wait, from how long it took to stage a row."""
    staged = sum(one.relation.rows for one in merge.tables if one.staged and one.relation)
    if not staged:
        return 0.0
    written = sum(one.rows for one in changes)
    return merge.phases.seconds["staging"] / staged * (WRITING * written + READING * staged)


def _unlike(merge: Merge) -> list[str]:
    """Return which objects that were asked for differ from the set's, or are gone, and are left as they are.

    Triggers that are there are told by themselves: how they are switched.
    """
    made, there = {item.identity for item in merge.missing}, {item.identity for item in merge.inventory}
    then = [item for item in merge.manifest.inventory if item.identity not in made and _is_told(merge, item, there)]
    now = [item for item in _known(merge) if _is_told(merge, item, there)]
    return compare_inventories(then, now, same_major=merge.manifest.versions.server_major == merge.source.major)


def _known(merge: Merge) -> list[InventoryItem]:
    """Return the live objects of which the set says something: one of some tables says nothing of others, nor of keys to them."""
    tables = {plain_name(item.name) for item in merge.manifest.inventory if item.kind in TABLES}
    if all(one.qualified in tables for one in merge.members.relations):
        return merge.inventory
    outbound = {("constraint", key.table, sql.unquoted(key.name)) for key in merge.manifest.outbound_keys}
    return [item for item in merge.inventory if table_of(item) in tables and item.identity not in outbound]


def _is_told(merge: Merge, item: InventoryItem, there: Collection[tuple[str, str, str]]) -> bool:
    asked = merge.request.table is None or merge.is_about(item)
    return asked and not (item.kind == "trigger" and item.identity in there)


def compare(merge: Merge, table: Table) -> Change:
    """Find out how a live relation differs from what is staged of it; the TEMP table with what is to be written stays."""
    there = table.relation.rows if table.relation else 0
    if table.unchanged:
        return Change(table.name, there, there, unchanged=True)
    member, execute = table.member, merge.connection.execute
    table.compared = _seen(merge, table)
    execute(merge_sql.drop_differences(table.number))
    execute(merge_sql.find_differences(table.number, member.schema, member.name, table.columns, table.key, table.chosen_rows))
    inserts, updates, deletes, staged = execute(merge_sql.count_differences(table.number, table.chosen_rows)).fetchall()[0]
    live, writes = staged + deletes - inserts, table.mode.writes
    if table.mode is not Mode.REPLACE:
        execute(merge_sql.keep_differences(table.number, writes))
        updates, deletes = updates if "U" in writes else 0, 0
    execute(merge_sql.analyze_temp(merge_sql.DIFFERENCE.format(table.number)))
    if updates:
        asked = merge_sql.changed_columns(table.number, member.schema, member.name, table.columns)
        found = execute(asked).fetchall()[0]
        table.changed = [name for name, is_changed in zip(table.columns, found, strict=True) if is_changed]
    return Change(table.name, live, staged, inserts, updates, deletes, why=table.why)


def _seen(merge: Merge, table: Table) -> tuple[int, int]:
    """Return a transaction that no later change of a relation is older than, and how many rows it has."""
    xmin = int(dicts(merge.connection, sql.SNAPSHOT_FACTS, {})[0]["xmin"])
    rows, _ = merge.connection.execute(sql.count_rows_and_old(table.member.schema, table.member.name, xmin)).fetchall()[0]
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
    if all(one.qualified != need.parent for one in merge.members.relations):
        return f"{need.parent} is another context's: bring them back there first"
    return f"{merge.manifest.id} does not have them either" if merge.request.include_parents else "say include_parents=true"


def _include(merge: Merge, need: Need) -> list[Change]:
    """Merge the needed rows of a parent too: what is missing of them is inserted."""
    names = {one.qualified for one in merge.members.relations if need.parent in lineage(merge.members, one)}
    known = {one.name for one in merge.tables}
    for table in _tables_of(merge, names - known):
        table.mode, table.why = Mode.MISSING, f"{need.table} refers to it"
        merge.refusals += _drift(merge, table)
        _stage_table(merge, table)
        merge.tables.append(table)
    changes = list[Change]()
    for table in merge.tables:
        # Of a relation that is merged whole every row comes anyhow.
        if table.name in names and (table.chosen or table.name not in known):
            table.chosen.append(merge_sql.has_values(dict(zip(need.columns, need.operators, strict=True)), need.values))
            changes.append(compare(merge, table))
    return changes


def _refusals(merge: Merge) -> Iterator[str]:
    """Yield why the set cannot be merged into what is there."""
    facts = {row["oid"]: row for row in dicts(merge.connection, merge_sql.MERGE_FACTS, {"oids": merge.members.oids})}
    login = merge.connection.execute(sql.CURRENT_USER).fetchall()[0][0]
    for member in merge.members.relations:
        if not facts[member.oid]["owned"]:
            yield f'{member.qualified} does not belong to "{login}"; GRANT its owner TO "{login}"'
        if facts[member.oid]["rules"]:
            yield f"{member.qualified} has rules, which would write other rows than are meant; ALTER TABLE … DISABLE RULE first"
    for table in merge.tables:
        yield from _drift(merge, table)
        if not table.key and table.mode is not Mode.REPLACE:
            yield (
                f"{table.name} has no primary key, so that mode {table.mode} would bring the old version of a changed row beside "
                "the new one; restore it with mode replace, or side by side"
            )
    for item in merge.missing:
        if item.kind in TABLES | VIEWS and catalogue.is_there(merge.connection, item.name):
            yield f"{item.name} is there, but not as {item.kind}{f' of {item.parent}' if item.parent else ''}; attach or rename it"


def _drift(merge: Merge, table: Table) -> Iterator[str]:
    """Yield how a live relation has other columns than the set's, where that is to be refused."""
    if table.relation and merge.request.on_drift is Drift.REFUSE:
        for one in drift(table.relation, table.member.columns, table.member.types):
            yield f'{one}; migrate, or say on_schema_drift="common-columns"'


def _switches(merge: Merge) -> list[tuple[str, str, str, str]]:
    """Return the triggers that are not switched as in the set: table, name, how they are, how they were."""
    if merge.request.table is not None:
        return []
    then, now = trigger_states(merge.manifest.inventory), trigger_states(merge.inventory)
    return [(*one, now[one], then[one]) for one in sorted(then.keys() & now.keys()) if then[one] != now[one]]
