"""Differentials against the full of the same run: seconds, bytes and database time after few and many changes.

python -m benchmarks.differential [--violations-per-year 500000]

The changes add up: each differential is against the one full at the beginning. Database time is what PostgreSQL says that
statements took in all sessions (pg_stat_database.active_time). Machines are noisy: compare ratios within a run.
"""

import sys
from collections.abc import Iterator

from benchmarks.main_job import SETTINGS, Bench, Measured, bench, measure, run_seconds, tree_bytes
from deployments import local
from deployments.demo import DATABASE, make_logins
from deployments.local import LocalServer

CHANGES = {
    "no change": [],
    "1,000 rows changed and 200 deleted, in this year and the small tables": [
        "UPDATE policy_violations_2026 SET status = 'resolved', resolved_at = detected_at + interval '1 hour' "
        "WHERE id IN (SELECT id FROM policy_violations_2026 ORDER BY random() LIMIT 800)",
        "UPDATE teams SET purpose = 'changed' WHERE id IN (SELECT id FROM teams ORDER BY random() LIMIT 50)",
        "UPDATE organization_members SET role_in_unit = 'changed' "
        "WHERE id IN (SELECT id FROM organization_members ORDER BY random() LIMIT 150)",
        "DELETE FROM policy_violations_2026 WHERE id IN (SELECT id FROM policy_violations_2026 ORDER BY random() LIMIT 200)",
    ],
    "100,000 rows inserted and changed, in this year": [
        "INSERT INTO policy_violations_2026 SELECT (jsonb_populate_record(v, jsonb_build_object('id', gen_random_uuid()))).* "
        "FROM policy_violations_2026 v LIMIT 90000",
        "UPDATE policy_violations_2026 SET error_message = 'changed' "
        "WHERE id IN (SELECT id FROM policy_violations_2026 ORDER BY random() LIMIT 10000)",
    ],
    "worst: 1,200 rows changed, spread over every leaf": [
        "UPDATE policy_violations SET error_message = 'changed' "
        "WHERE id IN (SELECT id FROM policy_violations TABLESAMPLE BERNOULLI (0.04))"
    ],
    "worst: 100,000 rows changed, spread over every leaf": [
        "UPDATE policy_violations SET error_message = 'changed again' "
        "WHERE id IN (SELECT id FROM policy_violations TABLESAMPLE BERNOULLI (3.3))"
    ],
}  # fmt: skip
ACTIVE = "SELECT active_time / 1000 FROM pg_stat_database WHERE datname = %s"


def main() -> None:
    """Measure everything and print a table."""
    with bench() as place, local.postgres(**SETTINGS) as target:
        make_logins(target)
        print(f"{'':72} {'command':>9} {'run':>7} {'database':>9} {'stored':>10} {'peak':>7}")
        for one, run, active in differentials(place, target):
            print(
                f"{one.name:72} {one.seconds:7.1f} s {run:5.1f} s {active:7.1f} s "
                f"{one.stored_bytes / 1e6:7.2f} MB {one.peak_bytes / 1e6:4.0f} MB",
                flush=True,
            )


def differentials(place: Bench, target: LocalServer) -> Iterator[tuple[Measured, float, float]]:
    """Measure a full, a differential after each change, and the recovery of the last; seconds of command, run and database."""
    source, folder, api, ours = place.source, place.folder, place.api, place.ours
    reader, restorer = source.environment("backup_reader") | ours, target.environment("backup_restorer") | ours

    def taken(name: str, flow: str) -> tuple[Measured, float, float]:
        stored, active = tree_bytes(folder / "store"), _active(source)
        one = measure(name, [sys.executable, "-m", "flows.backup", flow], reader)
        grown = Measured(name, one.seconds, one.peak_bytes, tree_bytes(folder / "store") - stored)
        return grown, run_seconds(api, flow.replace("_", "-")).seconds, _active(source) - active

    yield taken("full", "daily_backup")
    for name, statements in CHANGES.items():
        with source.connect(DATABASE) as connection:
            for statement in statements:
                connection.execute(statement.encode())
        yield taken(name, "differential_backup")
    recovered = measure("recovery of the last", [sys.executable, "-m", "flows.recovery", "disaster_recovery"], restorer)
    yield recovered, run_seconds(api, "disaster-recovery").seconds, 0


def _active(server: LocalServer) -> float:
    with server.connect() as connection:
        return float(connection.execute(ACTIVE, [DATABASE]).fetchall()[0][0])


if __name__ == "__main__":
    main()
