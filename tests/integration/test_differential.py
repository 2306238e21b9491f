"""A full and a differential together are the source at the differential's snapshot, whatever happened in between."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deployments import local
from flows.backup import differential_backup, list_backups
from flows.watch import verify_backups, watch_recovery_point
from tasks.backup import relations, schema, take
from tasks.core.errors import DamagedSet
from tests.support.database import execute
from tests.support.example import DATABASE, copy_template
from tests.support.faults import Writer, wait_for
from tests.support.moments import SECONDS
from tests.support.oracle import State
from tests.support.servers import SETTINGS, databases, drop_databases
from tests.support.storm import Storm
from tests.support.world import World

long = pytest.mark.long
SEEDS = int(os.environ.get("STRESS_SEEDS", "1"))


@contextmanager
def observed(world: World) -> Iterator[list[State]]:
    """Note what the oracle sees in the snapshot of each backup that is taken in this block, while it is held."""
    seen, store_relations = list[State](), relations.store_relations

    def observing(*arguments: Any) -> Any:
        stored = store_relations(*arguments)
        seen.append(world.state(snapshot=arguments[3].name))
        return stored

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(take, "store_relations", observing)
        yield seen


def newest(world: World) -> dict[str, Any]:
    """Return the newest set as the listing shows it."""
    return dict(world.run(list_backups, "backup_reader")[0])


def notes(world: World) -> list[str]:
    return [str(row["note"]) for row in world.run(list_backups, "backup_reader")]


def weather(world: World, seed: int) -> None:
    """Storms before and after a full, each followed by a differential, under load; the last one is restored."""
    storm = Storm(world, seed)
    try:
        with Writer(world.source.conninfo(world.database), rate_per_second=100, seed=seed) as writer:
            wait_for(lambda: writer.transactions > 20, SECONDS, "load")
            storm.blow(6)
            storm.begin_lasting()
            world.backup(accept_losses=True)
            for _ in range(2):
                storm.blow(2)
                storm.end_lasting()
                storm.blow(8)
                storm.begin_lasting()
                with observed(world) as seen:
                    world.differential(accept_losses=True)
                assert newest(world)["kind"] == "differential", newest(world)["note"]
                assert world.run(verify_backups, "backup_reader").startswith("PASS")
        storm.end_lasting()
        drop_databases(world.source)
        assert world.recover().startswith("PASS")
        world.assert_recovered(seen[-1])
    finally:
        print(f"seed {seed}:", *storm.done, dict(storm.refused), sep="\n")
        storm.end_lasting()


@long
@pytest.mark.parametrize("seed", range(1, 1 + SEEDS))
@pytest.mark.parametrize("any_version", [16, 15, 18], indirect=True)
def test_storms(any_version: World, seed: int) -> None:
    weather(any_version, seed)


def differential(world: World, **parameters: Any) -> dict[str, Any]:
    """Take a differential, and return how it is listed."""
    world.differential(**parameters)
    return newest(world)


def test_only_what_changed_is_stored(world: World) -> None:
    world.backup()
    full = newest(world)
    assert differential(world)["rows"] == full["rows"]
    assert list((world.set_folders("differential")[0] / "data").glob("*")) == []

    execute(world, "DELETE FROM policy_violations_2025 WHERE ctid = '(3,1)'", "UPDATE teams SET purpose = 'x' WHERE ctid = '(0,1)'")
    before = world.state()
    listed = differential(world)
    assert (listed["kind"], listed["base"], listed["rows"]) == ("differential", full["id"], full["rows"] - 1)
    stored = {file.name for file in (world.set_folders("differential")[-1] / "data").glob("*")}
    assert stored == {
        f"{table}.{what}.zst" for table in ("teams", "policy_violations_2025") for what in ("copy", "left-out")
    }  # fmt: skip
    assert world.run(verify_backups, "backup_reader").startswith("PASS")
    assert newest(world)["state"] == "decoded"
    assert world.recover().startswith("PASS")
    world.assert_recovered(before)


@long
def test_without_a_full_one_is_taken(world: World) -> None:
    assert differential(world)["kind"] == "full"
    assert differential(world)["kind"] == "differential"


SET_UP = """
SET ROLE consulting_owner;
CREATE TYPE mood AS ENUM ('good', 'bad');
ALTER TABLE teams ADD COLUMN mood mood NOT NULL DEFAULT 'good', ADD COLUMN size varchar(3) NOT NULL DEFAULT '12';
"""
UNLIKE = {
    "a value renamed": ("ALTER TYPE mood RENAME VALUE 'bad' TO 'worse'", "type public.mood changed"),
    "a column changed": ("ALTER TABLE teams ALTER COLUMN size TYPE varchar(9)", "table public.teams changed"),
    "a column added": ("ALTER TABLE teams ADD COLUMN note text DEFAULT 'none'", "table public.teams changed"),
}  # fmt: skip


@long
@pytest.mark.parametrize("change", UNLIKE)
def test_a_text_of_rows_that_did_not_change_may_be_another(world: World, change: str) -> None:
    execute(world, SET_UP)
    world.backup()
    full = newest(world)
    statement, why = UNLIKE[change]
    execute(world, statement)
    listed = differential(world)
    assert (listed["kind"], listed["base"]) == ("full", "-")
    assert listed["note"] == f"{full['id']} cannot be the base: {why}"


LAID_OUT_ANEW = {
    "a column made again": ["ALTER TABLE teams DROP COLUMN note", "ALTER TABLE teams ADD COLUMN note text"],
    "with another default": ["ALTER TABLE teams DROP COLUMN note", "ALTER TABLE teams ADD COLUMN note text DEFAULT 'new'",
                             "ALTER TABLE teams ALTER COLUMN note DROP DEFAULT"],
    "an attribute made again": ["ALTER TYPE pair DROP ATTRIBUTE b", "ALTER TYPE pair ADD ATTRIBUTE b text"],
    "an object renamed": ["ALTER TABLE helper RENAME TO assistant"],
}  # fmt: skip


@pytest.mark.parametrize("change", [pytest.param(one, marks=long) for one in LAID_OUT_ANEW])
def test_rows_that_no_transaction_touched_may_be_others(world: World, change: str) -> None:
    used, column, value = {
        "an attribute made again": ("CREATE TYPE pair AS (a int, b text)", "note pair", "'(1,old)'"),
        "an object renamed": ("CREATE TABLE helper (id int)", "note regclass", "'helper'"),
    }.get(change, ("", "note text", "'old'"))
    execute(
        world, f"SET ROLE consulting_owner; {used}", f"ALTER TABLE teams ADD COLUMN {column}", f"UPDATE teams SET note = {value}"
    )  # fmt: skip
    world.backup()
    execute(world, "SET ROLE consulting_owner", *LAID_OUT_ANEW[change])
    before = world.state()
    assert differential(world)["kind"] == "differential"
    stored = {file.name for file in (world.set_folders("differential")[0] / "data").glob("*")}
    assert stored == {"teams.copy.zst"}
    if change == "an object renamed":
        # Whose name it is, is another's table, which has to be there first.
        return
    assert world.recover().startswith("PASS")
    world.assert_recovered(before)


@long
def test_a_standby_that_follows(world: World) -> None:
    with local.postgres(copy_of=world.source, **SETTINGS) as standby:
        allow = "host replication all all scram-sha-256\n"
        hba = world.source.data / "pg_hba.conf"
        hba.write_text(hba.read_text() + allow)
        execute(world, "SELECT pg_reload_conf()")
        login = world.source.environment()
        address = f"host={login['PGHOST']} port={login['PGPORT']} user={login['PGUSER']} password={login['PGPASSWORD']}"
        world.backup()
        with standby.connect() as connection:
            connection.execute(f"ALTER SYSTEM SET primary_conninfo = '{address}'".encode())
            connection.execute("SELECT pg_reload_conf()")

        def replayed() -> bool:
            with world.connect() as source, standby.connect() as connection:
                (position,) = source.execute("SELECT pg_current_wal_lsn()::text").fetchall()[0]
                asked = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn AND EXISTS (SELECT FROM pg_stat_wal_receiver)"
                return bool(connection.execute(asked, [position]).fetchall()[0][0])

        execute(world, "DELETE FROM policy_violations_2025 WHERE ctid = '(3,1)'")
        wait_for(replayed, SECONDS, "the standby")
        before = world.state()
        # Whose rows the primary's full has, its transactions do not say here: a server's own sets are its base.
        assert "differential" not in world.run(differential_backup, "backup_reader", standby)
        assert "this is another server now" in str(newest(world)["note"])
        assert "differential" in world.run(differential_backup, "backup_reader", standby)
        assert newest(world)["rows"] == sum(rows.count for rows in before.rows.values())
        assert world.recover().startswith("PASS")
        world.assert_recovered(before)


@long
def test_a_base_that_expires_meanwhile(world: World) -> None:
    world.backup()
    (base,) = world.set_folders()
    store_schema = schema.store_schema

    def expiring(*arguments: Any) -> Any:
        assert list(base.glob("hold-*.json"))
        (base / "manifest.json").rename(base / "expired.json")
        return store_schema(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(DamagedSet, match=f"cannot be restored without its base {base.name}"):
        patch.setattr(take, "store_schema", expiring)
        world.differential()
    assert [row["state"] for row in world.run(list_backups, "backup_reader")] == ["unfinished", "expired"]
    assert not list(base.glob("hold-*.json"))


@long
def test_another_database_of_the_same_name(world: World) -> None:
    world.backup()
    drop_databases(world.source)
    copy_template(world.source)
    listed = differential(world)
    assert (listed["kind"], "it was taken from another database" in str(listed["note"])) == ("full", True)


@long
def test_another_cluster(world: World) -> None:
    world.backup()
    drop_databases(world.source)
    world.recover()
    (owner,) = world.store_folder.glob("*/owner.json")
    owner.unlink()
    world.run(differential_backup, "backup_reader", world.target)
    listed = newest(world)
    assert (listed["kind"], "it was taken from another cluster" in str(listed["note"])) == ("full", True)


@long
def test_a_copy_of_the_cluster_that_is_behind_or_went_its_own_way(world: World) -> None:
    with local.postgres(copy_of=world.source, **SETTINGS) as copy:
        world.backup()
        full = newest(world)
        execute(world, "DELETE FROM policy_violations_2025")
        world.run(differential_backup, "backup_reader", copy)
        assert f"{full['id']} cannot be the base: this server has not reached the state of that backup" in notes(world)

        with copy.connect() as connection:
            connection.execute("SELECT pg_promote()")
        world.backup(accept_losses=True)
        with copy.connect() as connection:
            # Rows of its own, and further on in its own log than the base.
            connection.execute("SELECT pg_switch_wal() FROM generate_series(1, 3)")
        world.run(differential_backup, "backup_reader", copy)
        assert any("it was taken from another timeline" in note for note in notes(world))


@long
@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_without_its_base_it_is_nothing(world: World, harm: str) -> None:
    world.backup()
    execute(world, "DELETE FROM policy_violations_2025")
    world.differential(accept_losses=True)
    (base,) = world.set_folders()
    if harm == "gone":
        shutil.rmtree(base)
    else:
        (base / "data" / "teams.copy.zst").write_bytes(b"")
    listed = newest(world)
    assert listed["state"] == "damaged"
    assert f"its base {base.name} is missing or damaged" in str(listed["note"])
    with pytest.raises(DamagedSet, match=f"its base {base.name} is missing or damaged"):
        world.recover()
    assert databases(world.target) == set()
    # The next one has nothing to stand on, and is whole by itself.
    assert differential(world, accept_losses=True)["kind"] == "full"
    assert world.recover().startswith("PASS")


@long
def test_a_damaged_object_of_the_base_is_found_when_it_is_read(world: World) -> None:
    world.backup()
    before = world.state()
    world.backup()
    execute(world, "DELETE FROM policy_violations_2025 WHERE ctid = '(3,1)'")
    world.differential()
    part = world.set_folders()[-1] / "data" / "policy_violations_2024.copy.zst"
    harmed = bytearray(part.read_bytes())
    harmed[100] ^= 1
    part.write_bytes(harmed)
    with pytest.raises(DamagedSet, match=r"policy_violations_2024\.copy\.zst is damaged"):
        world.run(verify_backups, "backup_reader")
    # From then on everybody knows: the base is damaged, and what needs it.
    listed = [(row["kind"], row["state"]) for row in world.run(list_backups, "backup_reader")]
    assert listed == [("differential", "damaged"), ("full", "damaged"), ("full", "decoded")]
    assert "2 newer or equally new sets are damaged" in world.run(watch_recovery_point, "backup_reader", refresh=False)
    said = world.recover()
    assert said.startswith("PASS")
    world.assert_recovered(before)
    assert differential(world)["base"] == world.set_folders()[0].name
    # Mended, and looked at again, it is what it was.
    harmed[100] ^= 1
    part.write_bytes(harmed)
    assert world.run(verify_backups, "backup_reader", backup=world.set_folders()[1].name).startswith("PASS")
    assert [row["state"] for row in world.run(list_backups, "backup_reader")] == ["stored", "stored", "decoded", "decoded"]


@long
def test_restored_with_stock_tools_alone(world: World, tmp_path: Path) -> None:
    zstd = Path(shutil.which("zstd") or pytest.skip("the zstd program is not installed"))
    world.backup()
    execute(
        world, "DELETE FROM policy_violations_2025 WHERE ctid IN ('(3,1)', '(3,2)', '(9,1)')",
        "UPDATE policy_violations_2025 SET error_message = E'tab\\t, newline\\n, backslash \\\\' WHERE ctid = '(5,1)'",
        "TRUNCATE policy_scopes",
    )  # fmt: skip
    before = world.state()
    world.differential(accept_losses=True)
    shutil.copytree(world.store_folder, tmp_path / "downloaded")
    (script,) = (tmp_path / "downloaded").glob("*/differential/*/restore.sh")
    environment = world.target.environment() | {"PATH": f"{world.target.bin}:{zstd.parent}:/usr/bin:/bin"}
    done = subprocess.run(["bash", script, DATABASE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    world.assert_recovered(before)
