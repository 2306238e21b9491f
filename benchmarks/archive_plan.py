"""The plan of an archive for many due partitions, on a server that compiles queries (JIT), as Debian's do: seconds.

python -m benchmarks.archive_plan [--months 120]

How many months are due and kept no longer; each holds a few rows, so that what is measured is what is asked of the catalogue.
"""

import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path

from benchmarks.main_job import Bench, run_seconds
from deployments import local
from deployments.demo import DATABASE, make_source
from deployments.local import LocalServer
from tests.support.contexts import write_context

CONTEXT = "bc-monthly"
MONTHLY = """
SET ROLE consulting_owner;
CREATE TABLE readings (id bigint, taken_at date NOT NULL, said text, PRIMARY KEY (id, taken_at)) PARTITION BY RANGE (taken_at);
DO $$ BEGIN FOR n IN 0..{months} LOOP EXECUTE format('CREATE TABLE readings_%s PARTITION OF readings FOR VALUES FROM (%L) TO (%L)',
  to_char(date '2005-01-01' + make_interval(months => n), 'YYYY_MM'), date '2005-01-01' + make_interval(months => n),
  date '2005-01-01' + make_interval(months => n + 1)); END LOOP; END $$;
INSERT INTO readings SELECT n, date '2005-01-01' + n % (28 * {months}), 'x' FROM generate_series(1, 20000) AS n;
"""
PLAN = "import sys; from pathlib import Path; from tasks.run import site; site.CONTEXTS = Path(sys.argv[1]); " \
    "from flows.partitions import archive_partitions; archive_partitions(context=sys.argv[2])"  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = ArgumentParser()
    parser.add_argument("--months", type=int, default=120)
    parser.add_argument("--project", type=Path, action="append", help="another copy of this project, to measure beside it")
    arguments = parser.parse_args()
    here = Path(__file__).parents[1]
    with (
        tempfile.TemporaryDirectory(prefix="backup-benchmark-") as name,
        local.postgres(jit="on") as source,
        local.prefect_server() as api,
    ):
        folder = Path(name)
        make_monthly(source, folder, arguments.months)
        (folder / "store").mkdir()
        ours = {"BACKUP_STORE": str(folder / "store"), "BACKUP_STAGING": str(folder / "staging"), "PREFECT_API_URL": api}
        place = Bench(source, folder, api, ours, vars(arguments))
        for project in [*(arguments.project or []), here]:
            print(f"{project.name}: {plan_seconds(place, project):.1f} s, {arguments.months} partitions due", flush=True)


def make_monthly(source: LocalServer, folder: Path, months: int) -> None:
    """Have the example database with a table of so many months that are all due but the last, and a context that says so."""
    make_source(source, 1000)
    with source.connect(DATABASE) as connection:
        connection.execute(MONTHLY.format(months=months).encode())
    rule = {"table": "readings", "column": "taken_at", "period": "month", "name": "readings_{year}_{month:02}", "keep": "1 month"}
    write_context(folder / "contexts", name=CONTEXT, database=DATABASE, tables=["readings"], partitions=[rule])


def plan_seconds(place: Bench, project: Path) -> float:
    """Return how long the flow run of a plan took, without starting Python and importing Prefect."""
    environment = {**os.environ, **place.source.environment("backup_restorer"), **place.ours, "PYTHONPATH": str(project)}
    argv = [sys.executable, "-c", PLAN, str(place.folder / "contexts"), CONTEXT]
    subprocess.run(argv, env=environment, cwd=project, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return run_seconds(place.api, "archive-partitions").seconds


if __name__ == "__main__":
    main()
