"""Restoring a backup set into a new database.

Needs the store and a login that may create databases; leaves a database that was compared with the backup row by row, or
nothing. By hand: python -m flows.restore full_restore --backup latest --target-database consulting_tool_copy
"""

from prefect import flow

from flows.command_line import run_from_command_line
from tasks import recoveries, recovery_reports, runs, sites
from tasks.core.errors import BadInput
from tasks.core.recovery_report import Purpose
from tasks.core.servers import Server
from tasks.databases import sweep_unfinished
from tasks.existing import restore_into_existing
from tasks.locks import context_lock
from tasks.recoveries import Recovery
from tasks.runs import Run


@flow(flow_run_name="full-restore {context}", task_runner=runs.task_runner())
def full_restore(
    context: str = "bc-004",
    backup: str = "latest",
    target_database: str | None = None,
    in_place: bool = False,
    dry_run: bool = True,
    confirm_database: str | None = None,
) -> str:
    """Restore a whole context into a new database beside the live one, and compare it with the backup.

    Args:
        context: the bounded context to restore.
        backup: `latest`, an instant (`2025-11-03 14:00`: the newest state by then), the id of a set, or its s3:// or folder
            path.
        target_database: the new database; it must not exist.
        in_place: not available yet; restore into a new database.
        dry_run: only meant for restores in place.
        confirm_database: only meant for restores in place.
    """
    if in_place or target_database is None:
        raise BadInput(
            "full_restore restores into a new database: name it with target_database (and leave in_place false); "
            "a restore into the live database is not available"
        )
    with runs.begin("full_restore", context) as run:
        copy = Recovery(sites.find_store(context), run.started, Purpose.COPY, newest=False)
        return restore_and_compare(copy, run, sites.find_server(None, context), backup, target_database)


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
