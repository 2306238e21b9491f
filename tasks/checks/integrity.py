"""Integrity checks of a database: those in the context's file, and those made from the catalog.

All run in one READ ONLY transaction under one snapshot. A check that ends with an error or exceeds
its time limit is reported as a finding.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

import psycopg
from prefect import get_run_logger
from psycopg import IsolationLevel
from psycopg.sql import Composed

from tasks.core import sql
from tasks.core.checks.definition import CHECKS_FILE, Check, Finding, Severity, Verdict, judge, parse_checks, summary
from tasks.core.context import Context
from tasks.core.context_keys import PartitionRule
from tasks.core.partitions.periods import spell_instant
from tasks.core.postgres.connection import Connection, Server, connect
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import execute_written, read_source_path
from tasks.database import catalog
from tasks.database.catalog import Members
from tasks.run.run import Run, step

AHEAD = timedelta(days=30)
PERIOD = {"month": timedelta(days=31), "quarter": timedelta(days=92), "year": timedelta(days=366)}
WITNESSES = ("objects of the newest backup", "rows of the newest backup", "definitions of the newest backup")
SAMPLE_ROWS = 5


@step(repeatable=True)
def run_checks(
    server: Server, database: str, run: Run, context: Context, files: dict[str, str], timeout_seconds: float, instant: datetime,
    loader: Server | None = None, without_loader: str = "no login was configured to run code of "
                                                        "the tables' owner",
    unfit: Mapping[str, str] | None = None,
) -> list[Finding]:  # fmt: skip
    """Run the checks in the context's file and those made from the catalog, each with a time limit.

    Checks that may call code of the tables' owner run as `loader`: those of the file, of views and
    of partitions. If there is no loader (`without_loader` says why), or it lacks a privilege, the
    server's own login runs the checks that call only functions of PostgreSQL itself. `unfit` has
    the names of checks that are not run, with the reasons.

    Raises:
        BadInput: the file is not valid, or the database cannot be reached.
    """
    own = parse_checks(files.get(CHECKS_FILE, ""), f"{context.name}/{CHECKS_FILE}")
    settings = sql.session.check_settings(context.timestamps, timeout_seconds)
    with connect(server, database, run.title) as connection, one_snapshot(connection), ExitStack() as stack:
        missing = missing_relations(connection, context)
        existence = Check("tables and views exist", Severity.ERROR, "", "A table or view of the context is missing.")
        present = without_missing(context, missing)
        members = catalog.read_members(connection, present)
        path = read_source_path(connection, context.namespace)
        readers = Readers(server, database, run.title, settings, path, connection, loader, without_loader, stack, unfit or {})
        connection.execute(settings)
        findings = [judge(existence, len(missing), missing[:SAMPLE_ROWS]), *(readers.run(check, path) for check in own)]
        for subject, make in _catalogue_checks(connection, present, members, instant).items():
            findings += _run_made(readers, subject, make)
    get_run_logger().info("%d checks: %s", len(findings), summary(findings))
    return findings


@dataclass
class Readers:
    """Sessions that run the checks under one snapshot: the server's login, and the loader."""

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
    asked: dict[str, bool] = field(default_factory=dict)

    @cached_property
    def owners(self) -> Connection | None:
        """The session whose login may run code of the tables' owners, or None."""
        if self.loader is None or self.loader == self.server:
            return self.own if self.loader else None
        snapshot = self.own.execute(sql.snapshot.EXPORT_SNAPSHOT).fetchall()[0][0]
        connection = self.stack.enter_context(connect(self.loader, self.database, self.title))
        self.stack.enter_context(one_snapshot(connection))
        connection.execute(sql.snapshot.import_snapshot(snapshot))
        connection.execute(self.settings)
        return connection

    @cached_property
    def _aside(self) -> Connection:
        """A session for temporary views that show what a query calls; all is rolled back."""
        return self.stack.enter_context(connect(self.server, self.database, self.title))

    def run(self, check: Check, path: str | None = None) -> Finding:
        """Run a check that may call code of the tables' owner, with a login that may run such code.

        `path` is the search path of a check in the file.
        """
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
        problem, code, unreadable = self._inspect(check)
        if problem:
            return _broken(check, problem)
        if not code:
            return _run(self.own, check, path)
        if unreadable and self.loader:
            reason = f'GRANT SELECT ON {", ".join(unreadable)} TO "{self.loader.user}"'
        return _broken(check, f"not run: the check calls {', '.join(code[:3])}, code of a table's owner; {reason}")

    def _inspect(self, check: Check) -> tuple[str, list[str], list[str]]:
        """Return a query's error, the users' functions that it calls, unreadable relations."""
        login = self.loader.user if self.loader else self.own.info.user
        connection = self._aside
        with connection.transaction(force_rollback=True):
            connection.execute(self.settings)
            try:
                execute_written(connection, sql.logins.view_of_check(check.query), self.path, prepare=True)
            except psycopg.Error as error:
                if connection.broken:
                    raise
                return message_of(error), [], []
            code = [row[0] for row in connection.execute(sql.logins.CODE_OF_CHECK)]
            read = connection.execute(sql.logins.RELATIONS_OF_CHECK, {"login": login}).fetchall()
            code += [f"expressions of {name}" for name, _ in read if self._calls_code(connection, name)]
            return "", code, [name for name, may_read in read if not may_read]

    def _calls_code(self, connection: Connection, name: str) -> bool:
        """Return whether reading a relation runs code; ask once, because several checks read it."""
        if name not in self.asked:
            self.asked[name] = calls_code(connection, name)
        return self.asked[name]


def _broken(check: Check, note: str, seconds: float = 0.0) -> Finding:
    return Finding(check.name, check.severity, Verdict.BROKEN, note=note, seconds=seconds)


# Generated from the catalog alone, or with operators that only a superuser can create: they call no
# code of an owner.
WITHOUT_CODE = frozenset({"objects"})
OTHERS_KEYS = "foreign keys of other contexts"


def _run_made(readers: Readers, subject: str, make: Callable[[], Iterable[Check]]) -> list[Finding]:
    """Run checks made from the catalog; an error, as of a locked view, is a finding."""
    connection = readers.own
    try:
        with connection.transaction():
            checks = list(make())
    except psycopg.Error as error:
        if connection.broken:
            raise
        return [Finding(subject, Severity.ERROR, Verdict.BROKEN, note=message_of(error))]
    findings = [_run(connection, check) if subject in WITHOUT_CODE else readers.run(check) for check in checks]
    return [finding.about_others for finding in findings] if subject == OTHERS_KEYS else findings


def one_snapshot(connection: Connection) -> AbstractContextManager[object]:
    """Begin a READ ONLY transaction with one snapshot."""
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    return connection.transaction()


def missing_relations(connection: Connection, context: Context) -> list[str]:
    """Return the tables and views of a context that do not exist."""
    asked = {"schema": context.namespace, "names": [*context.tables, *context.views]}
    return [row[0] for row in connection.execute(sql.catalog.MISSING_RELATIONS, asked)]


def without_missing(context: Context, missing: Iterable[str]) -> Context:
    """Return the context without missing relations, so that the others are checked."""
    gone = set(missing)
    present = {kind: [name for name in getattr(context, kind) if name not in gone] for kind in ("tables", "views")}
    return context.model_copy(update=present)


def _absent(connection: Connection, check: Check, path: str | None) -> Finding | None:
    """Return a finding if a relation of others that a check needs is missing: it is not run."""
    absent = [relation for relation in check.needs if not catalog.is_there(connection, relation, path)]
    note = f"{absent[0]} of another context does not exist in this database" if absent else ""
    return Finding(check.name, check.severity, Verdict.NOT_RUN, note=note) if absent else None


def _run(connection: Connection, check: Check, path: str | None = None, *, raises_denied: bool = False) -> Finding:
    """Run a check.

    A check in the file runs under the source's search path, because its names may lack schemas. A
    missing privilege is a finding too, or raised as an error if `raises_denied`.
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
    """Return by subject a function that generates its checks."""
    return {
        "foreign keys": lambda: _key_checks(connection, members),
        OTHERS_KEYS: lambda: _others_key_checks(connection, members),
        "objects": lambda: _object_checks(connection, context, members),
        "views": lambda: _view_checks(connection, context),
        "partitions": lambda: (
            check for rule in context.partitions for check in _partition_checks(connection, context, rule, instant)
        ),
    }


def _key_checks(connection: Connection, members: Members) -> Iterator[Check]:
    for _, table, key, query in connection.execute(sql.foreign_keys.FOREIGN_KEY_ORPHANS, {"oids": members.oids}).fetchall():
        yield Check(key_check_name(table, key), Severity.ERROR, query, "A row refers to a row that does not exist.")


def _others_key_checks(connection: Connection, members: Members) -> Iterator[Check]:
    """Yield checks of other contexts' keys; a NOT VALID one may always have had orphans."""
    asked, about = {"oids": members.oids}, "A row of another context refers to a row of this one that does not exist."
    for table, key, is_proven, query in connection.execute(sql.foreign_keys.INBOUND_KEY_ORPHANS, asked).fetchall():
        severity = Severity.ERROR if is_proven else Severity.WARNING
        yield Check(f"key {table}.{key} of another context", severity, query, about)


def _object_checks(connection: Connection, context: Context, members: Members) -> Iterator[Check]:
    views = [row[0] for row in connection.execute(sql.views.VIEW_OIDS, {"schema": context.namespace, "views": context.views})]
    for name, severity, query, relations, about in (
        (
            "triggers enabled",
            Severity.ERROR,
            sql.checks.TRIGGERS_OFF,
            members.oids,
            "A trigger, or the trigger of a foreign key, is disabled.",
        ),
        ("indexes valid", Severity.ERROR, sql.checks.INDEXES_INVALID, members.oids, "An index is INVALID; REINDEX or drop it."),
        (
            "constraints enforced",
            Severity.ERROR,
            sql.checks.CONSTRAINTS_OFF,
            members.oids,
            "A constraint is NOT ENFORCED: PostgreSQL does not check it.",
        ),
        (
            "constraints proven",
            Severity.WARNING,
            sql.checks.CONSTRAINTS_UNPROVEN,
            members.oids,
            "A constraint is NOT VALID: older rows may violate it.",
        ),
        ("views populated", Severity.ERROR, sql.checks.VIEWS_EMPTY, views, "A materialized view is not populated; refresh it."),
    ):
        yield Check(name, severity, sql.checks.about(query, relations), about)


def _view_checks(connection: Connection, context: Context) -> Iterator[Check]:
    for view, query in connection.execute(
        sql.views.STALE_VIEW_ROWS, {"schema": context.namespace, "views": context.views}
    ).fetchall():
        yield Check(f"view {view} is current", Severity.WARNING, query, "A refresh of the view would change these rows.")


def key_check_name(table: str, key: str) -> str:
    """Return the name of the check of a foreign key."""
    return f"key {table}.{key}"


def _partition_checks(connection: Connection, context: Context, rule: PartitionRule, instant: datetime) -> Iterator[Check]:
    asked = {"schema": context.namespace, "table": rule.table, "column": rule.column}
    leaves = connection.execute(sql.checks.LEAF_CONSTRAINTS, asked).fetchall()
    for severity, until, instants in (
        (Severity.ERROR, f"next {AHEAD.days} days", [instant, instant + AHEAD]),
        (Severity.WARNING, f"next {rule.period}", [instant + PERIOD[rule.period]]),
    ):
        values = [spell_instant(rule, value, context.zone) for value in instants]
        query = sql.checks.values_without_leaf(rule.column, leaves, values, instants=rule.values is None)
        about = f"{rule.table} has no partition for rows of that time; create it before then."
        yield Check(f"partitions of {rule.table} for the {until}", severity, query.as_string(connection), about)


def calls_code(connection: Connection, name: str) -> bool:
    """Return whether a query of a relation, named as in SQL, would run code of its owner."""
    return bool(connection.execute(sql.logins.CODE_WHEN_PLANNED, {"name": name}).fetchall()[0][0])


def offending(connection: Connection, query: str, path: str | None = None) -> tuple[int, list[str]]:
    """Return the number of a query's rows, and the first few; `path` is of checks in the file."""
    statement = sql.checks.offending_rows(query, SAMPLE_ROWS)
    # Prepared, because PostgreSQL then accepts one statement only: the text cannot end the
    # transaction.
    if path is None:
        cursor = connection.execute(statement, prepare=True)
    else:
        cursor = execute_written(connection, statement, path, prepare=True)
    rows, names = cursor.fetchall(), [column.name for column in cursor.description or []][1:]
    sample = [", ".join(f"{name}={value}" for name, value in zip(names, row[1:], strict=True)) for row in rows]
    return rows[0][0] if rows else 0, sample
