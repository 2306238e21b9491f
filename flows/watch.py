"""Verifying backups, and watching that the recovery point objective is kept.

Needs only the store; if a differential is due, also the database.
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
    context: str = "bc-004",
    backup: str = "latest",
    fraction: Share | None = None,
    trust_unsigned: bool = False,
) -> str:
    """Download backups, decode and compare every row with the manifest, and record the result.

    Args:
        context: the bounded context.
        backup: `latest`; a timestamp such as `2025-11-03 14:00`, for the newest state up to then;
            the id of a set; or the s3:// or folder path of a set.
        fraction: instead of one backup, verify this share of all sets (0.25 is a quarter), those
            verified longest ago first.
        trust_unsigned: accept sets without a signature although BACKUP_VERIFY_KEY is set. A wrong
            signature is never accepted.
    """
    with begin("verify_backups", context) as run:
        store = site.find_store(context, trust_unsigned=trust_unsigned)
        if fraction is None:
            return verify_set(store, run, backup)
        return verify_share(store, run, *longest_unverified(store, context, fraction))


@operation("watch-recovery-point {context}")
def watch_recovery_point(
    context: str = "bc-004",
    every_minutes: Minutes = 15,
    refresh: bool = True,
    as_of: str | None = None,
) -> str:
    """Measure the age of the newest restorable state.

    Take a differential before the recovery point objective is missed. Fails if a disaster now, or
    before the next run, would lose more than the objective allows.

    Args:
        context: the bounded context.
        every_minutes: the minutes from one run of this flow to the next.
        refresh: take a differential if it is due; otherwise only measure.
        as_of: a timestamp such as `2025-11-03 14:00` to measure at instead of now; if it is past,
            no differential is taken.
    """
    with begin("watch_recovery_point", context) as run:
        definition, store = site.find_context(context), site.find_store(context)
        given = parse_instant(as_of, definition.zone) if as_of else None
        every, done = timedelta(minutes=every_minutes), list[str]()
        point = recovery_point.measure(store, definition, given or now(), every)
        if refresh and point.is_due and point.instant >= run.started:
            done.append(_refresh(context))
            point = recovery_point.measure(store, definition, given or now(), every)
        return recovery_point.publish_point(definition, point, done)


@operation("backup-report {context}")
def backup_report(context: str = "bc-004", days: Days = 30) -> str:
    """Report on the backups of the last days: sets, recovery point, drills, checks, and anomalies.

    Anomalies do not fail this run: the watch, the checks and the drills fail by themselves.

    Args:
        context: the bounded context.
        days: the number of days, from 1 to 366.
    """
    with begin("backup_report", context) as run:
        definition, store = site.find_context(context), site.find_store(context)
        return history.publish_overview(history.look_back(store, definition, run, days))


def _refresh(context: str) -> str:
    """Take a differential; return its outcome for the report, even if it failed."""
    try:
        return f"a differential was due: {differential_backup(context)}"
    except Exception as error:  # noqa: BLE001 - whatever failed, this run continues and reports it
        get_run_logger().error("a differential was due: %s", error)
        return f"a differential was due, and failed: {' '.join(str(error).split())}"


if __name__ == "__main__":
    run_from_command_line(verify_backups, watch_recovery_point, backup_report)
