"""Archiving one large partition, and bringing it back, while users read and write: seconds, and how long the slowest of them took.

python -m benchmarks.archive [--violations-per-year 500000]

Beside it a plain SELECT count(*) of the partition, which the transaction that drops it has to make under its lock.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.main_job import bench, measure
from deployments.demo import DATABASE
from deployments.local import LocalServer

USERS = {
    "readers of users": "SELECT count(*) FROM users",
    "writers of users": "UPDATE users SET name = name WHERE id = (SELECT min(id::text)::uuid FROM users)",
    "writers of another partition": "UPDATE policy_violations SET error_message = error_message "
    "WHERE id = (SELECT id FROM policy_violations_2026 LIMIT 1) AND detected_at >= '2026-01-01'",
    "readers of another partition": "SELECT count(*) FROM policy_violations WHERE detected_at >= '2026-12-01'",
}
RESOLVED = "UPDATE policy_violations SET status = 'resolved', resolved_at = detected_at WHERE status = 'active'"


@contextmanager
def traffic(server: LocalServer) -> Iterator[dict[str, float]]:
    """Run each statement every 50 ms; give the seconds of the slowest, without what it takes when nothing else runs."""
    slowest, stop = dict.fromkeys(USERS, 0.0), threading.Event()

    def run(what: str, statement: str) -> None:
        with server.connect(DATABASE) as connection:
            while not stop.wait(0.05):
                started = time.monotonic()
                connection.execute(statement.encode())
                slowest[what] = max(slowest[what], time.monotonic() - started)

    threads = [threading.Thread(target=run, args=one) for one in USERS.items()]
    for one in threads:
        one.start()
    yield slowest
    stop.set()
    for one in threads:
        one.join()


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
        with traffic(source) as slowest:
            time.sleep(5)
        print(_line("nothing but users", 5, 0, slowest), flush=True)
        for what, words in {
            "archive_partitions": ["archive_partitions", "--dry-run", "false", "--confirm-database", DATABASE],
            "reattach_partition": ["reattach_partition", "--year", "2022"],
        }.items():
            argv = [sys.executable, "-m", "flows.partitions", *words]
            with traffic(source) as slowest:
                one = measure(what, argv, source.environment("backup_restorer") | ours)
            print(_line(what, one.seconds, one.peak_bytes, slowest), flush=True)


def _line(what: str, seconds: float, peak_bytes: int, slowest: dict[str, float]) -> str:
    waits = ", ".join(f"{name} {took:.2f} s" for name, took in slowest.items())
    return f"{what}: {seconds:.1f} s, peak {peak_bytes / 1e6:.0f} MB; slowest statement: {waits}"


if __name__ == "__main__":
    main()
