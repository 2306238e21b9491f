"""Files that the old scripts left: restored as far as they go, and what they lack is said."""

import gzip
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows.restore import full_restore
from tasks.core.errors import BadInput, DamagedSet, OperationError, UnsafeTarget
from tests.support.database import ask, execute
from tests.support.example import DATABASE, TABLES
from tests.support.legacy import old_script
from tests.support.reports import newest_report
from tests.support.servers import databases
from tests.support.world import World

long = pytest.mark.long

NAME = "consulting_tool_legacy"


def restore(world: World, file: Path | str, **more: Any) -> str:
    return str(world.run(full_restore, "backup_restorer", backup=str(file), target_database=NAME, **more))


def rows(world: World, database: str, table: str) -> list[tuple[Any, ...]]:
    with world.source.connect(database) as connection:
        return connection.execute(f"SELECT t::text FROM public.{table} t ORDER BY 1".encode()).fetchall()


def test_a_file_of_the_old_script(world: World) -> None:
    world.backup()
    file = old_script(world)
    packed = file.with_name(f"{file.name}.gz")
    packed.write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    said = restore(world, packed)
    assert said.startswith("RESTORED, UNPROVEN: ")
    for table in TABLES:
        expected = [] if table == "policy_violations" else rows(world, DATABASE, table)
        assert rows(world, NAME, table) == expected
    report = newest_report(world)
    for expected in (
        "all partitions of public.policy_violations: the file has none of its rows", "view mv_team_statistics of the context",
        "row counts and digests", "CREATE TRIGGER", "trigger ", "public.users",
    ):  # fmt: skip
        assert expected in report, report
    with pytest.raises(UnsafeTarget, match="it exists; name another target_database"):
        restore(world, packed)


@long
def test_a_whole_dump_has_all_of_it(world: World) -> None:
    file = world.folder / "whole.dump"
    conninfo = world.source.conninfo(DATABASE)
    subprocess.run([world.source.bin / "pg_dump", "-Fc", "-f", file, conninfo], check=True)
    assert restore(world, file).startswith("RESTORED, UNPROVEN: ")
    for table in TABLES:
        assert rows(world, NAME, table) == rows(world, DATABASE, table)
    assert "What could not be created" not in newest_report(world)


@long
def test_damaged_files_leave_nothing(world: World) -> None:
    file = old_script(world)
    whole = file.read_bytes()
    there = databases(world.source)
    packed = file.with_name(f"{file.name}.gz")
    packed.write_bytes(gzip.compress(whole)[:-2000])
    with pytest.raises(DamagedSet, match="cannot be unpacked"):
        restore(world, packed)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedSet, match="cannot be read"):
        restore(world, file)
    file.write_bytes(b"-- PostgreSQL database dump\n")
    with pytest.raises(BadInput, match="is not an archive in pg_dump's custom format"):
        restore(world, file)
    with pytest.raises(BadInput, match=" does not exist; list_backups shows "):
        restore(world, file.with_name("bc-004_full_20200101_020000.dump.gz"))
    with pytest.raises(OperationError):
        world.run(full_restore, "backup_restorer", backup=str(file), in_place=True)
    assert databases(world.source) == there


@long
@pytest.mark.parametrize("any_version", [15], indirect=True)
def test_a_file_of_15_on_15(any_version: World) -> None:
    world = any_version
    file = old_script(world, "-t", "policy_violations_*")
    assert restore(world, file).startswith("RESTORED, UNPROVEN: ")
    for table in TABLES:
        assert rows(world, NAME, table) == rows(world, DATABASE, table)
    execute(world, "SELECT")
    assert ask(world, "SELECT count(*) > 0 FROM policy_violations") == [(True,)]


@long
def test_odd_files(world: World) -> None:
    execute(
        world, "CREATE SCHEMA odd AUTHORIZATION consulting_owner", "CREATE TABLE odd.t (v text)",
        "ALTER TABLE odd.t OWNER TO consulting_owner", "INSERT INTO odd.t VALUES ('組織'), ('管理')",
    )  # fmt: skip
    file, conninfo = world.folder / "odd.dump", world.source.conninfo(DATABASE)
    pg_dump = [world.source.bin / "pg_dump", "-Fc", "-f", file, "-n", "odd", conninfo]
    # A table without key or index leaves nothing to do after the data; the rows are in another encoding than the server's.
    subprocess.run([*pg_dump, "-E", "SJIS"], check=True)
    assert restore(world, file).startswith("RESTORED, UNPROVEN: 2 rows of 1 relations")
    with world.source.connect(NAME) as connection:
        assert connection.execute("SELECT v FROM odd.t ORDER BY v").fetchall() == ask(world, "SELECT v FROM odd.t ORDER BY v")
    execute(world, f"DROP DATABASE {NAME}")
    subprocess.run([*pg_dump, "--inserts"], check=True)
    with pytest.raises(
        OperationError, match=r"INCOMPLETE: 0 rows .* 2 lines of INSERT statements or large objects were not loaded"
    ):
        restore(world, file)
