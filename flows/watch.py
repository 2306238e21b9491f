"""Looking after the backups that exist.

Needs the store alone. By hand: python -m flows.watch verify_backups --context bc-004
"""

from prefect import flow

from flows.command_line import run_from_command_line
from tasks import recoveries, recovery_reports, runs, sites
from tasks.core.kinds import now
from tasks.core.recovery_report import Purpose
from tasks.recoveries import Recovery
from tasks.sets import decode, mark


@flow(flow_run_name="verify-backups {context}", task_runner=runs.task_runner())
def verify_backups(context: str = "bc-004", backup: str = "latest") -> str:
    """Download a backup, decode every row of it, compare rows and digests with its manifest, and record that it is good.

    Args:
        context: the bounded context.
        backup: `latest`, an instant (`2025-11-03 14:00`: the newest state by then), the id of a set, or its s3:// or folder
            path.
    """
    with runs.begin("verify_backups", context) as run:
        recovery = Recovery(sites.find_store(context), run.started, Purpose.COPY, newest=False)
        with recovery.phases.phase("download and verification"):
            staged = recoveries.stage_newest_good(recovery, run, backup)
        with recovery.phases.phase("decoding"):
            recovery.differences += decode(staged)
        verdict = recovery_reports.publish_verification(recovery, run)
        mark(recovery.store, staged.name, "decoded", {"instant": now(), "run": run.id})
        recovery.require_newest()
        return verdict


if __name__ == "__main__":
    run_from_command_line(verify_backups)
