"""What a merge of a backup set into a live database would do: the set staged beside the live rows, and compared with them.

Rows are matched by primary key and compared as text. Nothing but TEMP tables is written, and nothing is locked but against
changes of its definition.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from psycopg.rows import dict_row
from psycopg.sql import SQL

from tasks import catalogue
from tasks.backups import Source, check_source, snapshot_facts
from tasks.catalogue import Member, Members
from tasks.core import sql
from tasks.core.bases import misfit
from tasks.core.compare import compare_inventories, missing_objects
from tasks.core.context import Context
from tasks.core.manifest import InventoryItem, Manifest, Relation
from tasks.core.merge import Change, Drift, Effect, MergePlan, drift, trigger_states
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


@dataclass
class Table:
    """One live relation and what the set has of it; without a relation in the set, the set has no rows of it."""

    number: int
    member: Member
    relation: Relation | None
    identifying: list[str]
    changed: list[str] = field(default_factory=list)
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


@dataclass
class Merge:
    """A merge that is being prepared: the session with its staged rows, and what was found."""

    site: Site
    run: Run
    source: Source
    staged: StagedSet
    connection: Connection
    members: Members
    tables: list[Table]
    inventory: list[InventoryItem]
    whole: Context
    on_drift: Drift
    refusals: list[str] = field(default_factory=list)
    safety: Manifest | None = None
    phases: Phases = field(default_factory=Phases)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the set."""
        return self.staged.manifest

    @property
    def missing(self) -> list[InventoryItem]:
        """What the set has and the database does not."""
        there = {item.identity for item in self.inventory}
        return [item for item in self.manifest.inventory if item.identity not in there]

    @property
    def absent(self) -> list[Relation]:
        """The set's relations that the database does not have, not even empty."""
        known = {table.name for table in self.tables}
        return [one for one in self.manifest.relations if one.qualified not in known]


@contextmanager
def begin(site: Site, run: Run, recovery: Recovery, on_drift: Drift) -> Iterator[Merge]:
    """Open a session on the live database with everything that differs staged in TEMP tables; nothing else is touched.

    Nothing is staged where something stands in the way of the merge.

    Raises:
        BadInput: a right is missing.
    """
    staged = recovery.staged_set
    with patient(), connect(site.server, site.database, run.title) as connection:
        connection.execute(sql.set_lock_timeout(LOCK_WAIT_SECONDS))
        there = replace(site, context=catalogue.present(connection, site.context))
        source = check_source(there, run, read_others=False)
        connection.execute(sql.FIXED_SETTINGS)
        members = catalogue.read_members(connection, there.context)
        inventory = catalogue.read_inventory(connection, members)
        tables = list(_tables(connection, members, staged.manifest))
        whole = staged_context(recovery)
        merge = Merge(there, run, source, staged, connection, members, tables, inventory, whole, on_drift, phases=recovery.phases)
        merge.refusals += _refusals(merge)
        if not merge.refusals:
            with merge.phases.phase("staging"):
                stage(merge)
        yield merge


def _tables(connection: Connection, members: Members, manifest: Manifest) -> Iterator[Table]:
    facts = {row["oid"]: row for row in _dicts(connection, sql.MERGE_FACTS, {"oids": members.oids})}
    relations = {relation.qualified: relation for relation in manifest.relations}
    divided = {relation.parent for relation in manifest.relations}
    divided |= {plain_name(item.name) for item in manifest.inventory if item.kind == "partitioned table"}
    for number, member in enumerate(members.holding_rows):
        # A table that is newer than the set is left alone; a partition that is newer has rows that the set does not.
        if member.qualified not in relations and not divided & set(lineage(members, member)):
            continue
        # An identity that is always generated cannot be set by an update: rows that differ in it are others.
        always = facts[member.oid]["always"]
        key = list(dict.fromkeys([*facts[member.oid]["key"], *always])) if facts[member.oid]["key"] else []
        yield Table(number, member, relations.get(member.qualified), key)


def _dicts(connection: Connection, query: SQL, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    return connection.cursor(row_factory=dict_row).execute(query, parameters).fetchall()


def stage(merge: Merge) -> None:
    """Stage the rows of every relation but of those in which no row was written since the set was taken."""
    same_file = _same_line(merge)
    for table in merge.tables:
        table.unchanged = table.member.qualified in same_file and is_unchanged(merge, table)
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
    merge.connection.execute(sql.create_staging(table.number, member.schema, member.name, columns, own))
    if table.relation:
        sources, encoding = merge.staged.sources(table.relation), merge.manifest.database.encoding
        load_rows(merge.connection, table.relation, sources, encoding, into=sql.staging_place(table.number))
        merge.connection.execute(sql.analyze_temp(sql.STAGED.format(table.number)))
    table.staged = True


def plan(merge: Merge, recovery: Recovery, *, accept_effects: bool) -> MergePlan:
    """Compare the live relations with the set; nothing but TEMP tables is written."""
    changes, effects = list[Change](), list[Effect]()
    with merge.phases.phase("plan"):
        if not merge.refusals:
            changes += [compare(merge, table) for table in merge.tables]
            changes += [Change(one.qualified, 0, one.rows, insert=one.rows) for one in merge.absent]
            effects += find_effects(merge)
    manifest = merge.manifest
    same_major = manifest.versions.server_major == merge.source.major
    unlike = [
        one for one in compare_inventories(manifest.inventory, merge.inventory, same_major=same_major)
        if not one.endswith(" is missing") and not one.startswith("trigger ")
    ]  # fmt: skip
    refusals = [*merge.refusals, *refused(effects, accept_effects=accept_effects)]
    return MergePlan(
        manifest.id, manifest.snapshot.instant, merge.site.database, changes,
        to_create=missing_objects(manifest.inventory, merge.inventory), unlike=unlike,
        triggers=[f"{trigger} of {table}: {was} becomes {words}" for table, trigger, was, words in _switches(merge)],
        effects=[one for one in effects if one.rows != 0],
        holders=[row[0] for row in merge.connection.execute(sql.LOCK_HOLDERS_OF, {"oids": merge.members.oids})],
        passed_over=recovery.passed_over, refusals=refusals, comparing_seconds=merge.phases.seconds["plan"],
    )  # fmt: skip


def compare(merge: Merge, table: Table) -> Change:
    """Find out how a live relation differs from what is staged of it; the TEMP table with the differences stays."""
    there = table.relation.rows if table.relation else 0
    if table.unchanged:
        return Change(table.name, there, there, unchanged=True)
    member = table.member
    merge.connection.execute(sql.drop_differences(table.number))
    merge.connection.execute(sql.find_differences(table.number, member.schema, member.name, table.columns, table.key))
    merge.connection.execute(sql.analyze_temp(sql.DIFFERENCE.format(table.number)))
    inserts, updates, deletes, staged = merge.connection.execute(sql.count_differences(table.number)).fetchall()[0]
    if updates:
        asked = sql.changed_columns(table.number, member.schema, member.name, table.columns)
        found = merge.connection.execute(asked).fetchall()[0]
        table.changed = [name for name, is_changed in zip(table.columns, found, strict=True) if is_changed]
    return Change(table.name, staged + deletes - inserts, staged, inserts, updates, deletes)


def _refusals(merge: Merge) -> Iterator[str]:
    """Yield why the set cannot be merged into what is there."""
    facts = {row["oid"]: row for row in _dicts(merge.connection, sql.MERGE_FACTS, {"oids": merge.members.oids})}
    login = merge.connection.execute(sql.CURRENT_USER).fetchall()[0][0]
    for member in merge.members.relations:
        if not facts[member.oid]["owned"]:
            yield f'{member.qualified} does not belong to "{login}"; GRANT its owner TO "{login}"'
        if facts[member.oid]["rules"]:
            yield f"{member.qualified} has rules, which would write other rows than are meant; ALTER TABLE … DISABLE RULE first"
    for table in merge.tables:
        found = drift(table.relation, table.member.columns, table.member.types) if table.relation else []
        if merge.on_drift is Drift.REFUSE:
            yield from (f'{one}; migrate, or say on_schema_drift="common-columns"' for one in found)
    for item in merge.missing:
        place = {"name": item.name}
        if item.kind in RELATIONS and merge.connection.execute(sql.RELATION_IS_THERE, place).fetchall()[0][0]:
            yield f"{item.name} is there, but not as {item.kind}{f' of {item.parent}' if item.parent else ''}; attach or rename it"


def refused(effects: Iterable[Effect], *, accept_effects: bool) -> list[str]:
    """Return which keys of other contexts forbid the merge, and what to do about each."""
    remedy = {False: "move or delete those first", True: "say accept_effects_on_others=true if that is meant"}
    return [f"{one.line}; {remedy[one.acts]}" for one in effects if one.is_refused(accepted=accept_effects)]


def find_effects(merge: Merge) -> list[Effect]:
    """Return the keys of tables that the merge does not write, with how many of their rows refer to what would go or change."""
    oids = {oid for one in merge.tables for oid in lineage(merge.members, one.member).values()}
    found = list[Effect]()
    for key in _dicts(merge.connection, sql.INBOUND_KEYS, {"oids": sorted(oids)}):
        hit = [one for one in merge.tables if not one.unchanged and key["parent"] in lineage(merge.members, one.member).values()]
        counts = [_count_referring(merge, key, one) for one in hit]
        known = None if None in counts else sum(filter(None, counts))
        found.append(Effect(key["name"], key["table"], key["on_delete"], known))
    return found


def _count_referring(merge: Merge, key: dict[str, Any], table: Table) -> int | None:
    """Count the rows that refer to what a key would notice; None if there may be some and nobody here may look."""
    if not set(key["referenced"]) <= set(table.columns):
        return None
    place = table.number, table.member.schema, table.member.name
    # A key that acts does so though the value comes back in the same statement; one that only looks, looks when it ends.
    noticed = sql.noticed_rows(
        *place, key["referenced"], acts_on_delete=key["acts_on_delete"], acts_on_update=key["acts_on_update"]
    )
    if key["readable"]:
        asked = sql.referring_rows(key["table"], key["columns"], key["referenced"], noticed)
        return int(merge.connection.execute(asked).fetchall()[0][0])
    return None if merge.connection.execute(sql.count_noticed(noticed)).fetchall()[0][0] else 0


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
    then, now = trigger_states(merge.manifest.inventory), trigger_states(merge.inventory)
    return [(*one, now[one], then[one]) for one in sorted(then.keys() & now.keys()) if then[one] != now[one]]
