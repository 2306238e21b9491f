"""Memory that does not grow with the data, no plain rows on disk, and a row of 50 MB."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments import local
from deployments.local import LocalServer
from tests.support import moments
from tests.support.example import DATABASE, TEMPLATE, make_template
from tests.support.faults import MemoryWatch, wait_for
from tests.support.moments import SECONDS, Gates, make_big_row, staged
from tests.support.servers import SMALL, drop_databases, prepare
from tests.support.world import World

ZSTD = b"\x28\xb5\x2f\xfd"
SECRET = "合言葉 4711 しんぼう"
LONGEST_SECONDS = 900


@pytest.fixture
def held(world: World) -> Iterator[Gates]:
    with moments.gates(world) as built:
        yield built


@pytest.mark.long
def test_staging_is_private_and_holds_no_plain_rows(held: Gates) -> None:
    """A sentence is put into each kind of text column, and looked for in all that lies on the disk."""
    world = held.world
    with world.connect() as connection:
        connection.execute("UPDATE teams SET purpose = %s", (SECRET,))
        connection.execute("UPDATE policy_violations SET error_message = %s WHERE detected_at > '2024-01-01'", (SECRET,))
    make_big_row(world)
    held.close("pg_dump")
    held.close("pg_restore")
    held.start("backup", "daily_backup")
    held.wait_for("pg_dump")
    held.open("pg_dump")
    # The list of what the set restores is made before the first row is read.
    held.wait_for("pg_restore")
    assert_private(world, packed=0)
    held.source.throttle(400_000)
    held.open("pg_restore")
    wait_for(lambda: [file for file in staged(world) if file.suffix == ".zst" and file.stat().st_size], SECONDS, "rows on disk")
    assert_private(world, packed=1)
    held.source.pass_through()
    assert held.flow.wait() == 0, held.flow.said
    assert staged(world) == []

    held.close("pg_restore", only="--dbname")
    held.start("recovery", "disaster_recovery")
    held.wait_for("pg_restore")
    assert_private(world, packed=11)
    held.open("pg_restore")
    assert held.flow.wait() == 0, held.flow.said
    assert staged(world) == []


def assert_private(world: World, packed: int) -> None:
    """Look at everything that a run has on disk now, its store included."""
    files = [file for file in [*staged(world), *world.store_folder.rglob("*")] if file.is_file()]
    data = [file for file in staged(world) if ".copy.zst" in file.name]
    assert len(data) >= packed
    assert all(file.read_bytes()[:4] in (ZSTD, b"") for file in data)
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []
    folders = [one for one in staged(world) if one.is_dir()]
    assert {oct(stat.S_IMODE(one.stat().st_mode)) for one in folders} == {"0o700"}
    assert {oct(stat.S_IMODE(one.stat().st_mode)) for one in files} == {"0o600"}


@pytest.mark.long
def test_row_of_50_megabytes_passes(world: World) -> None:
    make_big_row(world, megabytes=50)
    before = world.state()
    assert world.backup().startswith("STORED")
    assert world.recover().startswith("PASS")
    world.assert_recovered(before)


@pytest.mark.long
def test_memory_does_not_grow_with_the_rows(prefect_api: str, target: LocalServer, folder: Path) -> None:
    """Half a million violations and 2 millions; the store is a folder, Prefect's server is outside of the tree that is watched."""
    with local.postgres(**SMALL) as source:
        prepare(source)
        peaks = [measure(source, target, folder / str(rows), prefect_api, rows) for rows in (500_000, 2_000_000)]
    print(json.dumps(peaks))
    for flow, small in peaks[0].items():
        assert peaks[1][flow] < 1.1 * small, f"{flow}: {small} bytes, {peaks[1][flow]} for four times the rows"


def measure(source: LocalServer, target: LocalServer, folder: Path, api: str, rows: int) -> dict[str, int]:
    """Back up and recover so many rows; return the peak of each flow's process tree in bytes."""
    (folder / "store").mkdir(parents=True)
    make_template(source, violations_per_year=rows // 6)
    with source.connect() as connection:
        connection.execute(f"ALTER DATABASE {TEMPLATE} RENAME TO {DATABASE}")
    world = World(source, target, folder, api, {"BACKUP_STORE": str(folder / "store")}, extra={"BACKUP_JOBS": "2"})
    try:
        backup = watch(world, "backup", "daily_backup", "backup_reader", source)
        return {"backup": backup, "recovery": watch(world, "recovery", "disaster_recovery", "backup_restorer", target)}
    finally:
        drop_databases(source)
        drop_databases(target)


def watch(world: World, module: str, flow: str, user: str, server: LocalServer) -> int:
    with world.start(module, flow, user, server) as process, MemoryWatch(process.pid) as memory:
        said, _ = process.communicate(timeout=LONGEST_SECONDS)
    assert process.returncode == 0, said[-3000:]
    return memory.peak_bytes
