"""Archiving one large partition, and bringing it back, while users read and write: seconds, and how long the slowest of them took.

python -m benchmarks.archive [--violations-per-year 500000]

Beside it a plain SELECT count(*) of the partition, which the transaction that drops it has to make under its lock.
"""

import sys
import time
from functools import partial

from benchmarks.main_job import bench, measure
from deployments.demo import DATABASE
from tests.support.traffic import Traffic, traffic

USERS = {
    "readers of users": "SELECT count(*) FROM users",
    "writers of users": "UPDATE users SET name = name WHERE id = (SELECT min(id::text)::uuid FROM users)",
    "writers of another partition": "UPDATE policy_violations SET error_message = error_message "
    "WHERE id = (SELECT id FROM policy_violations_2026 LIMIT 1) AND detected_at >= '2026-01-01'",
    "readers of another partition": "SELECT count(*) FROM policy_violations WHERE detected_at >= '2026-12-01'",
}
RESOLVED = "UPDATE policy_violations SET status = 'resolved', resolved_at = detected_at WHERE status = 'active'"


def main() -> None:
    """Measure and print."""
    with bench() as place:
        source, ours = place.source, place.ours
        with source.connect(DATABASE) as connection:
            connection.execute("DROP TABLE policy_violations_2021")
            connection.execute(RESOLVED)
            connection.execute("VACUUM ANALYZE policy_violations")
            started = time.monotonic()
            (rows,) = connection.execute("SELECT count(*) FROM policy_violations_2022").fetchone() or (0,)
            print(f"{rows:,} rows; count(*) alone {time.monotonic() - started:.2f} s", flush=True)
        users = partial(traffic, partial(source.connect, DATABASE), USERS.values())
        with users() as seen:
            # What the same statements take when nothing else runs.
            time.sleep(5)
        print(_line("nothing but users", 5, 0, seen), flush=True)
        for what, words in {
            "archive_partitions": ["archive_partitions", "--dry-run", "false", "--confirm-database", DATABASE],
            "reattach_partition": ["reattach_partition", "--year", "2022"],
        }.items():
            argv = [sys.executable, "-m", "flows.partitions", *words]
            with users() as seen:
                one = measure(what, argv, source.environment("backup_restorer") | ours)
            print(_line(what, one.seconds, one.peak_bytes, seen), flush=True)


def _line(what: str, seconds: float, peak_bytes: int, seen: Traffic) -> str:
    waits = ", ".join([*(f"{name} {seen.slowest[text]:.2f} s" for name, text in USERS.items()), *seen.errors])
    return f"{what}: {seconds:.1f} s, peak {peak_bytes / 1e6:.0f} MB; slowest statement: {waits}"


if __name__ == "__main__":
    main()
