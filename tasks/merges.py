"""Merging a backup set into a live database: one transaction that makes its tables what the set has, or leaves them alone.

No table is dropped, truncated or swapped: what others have over them, keys, views, grants, is not touched. Readers are never
kept waiting, writers of the context's tables as long as the transaction lasts (SHARE ROW EXCLUSIVE,
https://www.postgresql.org/docs/current/explicit-locking.html), writers of other tables only where a partition is attached or
a key to them is made, which comes last.
"""

import re
import shlex
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psycopg
from prefect import get_run_logger

from tasks import catalogue
from tasks.backups import Occasion, position, take_set
from tasks.core import merge_sql, sql
from tasks.core.complaints import message_of
from tasks.core.context import Context
from tasks.core.errors import MovedSnapshot, OperationError, PlanChanged, RestoreDiffers, UnsafeTarget
from tasks.core.kinds import Kind, new_run_id
from tasks.core.manifest import TABLES, Relation, View
from tasks.core.merge import Drift, KeyValue, Merged, MergePlan, Mode, Request, trigger_states
from tasks.core.servers import connect
from tasks.core.source_path import read_source_path, source_path
from tasks.core.stream import digest_relation
from tasks.locks import ContextLock
from tasks.merge_keys import find_effects, refused
from tasks.merge_objects import LOCK_SECONDS, create, finish, missing_chunks, own_sequences, require_objects
from tasks.merge_plans import compare, stage
from tasks.merge_session import Merge, Table, has_rows, is_as_compared, is_unchanged, lineage
from tasks.repairs import Watch, concerned_checks
from tasks.runs import Run, step
from tasks.schema import LOCK_WAIT_SECONDS
from tasks.sites import Site
from tasks.snapshots import patient
from tasks.tables import differences, load_rows, reading_job
from tasks.views import refresh_view

# The lock is asked for anew when it was waited for as long as writers may have to queue behind us.
LOCK_TRIES = 4


@dataclass(frozen=True)
class Done:
    """A restore into a live database that is committed, or had nothing to do; with what is to be refreshed after it."""

    planned: MergePlan
    merged: Merged | None = None
    relations: tuple[tuple[str, str], ...] = ()
    views: tuple[View, ...] = ()


def take_safety_set(merge: Merge) -> None:
    """Take a set of what is there, damaged or not: what undoes the merge."""
    if not merge.tables:
        # What was asked for is not there at all.
        return
    with merge.phases.phase("safety set"):
        # Sets of one run and one second would have one name: a second one is of a run of its own.
        run = replace(merge.run, id=new_run_id()) if merge.safety else merge.run
        site = replace(merge.site, context=_what_is_written(merge))
        merge.safety = take_set(site, run, merge.source, Occasion(label=f"before {merge.run.title}", sort=Kind.SAFETY))
        if merge.safety.snapshot.incarnation != (here := position(merge.connection)[0].incarnation):
            raise OperationError(
                f"safety set {merge.safety.id} is of another server than the one that was to be changed ({here}); nothing was "
                "touched; find out why its address moved, and run again"
            )
    get_run_logger().info("safety set %s taken", merge.safety.id)


def _what_is_written(merge: Merge) -> Context:
    """Return the context with those tables alone that rows are written in, by repairs too."""
    context = merge.site.context
    if merge.request.table is None:
        return context
    written = {name for one in merge.tables for name in lineage(merge.members, one.member)}
    repairs = " ".join(one.repair for one in concerned_checks(merge))
    tables = [
        name for name in context.tables
        if f"{context.namespace}.{name}" in written or re.search(rf"\b{re.escape(name)}\b", repairs)
    ]  # fmt: skip
    return context.model_copy(update={"tables": tables, "views": []})


def require_confirmed(planned: MergePlan, confirm_database: str | None, approved: MergePlan | None = None) -> None:
    """Refuse to change a live database that the operator did not name, or otherwise than he approved.

    Raises:
        UnsafeTarget: confirm_database is not its name.
        PlanChanged: another plan was approved.
    """
    if approved and not planned.does_as(approved):
        raise PlanChanged("what would be done is no longer what was approved")
    if confirm_database != planned.database:
        raise UnsafeTarget(
            f'refusing to change rows of the live database "{planned.database}"; look at the plan, then pass '
            f'confirm_database="{planned.database}"'
        )


def carry_out(merge: Merge, planned: MergePlan, lock: ContextLock, *, approved: bool) -> Done:
    """Make the live database what the set is, in one transaction; whatever fails leaves it as it was.

    Raises:
        RestoreDiffers: what came of it is not what the set has; nothing was kept.
        PlanChanged: something else would be done than was approved; nothing was kept.
        OperationError: the lock was not to be had, or the database refused a row or an object; nothing was kept.
        LostLock: the context's lock was lost; nothing was kept.
    """
    for attempt in range(1, LOCK_TRIES + 1):
        try:
            merged = _carry_out(merge, planned, lock, approved=approved)
            # A set of a part of the context knows no views; its rows may be in them all the same.
            known = merge.members.views if merge.manifest.only else _own_views(merge)
            views = tuple(view for view in known if view.materialized and view.populated)
            return Done(planned, merged, tuple(_written(merge)), views)
        except MovedSnapshot as error:
            if attempt == LOCK_TRIES:
                raise OperationError(f'database "{planned.database}" is as it was: {error}{_holders(merge)}') from error
            get_run_logger().warning("attempt %d: %s; once more", attempt, error)
            stage(merge)
        except psycopg.Error as error:
            if merge.connection.broken:
                # Nobody knows whether a COMMIT that was under way came through.
                raise OperationError(
                    f"the session was lost ({message_of(error)}); unless that was at its very end, the database is as it was: "
                    "look at the plan (dry_run=true), which says what differs"
                ) from None
            raise OperationError(f'database "{planned.database}" is as it was: {message_of(error)}') from None
    raise AssertionError  # the last try returns or raises


def _own_views(merge: Merge) -> list[View]:
    """Return the views of the set that are this context's here."""
    context = merge.context
    return [view for view in merge.manifest.views if view.namespace == context.namespace and view.name in context.views]


def _holders(merge: Merge) -> str:
    holders = [row[0] for row in merge.connection.execute(merge_sql.LOCK_HOLDERS_OF, {"oids": merge.members.oids})]
    return f"; {'; '.join(holders)}; wait for them, or end them, and run again" if holders else "; run again"


def _carry_out(merge: Merge, planned: MergePlan, lock: ContextLock, *, approved: bool) -> Merged:
    connection, phases, made = merge.connection, merge.phases, set[int]()
    with phases.phase("schema of the set"):
        before, after = missing_chunks(merge)
    started = time.monotonic()
    with connection.transaction():
        with phases.phase("waiting for locks"):
            _lock(merge)
        unchanged = f'so that database "{planned.database}" is as it was'
        lock.require_held(f"rows were written, {unchanged}", connection)
        locked = time.monotonic()
        _require_unmoved(merge)
        if not _is_safe(merge):
            # Rows were written since: taken again under the lock, where none can be.
            take_safety_set(merge)
        with phases.phase("comparing"):
            changes = {one.relation: one for one in planned.changes}
            for table in merge.tables:
                if not is_as_compared(merge, table):
                    changes[table.name] = compare(merge, table)
                if not table.unchanged:
                    connection.execute(merge_sql.lock_leaving_rows(table.number, table.member.schema, table.member.name))
            if approved and list(changes.values()) != list(planned.changes):
                raise PlanChanged("rows were written since the plan was made")
            # Rows may have come since the plan that others refer to already.
            if forbidden := refused(find_effects(merge), accept_effects=merge.request.accept_effects):
                raise OperationError(f'database "{planned.database}" is as it was: {"; ".join(forbidden)}')
            watch, undo = Watch(merge), _undo(merge)
        with phases.phase("writing"), _triggers_off(merge):
            create(connection, before, made, attach=False)
            loaded = _load_new(merge)
            deleted, updated, inserted = _write(merge)
            connection.execute(merge_sql.END_DEFERRED)
        with phases.phase("comparing again"):
            _compare(merge, loaded)
        with phases.phase("indexes, keys, triggers of what was missing"):
            connection.execute(sql.SORT_IN_MEMORY)
            create(connection, after, made, attach=False)
        with phases.phase("attaching, keys to other contexts, sequences"):
            for section in (before, after):
                create(connection, section, made, attach=True)
            notes = [*finish(merge), *require_objects(merge)]
            for one in own_sequences(merge):
                connection.execute(sql.advance_sequence(one.namespace, one.name, one.last_value, called=one.is_called))
        with phases.phase("checks"):
            repaired = _repair(merge, watch)
            notes += [one.line for one in watch.broken()]
            if merge.request.with_children:
                notes.append(
                    "the next clean-up takes these rows again, unless they are changed by then, or the rule's `hold` keeps them"
                )
            # Repairs write other tables too, which the safety set has: all of them go back together.
            undo = _undo_all(merge) if repaired or merge.request.with_children else undo
        # Told before it is needed: this process may end with the commit.
        # Without the keys of rows, which the report has.
        get_run_logger().info("what undoes it, once it is committed:\n%s", _without_keys(merge, undo))
        lock.require_held(f"the commit, {unchanged}", connection)
    get_run_logger().info("committed after %.1f s, %.1f s of them locked", time.monotonic() - started, time.monotonic() - locked)
    inserted += sum(one.rows for one in loaded)
    locked_seconds = time.monotonic() - locked
    done = list(changes.values())
    return Merged(inserted, updated, deleted, planned.to_create, locked_seconds, phases.seconds, undo, done, notes, repaired)


def _repair(merge: Merge, watch: Watch) -> list[str]:
    """Mend what does not agree with the restored rows any more; triggers would set times, and count again what is counted."""
    broken = watch.broken()
    if not any(one.check.repair for one in broken):
        return []
    with _triggers_off(merge):
        repaired = watch.repair(broken)
        merge.connection.execute(merge_sql.END_DEFERRED)
    return repaired


def _lock(merge: Merge) -> None:
    """Lock the context's tables, partitions with their parents; whoever writes there is waited for, but not for long."""
    own = {one.qualified for one in merge.members.relations}
    tops = [(one.schema, one.name) for one in merge.members.relations if one.parent not in own]
    merge.connection.execute(sql.set_lock_timeout(LOCK_SECONDS))
    try:
        if tops:
            merge.connection.execute(merge_sql.lock_for_merge(tops))
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
        raise MovedSnapshot(f"the tables could not be locked within {LOCK_SECONDS} s: {message_of(error)}") from error


def _require_unmoved(merge: Merge) -> None:
    """Make sure, under the lock, that what was found is still what is there.

    Raises:
        MovedSnapshot: rows were written in a table that had none; once more, with that staged too.
        OperationError: the tables are others by now.
    """
    members = catalogue.read_members(merge.connection, merge.site.context)
    if members.relations != merge.members.relations:
        raise OperationError("tables or partitions changed since they were compared; nothing was touched; run again")
    if moved := [one.name for one in merge.tables if one.unchanged and not is_unchanged(merge, one)]:
        raise MovedSnapshot(f"{', '.join(moved)} changed meanwhile")


def _is_safe(merge: Merge) -> bool:
    """Say whether the safety set has every row that the merge, and repairs after it, may touch, as it is now."""
    safety = merge.safety
    if safety is None:
        return not merge.tables
    written = {one.name for one in merge.tables if not one.unchanged}
    # Repairs may write whatever else it has; what is as in the set since before it was taken, needs no second look.
    looked_at = [one for one in safety.relations if one.qualified not in {one.name for one in merge.tables if one.unchanged}]
    now = {one.qualified: one for one in merge.members.holding_rows}
    return written <= {one.qualified for one in looked_at} and all(
        (member := now.get(then.qualified)) and (then.oid, then.relfilenode) == (member.oid, member.relfilenode)
        and has_rows(merge, member, then.rows, safety.snapshot.xmin)
        for then in looked_at
    )  # fmt: skip


@contextmanager
def _triggers_off(merge: Merge) -> Iterator[None]:
    """Switch user triggers off, one by one, and then to what they were in the set, or before where it does not know them."""
    wanted = trigger_states(merge.manifest.inventory) if merge.request.table is None else {}
    triggers = merge.connection.execute(sql.TRIGGER_STATES, {"oids": merge.members.oids}).fetchall()
    for schema, table, trigger, words, _ in triggers:
        if words != "DISABLE":
            merge.connection.execute(sql.switch_trigger(schema, table, trigger, "DISABLE"))
    yield
    for schema, table, trigger, words, spelled in triggers:
        merge.connection.execute(sql.switch_trigger(schema, table, trigger, wanted.get((spelled, trigger)) or words))


def _write(merge: Merge) -> tuple[int, int, int]:
    """Write every difference in one statement; return rows deleted, updated and inserted.

    Where rows exchange unique values, those are parked first, or else the rows are deleted and inserted.
    """
    tables = [one for one in merge.tables if not one.unchanged]
    path = read_source_path(merge.connection, merge.site.context.namespace)
    for prepare in (_leave, _park, _replace):
        try:
            with merge.connection.transaction():
                for table in tables:
                    prepare(merge, table)
                with source_path(merge.connection, path):
                    return _write_at_once(merge, tables)
        except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation) as error:
            get_run_logger().info("%s: unique values are exchanged; once more, another way", message_of(error))
            if prepare is _replace:
                raise
    raise AssertionError  # the last way returns or raises


def _write_at_once(merge: Merge, tables: Iterable[Table]) -> tuple[int, int, int]:
    parts = [(one.number, one.member.schema, one.member.name, one.columns, one.changed) for one in tables]
    found: tuple[int, int, int] = merge.connection.execute(merge_sql.merge_rows(parts)).fetchall()[0]
    return found


def _leave(_merge: Merge, _table: Table) -> None:
    """Most rows can be written as they are."""


def _park(merge: Merge, table: Table) -> None:
    """Let the rows to update give their unique values free, for other ones that nothing has."""
    member = table.member
    for column, kind, length in merge.connection.execute(merge_sql.PARKING_COLUMNS, {"oid": member.oid}).fetchall():
        if column:
            parking = merge_sql.park_rows(table.number, member.schema, member.name, column, kind, length)
            with source_path(merge.connection, read_source_path(merge.connection, member.schema)):
                merge.connection.execute(parking)
            table.changed = [*table.changed, column] if column not in table.changed else table.changed
        else:
            _replace(merge, table)
            break


def _replace(merge: Merge, table: Table) -> None:
    """Let the rows to update be deleted and inserted, where no key would act on that."""
    if not merge.connection.execute(merge_sql.KEYS_THAT_ACT, {"oid": table.member.oid}).fetchall():
        merge.connection.execute(merge_sql.replace_instead_of_update(table.number))


def _load_new(merge: Merge) -> list[Relation]:
    """Load the relations that were missing and are there now; return them."""
    for relation in merge.absent:
        load_rows(merge.connection, relation, merge.staged.sources(relation), merge.manifest.database.encoding)
    return merge.absent


def _compare(merge: Merge, loaded: Iterable[Relation]) -> None:
    """Read back what was written, inside the transaction.

    Raises:
        RestoreDiffers: it is not what the set has.
    """
    found = list[str]()
    written = [one.relation for one in merge.tables if one.relation and not one.unchanged and one.becomes_whole]
    for relation in [*written, *loaded]:
        job = reading_job(merge.site.database, merge.run, relation, merge.manifest.database.encoding)
        digest = digest_relation(merge.connection, job)
        found += differences(relation, digest.rows, digest.hex)
    acted_on = {row[0] for row in merge.connection.execute(merge_sql.TABLES_ACTED_ON, {"oids": merge.members.oids})}
    for table in merge.tables:
        # With triggers off, nothing but a foreign key of its own can have written it.
        acted = table.unchanged and acted_on & set(lineage(merge.members, table.member).values())
        if acted and not is_unchanged(merge, table):
            found.append(f"{table.name}: a key of it acted on what was written")
        if not table.unchanged and not table.becomes_whole:
            left = compare(merge, table)
            found += [f"{table.name}: {left.rows} rows differ still"] if left.rows else []
    if found:
        raise RestoreDiffers(
            f'database "{merge.site.database}" is as it was: what was written differs from {merge.manifest.id}: '
            f"{'; '.join(found[:10])}"
        )


def _written(merge: Merge) -> list[tuple[str, str]]:
    """Return the relations whose statistics are old now."""
    merged = [(one.member.schema, one.member.name) for one in merge.tables if not one.unchanged]
    return merged + [(one.namespace, one.name) for one in merge.absent]


def _undo(merge: Merge) -> str:
    """Return what an operator types to have back what was there before, rows that refer to others first."""
    context, database = merge.site.context.name, merge.site.database
    made = [f"psql -d {shlex.quote(database)} -c {shlex.quote(f'DROP TABLE {name}')}" for name in _made(merge)]
    if merge.safety is None:
        return "\n".join(made)
    back = replace(merge.request, backup=merge.safety.id, mode=Mode.REPLACE, include_parents=False, on_drift=Drift.REFUSE)
    # Rows that others refer to were inserted as well, in other tables or in the same one.
    included = [one for one in merge.tables if one.name not in merge.names or len(one.chosen) > 1]
    keys = [(one.name, _inserted_keys(merge, one)) for one in included]
    requests = [back, *(replace(back, table=table, keys=some) for table, some in keys if some)]
    return "\n".join([*made, *(one.command(context, database) for one in requests)])


def _undo_all(merge: Merge) -> str:
    """Return what an operator types to have back every table that the safety set has."""
    assert merge.safety  # noqa: S101
    return Request(merge.safety.id, accept_effects=merge.request.accept_effects).command(
        merge.site.context.name, merge.site.database
    )


def _without_keys(merge: Merge, undo: str) -> str:
    """Return what undoes it whole, where the commands name rows by their keys."""
    if "--keys" not in undo:
        return undo
    return "\n".join([*(line for line in undo.splitlines() if line.startswith("psql ")), _undo_all(merge)])


def _made(merge: Merge) -> list[str]:
    """Return the names of the tables that are made, but for those that go with a table that is made."""
    if merge.request.table is None:
        return []
    made = {item.name: item.parent for item in merge.missing if item.kind in TABLES}
    return [name for name, parent in made.items() if parent not in made]


def _inserted_keys(merge: Merge, table: Table) -> list[dict[str, KeyValue]]:
    if table.unchanged or not table.primary:
        return []
    asked_for = table.chosen[:1] if table.name in merge.names else []
    asked = merge_sql.inserted_keys(table.number, table.primary, asked_for)
    return [dict(zip(table.primary, row, strict=True)) for row in merge.connection.execute(asked).fetchall()]


@step
def refresh(site: Site, run: Run, done: Done) -> None:
    """Gather statistics of relations that were written, and compute the set's views anew.

    Raises:
        OperationError: a view cannot be computed; the rows are restored all the same.
    """
    with patient(), connect(site.owners_login, site.database, run.title) as connection:
        connection.execute(sql.set_lock_timeout(LOCK_WAIT_SECONDS))
        for name in done.relations:
            connection.execute(sql.analyze_relation(*name))
        views = [view for view in done.views if catalogue.is_there(connection, sql.quoted_name(view.namespace, view.name))]
    refreshed = [refresh_view(site.owners_login, site.database, run, view) for view in views]
    if problems := [f"view {one.view} cannot be computed: {one.problem}" for one in refreshed if one.problem]:
        raise OperationError(f"the rows are restored, but {'; '.join(problems)}")
