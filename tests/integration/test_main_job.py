"""The main job: back up, lose everything, get it back equal, also from the store alone and with stock tools alone."""

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments import local
from deployments.local import LocalServer
from tests.support import PROJECT
from tests.support.example import DATABASE, OUTBOUND_KEYS, TABLES
from tests.support.faults import processes_of, shim, wait_for
from tests.support.oracle import State, capture
from tests.support.servers import databases, drop_databases
from tests.support.world import World, new_world


def test_state_before_equals_state_after(s3_world: World) -> None:
    before = s3_world.state()
    assert s3_world.backup().startswith("STORED")
    assert s3_world.recover().startswith("PASS")
    s3_world.assert_recovered(before)


# What only needs a set is tried on one set.


class StagingWatch:
    """Look at every file below a folder all the time: its mode, its folder's mode, and whether rows are readable in it."""

    def __init__(self, folder: Path, readable: list[bytes]) -> None:
        self.folder, self.readable = folder, readable
        self.modes: dict[str, set[int]] = {}
        self.folders: set[int] = set()
        self.uncompressed: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "StagingWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(0.002):
            # os.walk passes over what vanishes meanwhile; rglob would end this thread.
            for path in (Path(at) / name for at, folders, files in os.walk(self.folder) for name in (*folders, *files)):
                try:
                    mode, data = path.stat().st_mode, path.read_bytes() if path.is_file() else b""
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(mode):
                    self.folders.add(stat.S_IMODE(mode))
                else:
                    self.modes.setdefault(path.suffix, set()).add(stat.S_IMODE(mode))
                    if any(one in data for one in self.readable):
                        self.uncompressed.add(path.name)


@dataclass(frozen=True)
class Stored:
    """A folder store with the sets of two backups of one unchanged database, and what was seen meanwhile."""

    store: Path
    before: State
    sets: list[Path]
    watch: StagingWatch
    staging: list[Path]


@pytest.fixture(scope="module")
def stored(
    source: LocalServer, target: LocalServer, prefect_api: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stored]:
    """Two backups, one after the other; the database is gone afterwards."""
    folder = tmp_path_factory.mktemp("stored")
    world = new_world(source, target, prefect_api, folder)
    before = world.state()
    with world.connect() as connection:
        ids = connection.execute(
            "SELECT id::text FROM organizations UNION SELECT policy_id::text FROM policy_violations"
        ).fetchall()
    with StagingWatch(folder / "staging", [id.encode() for (id,) in ids]) as watch:
        assert world.backup().startswith("STORED")
        assert world.backup().startswith("STORED")
    drop_databases(source)
    yield Stored(folder / "store", before, world.set_folders(), watch, list((folder / "staging").rglob("*")))


def assert_equal(before: State, server: LocalServer, database: str = DATABASE) -> None:
    after = capture(server.conninfo(database), bin_dir=server.bin, tables=TABLES)
    assert before.differences(after, ignore_foreign_keys=OUTBOUND_KEYS, views="recomputed") == []
    assert after.outside == ()


@pytest.mark.long
def test_a_backup_can_be_run_again(stored: Stored) -> None:
    assert len({one.name for one in stored.sets}) == 2
    assert all((one / "manifest.json").is_file() for one in stored.sets)
    names = [sorted(path.relative_to(one).as_posix() for path in one.rglob("*")) for one in stored.sets]
    assert names[0] == names[1]


def test_staging_is_private_compressed_and_gone(stored: Stored) -> None:
    assert ".zst" in stored.watch.modes
    assert set.union(*stored.watch.modes.values()) == {0o600}
    assert stored.watch.folders == {0o700}
    assert stored.watch.uncompressed == set()
    assert stored.staging == []


def test_recovered_with_stock_tools_alone(stored: Stored, target: LocalServer, tmp_path: Path) -> None:
    text = (PROJECT / "docs" / "stock-tools.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    downloaded = tmp_path / "a set"
    shutil.copytree(stored.sets[-1], downloaded)
    zstd = Path(shutil.which("zstd") or pytest.skip("the zstd program is not installed"))
    environment = target.environment() | {
        "SET": str(downloaded),
        "NEW": "by hand",
        "PATH": f"{target.bin}:{zstd.parent}:/usr/bin:/bin",
    }
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert_equal(stored.before, target, "by hand")
        assert all(key.split(".")[1] in done.stdout for key in OUTBOUND_KEYS)
        leaf = downloaded / "data" / "policy_violations_2025.copy.zst"
        subprocess.run(
            ["bash", "-c", f"zstd -dc '{leaf}' | tail -n +2 | zstd -qfo '{leaf}'.short && mv '{leaf}'.short '{leaf}'"], check=True
        )
        again = subprocess.run(
            ["bash", "-c", block], env=environment | {"NEW": "short"}, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert again.returncode != 0
        assert "COPY 999, not 1000 rows" in again.stderr
    finally:
        drop_databases(target)


# Disaster recovery from nothing.


def bare_project(folder: Path) -> Path:
    """Copy the project without its contexts."""
    project = folder / "project"
    for name in ("flows", "tasks", "blocks", "deployments"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "contexts"))
    assert not (project / "deployments" / "contexts").exists()
    return project


def recover_from_nothing(folder: Path, store: dict[str, str], server: LocalServer, user: str, **extra: str) -> str:
    """Run disaster_recovery as on a new machine: the store, the server, and nothing else. Return what it printed."""
    (folder / "home").mkdir()
    mark = folder.name
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder / "home"), "PREFECT_HOME": str(folder / "home" / "prefect"),
        "TEST_RUN": mark, **store, **server.environment(user), **extra,
    }  # fmt: skip
    argv = [sys.executable, "-m", "flows.recovery", "disaster_recovery"]
    done = subprocess.run(
        argv, cwd=bare_project(folder), env=environment, capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    wait_for(lambda: not processes_of(mark), 20, "every process of the recovery to end")
    return said


@pytest.fixture
def empty_server() -> Iterator[LocalServer]:
    """A server just made, with nothing but a login that may create databases and roles."""
    with local.postgres() as server:
        with server.connect() as connection:
            connection.execute("CREATE ROLE rescuer LOGIN CREATEDB CREATEROLE")
        server.allow_login("rescuer")
        yield server


@pytest.mark.long
def test_recovered_from_the_store_alone(stored: Stored, empty_server: LocalServer, tmp_path: Path) -> None:
    said = recover_from_nothing(tmp_path, {"BACKUP_STORE": str(stored.store)}, empty_server, "rescuer")
    assert "PASS: " in said
    assert_equal(stored.before, empty_server)
    assert databases(empty_server) == {DATABASE}
    with empty_server.connect() as connection:
        roles = dict(connection.execute("SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname ~ '^consulting'").fetchall())
    assert roles == {"consulting_owner": False, "consulting_app": False}


@pytest.mark.long
def test_recovered_with_roles_there_and_prefect_dead(stored: Stored, target: LocalServer, tmp_path: Path) -> None:
    try:
        dead = f"http://127.0.0.1:{local.free_port()}/api"
        said = recover_from_nothing(
            tmp_path, {"BACKUP_STORE": str(stored.store)}, target, "backup_restorer", PREFECT_API_URL=dead
        )  # fmt: skip
        assert f"no Prefect server at {dead}" in said
        assert_equal(stored.before, target)
    finally:
        drop_databases(target)


# While the jobs are at work something has the name of an index, so that pg_restore fails at it; then it is gone again.
IN_THE_WAY = """
case "$*" in *--section=post-data*--jobs=[2-9]*)
  for word in "$@"; do case "$word" in
    --use-list=*) list=${{word#--use-list=}} ;;
    --dbname=*) database=${{word#--dbname=}} ;;
  esac; done
  set_aside=$(grep -m 1 ' INDEX public ' "$list" | cut -d ' ' -f 6)
  {psql} -qd "$database" -c "CREATE TABLE public.$set_aside ()" || exit 2
  {real} "$@"; code=$?
  {psql} -qd "$database" -c "DROP TABLE public.$set_aside" || exit 2
  exit $code ;;
esac"""


@pytest.mark.long
def test_what_jobs_could_not_make_beside_each_other_is_made_again(world: World) -> None:
    before = world.state()
    world.backup()
    folder = world.folder / "in-the-way"
    real, psql = (shlex.quote(str(world.target.bin / name)) for name in ("pg_restore", "psql"))
    world.extra["PG_BIN"] = str(shim(folder, world.target.bin, "pg_restore", before=IN_THE_WAY.format(real=real, psql=psql)))
    (folder / "pg_restore.go").touch()
    log = world.target.data.parent / "server.log"
    earlier = log.stat().st_size
    assert world.recover().startswith("PASS")
    # Rows that the trial of the triggers writes may be there already, too.
    assert len(re.findall(rb'ERROR:  relation "\w+" already exists', log.read_bytes()[earlier:])) == 1
    world.assert_recovered(before)
