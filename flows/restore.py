"""Restoring a backup set: into a new database, or into the live one.

Into a new one: needs the store and a login that may create databases; leaves a database that was compared with the backup row
by row, or nothing. Into the live one: needs a login that owns the context's tables; leaves them as the set has them, or
untouched, and a safety set that undoes it. By hand:
python -m flows.restore full_restore --backup latest --target-database consulting_tool_copy
python -m flows.restore full_restore --backup latest --in-place true
"""

from typing import Literal

from prefect import flow

from flows.command_line import run_from_command_line
from tasks import merge_plans, merge_reports, merges, recoveries, recovery_reports, runs, sites
from tasks.core.errors import BadInput
from tasks.core.merge import Drift
from tasks.core.recovery_report import Purpose
from tasks.core.servers import Server
from tasks.databases import sweep_unfinished
from tasks.existing import restore_into_existing
from tasks.locks import context_lock
from tasks.recoveries import Recovery
from tasks.runs import Run
from tasks.sites import Site


@flow(flow_run_name="full-restore {context}", task_runner=runs.task_runner())
def full_restore(
    context: str = "bc-004",
    backup: str = "latest",
    target_database: str | None = None,
    in_place: bool = False,
    dry_run: bool = True,
    confirm_database: str | None = None,
    on_schema_drift: Literal["refuse", "common-columns"] = "refuse",
    accept_effects_on_others: bool = False,
) -> str:
    """Restore a whole context, into a new database beside the live one or into the live one itself, and compare it.

    Args:
        context: the bounded context to restore.
        backup: `latest`, an instant (`2025-11-03 14:00`: the newest state by then), the id of a set, or its s3:// or folder
            path.
        target_database: the new database; it must not exist.
        in_place: into the live database instead: in one transaction, with a safety set taken first.
        dry_run: of a restore in place only publish the plan.
        confirm_database: the name of the live database, to let rows of it be changed.
        on_schema_drift: where live tables have other columns than the set's: refuse, or restore what both have.
        accept_effects_on_others: let foreign keys of other contexts delete or empty what refers to rows that go.
    """
    if in_place == (target_database is not None):
        raise BadInput(
            "name the new database with target_database, or restore into the live one with in_place=true: one of the two"
        )
    with runs.begin("full_restore", context) as run:
        if target_database is not None:
            copy = Recovery(sites.find_store(context), run.started, Purpose.COPY, newest=False)
            return restore_and_compare(copy, run, sites.find_server(None, context), backup, target_database)
        site = sites.find_site(context)
        said = Drift(on_schema_drift)
        if dry_run:
            return plan_in_place(site, run, backup, said, accept_effects_on_others)
        return restore_in_place(site, run, backup, confirm_database, said, accept_effects_on_others)


def plan_in_place(site: Site, run: Run, backup: str, on_drift: Drift, accept_effects: bool) -> str:
    """Publish what a restore into the live database would do; nothing is touched."""
    recovery = Recovery(site.store, run.started, Purpose.COPY, newest=False)
    recoveries.stage_newest_good(recovery, run, backup)
    with merge_plans.begin(site, run, recovery, on_drift) as merge:
        planned = merge_plans.plan(merge, recovery, accept_effects=accept_effects)
    return merge_reports.publish_plan(site.context, planned, merges.command(site, planned.backup, on_drift, accept_effects))


def restore_in_place(
    site: Site, run: Run, backup: str, confirm_database: str | None, on_drift: Drift, accept_effects: bool
) -> str:  # fmt: skip
    """Make the live database what a set is, after a safety set was taken; or leave it as it was."""
    recovery = Recovery(site.store, run.started, Purpose.COPY, newest=False)
    said = merges.command(site, "{}", on_drift, accept_effects)
    with merge_reports.told(site.context), context_lock(site.server, site.context.name, run.title, exclusive=True):
        recoveries.stage_newest_good(recovery, run, backup)
        with merge_plans.begin(site, run, recovery, on_drift) as merge:
            planned = merge_plans.plan(merge, recovery, accept_effects=accept_effects)
            merge_reports.publish_plan(site.context, planned, said.format(planned.backup))
            merges.require_confirmed(planned, confirm_database)
            merges.take_safety_set(merge)
            merged = merges.carry_out(merge, planned, accept_effects=accept_effects)
    # From here on it is done, whatever becomes of the rest.
    verdict = merge_reports.publish_merged(site.context, planned, merged, said.format(merged.safety))
    merges.refresh(site, run, recovery.manifest, merges.written(merge))
    return verdict


def restore_and_compare(recovery: Recovery, run: Run, server: Server, backup: str, target_database: str | None) -> str:
    """Restore the newest good or the named set, and compare it; publish the report, also when it fails."""
    sites.describe(server, recovery.store)
    with recovery_reports.reported(recovery, run), context_lock(server, run.context, run.title, exclusive=True) as session:
        recovery.removed = sweep_unfinished(session, run.context)
        recoveries.stage(recovery, server, run, backup, target_database)
        if recovery.chosen.exists:
            restore_into_existing(recovery, server, run)
        else:
            with recoveries.unfinished_database(recovery, server, run):
                recoveries.fill_database(recovery, server, run)
                recoveries.compare_with_manifest(recovery, server, run)
                recoveries.finish(recovery, server, run)
        recoveries.check_integrity(recovery, server, run)
    return recovery_reports.publish_recovery(recovery, run)


if __name__ == "__main__":
    run_from_command_line(full_restore)
