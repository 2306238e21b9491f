"""Integrity checks of a database: those of the context's file, those made from the catalogue, and the newest backup as witness.

Everything is read in one READ ONLY transaction under one snapshot; a check that takes too long or fails is a finding itself.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
from prefect import get_run_logger
from psycopg import IsolationLevel

from tasks import catalogue
from tasks.catalogue import Members
from tasks.core import sql
from tasks.core.checks import CHECKS_FILE, Check, Finding, Severity, Verdict, judge, parse_checks, summary
from tasks.core.compare import missing_objects
from tasks.core.complaints import message_of
from tasks.core.context import Context, PartitionRule
from tasks.core.errors import DamagedSet, OperationError
from tasks.core.kinds import RULES
from tasks.core.losses import archived_since, cleaned_since, lost_rows
from tasks.core.manifest import Manifest
from tasks.core.servers import Connection, Server, connect
from tasks.core.source_path import read_source_path
from tasks.core.toc import table_of
from tasks.keys import SAMPLE_ROWS, offending
from tasks.runs import Run, step
from tasks.sets import departed_sets, list_sets, newest_trusted
from tasks.store import StoreAddress

if TYPE_CHECKING:
    import pandas as pd

AHEAD = timedelta(days=30)
PERIOD = {"month": timedelta(days=31), "quarter": timedelta(days=92), "year": timedelta(days=366)}
WITNESSES = ("objects of the newest backup", "rows of the newest backup")


@step
def run_checks(
    server: Server, database: str, run: Run, context: Context, files: dict[str, str], timeout_seconds: float, instant: datetime
) -> list[Finding]:
    """Run the checks of the context's file and of the catalogue, each limited in time, as of an instant.

    Raises:
        BadInput: the file is wrong, or the database cannot be reached.
    """
    own = parse_checks(files.get(CHECKS_FILE, ""), f"{context.name}/{CHECKS_FILE}")
    with connect(server, database, run.title) as connection, _one_snapshot(connection):
        missing = _missing_relations(connection, context)
        there = Check("tables and views are there", Severity.ERROR, "", "A table or view of the context is missing.")
        present = _without(context, missing)
        members = catalogue.read_members(connection, present)
        path = read_source_path(connection, context.namespace)
        connection.execute(sql.check_settings(context.timestamps, timeout_seconds))
        findings = [judge(there, len(missing), missing[:SAMPLE_ROWS]), *(_run(connection, check, path) for check in own)]
        for subject, make in _catalogue_checks(connection, present, members, instant).items():
            findings += _run_made(connection, subject, make)
    get_run_logger().info("%d checks: %s", len(findings), summary(findings))
    return findings


def _run_made(connection: Connection, subject: str, make: Callable[[], Iterable[Check]]) -> list[Finding]:
    """Ask the catalogue for checks and run them; that it cannot be asked, because a view is locked, say, is a finding."""
    try:
        with connection.transaction():
            checks = list(make())
    except psycopg.Error as error:
        if connection.broken:
            raise
        return [Finding(subject, Severity.ERROR, Verdict.BROKEN, note=message_of(error))]
    return [_run(connection, check) for check in checks]


def _one_snapshot(connection: Connection) -> AbstractContextManager[object]:
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    return connection.transaction()


def _missing_relations(connection: Connection, context: Context) -> list[str]:
    asked = {"schema": context.namespace, "names": [*context.tables, *context.views]}
    return [row[0] for row in connection.execute(sql.MISSING_RELATIONS, asked)]


def _without(context: Context, missing: Iterable[str]) -> Context:
    """Return the context as far as it is there, so that the rest of it is checked too."""
    gone = set(missing)
    present = {kind: [name for name in getattr(context, kind) if name not in gone] for kind in ("tables", "views")}
    return context.model_copy(update=present)


def _run(connection: Connection, check: Check, path: str | None = None) -> Finding:
    """Run a check; one that people wrote under the path of the source, if it does not name everything with its schema."""
    for relation in check.needs:
        if not catalogue.is_there(connection, relation, path):
            return Finding(check.name, check.severity, Verdict.NOT_RUN, note=f"{relation} of another context is not here")
    started = time.monotonic()
    try:
        with connection.transaction():
            count, sample = offending(connection, check.query, path)
    except psycopg.Error as error:
        if connection.broken:
            raise
        return Finding(check.name, check.severity, Verdict.BROKEN, note=message_of(error), seconds=time.monotonic() - started)
    return judge(check, count, sample, time.monotonic() - started)


def _catalogue_checks(
    connection: Connection, context: Context, members: Members, instant: datetime
) -> dict[str, Callable[[], Iterable[Check]]]:
    """Return what makes the checks of each subject."""
    return {
        "foreign keys": lambda: _key_checks(connection, members),
        "objects": lambda: _object_checks(connection, context, members),
        "views": lambda: _view_checks(connection, context),
        "partitions": lambda: (
            check for rule in context.partitions for check in _partition_checks(connection, context, rule, instant)
        ),
    }


def _key_checks(connection: Connection, members: Members) -> Iterator[Check]:
    for _, table, key, query in connection.execute(sql.FOREIGN_KEY_ORPHANS, {"oids": members.oids}).fetchall():
        yield Check(key_check_name(table, key), Severity.ERROR, query, "A row refers to a row that is not there.")


def _object_checks(connection: Connection, context: Context, members: Members) -> Iterator[Check]:
    views = [row[0] for row in connection.execute(sql.VIEW_OIDS, {"schema": context.namespace, "views": context.views})]
    for name, severity, query, relations, about in (
        ("triggers enabled", Severity.ERROR, sql.TRIGGERS_OFF, members.oids, "A trigger, or a foreign key, does not act."),
        ("indexes valid", Severity.ERROR, sql.INDEXES_INVALID, members.oids, "An index is not used; REINDEX or drop it."),
        ("constraints enforced", Severity.ERROR, sql.CONSTRAINTS_OFF, members.oids, "A constraint lets every row pass."),
        ("constraints proven", Severity.WARNING, sql.CONSTRAINTS_UNPROVEN, members.oids, "Not every row was checked."),
        ("views populated", Severity.ERROR, sql.VIEWS_EMPTY, views, "A materialized view was never computed; refresh it."),
    ):
        yield Check(name, severity, sql.about(query, relations), about)


def _view_checks(connection: Connection, context: Context) -> Iterator[Check]:
    for view, query in connection.execute(sql.STALE_VIEW_ROWS, {"schema": context.namespace, "views": context.views}).fetchall():
        yield Check(f"view {view} is current", Severity.WARNING, query, "Rows that a refresh of the view would change.")


def key_check_name(table: str, key: str) -> str:
    """Return what the check of a foreign key is called."""
    return f"key {table}.{key}"


def _partition_checks(connection: Connection, context: Context, rule: PartitionRule, instant: datetime) -> Iterator[Check]:
    asked = {"schema": context.namespace, "table": rule.table, "column": rule.column}
    leaves = connection.execute(sql.LEAF_CONSTRAINTS, asked).fetchall()
    for severity, until, instants in (
        (Severity.ERROR, f"next {AHEAD.days} days", [instant, instant + AHEAD]),
        (Severity.WARNING, f"next {rule.period}", [instant + PERIOD[rule.period]]),
    ):
        query = sql.instants_without_leaf(rule.column, leaves, [one.isoformat() for one in instants])
        about = f"No partition of {rule.table} takes rows of that instant; create it before it comes."
        yield Check(f"partitions of {rule.table} for the {until}", severity, query.as_string(connection), about)


@step
def compare_with_newest_backup(
    server: Server, database: str, run: Run, context: Context, store: StoreAddress, timeout_seconds: float
) -> list[Finding]:
    """Find out what the newest backup has and the database has no longer: objects, and more rows than may go unnoticed."""
    try:
        # Not a suspect one: what it lost is what is looked for.
        manifest = newest_trusted(store, context.name)
        if manifest is None and not any(RULES[one.name.kind].may_be_latest for one in list_sets(store, context.name).sets):
            return [Finding(name, Severity.ERROR, Verdict.NOT_RUN, note=f"no backup of it in {store.url}") for name in WITNESSES]
        if manifest is None:
            raise DamagedSet(f"every backup set of it in {store.url} is damaged or suspect; see list_backups")
        archives, cleaned = departed_sets(store, context.name)
        gone = archived_since(manifest, archives), cleaned_since(manifest, cleaned)
        lost, fewer = _losses(server, database, run, context, manifest, timeout_seconds, *gone)
    except (OperationError, psycopg.Error) as error:
        note = message_of(error) if isinstance(error, psycopg.Error) else str(error)
        return [Finding(name, Severity.ERROR, Verdict.BROKEN, note=note) for name in WITNESSES]
    about = f"{manifest.id} has it; if it went on purpose, take a backup now."
    return [
        judge(Check(name, Severity.ERROR, "", about), len(offending), offending[:SAMPLE_ROWS])
        for name, offending in zip(WITNESSES, (lost, fewer), strict=True)
    ]


def _losses(
    server: Server, database: str, run: Run, context: Context, manifest: Manifest, timeout_seconds: float,
    archived: Collection[str], cleaned: Mapping[str, int],
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Return the objects that are there no longer, and the relations that lost too many rows.

    Partitions that were archived and rows that were cleaned up are not lost.
    """
    with connect(server, database, run.title) as connection, _one_snapshot(connection):
        connection.execute(sql.limit_statements(timeout_seconds))
        members = catalogue.read_members(connection, _without(context, _missing_relations(connection, context)))
        gone = {*archived} - {one.qualified for one in members.relations}
        expected = [item for item in manifest.inventory if table_of(item) not in gone]
        lost = missing_objects(expected, catalogue.read_inventory(connection, members))
        columns = {one.qualified: set(one.columns) for one in members.relations}
        lost += [
            f"column {name} of {relation.qualified}"
            for relation in manifest.relations
            for name in relation.columns
            if relation.qualified in columns and name not in columns[relation.qualified]
        ]
        # The inventory is without keys to other contexts, because a recovery may have to leave them out.
        there = {(key.table, key.name) for key in catalogue.read_outbound_keys(connection, members)}
        lost += [f"foreign key {key.name} of {key.table}" for key in manifest.outbound_keys if (key.table, key.name) not in there]
        counted = _counted(connection, members)
    before = [(one.qualified, max(one.rows - cleaned.get(one.qualified, 0), 0)) for one in manifest.relations]
    return lost, list(lost_rows(before, counted, context.max_row_loss))


def _counted(connection: Connection, members: Members) -> dict[str, int]:
    return {
        one.qualified: connection.execute(sql.count_rows(one.schema, one.name)).fetchall()[0][0] for one in members.holding_rows
    }


def frame(findings: Iterable[Finding]) -> "pd.DataFrame":
    """Return findings as a frame, worst first: check, severity, offending rows, sample keys, verdict, note, seconds."""
    import pandas as pd

    order = list(Verdict)
    worst_first = sorted(findings, key=lambda one: (not one.fails, -order.index(one.verdict)))
    return pd.DataFrame(
        [
            {
                "check": one.check, "severity": str(one.severity), "offending rows": one.offending,
                "sample keys": "; ".join(one.sample), "verdict": str(one.verdict), "note": one.note,
                "seconds": round(one.seconds, 2),
            }
            for one in worst_first
        ]
    )  # fmt: skip
