"""Full backup and recovery against the ways that it replaces, in one run on one machine: seconds, bytes, peak memory.

python -m benchmarks.main_job [--violations-per-year 500000]

Compared with `pg_dump -Fc -Z0 | zstd -3 -T2`, with the document's way made complete (`pg_dump -Fc`, gzip, copy) and with
`pg_restore -j2`. Store: a folder, so that the network is nobody's advantage. Memory: proportional set size of the process
tree, sampled; the servers are not counted. Machines are noisy: compare ratios within a run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from deployments import local
from deployments.demo import DATABASE, make_logins, make_source
from deployments.local import LocalServer
from tests.support.faults import MemoryWatch

PROJECT = Path(__file__).parents[1]
SETTINGS = {"shared_buffers": "512MB"}


@dataclass(frozen=True)
class Measured:
    """What one way took."""

    name: str
    seconds: float
    peak_bytes: int
    stored_bytes: int = 0


def measure(name: str, argv: list[str], environment: dict[str, str], stored: Path | None = None) -> Measured:
    """Run a command to its end, watching its process tree."""
    started = time.monotonic()
    with subprocess.Popen(argv, env={**os.environ, **environment}, cwd=PROJECT, stdout=subprocess.DEVNULL) as process:
        with MemoryWatch(process.pid) as watch:
            code = process.wait()
        seconds = time.monotonic() - started
    if code:
        sys.exit(f"{name} failed with exit code {code}")
    return Measured(name, seconds, watch.peak_bytes, tree_bytes(stored) if stored else 0)


def tree_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder."""
    return sum(one.stat().st_size for one in ([path] if path.is_file() else path.rglob("*")) if one.is_file())


@dataclass(frozen=True)
class Bench:
    """A server with the example database, a folder store, and what leads flows there."""

    source: LocalServer
    folder: Path
    api: str
    ours: dict[str, str]
    more: dict[str, int]


@contextmanager
def bench(*more: tuple[str, int]) -> Iterator[Bench]:
    """Make a bench with as many violations a year as the command line says, and what `more` names with its default."""
    parser = ArgumentParser()
    for name, default in (("--violations-per-year", 500_000), *more):
        parser.add_argument(name, type=int, default=default)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="backup-benchmark-") as name,
        local.postgres(**SETTINGS) as source,
        local.prefect_server() as api,
    ):
        folder = Path(name)
        make_source(source, arguments.violations_per_year)
        (folder / "store").mkdir()
        ours = {"BACKUP_STORE": str(folder / "store"), "BACKUP_STAGING": str(folder / "staging"), "PREFECT_API_URL": api}
        yield Bench(source, folder, api, ours, vars(arguments))


def main() -> None:
    """Measure everything and print a table."""
    with bench() as place, local.postgres(**SETTINGS) as target:
        make_logins(target)
        for one in [*backups(place), *recoveries(place, target)]:
            print(f"{one.name:60} {one.seconds:7.1f} s {one.peak_bytes / 1e6:6.0f} MB peak {one.stored_bytes / 1e6:8.1f} MB stored")


def backups(place: Bench) -> list[Measured]:
    """Measure the backups; the sets stay in the folder."""
    source, folder, api, ours = place.source, place.folder, place.api, place.ours
    reader = source.environment("backup_reader")
    dump = f"{source.bin}/pg_dump --exclude-table=users"
    zstd = f"{dump} -Fc -Z0 {DATABASE} | zstd -q -3 -T2 -o {folder}/fast.zst"
    document = f"{dump} -Fc -f {folder}/doc.dump {DATABASE} && gzip {folder}/doc.dump && cp {folder}/doc.dump.gz {folder}/copy.gz"
    warm = measure("(warm-up)", ["/bin/sh", "-c", f"{dump} {DATABASE} > /dev/null"], reader)
    return [
        warm,
        measure("pg_dump -Fc -Z0 | zstd -3 -T2", ["/bin/sh", "-c", zstd], reader, folder / "fast.zst"),
        measure("daily_backup", [sys.executable, "-m", "flows.backup", "daily_backup"], reader | ours, folder / "store"),
        run_seconds(api, "daily-backup"),
        measure("document's way: pg_dump -Fc, gzip, copy", ["/bin/sh", "-c", document], reader, folder / "copy.gz"),
    ]


def recoveries(place: Bench, target: LocalServer) -> list[Measured]:
    """Measure the recovery, with all its comparisons, against a bare pg_restore."""
    folder, api, ours = place.folder, place.api, place.ours
    owner = target.environment("postgres")
    plain = folder / "plain.dump"
    subprocess.run(["zstd", "-q", "-d", folder / "fast.zst", "-o", plain], check=True)
    shutil.rmtree(folder / "staging", ignore_errors=True)
    target.create_database("bare", "consulting_owner")
    bare = f"{target.bin}/pg_restore -j2 -d bare {plain} 2>{folder}/complaints; true"
    restorer = target.environment("backup_restorer")
    recovery = [sys.executable, "-m", "flows.recovery", "disaster_recovery"]
    return [
        measure("pg_restore -j2", ["/bin/sh", "-c", bare], owner),
        measure("disaster_recovery, every comparison included", recovery, restorer | ours),
        run_seconds(api, "disaster-recovery"),
    ]


def run_seconds(api: str, flow: str) -> Measured:
    """Return how long the flow run itself took, without starting Python and importing Prefect."""
    asked = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_DESC", "limit": 1}
    run = httpx.post(f"{api}/flow_runs/filter", json=asked).raise_for_status().json()[0]
    return Measured(f"    the flow run alone ({flow})", float(run["total_run_time"]), 0)


if __name__ == "__main__":
    main()
