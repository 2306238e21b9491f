"""Merging a set into a live database: one transaction that makes its tables equal to the set.

No table is dropped, truncated or swapped, so that foreign keys, views and grants of other contexts
are kept. Readers are never blocked. Writers of the context's tables are blocked as long as the
transaction lasts (SHARE ROW EXCLUSIVE,
https://www.postgresql.org/docs/current/explicit-locking.html). Writers of other tables are blocked
only when a partition is attached or a foreign key to their table is created, which is done last
unless foreign keys refer to the partition.
"""

import time
from dataclasses import dataclass

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.database.objects import View
from tasks.core.errors import MovedSnapshot, OperationError, PlanChanged, UnsafeTarget
from tasks.core.in_place.plan import Change, Merged, MergePlan
from tasks.core.postgres.connection import connect
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import execute_written, read_source_path
from tasks.core.sql.names import plain_name
from tasks.database import catalog
from tasks.database.locks import LOCK_WAIT_SECONDS, ContextLock, patient
from tasks.database.views import refresh_view
from tasks.in_place import collisions
from tasks.in_place.detached import misfits, read_members
from tasks.in_place.foreign_keys import find_effects, refused
from tasks.in_place.large_objects import large_objects_left, with_large_objects
from tasks.in_place.objects import LOCK_SECONDS, create, finish, make_checks, missing_chunks, own_sequences
from tasks.in_place.plan import compare
from tasks.in_place.repairs import Watch
from tasks.in_place.safety_set import take_safety_set
from tasks.in_place.session import Merge, Section, has_rows, is_as_compared, is_unchanged
from tasks.in_place.set_back import left_over, make_way, set_back
from tasks.in_place.stage import stage
from tasks.in_place.undo import undo_all, undo_of, without_keys
from tasks.in_place.write import compare_written, made_tables, triggers_off, write_rows, written_relations
from tasks.restore.database import unforced_tables
from tasks.run.retries import again_on
from tasks.run.run import Run, step
from tasks.run.site import Site

# A lock request is repeated after LOCK_SECONDS, so that writers do not queue behind it any longer.
LOCK_TRIES = 4


@dataclass(frozen=True)
class Done:
    """The outcome of a restore into a live database, and which relations and views to refresh."""

    planned: MergePlan
    merged: Merged | None = None
    relations: tuple[tuple[str, str], ...] = ()
    views: tuple[View, ...] = ()


def require_confirmed(planned: MergePlan, confirm_database: str | None, approved: MergePlan | None = None) -> None:
    """Require the database's name, and that an approved plan, if any, is still the same.

    Raises:
        UnsafeTarget: confirm_database is not its name.
        PlanChanged: another plan was approved.
    """
    if approved and not planned.does_as(approved):
        raise PlanChanged("the plan changed since approval; review it again")
    if confirm_database != planned.database:
        raise UnsafeTarget(
            f'refusing to change rows of the live database "{planned.database}"; look at the plan, '
            "then pass "
            f'confirm_database="{planned.database}"'
        )


def carry_out(merge: Merge, planned: MergePlan, lock: ContextLock, *, approved: bool) -> Done:
    """Make the live database equal to the set in one transaction.

    After a failure the database is unchanged.

    Raises:
        RestoreDiffers: the result differs from the set; all was rolled back.
        PlanChanged: the plan changed since approval; all was rolled back.
        OperationError: lock timeout, or the database refused a row or an object; all was rolled
            back.
        LostLock: the context's lock was lost; all was rolled back.
    """
    unmoved = again_on(MovedSnapshot, tries=LOCK_TRIES, between=lambda: stage(merge))
    try:
        merged = unmoved(_carry_out)(merge, planned, lock, approved=approved)
        # A set of some tables lists no views, although views may read its rows.
        known = merge.members.views if merge.manifest.only else _own_views(merge)
    except MovedSnapshot as error:
        raise OperationError(f'database "{planned.database}" is unchanged: {error}{_holders(merge)}') from error
    except psycopg.Error as error:
        if merge.connection.broken:
            # It is unknown whether a COMMIT in progress succeeded.
            raise OperationError(
                f"the session was lost ({message_of(error)}); unless the COMMIT had begun, the "
                "database is unchanged: make a plan (dry_run=true), which shows whether rows still "
                "differ"
            ) from None
        raise OperationError(
            f'database "{planned.database}" is unchanged: {message_of(error, merge.connection.info.user)}'
        ) from None
    views = tuple(view for view in known if view.materialized and view.populated)
    return Done(planned, merged, tuple(written_relations(merge)), views)


def _own_views(merge: Merge) -> list[View]:
    """Return the views of the set that belong to this context."""
    context = merge.context
    return [view for view in merge.manifest.views if view.namespace == context.namespace and view.name in context.views]


def _holders(merge: Merge) -> str:
    holders = [row[0] for row in merge.connection.execute(sql.in_place.LOCK_HOLDERS_OF, {"oids": merge.members.oids})]
    return f"; {'; '.join(holders)}; wait for these sessions or end them, then run again" if holders else "; run again"


TAKEN_AGAIN = (
    "the next clean-up will delete these rows again, unless they are changed before that or match the rule's `hold` condition"
)


def _carry_out(merge: Merge, planned: MergePlan, lock: ContextLock, *, approved: bool) -> Merged:
    phases = merge.phases
    with phases.phase("schema of the set"):
        # Read again, now with the objects that are changed back, which were not known when the plan
        # was made.
        merge.sections = missing_chunks(merge)
    started, unchanged = time.monotonic(), f'so that database "{planned.database}" is unchanged'
    with with_large_objects(merge) as large, merge.connection.transaction():
        with phases.phase("waiting for locks"):
            _lock(merge)
        locked = time.monotonic()
        lock.require_held(f"rows were written, {unchanged}", merge.connection)
        _require_unmoved(merge)
        if not _is_safe(merge):
            # Rows were written since the safety set was taken: take it again under the lock, which
            # admits no writes.
            take_safety_set(merge)
        with phases.phase("comparing"):
            changes = _compare_under_lock(merge, planned, approved=approved)
            watch, undo = Watch(merge), undo_of(merge)
        deleted, updated, inserted, notes = _write(merge, *merge.sections)
        with phases.phase("checks"):
            repaired = _repair(merge, watch)
            notes += [*large, *(check.line for check in watch.broken()), *([TAKEN_AGAIN] if merge.request.with_children else [])]
            # Repairs write other tables too, which the safety set has as well: an undo restores all
            # of them together.
            left = [*left_over(merge), *large_objects_left(merge)]
            undo = undo_all(merge) if repaired or merge.request.with_children else undo
        # Logged before the commit, as this process may die right after it; without key values,
        # which         # only the report has.
        get_run_logger().info("to undo the restore after the commit:\n%s", without_keys(merge, undo))
        lock.require_held(f"the commit, {unchanged}", merge.connection)
    seconds = time.monotonic() - locked
    get_run_logger().info("committed after %.1f s; writers were blocked for %.1f s", time.monotonic() - started, seconds)
    return Merged(
        inserted, updated, deleted, planned.done, seconds, phases.seconds, undo, changes, notes, repaired, left, merge.skipped
    )


def _compare_under_lock(merge: Merge, planned: MergePlan, *, approved: bool) -> list[Change]:
    """Compare the relations again that changed since the plan, now that writers are locked out."""
    changes = {change.relation: change for change in planned.changes}
    for table in merge.tables:
        if not is_as_compared(merge, table):
            changes[table.name] = compare(merge, table)
        if not table.unchanged:
            leaving = sql.in_place.lock_leaving_rows(table.number, table.member.schema, table.member.name)
            merge.ask(leaving)
    if approved and list(changes.values()) != list(planned.changes):
        raise PlanChanged("rows were written since the plan was made")
    # Since the plan was made, other sessions may have inserted rows that refer to rows to be
    # deleted.
    effects = refused(find_effects(merge), accept_effects=merge.request.accept_effects)
    if forbidden := [*effects, *collisions.refused(merge)]:
        raise OperationError(f'database "{planned.database}" is unchanged: {"; ".join(forbidden)}')
    return list(changes.values())


def _write(merge: Merge, before: Section, after: Section) -> tuple[int, int, int, list[str]]:
    """Write rows and create missing objects; return rows deleted, updated, inserted, and notes."""
    connection, phases, made = merge.connection, merge.phases, set[int]()
    make_way(merge)
    with phases.phase("writing"):
        notes = create(connection, before, made, attach=False)
    # Of tables created here alone: existing ones with forced policies are refused beforehand.
    with unforced_tables(connection, made_tables(merge)):
        with phases.phase("writing"), triggers_off(merge):
            loaded, (deleted, updated, inserted) = write_rows(merge)
        with phases.phase("comparing again"):
            compare_written(merge, loaded)
        with phases.phase("indexes, keys, triggers of missing objects"):
            connection.execute(sql.session.SORT_IN_MEMORY)
            notes += create(connection, after, made, attach=False)
        with phases.phase("attaching, keys to other contexts, sequences"):
            make_checks(merge)
            # A partition whose bound changes is attached before its indexes are.
            set_back(merge)
            for section in (before, after):
                notes += create(connection, section, made, attach=True)
            notes += finish(merge)
            for sequence in own_sequences(merge):
                name = sequence.namespace, sequence.name
                advance = sql.sequences.advance_sequence(*name, sequence.last_value, called=sequence.is_called)
                connection.execute(advance)
    return deleted, updated, inserted + sum(relation.rows for relation in loaded), notes


def _repair(merge: Merge, watch: Watch) -> list[str]:
    """Run the repairs of checks that the restored rows violate.

    Return for each how many rows it repaired. Triggers are disabled, as they would change
    timestamps and counters. An undo runs no repairs.
    """
    broken = [] if merge.is_undo else watch.broken()
    if not any(check.check.repair for check in broken):
        return []
    with triggers_off(merge):
        repaired = watch.repair(broken)
        merge.connection.execute(sql.in_place.END_DEFERRED)
    return repaired


def _lock(merge: Merge) -> None:
    """Lock the context's tables, with all partitions; give up after LOCK_SECONDS."""
    own = {relation.qualified for relation in merge.members.relations}
    alone = {plain_name(name) for name in merge.detached}
    tops = [
        (relation.schema, relation.name)
        for relation in merge.members.relations
        if relation.parent not in own or relation.qualified in alone
    ]
    merge.connection.execute(sql.session.set_lock_timeout(LOCK_SECONDS))
    try:
        if tops:
            merge.connection.execute(sql.in_place.lock_for_merge(tops))
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
        raise MovedSnapshot(f"the tables could not be locked within {LOCK_SECONDS} s: {message_of(error)}") from error


def _require_unmoved(merge: Merge) -> None:
    """Make sure, under the lock, that the database is as it was when the plan was made.

    Raises:
        MovedSnapshot: rows were written to a table that had been unchanged since the set, so that
            it has to be staged too.
        OperationError: tables or partitions were created, dropped or altered meanwhile.
    """
    members = read_members(merge.connection, merge.site.context, merge.detached)
    if members.relations != merge.members.relations:
        raise OperationError("tables or partitions changed since they were compared; nothing was touched; run again")
    if reasons := [*misfits(merge)]:
        raise OperationError(f'database "{merge.site.database}" is unchanged: {"; ".join(reasons)}')
    if moved := [table.name for table in merge.tables if table.unchanged and not is_unchanged(merge, table)]:
        raise MovedSnapshot(f"rows of {', '.join(moved)} were written since the plan was made")


def _is_safe(merge: Merge) -> bool:
    """Return whether the safety set has the current rows of all tables that may be written."""
    safety = merge.safety
    if safety is None:
        return not merge.tables
    written = {table.name for table in merge.tables if not table.unchanged}
    # Repairs may write further tables. Tables unchanged since the set was taken need no check.
    looked_at = [
        relation
        for relation in safety.relations
        if relation.qualified not in {table.name for table in merge.tables if table.unchanged}
    ]
    now = {member.qualified: member for member in merge.members.holding_rows}
    return written <= {relation.qualified for relation in looked_at} and all(
        (member := now.get(then.qualified))
        and (then.oid, then.relfilenode) == (member.oid, member.relfilenode)
        and has_rows(merge, member, then.rows, safety.snapshot.xmin)
        for then in looked_at
    )


@step
def refresh(site: Site, run: Run, done: Done) -> None:
    """Analyze the written relations, and refresh the context's materialized views.

    Raises:
        OperationError: a view cannot be refreshed; the rows are restored nevertheless.
    """
    with patient(), connect(site.owners_login, site.database, run.title) as connection:
        connection.execute(sql.session.set_lock_timeout(LOCK_WAIT_SECONDS))
        path = read_source_path(connection, site.context.namespace)
        for name in done.relations:
            execute_written(connection, sql.rows.analyze_relation(*name), path)
        views = [view for view in done.views if catalog.is_there(connection, sql.names.quoted_name(view.namespace, view.name))]
    refreshed = [refresh_view(site.owners_login, site.database, run, view) for view in views]
    if problems := [
        f"view {refreshment.view} cannot be refreshed: {refreshment.problem}" for refreshment in refreshed if refreshment.problem
    ]:
        raise OperationError(f"the rows are restored, but {'; '.join(problems)}; run refresh_views")
