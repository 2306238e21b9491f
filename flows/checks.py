"""Integrity checks of the live database.

Needs the database (a role that may read it), which it does not change, and the store, where it
records the results.
By hand: python -m flows.checks integrity_check
"""

from flows.command_line import run_from_command_line
from tasks.checks import integrity, partitions, witness
from tasks.checks.report import publish_checks
from tasks.core.run.limits import Seconds
from tasks.database import logins
from tasks.run.run import begin, operation
from tasks.run.site import find_site


@operation("integrity-check {context}")
def integrity_check(context: str = "bc-004", timeout_seconds: Seconds = 600) -> str:
    """Run every integrity check of a context; publish violations; fail on those of severity error.

    Args:
        context: the bounded context to check.
        timeout_seconds: the time limit of one check.
    """
    with begin("integrity_check", context) as run:
        site = find_site(context, "reader")
        loader, reason = logins.loader_or_reason(site, run)
        place, seconds = (site.server, site.database, run, site.context), timeout_seconds
        findings = integrity.run_checks(*place, site.files, seconds, run.started, loader, reason)
        findings += witness.compare_with_newest_backup(*place, site.store, seconds, loader)
        compared, rotation = partitions.compare_past_partitions(*place, site.store, seconds)
        return publish_checks(site, run, [*findings, *compared], rotation)


if __name__ == "__main__":
    run_from_command_line(integrity_check)
