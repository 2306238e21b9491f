"""What a merge of a backup set into a live database would do: the set staged beside the live rows, and compared with them.

Rows are matched by primary key and compared as text. Nothing but TEMP tables is written, and nothing is locked but against
changes of its definition.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composed

from tasks import catalogue
from tasks.backups import Source, check_source, snapshot_facts
from tasks.catalogue import Member, Members
from tasks.core import merge_sql, sql
from tasks.core.bases import misfit
from tasks.core.compare import compare_inventories, missing_objects
from tasks.core.complaints import message_of
from tasks.core.context import Context
from tasks.core.errors import BadInput
from tasks.core.manifest import InventoryItem, Manifest, Relation
from tasks.core.merge import (
    Change,
    Drift,
    Effect,
    Keys,
    MergePlan,
    Mode,
    Need,
    Request,
    drift,
    parse_keys,
    tables_named,
    trigger_states,
)
from tasks.core.phases import Phases
from tasks.core.servers import Connection, connect
from tasks.core.toc import plain_name
from tasks.recoveries import Recovery, staged_context
from tasks.runs import Run
from tasks.schema import LOCK_WAIT_SECONDS
from tasks.sets import StagedSet
from tasks.sites import Site
from tasks.snapshots import patient
from tasks.tables import load_rows

# What a name of a relation stands for; two kinds cannot share one.
RELATIONS = frozenset({"table", "partitioned table", "view", "materialized view"})
TABLES = frozenset({"table", "partitioned table"})
# What a table may need that is no part of it.
VIEWS = frozenset({"view", "materialized view"})
NEEDED = frozenset({"schema", "type", "function", "sequence"})


# How much longer than to stage it, it takes to write a row with its indexes and keys, and to read it back (benchmarks/in_place.py).
WRITING, READING = 6.0, 0.6


@dataclass
class Table:
    """One live relation and what the set has of it; without a relation in the set, the set has no rows of it."""

    number: int
    member: Member
    relation: Relation | None
    identifying: list[str]
    primary: list[str] = field(default_factory=list)
    mode: Mode = Mode.REPLACE
    chosen: list[Composed] = field(default_factory=list)
    why: str = ""
    changed: list[str] = field(default_factory=list)
    compared: tuple[int, int] | None = None
    unchanged: bool = False
    staged: bool = False

    @property
    def name(self) -> str:
        """schema.name, for people."""
        return self.member.qualified

    @property
    def columns(self) -> list[str]:
        """The columns that both have."""
        then = self.relation.columns if self.relation else list(self.member.columns)
        return [name for name in then if name in self.member.columns]

    @property
    def key(self) -> list[str]:
        """The columns that rows are matched by; none where there is no primary key that both have, or it is generated."""
        return self.identifying if set(self.identifying) <= set(self.columns) else []

    @property
    def is_whole(self) -> bool:
        """Whether the live relation has exactly the set's columns, so that digests compare."""
        return self.relation is None or not drift(self.relation, self.member.columns, self.member.types)

    @property
    def becomes_whole(self) -> bool:
        """Whether it is to have all rows of the set and no other."""
        return self.relation is not None and self.is_whole and self.mode is Mode.REPLACE and not self.chosen

    @property
    def chosen_rows(self) -> Composed:
        """The condition that is true of the rows that the merge is about."""
        return merge_sql.any_of(self.chosen)


@dataclass
class Merge:
    """A merge that is being prepared: the session with its staged rows, and what was found."""

    site: Site
    run: Run
    source: Source
    staged: StagedSet
    request: Request
    connection: Connection
    members: Members
    names: frozenset[str]
    tables: list[Table]
    inventory: list[InventoryItem]
    whole: Context
    refusals: list[str] = field(default_factory=list)
    safety: Manifest | None = None
    phases: Phases = field(default_factory=Phases)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the set."""
        return self.staged.manifest

    @property
    def missing(self) -> list[InventoryItem]:
        """What the set has and the database does not, as far as it was asked for."""
        there = {item.identity for item in self.inventory}
        gone = [item for item in self.manifest.inventory if item.identity not in there]
        if self.request.table is None:
            return gone
        # Of one table: what belongs to a table or partition that was dropped; what else is gone is told.
        tables = {plain_name(item.name) for item in gone if item.kind in TABLES} & self.names
        if not tables or self.request.keys is not None:
            return []
        # What a table needs, and the views that went with it, whose indexes are of them.
        with_it = {item.name for item in gone if item.kind in VIEWS and self._reads_absent(item)}
        return [
            item for item in gone
            if item.kind in NEEDED or item.name in with_it or item.parent in with_it
            or plain_name(item.name if item.kind in TABLES else item.parent) in tables
        ]  # fmt: skip

    def _reads_absent(self, view: InventoryItem) -> bool:
        tables = {name.partition(".")[2] for one in self.absent for name in (one.qualified, one.parent or "")} - {""}
        return bool(re.search(rf"\b(?:{'|'.join(map(re.escape, tables))})\b", view.state))

    def is_about(self, item: InventoryItem) -> bool:
        """Say whether an object is one of the tables that were asked for, or of one."""
        return plain_name(item.name if item.kind in TABLES else item.parent) in self.names

    @property
    def absent(self) -> list[Relation]:
        """The set's relations that were asked for and that the database does not have, not even empty."""
        if self.request.keys is not None:
            # Rows are chosen of what is there; a partition that somebody dropped stays away.
            return []
        known = {member.qualified for member in self.members.holding_rows}
        return [one for one in self.manifest.relations if one.qualified in self.names and one.qualified not in known]

    @property
    def about(self) -> str:
        """What is restored, where it is not the whole context."""
        request = self.request
        if request.table is None:
            return ""
        rows = "" if request.keys is None else ", the chosen rows"
        return f'table {request.table} of database "{self.site.database}" from {self.manifest.id}, mode {request.mode}{rows}'


@contextmanager
def begin(site: Site, run: Run, recovery: Recovery, request: Request) -> Iterator[Merge]:
    """Open a session on the live database with everything that differs staged in TEMP tables; nothing else is touched.

    Nothing is staged where something stands in the way of the merge.

    Raises:
        BadInput: a right is missing, there is no such table, or keys that were asked for are wrong.
    """
    staged = recovery.staged_set
    with patient(), connect(site.server, site.database, run.title) as connection:
        connection.execute(sql.set_lock_timeout(LOCK_WAIT_SECONDS))
        there = replace(site, context=catalogue.present(connection, site.context))
        source = check_source(there, run, read_others=False)
        connection.execute(sql.FIXED_SETTINGS)
        connection.execute(merge_sql.JOIN_IN_MEMORY)
        members = catalogue.read_members(connection, there.context)
        inventory = catalogue.read_inventory(connection, members)
        names = _names(request, site.context, members, staged.manifest)
        whole = staged_context(recovery)
        merge = Merge(there, run, source, staged, request, connection, members, names, [], inventory, whole, phases=recovery.phases)
        merge.tables += _tables(merge)
        if request.table is not None and not merge.tables and not merge.absent:
            raise BadInput(f"{request.table} is not in {staged.manifest.id}; name another table, or an older or newer set")
        merge.refusals += _refusals(merge)
        if not merge.refusals:
            with merge.phases.phase("staging"):
                stage(merge)
                merge.refusals += _unknown_keys(merge)
        yield merge


def _names(request: Request, context: Context, members: Members, manifest: Manifest) -> frozenset[str]:
    """Return schema.name of all that is asked for: everything, or a table with its partitions, of the set and of the database.

    Raises:
        BadInput: neither has such a table.
    """
    parents = {plain_name(one.name): plain_name(one.parent) for one in manifest.inventory if one.kind in TABLES}
    parents |= {one.qualified: one.parent or "" for one in members.relations}
    if request.table is None:
        return frozenset(parents)
    return tables_named(request.table, context.namespace, parents, f"in {manifest.id}, nor of context {context.name} now")


def _tables(merge: Merge) -> Iterator[Table]:
    chosen = _chosen_rows(merge)
    for table in _tables_of(merge, merge.names):
        table.mode, table.chosen = merge.request.mode, list(chosen)
        yield table


def _tables_of(merge: Merge, names: Iterable[str]) -> Iterator[Table]:
    """Yield the live relations that hold rows and are among those named, with what the set has of each."""
    members, manifest, wanted = merge.members, merge.manifest, set(names)
    facts = {row["oid"]: row for row in _dicts(merge.connection, merge_sql.MERGE_FACTS, {"oids": members.oids})}
    relations = {relation.qualified: relation for relation in manifest.relations}
    divided = {relation.parent for relation in manifest.relations}
    divided |= {plain_name(item.name) for item in manifest.inventory if item.kind == "partitioned table"}
    for number, member in enumerate(members.holding_rows):
        # A table that is newer than the set is left alone; a partition that is newer has rows that the set does not.
        if member.qualified not in wanted or (member.qualified not in relations and not divided & set(lineage(members, member))):
            continue
        # An identity that is always generated cannot be set by an update: rows that differ in it are others.
        always = facts[member.oid]["always"]
        primary = facts[member.oid]["key"]
        key = list(dict.fromkeys([*primary, *always])) if primary else []
        yield Table(number, member, relations.get(member.qualified), key, primary)


def _chosen_rows(merge: Merge) -> list[Composed]:
    """Return the condition on key columns that was asked for.

    Raises:
        BadInput: it is none, or there are no such columns.
    """
    if merge.request.keys is None:
        return []
    wanted = [one for one in merge.members.holding_rows if one.qualified in merge.names]
    if not wanted:
        raise BadInput(f"keys: {merge.request.table} is not there; restore all of it, without keys")
    key = _dicts(merge.connection, merge_sql.MERGE_FACTS, {"oids": [wanted[0].oid]})[0]["key"]
    return [read_condition(merge.connection, merge.request.keys, (wanted[0].schema, wanted[0].name), key)]


def read_condition(connection: Connection, keys: Keys, table: tuple[str, str], key: list[str]) -> Composed:
    """Return the condition on a table's key columns that an operator gave, as PostgreSQL understands it.

    Raises:
        BadInput: it is none, or the values are none of those columns.
    """
    said = parse_keys(keys, key)
    try:
        with connection.transaction():
            connection.execute(merge_sql.create_key_table(*table, key))
            if isinstance(said, str):
                # Prepared, because PostgreSQL then takes one statement only.
                connection.execute(merge_sql.add_condition(said), prepare=True)
                found = connection.execute(merge_sql.CONDITION).fetchall()
                if len(found) != 1 or found[0][1]:
                    raise BadInput(
                        f"keys={said}: a condition on {', '.join(key)} may only call functions that always give the same"
                    )
                condition = Composed([SQL(found[0][0])])
            else:
                condition = merge_sql.has_values(list(said[0]), [list(row.values()) for row in said])
            connection.execute(merge_sql.try_condition(condition))
            connection.execute(merge_sql.DROP_KEY_TABLE)
            return condition
    except psycopg.Error as error:
        if connection.broken:
            raise
        # Not a row's value: what the operator wrote himself.
        said, columns = error.diag.message_primary or message_of(error), ", ".join(key)
        raise BadInput(f"keys={keys}: {said}; write a condition on the key columns {columns} alone, or list their values") from None


def _unknown_keys(merge: Merge) -> Iterator[str]:
    """Yield which of the keys that were listed neither the set nor the database has."""
    wanted = [table for table in merge.tables if table.name in merge.names]
    if merge.request.keys is None or not wanted or isinstance(said := parse_keys(merge.request.keys, wanted[0].primary), str):
        return
    for row in said:
        asked = [
            merge_sql.absent_values(one.member.schema, one.member.name, one.number, list(row), list(row.values()))
            for one in wanted
        ]  # fmt: skip
        if all(merge.connection.execute(one).fetchall()[0][0] for one in asked):
            shown = ", ".join(f"{name}={value}" for name, value in row.items())
            yield f"{merge.request.table} has no row with {shown}, neither in {merge.manifest.id} nor now; correct keys"


def _dicts(connection: Connection, query: SQL, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    return connection.cursor(row_factory=dict_row).execute(query, parameters).fetchall()


def stage(merge: Merge) -> None:
    """Stage the rows of every relation but of those in which no row was written since the set was taken."""
    same_file = _same_line(merge)
    for table in merge.tables:
        table.unchanged = not table.chosen and table.member.qualified in same_file and is_unchanged(merge, table)
        if not table.unchanged and not table.staged:
            _stage_table(merge, table)


def _same_line(merge: Merge) -> set[str]:
    """Return the relations whose rows can be told from the set's by the transactions that wrote them."""
    with merge.connection.transaction():
        facts = _dicts(merge.connection, sql.SNAPSHOT_FACTS, {})[0]
        database = catalogue.read_database(merge.connection)
        here = snapshot_facts(merge.connection, merge.source, facts["instant"], int(facts["xmin"]), facts["lsn"])
    if misfit(merge.manifest, here, int(facts["xmax"]), database.oid, merge.inventory):
        return set()
    return {
        one.name
        for one in merge.tables
        if (kept := one.relation) and kept.layout and (kept.oid, kept.relfilenode, kept.layout, kept.columns)
        == (one.member.oid, one.member.relfilenode, one.member.layout, list(one.member.columns))
    }  # fmt: skip


def is_unchanged(merge: Merge, table: Table) -> bool:
    """Say whether a relation has the rows that the set has, and no other: as many, none written since it was taken."""
    return table.relation is not None and has_rows_of(merge, table.member, table.relation, merge.manifest)


def has_rows_of(merge: Merge, member: Member, relation: Relation, manifest: Manifest) -> bool:
    """Say whether a relation in the same file has the rows of a set, and no other."""
    counted = sql.count_rows_and_old(member.schema, member.name, manifest.snapshot.xmin)
    rows, old = merge.connection.execute(counted).fetchall()[0]
    return bool(rows == old == relation.rows)


def _stage_table(merge: Merge, table: Table) -> None:
    member, own = table.member, list(table.member.columns)
    columns = table.relation.columns if table.relation else own
    merge.connection.execute(merge_sql.create_staging(table.number, member.schema, member.name, columns, own))
    if table.relation:
        sources, encoding = merge.staged.sources(table.relation), merge.manifest.database.encoding
        load_rows(merge.connection, table.relation, sources, encoding, into=merge_sql.staging_place(table.number))
        merge.connection.execute(merge_sql.analyze_temp(merge_sql.STAGED.format(table.number)))
    table.staged = True


def plan(merge: Merge, recovery: Recovery) -> MergePlan:
    """Compare the live relations with the set; nothing but TEMP tables is written."""
    changes, effects = list[Change](), list[Effect]()
    with merge.phases.phase("plan"):
        if not merge.refusals:
            changes += [compare(merge, table) for table in merge.tables]
            changes += [Change(one.qualified, 0, one.rows, insert=one.rows) for one in merge.absent]
            changes += _include_parents(merge)
            effects += find_effects(merge)
    manifest, request = merge.manifest, merge.request
    refusals = [*merge.refusals, *refused(effects, accept_effects=request.accept_effects)]
    return MergePlan(
        manifest.id, manifest.snapshot.instant, merge.site.database, changes,
        to_create=missing_objects(merge.missing, []), unlike=_unlike(merge),
        triggers=[f"{trigger} of {table}: {was} becomes {words}" for table, trigger, was, words in _switches(merge)],
        effects=[one for one in effects if one.rows != 0],
        holders=[row[0] for row in merge.connection.execute(merge_sql.LOCK_HOLDERS_OF, {"oids": merge.members.oids})],
        passed_over=recovery.passed_over, refusals=refusals, comparing_seconds=merge.phases.seconds["plan"],
        waiting_seconds=_waiting_seconds(merge, changes), about=merge.about,
    )  # fmt: skip


def _waiting_seconds(merge: Merge, changes: Iterable[Change]) -> float:
    """Return about how long writers would wait, from how long it took to stage a row."""
    staged = sum(one.relation.rows for one in merge.tables if one.staged and one.relation)
    if not staged:
        return 0.0
    written = sum(one.rows for one in changes)
    return merge.phases.seconds["staging"] / staged * (WRITING * written + READING * staged)


def _unlike(merge: Merge) -> list[str]:
    """Return which objects that were asked for differ from the set's, or are gone, and are left as they are."""
    made = set(missing_objects(merge.missing, []))
    then, now = merge.manifest.inventory, merge.inventory
    if merge.request.table is not None:
        then, now = ([item for item in items if merge.is_about(item)] for items in (then, now))
    same_major = merge.manifest.versions.server_major == merge.source.major
    return [
        one for one in compare_inventories(then, now, same_major=same_major)
        if one.removesuffix(" is missing") not in made and (one.endswith(" is missing") or not one.startswith("trigger "))
    ]  # fmt: skip


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
    xmin = int(_dicts(merge.connection, sql.SNAPSHOT_FACTS, {})[0]["xmin"])
    rows, _ = merge.connection.execute(sql.count_rows_and_old(table.member.schema, table.member.name, xmin)).fetchall()[0]
    return xmin, rows


def is_as_compared(merge: Merge, table: Table) -> bool:
    """Say whether a relation has the rows that it had when it was compared: as many, and none written since."""
    if table.compared is None:
        return table.unchanged
    xmin, before = table.compared
    rows, old = merge.connection.execute(sql.count_rows_and_old(table.member.schema, table.member.name, xmin)).fetchall()[0]
    return bool(rows == old == before)


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


def find_needs(merge: Merge) -> list[Need]:
    """Return the rows that are gone and that rows to write refer to."""
    oids = sorted({oid for one in merge.tables for oid in lineage(merge.members, one.member).values()})
    found = list[Need]()
    for key in _dicts(merge.connection, merge_sql.OUTBOUND_KEYS_OF, {"oids": oids}):
        merged = [one for one in merge.tables if key["parent"] in lineage(merge.members, one.member).values()]
        if merge.request.table is None and merged:
            # All rows of the set come, and they refer to each other.
            continue
        also = [one.number for one in merged if one.staged and not one.unchanged]
        place, values = (key["parent_schema"], key["parent_name"]), set[tuple[str, ...]]()
        for one in merge.tables:
            if one.staged and not one.unchanged and key["child"] in lineage(merge.members, one.member).values():
                own = one.member.schema, one.member.name
                asked = merge_sql.needed_values(one.number, own, key["columns"], place, key["referenced"], also)
                values |= set(merge.connection.execute(asked).fetchall())
        if values:
            found.append(Need(key["name"], key["table"], ".".join(place), tuple(key["referenced"]), tuple(sorted(values))))
    return found


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
            table.chosen.append(merge_sql.has_values(need.columns, need.values))
            changes.append(compare(merge, table))
    return changes


def _refusals(merge: Merge) -> Iterator[str]:
    """Yield why the set cannot be merged into what is there."""
    facts = {row["oid"]: row for row in _dicts(merge.connection, merge_sql.MERGE_FACTS, {"oids": merge.members.oids})}
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
        place = {"name": item.name}
        if item.kind in RELATIONS and merge.connection.execute(sql.RELATION_IS_THERE, place).fetchall()[0][0]:
            yield f"{item.name} is there, but not as {item.kind}{f' of {item.parent}' if item.parent else ''}; attach or rename it"


def _drift(merge: Merge, table: Table) -> Iterator[str]:
    """Yield how a live relation has other columns than the set's, where that is to be refused."""
    if table.relation and merge.request.on_drift is Drift.REFUSE:
        for one in drift(table.relation, table.member.columns, table.member.types):
            yield f'{one}; migrate, or say on_schema_drift="common-columns"'


def refused(effects: Iterable[Effect], *, accept_effects: bool) -> list[str]:
    """Return which keys of other contexts forbid the merge, and what to do about each."""
    remedy = {False: "move or delete those first", True: "say accept_effects_on_others=true if that is meant"}
    return [f"{one.line}; {remedy[one.acts]}" for one in effects if one.is_refused(accepted=accept_effects)]


def find_effects(merge: Merge) -> list[Effect]:
    """Return the keys of tables that do not become as in the set, with how many of their rows refer to what would go or change."""
    oids = {oid for one in merge.tables for oid in lineage(merge.members, one.member).values()}
    found = list[Effect]()
    whole = _oids_that_become_whole(merge)
    for key in _dicts(merge.connection, merge_sql.INBOUND_KEYS, {"oids": sorted(oids)}):
        # What refers from a table that is written too, is as in the set afterwards, or else the database refuses it, unless the
        # key acts.
        if key["child"] in whole or (key["child"] in oids and not key["acts_on_delete"] and not key["acts_on_update"]):
            continue
        hit = [one for one in merge.tables if not one.unchanged and key["parent"] in lineage(merge.members, one.member).values()]
        counts = [_count_referring(merge, key, one) for one in hit]
        known = None if None in counts else sum(filter(None, counts))
        found.append(Effect(key["name"], key["table"], key["on_delete"], known))
    return found


def _oids_that_become_whole(merge: Merge) -> set[int]:
    """Return the tables that have the set's rows and no other afterwards, each with all its partitions."""
    partly = {
        oid for member in merge.members.holding_rows
        if not any(one.member.oid == member.oid and one.mode is Mode.REPLACE and not one.chosen for one in merge.tables)
        for oid in lineage(merge.members, member).values()
    }  # fmt: skip
    return set(merge.members.oids) - partly


def _count_referring(merge: Merge, key: dict[str, Any], table: Table) -> int | None:
    """Count the rows that refer to what a key would notice; None if there may be some and nobody here may look."""
    if not set(key["referenced"]) <= set(table.columns):
        return None
    place = table.number, table.member.schema, table.member.name
    # A key that acts does so though the value comes back in the same statement; one that only looks, looks when it ends.
    noticed = merge_sql.noticed_rows(
        *place, key["referenced"], acts_on_delete=key["acts_on_delete"], acts_on_update=key["acts_on_update"]
    )
    if key["readable"]:
        asked = merge_sql.referring_rows(key["table"], key["columns"], key["referenced"], noticed)
        return int(merge.connection.execute(asked).fetchall()[0][0])
    return None if merge.connection.execute(merge_sql.count_noticed(noticed)).fetchall()[0][0] else 0


def lineage(members: Members, member: Member) -> dict[str, int]:
    """Return names and oids of a relation and of the tables that it is a partition of."""
    by_name = {one.qualified: one for one in members.relations}
    found, here = {member.qualified: member.oid}, member
    while here.parent and here.parent in by_name:
        here = by_name[here.parent]
        found[here.qualified] = here.oid
    return found


def _switches(merge: Merge) -> list[tuple[str, str, str, str]]:
    """Return the triggers that are not switched as in the set: table, name, how they are, how they were."""
    if merge.request.table is not None:
        return []
    then, now = trigger_states(merge.manifest.inventory), trigger_states(merge.inventory)
    return [(*one, now[one], then[one]) for one in sorted(then.keys() & now.keys()) if then[one] != now[one]]
