"""A restore into the live database after no damage, little damage and the violations gone: seconds by phase.

python -m benchmarks.in_place [--violations-per-year 500000]

Beside it `pg_restore -j2` of a dump of the same database into an empty one, in the same run. Machines are noisy: compare ratios.
"""

import re
import sys

import httpx

from benchmarks.main_job import bench, measure, run_seconds
from deployments.demo import DATABASE

DAMAGE = {
    "no damage": [],
    "1,000 rows changed, 200 deleted": [
        "UPDATE policy_violations_2026 SET error_message = 'wrong' WHERE id IN (SELECT id FROM policy_violations_2026 LIMIT 1000)",
        "DELETE FROM policy_violations_2026 WHERE id IN (SELECT id FROM policy_violations_2026 ORDER BY id LIMIT 200)",
    ],
    "the violations of one year gone": ["TRUNCATE policy_violations_2025"],
    "all violations gone": ["TRUNCATE policy_violations"],
}
COMMAND = ["full_restore", "--in-place", "true", "--dry-run", "false", "--confirm-database", DATABASE]


def main() -> None:
    """Measure everything and print a table."""
    with bench() as place:
        source, folder, api, ours = place.source, place.folder, place.api, place.ours
        backup = [sys.executable, "-m", "flows.backup", "daily_backup"]
        measure("daily_backup", backup, source.environment("backup_reader") | ours)
        full = next((folder / "store").glob("*/daily/*")).name
        owner = source.environment("postgres")
        dump = f"{source.bin}/pg_dump -Fc -Z0 -f {folder}/plain.dump {DATABASE}"
        measure("pg_dump", ["/bin/sh", "-c", dump], owner)
        source.create_database("bare", "consulting_owner")
        bare = measure(
            "pg_restore", ["/bin/sh", "-c", f"{source.bin}/pg_restore -j2 -d bare {folder}/plain.dump 2>/dev/null; true"], owner
        )
        print(f"pg_restore -j2 into an empty database: {bare.seconds:.1f} s", flush=True)
        for damage, statements in DAMAGE.items():
            with source.connect(DATABASE) as connection:
                for statement in statements:
                    connection.execute(statement.encode())
            argv = [sys.executable, "-m", "flows.restore", *COMMAND, "--backup", full]
            one = measure(damage, argv, source.environment("backup_restorer") | ours)
            run = run_seconds(api, "full-restore").seconds
            print(
                f"{damage}: command {one.seconds:.1f} s, run {run:.1f} s, peak {one.peak_bytes / 1e6:.0f} MB; {_phases(api)}",
                flush=True,
            )


def _phases(api: str) -> str:
    """Return the verdict and the phases of the newest report."""
    found = httpx.get(f"{api}/artifacts/bc-004-restore/latest").raise_for_status().json()
    rows = re.findall(r"^\| ([^|]+) \| +([\d.:]+ ?s?) \|$", found["data"].partition("## Phases")[2], re.MULTILINE)
    return f"{found['description'].rpartition('; ')[2]}; " + ", ".join(f"{name} {took}" for name, took in rows)


if __name__ == "__main__":
    main()
