"""Integrity checks of a database: those of the context's file, those made from the catalogue, and the newest backup as witness.

Everything is read in one READ ONLY transaction under one snapshot; a check that takes too long or fails is a finding itself.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

import psycopg
from prefect import get_run_logger
from psycopg import IsolationLevel
from psycopg.sql import Composed

from tasks import catalogue
from tasks.catalogue import Member, Members
from tasks.core import login_sql, sql
from tasks.core.checks import CHECKS_FILE, Check, Finding, Severity, Verdict, judge, parse_checks, summary
from tasks.core.compare import missing_objects
from tasks.core.complaints import message_of
from tasks.core.context import Context, PartitionRule
from tasks.core.errors import DamagedSet, OperationError
from tasks.core.kinds import RULES
from tasks.core.losses import archived_since, cleaned_since, lost_rows
from tasks.core.manifest import Manifest
from tasks.core.servers import Connection, Server, connect
from tasks.core.source_path import execute_written, read_source_path
from tasks.core.toc import table_of
from tasks.keys import SAMPLE_ROWS, offending
from tasks.runs import Run, step
from tasks.sets import departed_sets, find_lack, list_sets, name_of, newest_trusted
from tasks.store import StoreAddress

if TYPE_CHECKING:
    import pandas as pd

AHEAD = timedelta(days=30)
PERIOD = {"month": timedelta(days=31), "quarter": timedelta(days=92), "year": timedelta(days=366)}
NOT_COUNTED = "not counted: that would run code of its owner, and there is no login for that; see `integrity checks`"
WITNESSES = ("objects of the newest backup", "rows of the newest backup")


@step
def run_checks(
    server: Server, database: str, run: Run, context: Context, files: dict[str, str], timeout_seconds: float, instant: datetime,
    loader: Server | None = None, without_loader: str = "no login for the code of the tables' owner was looked for",
    unfit: Mapping[str, str] | None = None,
) -> list[Finding]:  # fmt: skip
    """Run the checks of the context's file and of the catalogue, each limited in time, as of an instant.

    Those that are `unfit` are not run: why, by name. What may call code of the tables' owner runs as `loader`: the file's checks,
    those of views and of partitions. What it may not read, and all where there is none (`without_loader` says why), the server's
    own login reads where PostgreSQL says that the query calls nothing but its own functions.

    Raises:
        BadInput: the file is wrong, or the database cannot be reached.
    """
    own = parse_checks(files.get(CHECKS_FILE, ""), f"{context.name}/{CHECKS_FILE}")
    settings = sql.check_settings(context.timestamps, timeout_seconds)
    with connect(server, database, run.title) as connection, _one_snapshot(connection), ExitStack() as stack:
        missing = _missing_relations(connection, context)
        there = Check("tables and views are there", Severity.ERROR, "", "A table or view of the context is missing.")
        present = _without(context, missing)
        members = catalogue.read_members(connection, present)
        path = read_source_path(connection, context.namespace)
        readers = Readers(server, database, run.title, settings, path, connection, loader, without_loader, stack, unfit or {})
        connection.execute(settings)
        findings = [judge(there, len(missing), missing[:SAMPLE_ROWS]), *(readers.run(check, path) for check in own)]
        for subject, make in _catalogue_checks(connection, present, members, instant).items():
            findings += _run_made(readers, subject, make)
    get_run_logger().info("%d checks: %s", len(findings), summary(findings))
    return findings


@dataclass
class Readers:
    """The sessions of a run of checks, under one snapshot: of the server's own login, and of the one that runs owners' code."""

    server: Server
    database: str
    title: str
    settings: Composed
    path: str
    own: Connection
    loader: Server | None
    without_loader: str
    stack: ExitStack
    unfit: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def owners(self) -> Connection | None:
        """The session in which the owners' code may run."""
        if self.loader is None or self.loader == self.server:
            return self.own if self.loader else None
        snapshot = self.own.execute(sql.EXPORT_SNAPSHOT).fetchall()[0][0]
        connection = self.stack.enter_context(connect(self.loader, self.database, self.title))
        self.stack.enter_context(_one_snapshot(connection))
        connection.execute(sql.import_snapshot(snapshot))
        connection.execute(self.settings)
        return connection

    def run(self, check: Check, path: str | None = None) -> Finding:
        """Run a check that may call code of the tables' owner, as far as some login may; one of the file's with its path."""
        if absent := _absent(self.own, check, path):
            return absent
        reason = self.without_loader
        if path and check.name in self.unfit:
            return _broken(check, self.unfit[check.name])
        if self.owners:
            try:
                return _run(self.owners, check, path, raises_denied=True)
            except psycopg.errors.InsufficientPrivilege as error:
                if self.owners is self.own:
                    return _broken(check, message_of(error))
                reason = message_of(error)
        said, code, unread = self._look(check)
        if said:
            return _broken(check, said)
        if not code:
            return _run(self.own, check, path)
        if unread and self.loader:
            reason = f'GRANT SELECT ON {", ".join(unread)} TO "{self.loader.user}"'
        return _broken(check, f"not run: it calls {', '.join(code[:3])}, code of an owner; {reason}")

    def _look(self, check: Check) -> tuple[str, list[str], list[str]]:
        """Return what is wrong with a check, what it calls besides PostgreSQL's own, and what the loading login may not read."""
        login = self.loader.user if self.loader else self.own.info.user
        with connect(self.server, self.database, self.title) as connection, connection.transaction(force_rollback=True):
            connection.execute(self.settings)
            try:
                execute_written(connection, login_sql.view_of_check(check.query), self.path, prepare=True)
            except psycopg.Error as error:
                if connection.broken:
                    raise
                return message_of(error), [], []
            code = [row[0] for row in connection.execute(login_sql.CODE_OF_CHECK)]
            read = connection.execute(login_sql.RELATIONS_OF_CHECK, {"login": login}).fetchall()
            code += [f"expressions of {name}" for name, _ in read if _calls(connection, name)]
            return "", code, [name for name, may_read in read if not may_read]


def _broken(check: Check, note: str, seconds: float = 0.0) -> Finding:
    return Finding(check.name, check.severity, Verdict.BROKEN, note=note, seconds=seconds)


# Made from the catalogue alone, or of operators that only a superuser can have made: they call no code of an owner.
WITHOUT_CODE = frozenset({"objects"})


def _run_made(readers: Readers, subject: str, make: Callable[[], Iterable[Check]]) -> list[Finding]:
    """Ask the catalogue for checks and run them; that it cannot be asked, because a view is locked, say, is a finding."""
    connection = readers.own
    try:
        with connection.transaction():
            checks = list(make())
    except psycopg.Error as error:
        if connection.broken:
            raise
        return [Finding(subject, Severity.ERROR, Verdict.BROKEN, note=message_of(error))]
    return [_run(connection, check) if subject in WITHOUT_CODE else readers.run(check) for check in checks]


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


def _absent(connection: Connection, check: Check, path: str | None) -> Finding | None:
    """Return why a check is not run: a relation of another context that it needs is not here."""
    absent = [relation for relation in check.needs if not catalogue.is_there(connection, relation, path)]
    note = f"{absent[0]} of another context is not here" if absent else ""
    return Finding(check.name, check.severity, Verdict.NOT_RUN, note=note) if absent else None


def _run(connection: Connection, check: Check, path: str | None = None, *, raises_denied: bool = False) -> Finding:
    """Run a check; one that people wrote under the path of the source, if it does not name everything with its schema.

    That it may not read something is a finding too, or raised.
    """
    started = time.monotonic()
    try:
        with connection.transaction():
            count, sample = offending(connection, check.query, path)
    except psycopg.Error as error:
        if connection.broken or (raises_denied and isinstance(error, psycopg.errors.InsufficientPrivilege)):
            raise
        return _broken(check, message_of(error), time.monotonic() - started)
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
    server: Server, database: str, run: Run, context: Context, store: StoreAddress, timeout_seconds: float,
    loader: Server | None = None,
) -> list[Finding]:  # fmt: skip
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
        lost, fewer, unknown = _losses(server, loader, database, run, context, manifest, timeout_seconds, *gone)
        lack = find_lack(store, name_of(manifest), manifest)
    except (OperationError, psycopg.Error) as error:
        note = message_of(error) if isinstance(error, psycopg.Error) else str(error)
        return [Finding(name, Severity.ERROR, Verdict.BROKEN, note=note) for name in WITNESSES]
    about = f"{manifest.id} has it; if it went on purpose, take a backup now."
    objects, rows = (
        judge(Check(name, Severity.ERROR, "", about), len(offending), offending[:SAMPLE_ROWS])
        for name, offending in zip(WITNESSES, (lost, fewer), strict=True)
    )
    if lack:
        objects = replace(objects, verdict=Verdict.BROKEN, note=f"{manifest.id} is damaged: {lack}; take a backup now")
    return [
        *(Finding(f"rows of {name}", Severity.WARNING, Verdict.NOT_RUN, note=NOT_COUNTED) for name in unknown), objects, rows,
    ]  # fmt: skip


def _losses(
    server: Server, loader: Server | None, database: str, run: Run, context: Context, manifest: Manifest, timeout_seconds: float,
    archived: Collection[str], cleaned: Mapping[str, int],
) -> tuple[list[str], list[str], list[str]]:  # fmt: skip
    """Return the objects that are there no longer, the relations that lost too many rows, and those that nobody here may count.

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
        places = {one.qualified: sql.quoted_name(one.schema, one.name) for one in members.holding_rows}
        # To count these runs code of their owner, which is for the login that loads.
        calling = [one for one in members.holding_rows if _calls(connection, places[one.qualified])]
        counted = _counted(connection, [one for one in members.holding_rows if one not in calling])
    if calling and loader:
        with connect(loader, database, run.title) as connection, _one_snapshot(connection):
            connection.execute(sql.limit_statements(timeout_seconds))
            counted |= _counted(connection, calling)
    unknown = [] if loader else [one.qualified for one in calling]
    known = [one for one in manifest.relations if one.qualified not in unknown]
    before = [(one.qualified, max(one.rows - cleaned.get(one.qualified, 0), 0)) for one in known]
    return lost, list(lost_rows(before, counted, context.max_row_loss)), unknown


def _calls(connection: Connection, name: str) -> bool:
    """Say whether to query a relation, named as SQL does, would run code of its owner."""
    return bool(connection.execute(login_sql.CODE_WHEN_PLANNED, {"name": name}).fetchall()[0][0])


def _counted(connection: Connection, relations: Iterable[Member]) -> dict[str, int]:
    return {one.qualified: connection.execute(sql.count_rows(one.schema, one.name)).fetchall()[0][0] for one in relations}


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
