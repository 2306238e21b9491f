"""Disaster recovery: from the store alone onto an empty server.

Needs the store (BACKUP_STORE and the usual AWS variables, or blocks) and the address of a server (PGHOST … or a connector
block); no context folder, no blocks, no Prefect server. Leaves the database under its old name, compared row by row.
By hand: python -m flows.recovery disaster_recovery --context bc-004
"""

from prefect import flow

from flows.command_line import run_from_command_line
from flows.restore import restore_as_new
from tasks import recoveries, reports, runs, sites


@flow(flow_run_name="disaster-recovery {context}", task_runner=runs.task_runner())
def disaster_recovery(
    context: str = "bc-004", backup: str = "latest", target_database: str | None = None, server: str | None = None
) -> str:
    """Bring a lost database back onto an empty server, from the newest good backup, and prove that it is equal.

    Args:
        context: the bounded context to bring back.
        backup: `latest`, the id of a set, or its s3:// or folder path.
        target_database: the name of the database; by default the one it had.
        server: name of the connector block of the server to restore to; by default the context's own, or libpq's
            environment (PGHOST, PGPORT, PGUSER, …).
    """
    with runs.begin("disaster_recovery", context) as run:
        store, target_server = sites.find_store(context), sites.find_server(server, context)
        recovery = restore_as_new(run, store, target_server, backup, target_database)
        return reports.publish_recovery(recoveries.staged_context(recovery), recovery)


if __name__ == "__main__":
    run_from_command_line(disaster_recovery)
