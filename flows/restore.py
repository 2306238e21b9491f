"""Restoring a backup set into a new database or into the live one.

A restore into a new database needs the store and a login that may create databases; it leaves a
database that was compared with the backup row by row, or nothing. A restore into the live database
needs a login that owns the context's tables; it leaves the tables as in the set, or unchanged, and
a safety set that undoes the restore. A restore of one table beside the live one needs CREATE on the
schema. By hand:
python -m flows.restore full_restore --backup latest --target-database consulting_tool_copy
python -m flows.restore full_restore --backup latest --in-place true
python -m flows.restore table_restore --table invoices --backup latest --mode missing
python -m flows.restore restore_cleaned_up --backup bc-004_clean-up_20251201_030000_3f9c
"""

from contextlib import suppress
from dataclasses import replace
from typing import Literal

from flows.command_line import run_from_command_line
from tasks.core.errors import BadInput, PlanChanged
from tasks.core.in_place.plan import MergePlan
from tasks.core.in_place.report import plan_report, plan_verdict
from tasks.core.in_place.request import Drift, Keys, KeyValue, Mode, Objects, OnConflict, Request
from tasks.core.postgres.connection import Server
from tasks.core.restore.report import Purpose
from tasks.database import logins
from tasks.database.locks import context_lock
from tasks.in_place import apply, plan, safety_set, side_by_side
from tasks.in_place.apply import Done
from tasks.in_place.report import publish_archive, publish_beside, publish_merged, publish_plan, report_failure
from tasks.restore import checks, compare, fill, legacy_dump, legacy_file, new_database, triggers
from tasks.restore.database import finish_database, sweep_unfinished
from tasks.restore.existing_database import restore_into_existing
from tasks.restore.new_database import Recovery
from tasks.restore.report import publish_recovery, reported
from tasks.run import approval, artifacts
from tasks.run.run import Run, begin, operation
from tasks.run.site import Site, describe, find_server, find_site, find_store
from tasks.sets import stage, thaw


@operation("full-restore {context}")
def full_restore(
    context: str = "bc-004",
    backup: str = "latest",
    target_database: str | None = None,
    in_place: bool = False,
    dry_run: bool = True,
    confirm_database: str | None = None,
    on_schema_drift: Literal["refuse", "common-columns"] = "refuse",
    accept_effects_on_others: bool = False,
    objects: Literal["plan", "restore"] = "plan",
    require_approval: bool = False,
    trust_unsigned: bool = False,
) -> str:
    """Restore a whole context, into a new database or into the live one, and compare it.

    Args:
        context: the bounded context to restore.
        backup: `latest`; a timestamp such as `2025-11-03 14:00`, for the newest state up to then;
            the id of a set; or the s3:// or folder path of a set.
        target_database: the new database; it must not exist.
        in_place: restore into the live database, in one transaction, with a safety set taken first.
        dry_run: for a restore in place: only publish the plan.
        confirm_database: the name of the live database, to confirm that its rows may be changed.
        on_schema_drift: what to do if the columns of live tables differ from those in the set:
            refuse, or restore only the columns that both have.
        accept_effects_on_others: allow that foreign keys of other contexts (ON DELETE CASCADE, SET
            NULL) delete or change rows that refer to rows deleted by the restore.
        objects: for a restore in place: `plan` only lists the objects that differ from the set,
            with the statements that change them back; `restore` also executes these. Missing
            objects are always created; objects that the set lacks are never dropped.
        require_approval: pause with the plan until an operator approves it in Prefect's UI.
        trust_unsigned: accept sets without a signature although BACKUP_VERIFY_KEY is set. A wrong
            signature is never accepted.
    """
    if in_place == (target_database is not None):
        raise BadInput("pass either target_database, to name a new database, or in_place=true, to restore into the live one")
    with begin("full_restore", context) as run:
        if target_database is not None and legacy_file.is_archive(backup):
            return restore_legacy(find_site(context, trust_unsigned=trust_unsigned), run, backup, target_database)
        if target_database is not None:
            store = find_store(context, trust_unsigned=trust_unsigned)
            copy = Recovery(store, run.started, Purpose.COPY, newest=False)
            return restore_and_compare(copy, run, find_server(None, context), backup, target_database)
        request = Request(backup, Drift(on_schema_drift), accept_effects_on_others, objects=Objects(objects))
        site = logins.with_loader(find_site(context, trust_unsigned=trust_unsigned), run)
        return restore_rows(site, run, request, dry_run, confirm_database, require_approval)


@operation("table-restore {table} {mode}")
def table_restore(
    context: str = "bc-004",
    *,
    table: str,
    backup: str = "latest",
    mode: Literal["side-by-side", "missing", "merge", "replace"] = "side-by-side",
    keys: list[KeyValue | dict[str, KeyValue]] | str | None = None,
    include_parents: bool = False,
    dry_run: bool = True,
    confirm_database: str | None = None,
    on_schema_drift: Literal["refuse", "common-columns"] = "refuse",
    accept_effects_on_others: bool = False,
    objects: Literal["plan", "restore"] = "plan",
    on_conflict: Literal["refuse", "skip"] = "refuse",
    require_approval: bool = False,
    trust_unsigned: bool = False,
) -> str:
    """Restore a table or partition under a new name beside the live one, or into the live one.

    Args:
        context: the bounded context that the table belongs to.
        table: the table, a partition, or the partitioned table with all its partitions.
        backup: `latest`; a timestamp such as `2025-11-03 14:00`, for the newest state up to then;
            the id of a set; or the s3:// or folder path of a set.
        mode: side-by-side: a new table beside the live one (`invoices_restored_20251103_020000`).
            Into the live one: missing rows (missing), changed rows too (merge), or exactly the rows
            of the set (replace), which deletes rows inserted since.
        keys: only some rows: a list of key values (or of objects naming key columns), or a
            condition on key columns.
        include_parents: also restore rows of other tables that the restored rows refer to and that
            are missing.
        dry_run: for a restore into the live table: only publish the plan.
        confirm_database: the name of the live database, to confirm that its rows may be changed.
        on_schema_drift: what to do if the columns of the live table differ from those in the set:
            refuse, or restore only the columns that both have.
        accept_effects_on_others: allow that foreign keys of other tables (ON DELETE CASCADE, SET
            NULL) delete or change rows that refer to rows deleted by the restore.
        objects: for a restore into the live table: `plan` only lists its objects that are missing
            or differ from the set, with the statements that create them or change them back;
            `restore` also executes these. Objects that the set lacks are never dropped.
        on_conflict: what to do if a live row that the restore keeps has the same unique value as a
            row of the set: refuse the restore, or skip the row of the set and report it.
        require_approval: pause with the plan until an operator approves it in Prefect's UI.
        trust_unsigned: accept sets without a signature although BACKUP_VERIFY_KEY is set. A wrong
            signature is never accepted.
    """
    with begin("table_restore", context) as run:
        # A restore beside the live table runs no code of the owner, so that no further login is
        # needed.
        site = find_site(context, trust_unsigned=trust_unsigned)
        site = logins.with_loader(site, run, acting=mode != "side-by-side")
        if mode == "side-by-side":
            return restore_beside(site, run, table, backup, keys)
        request = Request(
            backup, Drift(on_schema_drift), accept_effects_on_others, table, Mode(mode), keys, include_parents,
            objects=Objects(objects), on_conflict=OnConflict(on_conflict),
        )  # fmt: skip
        return restore_rows(site, run, request, dry_run, confirm_database, require_approval)


@operation("restore-cleaned-up {backup}")
def restore_cleaned_up(
    context: str = "bc-004",
    *,
    backup: str,
    keys: list[KeyValue | dict[str, KeyValue]] | str | None = None,
    on_conflict: Literal["refuse", "skip"] = "refuse",
    dry_run: bool = True,
    confirm_database: str | None = None,
    require_approval: bool = False,
    trust_unsigned: bool = False,
) -> str:
    """Restore rows that a clean-up deleted, with their dependent rows in other tables.

    Rows that exist in the live tables are not changed.

    Args:
        context: the bounded context.
        backup: the clean-up set that has the rows, by id or path.
        keys: only some rows of the rule's table, with their dependent rows: a list of key values
            (or of objects naming key columns), or a condition on key columns.
        on_conflict: what to do if a live row has the same unique value as a row of the set: refuse
            the restore, or skip the row of the set and report it.
        dry_run: only publish the plan.
        confirm_database: the name of the live database, to confirm that rows may be inserted.
        require_approval: pause with the plan until an operator approves it in Prefect's UI.
        trust_unsigned: accept sets without a signature although BACKUP_VERIFY_KEY is set. A wrong
            signature is never accepted.
    """
    with begin("restore_cleaned_up", context) as run:
        site = logins.with_loader(find_site(context, trust_unsigned=trust_unsigned), run)
        table = plan.cleaned_table(site, run, backup)
        request = Request(
            backup, table=table, mode=Mode.MISSING, keys=keys, include_parents=True, with_children=True,
            on_conflict=OnConflict(on_conflict),
        )  # fmt: skip
        return restore_rows(site, run, request, dry_run, confirm_database, require_approval)


def restore_legacy(site: Site, run: Run, path: str, target_database: str) -> str:
    """Restore as much as possible of an older script's dump file, and report what it lacks."""
    with report_failure(site.context), context_lock(site.server, site.context.name, run.title, exclusive=True) as lock:
        sweep_unfinished(lock, run.context)
        file = legacy_file.stage_archive(site.store, run, path)
        restored = legacy_dump.restore_archive(site, run, lock, file, path, target_database)
    return publish_archive(site.context, restored)


def restore_beside(site: Site, run: Run, table: str, backup: str, keys: Keys | None) -> str:
    """Restore a table under a new name; existing tables are not touched."""
    with report_failure(site.context):
        thaw.require_warm(site.store, run, backup, objective=site.context.objectives.rto)
        with context_lock(site.server, site.context.name, run.title):
            staged = stage.stage_newest_good(site.store, run, backup)
            beside = side_by_side.restore_beside(site, run, staged.set, table, keys)
    return publish_beside(site.context, replace(beside, aside=staged.aside), staged.passed_over)


def restore_rows(
    site: Site, run: Run, request: Request, dry_run: bool, confirm_database: str | None, require_approval: bool
) -> str:
    """Plan to replace live rows by a set's; once approved, take a safety set and do it."""
    logins.require_all_rows(site, run)
    thaw.require_warm(site.store, run, request.backup, objective=site.context.objectives.rto)
    if dry_run:
        with artifacts.explained():
            return plan_verdict(plan_rows(site, run, request))
    with report_failure(site.context):
        if require_approval or approval.required(site.context):
            done = write_approved_rows(site, run, request)
        else:
            done = write_rows(site, run, request, confirm_database)
    # The restore is committed, even if the rest fails.
    verdict = publish_merged(site.context, done)
    apply.refresh(site, run, done)
    return verdict


def plan_rows(site: Site, run: Run, request: Request) -> MergePlan:
    """Publish the plan of a restore into a live database; nothing is changed."""
    staged = stage.stage_newest_good(site.store, run, request.backup)
    with plan.begin(site, run, staged.set, request) as merge:
        planned = plan.plan(merge, staged)
    publish_plan(site.context, planned, request)
    return planned


def write_approved_rows(site: Site, run: Run, request: Request) -> Done:
    """Ask an operator to approve the plan, again if it changed, without holding locks meanwhile."""
    approval.require_somebody_to_ask()
    while True:
        planned = plan_rows(site, run, request)
        request = replace(request, backup=planned.backup)
        typed = approval.ask(plan_report(planned, site.context.zone))
        with suppress(PlanChanged):
            return write_rows(site, run, request, typed, planned)


def write_rows(site: Site, run: Run, request: Request, confirm_database: str | None, approved: MergePlan | None = None) -> Done:
    """Take a safety set, then replace live rows with a set's; a failure leaves them unchanged."""
    with context_lock(site.server, site.context.name, run.title, exclusive=True) as lock:
        staged = stage.stage_newest_good(site.store, run, request.backup)
        with plan.begin(site, run, staged.set, request) as merge:
            planned = plan.plan(merge, staged)
            publish_plan(site.context, planned, request)
            apply.require_confirmed(planned, confirm_database, approved)
            if planned.is_empty:
                return Done(planned)
            safety_set.take_safety_set(merge)
            return apply.carry_out(merge, planned, lock, approved=approved is not None)


def restore_and_compare(recovery: Recovery, run: Run, server: Server, backup: str, target_database: str | None) -> str:
    """Restore the named or newest good set, compare, and publish the report, also of a failure."""
    describe(server, recovery.store)
    with reported(recovery, run):
        recovery.begin_at(thaw.thaw_in_time(recovery.store, run, backup))
        phases = recovery.phases
        with context_lock(server, run.context, run.title, exclusive=True) as lock:
            recovery.removed = sweep_unfinished(lock, run.context)
            recovery.staged, target = new_database.stage(recovery, server, run, backup, target_database)
            recovery.target, staged = target, recovery.staged.set
            if target.exists:
                recovery.filled = restore_into_existing(staged, target, server, run, lock, phases)
                recovery.proven = True
                recovery.exercises = triggers.try_triggers(staged, target, run, phases)
            else:
                with new_database.unfinished_database(recovery, staged.manifest, target, server, run, lock):
                    recovery.filled = fill.fill_database(staged, target, server, run, phases)
                    compare.compare_with_manifest(staged, target, recovery.filled, run, phases)
                    recovery.proven = True
                    recovery.exercises = triggers.try_triggers(staged, target, run, phases)
                    with phases.phase("finishing"):
                        finish_database(server, run, lock, staged.manifest, target)
            recovery.checked = checks.check_integrity(staged, target, recovery.filled.keys, run, phases)
    return publish_recovery(recovery, run)


if __name__ == "__main__":
    run_from_command_line(full_restore, table_restore, restore_cleaned_up)
