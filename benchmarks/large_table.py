"""One large table against the same rows in ten partitions: seconds of each flow run, and peak memory of the process tree.

python -m benchmarks.large_table [--rows 5000000]

Beside each figure of the table in one piece stands how much more it is than that of the partitions: 1.0 is the same. Memory:
proportional set size of the process tree, sampled; the servers are not counted. Machines are noisy: compare ratios within a run.
"""

from argparse import ArgumentParser
from contextlib import AbstractContextManager

from benchmarks.main_job import Measured
from benchmarks.place import Place, place

LEAVES = 10
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
TABLE = "SET ROLE consulting_owner; CREATE TABLE events (id bigint NOT NULL, made_at timestamptz, kind text, body jsonb)"
FILL = """INSERT INTO events SELECT n, '2026-01-01'::timestamptz + n * interval '1 second', 'kind ' || n % 7,
            jsonb_build_object('name', md5(n::text), 'size', n % 1000) FROM generate_series(1, {rows}) AS n"""
ALONE = [TABLE, FILL, "ALTER TABLE events ADD PRIMARY KEY (id)", "VACUUM ANALYZE events"]
DIVIDED = [
    f"{TABLE} PARTITION BY RANGE (id)",
    "DO $$ BEGIN FOR n IN 0..9 LOOP EXECUTE format('CREATE TABLE events_%s PARTITION OF events FOR VALUES FROM (%s) TO (%s)', "
    "n, n * ({rows} / 10) + 1, (n + 1) * ({rows} / 10) + 1); END LOOP; END $$",
    *ALONE[1:],
]


def main() -> None:
    """Measure and print."""
    parser = ArgumentParser()
    parser.add_argument("--rows", type=int, default=5_000_000, help="a multiple of 10 (default: 5,000,000)")
    rows = parser.parse_args().rows
    divided = measured(made(DIVIDED, rows))
    for leaves, alone in zip(divided, measured(made(ALONE, rows)), strict=True):
        print(
            f"{rows:,} rows {alone.name:20} {leaves.seconds:6.1f} s in {LEAVES} partitions, {alone.seconds:6.1f} s in one "
            f"({alone.seconds / leaves.seconds:.2f} x), {alone.peak_bytes / 1e6:4.0f} MB"
        )


def made(statements: list[str], rows: int) -> AbstractContextManager[Place]:
    """Make a database with the table, an empty server, and a store."""
    return place([statement.format(rows=rows) for statement in statements], SETTINGS, tables=["events"])


def measured(made: AbstractContextManager[Place]) -> list[Measured]:
    """Run each flow once."""
    with made as there:
        return [
            there.run("flows.backup", "daily_backup", there.source, "backup_reader"),
            there.run("flows.recovery", "disaster_recovery", there.target, "backup_restorer"),
        ]


if __name__ == "__main__":
    main()
