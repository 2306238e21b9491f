"""Refreshing materialized views of a live or restored database.

CONCURRENTLY, which does not block readers, requires a populated view with a unique index over all
rows (https://www.postgresql.org/docs/current/sql-refreshmaterializedview.html); all other views are
refreshed without it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.context import Context
from tasks.core.database.objects import View
from tasks.core.database.views import Refreshed, Staleness, refresh_report, refresh_rows, verdict
from tasks.core.errors import BadInput, OperationError
from tasks.core.postgres.connection import Connection, Server, connect, read_only
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import read_source_path, source_path
from tasks.database import catalog
from tasks.run.artifacts import publish
from tasks.run.run import Run, step
from tasks.run.site import Site

# Counting stale rows costs about as much as a refresh: it must not make a short job long.
COUNTING_SECONDS = 60


@dataclass(frozen=True)
class Limits:
    """The limits, in seconds, on the refresh of a view and on the wait for its lock.

    With limits, stale rows are counted before and after the refresh.
    """

    statement_seconds: float
    lock_seconds: float


def chosen_views(context: Context, names: Sequence[str] | None) -> Context:
    """Return the context with the named views, or with all.

    Raises:
        BadInput: the context has no view of that name.
    """
    names = names and [name.removeprefix(f"{context.namespace}.") for name in names]
    if names is not None and not names:
        raise BadInput("views is an empty list; omit views to refresh all of them, or name some")
    if unknown := [name for name in names or [] if name not in context.views]:
        known = f"name some of {', '.join(context.views)}" if context.views else "it has none"
        raise BadInput(f"{', '.join(unknown)}: no materialized view of context {context.name}; {known}")
    return context.model_copy(update={"views": list(context.views if names is None else dict.fromkeys(names))})


def refresh_views(site: Site, run: Run, context: Context, allowed: Limits) -> list[Refreshed]:
    """Refresh views in order of their dependencies, the others too if one fails."""
    with connect(site.server, site.database, run.title) as connection:
        there = catalog.read_views(connection, context)
    absent = {*context.views} - {view.name for view, _ in there.values()}
    refreshed = [Refreshed(f"{context.namespace}.{name}", problem="it does not exist") for name in sorted(absent)]
    late = dict[int, str]()
    for oid, (view, reads) in there.items():
        if not view.materialized:
            # A plain view is computed when it is read.
            continue
        try:
            outcome = refresh_view(site.owners_login, site.database, run, view, allowed)
        except OperationError as error:
            # The session was lost; the next view gets a session of its own.
            outcome = Refreshed(view.qualified, problem=str(error))
        if old := sorted(late[other] for other in reads & late.keys()):
            outcome = replace(outcome, note=f"built from old rows of {', '.join(old)}")
        if outcome.problem or old:
            late[oid] = outcome.view
        refreshed.append(outcome)
    return refreshed


@step(name="refresh_view {view.name}")
def refresh_view(server: Server, database: str, run: Run, view: View, allowed: Limits | None = None) -> Refreshed:
    """Refresh a materialized view; return the outcome, with stale rows counted within limits."""
    name, place = view.qualified, {"name": sql.names.quoted_name(view.namespace, view.name)}
    with connect(server, database, run.title) as connection:
        connection.execute(sql.catalog.SHOW_AS_OWNER)
        before = _staleness(connection, view) if allowed else Staleness()
        started, plainly = time.monotonic(), ""
        try:
            if allowed:
                connection.execute(sql.session.set_lock_timeout(allowed.lock_seconds))
                connection.execute(sql.session.set_statement_timeout(allowed.statement_seconds))
            plainly = connection.execute(sql.views.WHY_NOT_CONCURRENTLY, place).fetchall()[0][0]
            # Functions in its query may use bare names.
            with source_path(connection, read_source_path(connection, view.namespace)):
                connection.execute(sql.views.refresh_view(view.namespace, view.name, concurrently=not plainly))
        except psycopg.Error as error:
            if connection.broken:
                raise
            seconds = time.monotonic() - started
            problem = _problem(connection, view, error, allowed, seconds)
            get_run_logger().error("%s could not be refreshed: %s", name, problem)
            return Refreshed(name, plainly, seconds, before, problem=problem)
        seconds = time.monotonic() - started
        after = _staleness(connection, view) if allowed else Staleness()
    get_run_logger().info("%s refreshed in %.1f s%s", name, seconds, f", readers waited: {plainly}" if plainly else "")
    return Refreshed(name, plainly, seconds, before, after)


def count_stale(server: Server, database: str, run: Run, view: View) -> Staleness:
    """Count a view's rows, and the stale ones; nothing is changed."""
    with connect(server, database, run.title) as connection:
        connection.execute(sql.catalog.SHOW_AS_OWNER)
        return _staleness(connection, view)


def _problem(connection: Connection, view: View, error: psycopg.Error, allowed: Limits | None, seconds: float) -> str:
    if allowed and isinstance(error, psycopg.errors.LockNotAvailable):
        connection.execute(sql.session.NO_STATEMENT_TIMEOUT)
        oids = [row[0] for row in connection.execute(sql.views.VIEW_OIDS, {"schema": view.namespace, "views": [view.name]})]
        holders = "; ".join(row[0] for row in connection.execute(sql.partitions.BLOCKERS, {"oids": oids}))
        return f"lock timeout after {allowed.lock_seconds:g} s ({holders or 'the blocking sessions have ended'}); run again"
    if allowed and isinstance(error, psycopg.errors.QueryCanceled) and seconds >= allowed.statement_seconds:
        return (
            f"the refresh takes more than {allowed.statement_seconds:g} s; raise "
            "statement_timeout_seconds, or make the view's query faster"
        )
    denied = isinstance(error, psycopg.errors.InsufficientPrivilege)
    remedy = f'; GRANT its owner TO "{connection.info.user}"' if denied else ""
    return f"{message_of(error)}{remedy}"


def _staleness(connection: Connection, view: View) -> Staleness:
    """Count a view's rows, and the stale ones, in limited time."""
    asked = {"schema": view.namespace, "views": [view.name]}
    try:
        # Its query may call any code of its owner, which must not write anything.
        with read_only(connection):
            connection.execute(sql.session.limit_statements(COUNTING_SECONDS))
            queries = connection.execute(sql.views.STALE_VIEW_ROWS, asked).fetchall()
            if not queries:
                return Staleness(why="never populated")
            rows = connection.execute(sql.rows.count_rows(view.namespace, view.name)).fetchall()[0][0]
            stale = connection.execute(sql.checks.offending_rows(queries[0][1], 1)).fetchall()
            return Staleness(rows, stale[0][0] if stale else 0)
    except psycopg.Error as error:
        if connection.broken:
            raise
        return Staleness(why=f"not counted: {message_of(error)}")


@step
def publish_refreshed(context: Context, refreshed: Sequence[Refreshed]) -> str:
    """Publish the report on refreshed views; return the verdict.

    Raises:
        OperationError: a view could not be refreshed.
    """
    line = verdict(refreshed)
    publish(f"{context.name}-views", line, refresh_report(line, refreshed), refresh_rows(refreshed), "refreshed")
    if any(outcome.problem for outcome in refreshed):
        raise OperationError(line)
    return line
