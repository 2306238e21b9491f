"""Looking after the backups that exist, and after the promise that never more than the recovery point objective is lost.

Needs the store alone; where a differential is due, the database too.
By hand: python -m flows.watch watch_recovery_point, verify_backups or backup_report
"""

from datetime import timedelta

from prefect import get_run_logger

from flows.backup import differential_backup
from flows.command_line import run_from_command_line
from tasks.core.calendar import parse_instant
from tasks.core.run.clock import now
from tasks.core.run.limits import Days, Minutes, Share
from tasks.run import site
from tasks.run.run import begin, operation
from tasks.sets.choose import longest_unverified
from tasks.sets.verify import verify_set, verify_share
from tasks.watch import history, recovery_point


@operation("verify-backups {context}")
def verify_backups(
    context: str = "bc-004", backup: str = "latest", fraction: Share | None = None, trust_unsigned: bool = False
) -> str:  # fmt: skip
    """Download backups, decode every row, compare rows and digests with the manifest, and record which are good.

    Args:
        context: the bounded context.
        backup: `latest`, an instant (`2025-11-03 14:00`: the newest state by then), the id of a set, or its s3:// or folder
            path.
        fraction: instead, this share of all sets (0.25: a quarter), those longest not decoded first.
        trust_unsigned: accept sets without a signature although BACKUP_VERIFY_KEY is set; never a wrong signature.
    """
    with begin("verify_backups", context) as run:
        store = site.find_store(context, trust_unsigned=trust_unsigned)
        if fraction is None:
            return verify_set(store, run, backup)
        return verify_share(store, run, *longest_unverified(store, context, fraction))


@operation("watch-recovery-point {context}")
def watch_recovery_point(
    context: str = "bc-004", every_minutes: Minutes = 15, refresh: bool = True, as_of: str | None = None
) -> str:  # fmt: skip
    """Measure how old the newest restorable state is, and take a differential where one at a later look could come too late.

    Fails if more would be lost than the objective allows, now or before the next look.

    Args:
        context: the bounded context.
        every_minutes: how often this runs.
        refresh: take that differential; otherwise only look.
        as_of: an instant (`2025-11-03 14:00`) to judge by instead of now; of a past one nothing is taken.
    """
    with begin("watch_recovery_point", context) as run:
        definition, store = site.find_context(context), site.find_store(context)
        given, every, done = parse_instant(as_of, definition.zone) if as_of else None, timedelta(minutes=every_minutes), list[str]()
        point = recovery_point.measure(store, definition, given or now(), every)
        if refresh and point.is_due and point.instant >= run.started:
            done.append(_refresh(context))
            point = recovery_point.measure(store, definition, given or now(), every)
        return recovery_point.publish_point(definition, point, done)


@operation("backup-report {context}")
def backup_report(context: str = "bc-004", days: Days = 30) -> str:
    """Tell what became of the backups of the last days: sets, recovery point, drills, integrity checks, and what to look at.

    What is to be looked at fails no run: the watch, the checks and the drills do that themselves.

    Args:
        context: the bounded context.
        days: how many days to look back, from 1 to 366.
    """
    with begin("backup_report", context) as run:
        definition, store = site.find_context(context), site.find_store(context)
        return history.publish_overview(history.look_back(store, definition, run, days))


def _refresh(context: str) -> str:
    """Take a differential; return what came of it: whatever it was, the watch has to tell it."""
    try:
        return f"a differential was due: {differential_backup(context)}"
    except Exception as error:  # noqa: BLE001 - whatever failed, the watch goes on and reports it
        get_run_logger().error("a differential was due: %s", error)
        return f"a differential was due, and failed: {' '.join(str(error).split())}"


if __name__ == "__main__":
    run_from_command_line(verify_backups, watch_recovery_point, backup_report)
