"""Tables of very many partitions: seconds of each flow run, milliseconds a partition, and peak memory of the process tree.

python -m benchmarks.partitions [--partitions 300 --partitions 1500 --partitions 5000]

Each partition is a month and holds a few rows, so that what is measured is what a partition costs. Beside each figure stands
how much more it is than that of the size before, for as many partitions: 1.0 is in proportion. Memory: proportional set size of the
process tree, sampled; the servers are not counted. Machines are noisy: compare ratios within a run.
"""

import json
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.main_job import Measured, measure, run_seconds
from deployments import local
from deployments.demo import DATABASE, make_logins, make_source
from deployments.local import LocalServer
from tests.support.contexts import write_context

CONTEXT = "bc-monthly"
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
FLOW = "import sys, json; from importlib import import_module; from pathlib import Path; from tasks.run import site; " \
    "site.CONTEXTS = Path(sys.argv[1]); getattr(import_module(sys.argv[2]), sys.argv[3])(**json.loads(sys.argv[4]))"  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Two servers, a folder, and what leads flows there."""

    source: LocalServer
    target: LocalServer
    folder: Path
    api: str

    def run(self, module: str, flow: str, server: LocalServer, user: str, **parameters: object) -> Measured:
        """Run a flow in a process of its own; return the seconds of its run alone, and its peak memory."""
        ours = {
            "BACKUP_STORE": str(self.folder / "store"), "BACKUP_STAGING": str(self.folder / "staging"), "PREFECT_API_URL": self.api
        }  # fmt: skip
        said = json.dumps({"context": CONTEXT} | parameters)
        argv = [sys.executable, "-c", FLOW, str(self.folder / "contexts"), module, flow, said]
        peak = measure(flow, argv, server.environment(user) | ours).peak_bytes
        return Measured(flow, run_seconds(self.api, flow.replace("_", "-")).seconds, peak)


def main() -> None:
    """Measure and print."""
    parser = ArgumentParser()
    parser.add_argument("--partitions", type=int, action="append", help=f"how many; several times, growing (default: {SIZES})")
    sizes = sorted(parser.parse_args().partitions or SIZES)
    before = dict[str, tuple[int, float]]()
    for count in sizes:
        with place(count) as there:
            for one in measured(there):
                was, seconds = before.get(one.name, (count, one.seconds))
                growth = one.seconds / count / (seconds / was)
                print(
                    f"{count:6,} {one.name:22} {one.seconds:7.1f} s {1000 * one.seconds / count:7.1f} ms each ({growth:.1f} x) "
                    f"{one.peak_bytes / 1e6:5.0f} MB",
                    flush=True,
                )
                before[one.name] = count, one.seconds


@contextmanager
def place(count: int) -> Iterator[Place]:
    """Make a database of so many partitions, an empty server, and a store."""
    with (
        tempfile.TemporaryDirectory(prefix="backup-benchmark-") as name,
        local.postgres(**SETTINGS) as source,
        local.postgres(**SETTINGS) as target,
        local.prefect_server() as api,
    ):
        folder = Path(name)
        (folder / "store").mkdir()
        make_logins(target)
        make_source(source, 1000)
        with source.connect(DATABASE) as connection:
            connection.execute(TABLE.encode())
            # Not all at once, which would take a lock for each.
            for since in range(0, count, AT_ONCE):
                connection.execute(MAKE.format(since=since, until=min(since + AT_ONCE, count) - 1).encode())
        rule = {
            "table": "readings",
            "column": "taken_at",
            "period": "month",
            "name": "readings_{year}_{month:02}",
            "keep": "1 month",
        }
        write_context(folder / "contexts", name=CONTEXT, database=DATABASE, tables=["readings"], partitions=[rule])
        yield Place(source, target, folder, api)


def measured(there: Place) -> Iterator[Measured]:
    """Run each flow once."""
    yield there.run("flows.backup", "daily_backup", there.source, "backup_reader")
    yield there.run("flows.backup", "differential_backup", there.source, "backup_reader")
    yield there.run("flows.partitions", "archive_partitions", there.source, "backup_restorer")
    yield there.run("flows.partitions", "create_partitions", there.source, "backup_restorer")
    yield there.run("flows.recovery", "disaster_recovery", there.target, "backup_restorer")


if __name__ == "__main__":
    main()
