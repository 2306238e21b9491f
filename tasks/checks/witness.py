"""Comparing the database with the newest backup: lost and changed objects, lost rows."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import psycopg

from tasks.checks.integrity import SAMPLE_ROWS, WITNESSES, calls_code, missing_relations, one_snapshot, without_missing
from tasks.checks.large_objects import compare_large_objects
from tasks.core import sql
from tasks.core.backup.row_loss import archived_since, cleaned_since, lost_rows, tables_by_hash
from tasks.core.checks.definition import Check, Finding, Severity, Verdict, judge
from tasks.core.checks.objects import came_with_time, in_short, is_grave
from tasks.core.context import Context
from tasks.core.database.comparison import Difference, named, with_moved_sequences
from tasks.core.errors import DamagedSet, OperationError
from tasks.core.postgres.archive_toc import table_of
from tasks.core.postgres.connection import Connection, Server, connect
from tasks.core.postgres.messages import message_of
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.name import RULES
from tasks.core.sets.shared_schema import not_recorded
from tasks.database import catalog
from tasks.database.catalog import Member, Members
from tasks.database.neighbours import Neighbours
from tasks.run.run import Run, step
from tasks.sets.choose import departed_sets, newest_trusted
from tasks.sets.differences import Comparison
from tasks.sets.listing import list_sets
from tasks.sets.manifest import find_lack, name_of
from tasks.store.address import StoreAddress

NOT_SEEN = "not checked: this table of another context had rows, and now no login here may read it, or it is locked"
NOT_COUNTED = (
    "not counted: counting would run code of the table's owner, and no login for such code is available; see `integrity checks`"
)


@step
def compare_with_newest_backup(
    server: Server, database: str, run: Run, context: Context, store: StoreAddress, timeout_seconds: float,
    loader: Server | None = None,
) -> list[Finding]:  # fmt: skip
    """Compare the database with the newest backup: lost and changed objects, and lost rows."""
    try:
        # Not a suspect backup: rows lost before it would not be found.
        manifest = newest_trusted(store, context.name)
        if manifest is None and not any(RULES[entry.name.kind].may_be_latest for entry in list_sets(store, context.name).sets):
            note = f"no backup set of the context in {store.url}"
            return [Finding(name, Severity.ERROR, Verdict.NOT_RUN, note=note) for name in WITNESSES]
        if manifest is None:
            raise DamagedSet(f"every backup set of the context in {store.url} is damaged or suspect; see list_backups")
        archives, cleaned = departed_sets(store, context.name)
        gone = archived_since(manifest, archives), cleaned_since(manifest, cleaned)
        lost, (missed, fewer), changed, unknown = _losses(server, loader, database, run, context, manifest, timeout_seconds, *gone)
        large = compare_large_objects(server, database, run, context, store, manifest, timeout_seconds)
        lack = find_lack(store, name_of(manifest), manifest)
    except (OperationError, psycopg.Error) as error:
        note = message_of(error) if isinstance(error, psycopg.Error) else str(error)
        return [Finding(name, Severity.ERROR, Verdict.BROKEN, note=note) for name in WITNESSES]
    about = f"It is in {manifest.id}; if it was removed on purpose, take a backup now."
    objects = judge(Check(WITNESSES[0], Severity.ERROR, "", about), len(lost), lost[:SAMPLE_ROWS])
    # Losses below the threshold may be the application's own work.
    severity, offending = (Severity.ERROR, missed) if missed else (Severity.WARNING, fewer)
    rows = judge(Check(WITNESSES[1], severity, "", about), len(offending), offending[:SAMPLE_ROWS])
    if lack:
        objects = replace(objects, verdict=Verdict.BROKEN, note=f"{manifest.id} is damaged: {lack}; take a backup now")
    return [
        *(Finding(f"rows of {name}", Severity.WARNING, Verdict.NOT_RUN, note=why) for name, why in unknown.items()), objects, rows,
        _judge_changed(manifest, changed), *large,
    ]  # fmt: skip


def _judge_changed(manifest: Manifest, changed: Sequence[Difference] | None) -> Finding:
    """Return the finding on changed objects: a warning if no difference is grave."""
    name, about = WITNESSES[2], f"It is different in {manifest.id}; if it was changed on purpose, take a backup now."
    if changed is None:
        note = f"not compared: {manifest.id} is of PostgreSQL {manifest.versions.server_major}; take a backup now"
        return Finding(name, Severity.WARNING, Verdict.NOT_RUN, note=note)
    ordered = sorted(changed, key=lambda difference: not is_grave(difference))
    severity = Severity.ERROR if any(map(is_grave, changed)) else Severity.WARNING
    note = " ".join(filter(None, [about if changed else "", not_recorded(manifest)]))
    return judge(Check(name, severity, "", about), len(changed), [*map(in_short, ordered[:SAMPLE_ROWS])], note=note)


def _losses(
    server: Server, loader: Server | None, database: str, run: Run, context: Context, manifest: Manifest, timeout_seconds: float,
    archived: Collection[str], cleaned: Mapping[str, int],
) -> tuple[list[str], tuple[list[str], list[str]], list[Difference] | None, dict[str, str]]:  # fmt: skip
    """Return lost objects, relations with lost rows, changed objects, and what was not counted.

    Changed objects are None if the set is of another major version. Archived partitions and
    cleaned-up rows are not lost.
    """
    with connect(server, database, run.title) as connection, one_snapshot(connection):
        connection.execute(sql.session.limit_statements(timeout_seconds))
        members = catalog.read_members(connection, without_missing(context, missing_relations(connection, context)))
        neighbours = Neighbours(server, database, run.title)
        lost, changed, unseen = _compare_objects(connection, members, manifest, {*archived}, neighbours)
        # Counting their rows runs code of their owner, so the loader counts these.
        calling = [
            relation
            for relation in members.holding_rows
            if calls_code(connection, sql.names.quoted_name(relation.schema, relation.name))
        ]
        counted = _counted(connection, [relation for relation in members.holding_rows if relation not in calling])
    if calling and loader:
        with connect(loader, database, run.title) as connection, one_snapshot(connection):
            connection.execute(sql.session.limit_statements(timeout_seconds))
            counted |= _counted(connection, calling)
    unknown = ({} if loader else {relation.qualified: NOT_COUNTED for relation in calling}) | dict.fromkeys(unseen, NOT_SEEN)
    return lost, _lost_rows(manifest, counted, unknown, cleaned, context.max_row_loss), changed, unknown


def _compare_objects(
    connection: Connection, members: Members, manifest: Manifest, archived: set[str], neighbours: Neighbours
) -> tuple[list[str], list[Difference] | None, list[str]]:
    """Return lost objects and columns, changed and new objects, and others' unchecked tables.

    Changed objects are None if the set is of another major version.
    """
    gone = archived - {relation.qualified for relation in members.relations}
    expected = [item for item in manifest.inventory if table_of(item) not in gone]
    inventory = with_moved_sequences(expected, catalog.read_inventory(connection, members, manifest.inventory))
    # Texts are not parsed again here, as that writes: views and functions with another spelling are
    # reported.
    expecting = manifest.model_copy(update={"inventory": expected})
    compared = Comparison(connection, expecting, members, inventory, neighbours=neighbours)
    differences = compared.differences
    lost = [named(difference.item) for difference in differences if difference.now is None]
    regular = came_with_time(differences, expected)
    remaining = (difference for difference in differences if difference.now is not None)
    changed = [difference for difference in remaining if difference.item.identity not in regular]
    columns = {relation.qualified: set(relation.columns) for relation in members.relations}
    lost += [
        f"column {name} of {relation.qualified}"
        for relation in manifest.relations
        for name in relation.columns
        if relation.qualified in columns and name not in columns[relation.qualified]
    ]
    return lost, changed if compared.is_same_major else None, compared.unseen


def _lost_rows(
    manifest: Manifest, counted: Mapping[str, int], unknown: Collection[str], cleaned: Mapping[str, int], threshold: float
) -> tuple[list[str], list[str]]:
    """Return relations that lost too many rows, and that lost any; hash partitions together."""
    tables, before, now = tables_by_hash(manifest), Counter[str](), Counter[str]()
    for relation in manifest.relations:
        if relation.qualified in counted and relation.qualified not in unknown:
            name = tables.get(relation.qualified, relation.qualified)
            before[name] += max(relation.rows - cleaned.get(relation.qualified, 0), 0)
            now[name] += counted[relation.qualified]
    return list(lost_rows(before.items(), now, threshold)), list(lost_rows(before.items(), now, 0))


def _counted(connection: Connection, relations: Iterable[Member]) -> dict[str, int]:
    return {
        relation.qualified: connection.execute(sql.rows.count_rows(relation.schema, relation.name)).fetchall()[0][0]
        for relation in relations
    }
