"""Tables of very many partitions: seconds of each flow run, milliseconds a partition, and peak memory of the process tree.

python -m benchmarks.partitions [--partitions 300 --partitions 1500 --partitions 5000]

Each partition is a month and holds a few rows, so that what is measured is what a partition costs. Beside each figure stands
how much more it is than that of the size before, for as many partitions: 1.0 is in proportion. Memory: proportional set size of the
process tree, sampled; the servers are not counted. Machines are noisy: compare ratios within a run.
"""

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import AbstractContextManager

from benchmarks.main_job import Measured
from benchmarks.place import Place, place

SIZES = [300, 1500, 5000]
# Whoever has so many partitions has room for their locks.
SETTINGS = {"max_locks_per_transaction": "512", "shared_buffers": "256MB"}
TABLE = """
SET ROLE consulting_owner;
CREATE TABLE readings (id bigint, taken_at date NOT NULL, said text, PRIMARY KEY (id, taken_at)) PARTITION BY RANGE (taken_at);
CREATE INDEX ON readings (said);
"""
AT_ONCE = 500
MAKE = """DO $$ DECLARE first date; BEGIN FOR n IN {since}..{until} LOOP
  first := date '2026-01-01' - make_interval(months => n);
  EXECUTE format('CREATE TABLE readings_%s PARTITION OF readings FOR VALUES FROM (%L) TO (%L)',
                 to_char(first, 'YYYY_MM'), first, (first + interval '1 month')::date);
  EXECUTE format('INSERT INTO readings SELECT n, %L, ''x'' FROM generate_series(1, 5) AS n', first); END LOOP; END $$"""


def main() -> None:
    """Measure and print."""
    parser = ArgumentParser()
    parser.add_argument("--partitions", type=int, action="append", help=f"how many; several times, growing (default: {SIZES})")
    sizes = sorted(parser.parse_args().partitions or SIZES)
    before = dict[str, tuple[int, float]]()
    for count in sizes:
        with made(count) as there:
            for one in measured(there):
                was, seconds = before.get(one.name, (count, one.seconds))
                growth = one.seconds / count / (seconds / was)
                print(
                    f"{count:6,} {one.name:22} {one.seconds:7.1f} s {1000 * one.seconds / count:7.1f} ms each ({growth:.1f} x) "
                    f"{one.peak_bytes / 1e6:5.0f} MB",
                    flush=True,
                )
                before[one.name] = count, one.seconds


def made(count: int) -> AbstractContextManager[Place]:
    """Make a database of so many partitions, an empty server, and a store."""
    # Not all at once, which would take a lock for each.
    fills = [MAKE.format(since=since, until=min(since + AT_ONCE, count) - 1) for since in range(0, count, AT_ONCE)]
    rule = {"table": "readings", "column": "taken_at", "period": "month", "name": "readings_{year}_{month:02}", "keep": "1 month"}
    return place([TABLE, *fills], SETTINGS, tables=["readings"], partitions=[rule])


def measured(there: Place) -> Iterator[Measured]:
    """Run each flow once."""
    yield there.run("flows.backup", "daily_backup", there.source, "backup_reader")
    yield there.run("flows.backup", "differential_backup", there.source, "backup_reader")
    yield there.run("flows.partitions", "archive_partitions", there.source, "backup_restorer")
    yield there.run("flows.partitions", "create_partitions", there.source, "backup_restorer")
    yield there.run("flows.recovery", "disaster_recovery", there.target, "backup_restorer")


if __name__ == "__main__":
    main()
