"""Looking after the backups that exist.

Needs the store alone. By hand: python -m flows.watch verify_backups --context bc-004
"""

from prefect import flow

from flows.command_line import run_from_command_line
from tasks import runs, sites
from tasks.sets import longest_unverified
from tasks.verifications import verify_set, verify_share


@flow(flow_run_name="verify-backups {context}", task_runner=runs.task_runner())
def verify_backups(context: str = "bc-004", backup: str = "latest", fraction: float | None = None) -> str:
    """Download backups, decode every row, compare rows and digests with the manifest, and record which are good.

    Args:
        context: the bounded context.
        backup: `latest`, an instant (`2025-11-03 14:00`: the newest state by then), the id of a set, or its s3:// or folder
            path.
        fraction: instead, this share of all sets (0.25: a quarter), those longest not decoded first.
    """
    with runs.begin("verify_backups", context) as run:
        store = sites.find_store(context)
        if fraction is None:
            return verify_set(store, run, backup)
        return verify_share(store, run, *longest_unverified(store, context, fraction))


if __name__ == "__main__":
    run_from_command_line(verify_backups)
