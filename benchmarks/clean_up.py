"""Cleaning up many old rows while users read and write: seconds, memory, and how long the slowest of the users took.

python -m benchmarks.clean_up [--violations-per-year 1000] [--old-members 100000]

Beside it one DELETE of as many rows, triggers included, which archives nothing.
"""

import sys
import time
from functools import partial

from benchmarks.main_job import bench, measure
from deployments.demo import DATABASE
from tests.support.traffic import traffic

USERS = {
    "readers of members": "SELECT count(*) FROM organization_members WHERE status = 'active'",
    "writers of members": "UPDATE organization_members SET role_in_unit = role_in_unit "
    "WHERE id = (SELECT id FROM organization_members WHERE status = 'active' LIMIT 1)",
}
# Each old member is another user's, of the same unit.
MAKE = """
INSERT INTO users (id, email, name) SELECT md5('old ' || n)::uuid, 'old-' || n || '@example.invalid', 'old ' || n
FROM generate_series(1, %s) AS n;
"""
JOIN = """
INSERT INTO organization_members (organization_id, unit_id, user_id, status, joined_at, left_at)
SELECT m.organization_id, m.unit_id, md5('old ' || n)::uuid, 'inactive', '2019-01-01', '2020-01-01'
FROM (SELECT organization_id, unit_id FROM organization_members LIMIT 1) AS m, generate_series(1, %s) AS n
"""
OLD = "status = 'inactive' AND left_at = '2020-01-01'"


def main() -> None:
    """Measure and print."""
    with bench(("--old-members", 100_000)) as place:
        source, ours = place.source, place.ours
        with source.connect(DATABASE) as connection:
            for statement in (MAKE, JOIN):
                connection.execute(statement.encode(), [place.more["old_members"]])
            connection.execute("VACUUM ANALYZE organization_members")
            started = time.monotonic()
            with connection.transaction(force_rollback=True):
                rows = connection.execute(f"DELETE FROM organization_members WHERE {OLD}".encode()).rowcount
            print(f"DELETE of {rows:,} rows alone: {time.monotonic() - started:.1f} s", flush=True)
        argv = [sys.executable, "-m", "flows.retention", "clean_up_old_data"]
        environment = source.environment("backup_restorer") | ours
        for what, words in {"plan": [], "clean-up": ["--dry-run", "false", "--confirm-database", DATABASE]}.items():
            with traffic(partial(source.connect, DATABASE), USERS.values()) as seen:
                one = measure(what, argv + words, environment)
            waits = ", ".join([*(f"{name} {seen.slowest[text]:.2f} s" for name, text in USERS.items()), *seen.errors])
            print(f"{what}: {one.seconds:.1f} s, peak {one.peak_bytes / 1e6:.0f} MB; slowest statement: {waits}", flush=True)


if __name__ == "__main__":
    main()
