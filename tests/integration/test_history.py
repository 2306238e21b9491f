"""Rows of another history are never taken for those of this one: clones, directories that are put back, restarts, crashes."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partialmethod
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.sql import SQL

from deployments import local
from deployments.local import LocalServer, wheel_bin
from flows.backup import daily_backup, differential_backup, list_backups
from flows.restore import full_restore, table_restore
from flows.watch import verify_backups, watch_recovery_point
from tasks.backup import take
from tasks.core import sql
from tasks.core.errors import BadInput, DamagedSet, OperationError
from tasks.core.postgres.connection import Server
from tasks.core.run import clock
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.manifest_file import parse_manifest
from tasks.database.snapshot import Snapshot
from tasks.in_place import safety_set
from tests.support.adoption import adopt
from tests.support.archives import ONE_YEAR_IS_DUE, RESOLVED, ROW, archive, archives, reattach
from tests.support.clock import at, later
from tests.support.database import ask, execute
from tests.support.example import CONTEXT, DATABASE, copy_template, make_template
from tests.support.faults import wait_for
from tests.support.moments import SECONDS
from tests.support.retention import prune
from tests.support.servers import DEBIAN_15, SETTINGS, drop_databases, prepare
from tests.support.world import World

pytestmark = pytest.mark.long
TEAM = "(SELECT min(id::text)::uuid FROM teams)"
# With asynchronous commit, and a WAL writer that sleeps as long as it may, a crash loses what was committed.
ASYNCHRONOUS = {"synchronous_commit": "off", "wal_writer_delay": "10s", "autovacuum": "off"}


@dataclass
class Machine:
    """A PostgreSQL server that is started and stopped again at one port, and whose data directory is a thing to copy."""

    folder: Path
    port: int
    bin: Path

    @contextmanager
    def on(self, **settings: str) -> Iterator[LocalServer]:
        """Let the server run."""
        with ExitStack() as stack:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(local, "free_port", lambda: self.port)
                server = stack.enter_context(local.postgres(self.bin, kept=self.folder, **SETTINGS | settings))
            yield server

    def copy(self, name: str, port: int | None = None) -> "Machine":
        """Copy the directory of the server, which is off, with owners and all, for a server at another port or at the same."""
        folder = self.folder.with_name(name)
        subprocess.run(["cp", "-a", self.folder, folder], check=True)
        return Machine(folder, port or self.port, self.bin)

    def put_back(self, copy: "Machine") -> None:
        """Put the directory back that was copied."""
        shutil.rmtree(self.folder)
        subprocess.run(["cp", "-a", copy.folder, self.folder], check=True)


@pytest.fixture(scope="module")
def installed() -> Iterator["Installed"]:
    """Servers with the example database, off; made when first asked for."""
    with tempfile.TemporaryDirectory(prefix="backup-test-") as name:
        # The servers' account has to pass through.
        Path(name).chmod(0o711)
        yield Installed(Path(name))


class Installed(dict[int, Machine]):
    """One machine a major version."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, major: int) -> Machine:
        if major == 15 and not (DEBIAN_15 / "postgres").exists():
            pytest.skip(f"PostgreSQL 15 of Debian is not in {DEBIAN_15}")
        machine = Machine(self.folder / str(major), local.free_port(), DEBIAN_15 if major == 15 else wheel_bin(major))
        with machine.on() as server:
            make_template(prepare(server))
            copy_template(server)
        self[major] = machine
        return machine


@pytest.fixture
def machine(installed: Installed, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine of one test, of the version that it names."""
    made = installed[getattr(request, "param", 18)].copy(f"test-{secrets.token_hex(4)}", local.free_port())
    yield made
    for folder in made.folder.parent.glob(f"{made.folder.name}*"):
        shutil.rmtree(folder)


@pytest.fixture
def lab(source: LocalServer, target: LocalServer, prefect_api: str, folder: Path) -> Iterator[World]:
    """A world whose source is whichever machine is on."""
    (folder / "store").mkdir()
    yield World(source, target, folder, prefect_api, {"BACKUP_STORE": str(folder / "store")})
    drop_databases(target)


@contextmanager
def living(world: World, machine: Machine, **settings: str) -> Iterator[None]:
    """Let a machine be the source for a while."""
    with machine.on(**settings) as server:
        world.source = server
        yield


def purpose(world: World, words: str) -> None:
    execute(world, f"UPDATE teams SET purpose = '{words}' WHERE id = {TEAM}")


def purposes(world: World, server: LocalServer | None = None) -> list[tuple[Any, ...]]:
    with world.connect(server) as connection:
        return connection.execute(f"SELECT purpose FROM teams WHERE id = {TEAM}".encode()).fetchall()


def transactions(world: World, count: int) -> None:
    with world.connect() as connection:
        for _ in range(count):
            connection.execute("SELECT pg_current_xact_id()")


def go_on(world: World) -> None:
    """Let a server be further on than any copy of it: in transactions, and in its log."""
    transactions(world, 300)
    execute(world, "SELECT pg_switch_wal()", "CREATE TABLE filler AS SELECT repeat('x', 500) FROM generate_series(1, 20000)",
            "DROP TABLE filler", "CHECKPOINT")  # fmt: skip


def listed(world: World) -> list[dict[str, Any]]:
    return [dict(row) for row in world.run(list_backups, "backup_reader")]


def states(world: World) -> list[str]:
    """Return kind and state of each set, newest first."""
    return [f"{row['kind']} {row['state']}" for row in listed(world)]


def manifests(world: World) -> list[Manifest]:
    """Return the manifests in the store, the oldest first."""
    files = world.store_folder.glob(f"{CONTEXT}/*/*/manifest.json")
    return sorted((parse_manifest(file.read_bytes(), str(file)) for file in files), key=lambda one: one.number or 0)


def recovered(world: World, **parameters: Any) -> str:
    """Recover on the empty server, which is empty again afterwards; return the verdict with what a team is for."""
    said = world.recover(**parameters)
    assert said.startswith("PASS")
    found = purposes(world, world.target)[0][0]
    drop_databases(world.target)
    return f"{found}: {said}"


# A data directory that is put back, a machine that is restarted.


@pytest.mark.every_variant
@pytest.mark.parametrize("machine", [18, 16, 15], indirect=True)
def test_a_data_directory_that_is_put_back(lab: World, machine: Machine) -> None:
    before = machine.copy(f"{machine.folder.name}-before")
    with living(lab, machine):
        purpose(lab, "lost")
        transactions(lab, 60)
        assert lab.backup().startswith("STORED")
    machine.put_back(before)
    with living(lab, machine):
        purpose(lab, "real")
        go_on(lab)
        assert "1 to update" in lab.run(full_restore, "backup_restorer", in_place=True)
        assert "differential" not in lab.differential()
        newest = listed(lab)[0]
        assert (newest["kind"], newest["state"]) == ("full", "stored")
        assert "the server was restarted since" in newest["note"]
        assert recovered(lab).startswith("real: ")
        # From here on it is this life's base again, and what did not change since is not read again.
        execute(lab, "REFRESH MATERIALIZED VIEW mv_team_statistics")
        assert "nothing differs" in lab.run(full_restore, "backup_restorer", in_place=True)
        purpose(lab, "later")
        assert "differential" in lab.differential()
        assert recovered(lab).startswith("later: ")


def test_a_partition_is_not_dropped_on_the_word_of_another_life(
    lab: World, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = f"UPDATE policy_violations SET status = 'active', resolved_at = NULL WHERE id = {ROW}"
    row = f"SELECT resolution FROM policy_violations WHERE id = {ROW} AND detected_at < '2023-01-01'"
    change = "UPDATE policy_violations SET resolution = '{}' WHERE id = {} AND detected_at < '2023-01-01'"
    with living(lab, machine):
        execute(lab, "DROP TABLE policy_violations_2021", RESOLVED, held)
    before = machine.copy(f"{machine.folder.name}-before")
    at(monkeypatch, ONE_YEAR_IS_DUE)
    with living(lab, machine):
        execute(lab, change.format("lost", ROW))
        transactions(lab, 60)
        archive(lab)
        assert len(archives(lab)) == 1
    machine.put_back(before)
    with living(lab, machine):
        execute(lab, change.format("real", ROW), RESOLVED)
        go_on(lab)
        assert archive(lab).endswith("policy_violations_2022 archived and dropped")
        assert len(archives(lab)) == 2
        reattach(lab, year="2022")
        assert ask(lab, row) == [("real",)]


@pytest.mark.parametrize("machine", [16, 18, 15], indirect=True)
def test_a_restart_between_full_and_differential(lab: World, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with living(lab, machine), monkeypatch.context() as patch:
        # And while the first set was taken, the clocks were 400 days ahead: they say nothing of which is newer.
        told(patch, "instant + interval '400 days'", "lsn")
        patch.setattr(take, "now", lambda now=clock.now: now() + timedelta(days=400))
        lab.backup()
    with living(lab, machine):
        purpose(lab, "after the restart")
        assert "differential" not in lab.differential()
        newest, first = listed(lab)
        assert (newest["kind"], newest["base"]) == ("full", "-")
        assert newest["note"].startswith(f"{first['id']} cannot be the base: the server was restarted since (")
        assert lab.run(watch_recovery_point, "backup_reader", refresh=False).startswith(f"PASS: {newest['id']}, age ")
        assert recovered(lab).startswith("after the restart: ")
        purpose(lab, "changed")
        lab.differential()
        assert listed(lab)[0]["base"] == newest["id"]
        assert recovered(lab).startswith("changed: ")
        # A year later the newest is what is kept, not what says it is of the future.
        with later(days=390):
            assert prune(lab, dry_run=True).startswith("PLANNED, nothing touched: 0 sets expire")


def told(patch: pytest.MonkeyPatch, instant: LiteralString, lsn: LiteralString) -> None:
    """Let a server say another instant and position in its log."""
    facts = SQL(f"SELECT {instant} AS instant, xmin, xmax, {lsn} AS lsn FROM ({{}}) AS facts").format(sql.snapshot.SNAPSHOT_FACTS)
    patch.setattr(sql.snapshot, "SNAPSHOT_FACTS", facts)


# Two servers that write into one store.


@pytest.mark.parametrize("machine", [18, 16], indirect=True)
def test_a_copy_that_writes_into_the_same_store(lab: World, machine: Machine) -> None:
    staging = machine.copy(f"{machine.folder.name}-staging", local.free_port())
    with machine.on() as production, staging.on() as copy:
        lab.source = production
        lab.backup()
        lab.source = copy
        purpose(lab, "staging")
        go_on(lab)
        # It looks like a server that was restarted elsewhere.
        assert "differential" not in lab.differential()
        assert "this is another server now" in listed(lab)[0]["note"]

        lab.source = production
        purpose(lab, "production")
        with pytest.raises(OperationError, match=r"SET ASIDE: .* two servers write here: .* takes backups again; find out which"):
            lab.backup()
        assert states(lab) == ["full set aside", "full set aside", "full stored"]
        of_production, of_staging, first = (row["id"] for row in listed(lab))
        assert all("two servers write here" in row["note"] for row in listed(lab)[:2])
        # Every backup is stored, and fails; what was before is restored, and said to be older; nothing is pruned.
        with pytest.raises(OperationError, match="SET ASIDE"):
            lab.differential()
        assert states(lab)[0] == "differential set aside"
        with pytest.raises(OperationError, match=f"FAIL: {first}, age .*; 3 newer sets are SET ASIDE: two servers write here"):
            lab.run(watch_recovery_point, "backup_reader", every_minutes=1)
        assert len(states(lab)) == 4
        with pytest.raises(DamagedSet, match=f"{first} is good, but newer sets were passed over: .* is set aside: two servers"):
            lab.run(verify_backups, "backup_reader")
        said = recovered(lab)
        assert not said.startswith(("staging", "production"))
        assert f"from {first}" in said
        assert "3 sets passed over" in said
        # By name it is restored all the same, and told.
        assert "the set is SET ASIDE: two servers write here" in recovered(lab, backup=of_staging)
        said = lab.run(full_restore, "backup_restorer", in_place=True, backup=of_staging)
        assert "1 to update" in said
        assert f"{of_staging} is SET ASIDE: two servers write here" in said
        said = lab.run(table_restore, "backup_restorer", table="teams", backup=of_staging)
        assert f"{of_staging} is SET ASIDE: two servers write here" in said

        # Production is right.
        assert "of the sets numbered 2 to 4, only those of the server started" in adopt(lab)
        assert states(lab) == ["differential stored", "full stored", "full set aside", "full decoded"]
        assert recovered(lab).startswith("production: ")
        purpose(lab, "production later")
        lab.differential()
        assert (listed(lab)[0]["kind"], listed(lab)[0]["base"]) == ("differential", of_production)
        assert lab.backup().startswith("STORED")
        assert recovered(lab).startswith("production later: ")
        assert "those of the server" not in adopt(lab)
        # The copy writes once more: told, and nobody is harmed.
        lab.source = copy
        with pytest.raises(OperationError, match=r"SET ASIDE: .* another server was adopted"):
            lab.differential()
        assert recovered(lab).startswith("production later: ")
        lab.source = production
        assert lab.backup().startswith("STORED")


def test_a_promoted_standby_and_its_former_primary(world: World) -> None:
    with local.postgres(copy_of=world.source, **SETTINGS) as standby:
        world.backup()
        primary = world.source
        with standby.connect() as connection:
            connection.execute("SELECT pg_promote()")
        world.source = standby
        try:
            purpose(world, "promoted")
            go_on(world)
            # The first of a new primary is whole, and the newest.
            world.differential()
            assert states(world) == ["full stored", "full stored"]
            assert recovered(world).startswith("promoted: ")
            purpose(world, "promoted later")
            world.differential()
            assert states(world)[0] == "differential stored"
        finally:
            world.source = primary
        with pytest.raises(OperationError, match="two servers write here"):
            world.backup()
        assert states(world) == ["full set aside", "differential set aside", "full set aside", "full stored"]
        said = adopt(world, standby)
        assert "of the sets numbered 2 to 4, only those of the server started" in said
        assert states(world) == ["full set aside", "differential stored", "full stored", "full stored"]
        assert recovered(world).startswith("promoted later: ")


# A crash under the same postmaster.


@contextmanager
def stopped(world: World) -> Iterator[None]:
    """Let the WAL writer do nothing for a while."""
    (pid,) = ask(world, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        # A crash ends it too.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def crash(world: World) -> None:
    """Kill one backend: PostgreSQL ends all others and recovers from its log."""
    started = ask(world, "SELECT pg_postmaster_start_time()")
    with world.connect() as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)

    def answers() -> bool:
        try:
            return ask(world, "SELECT pg_postmaster_start_time()") == started
        except psycopg.OperationalError:
            return False

    wait_for(answers, SECONDS, "recovery")


@pytest.mark.parametrize("machine", [18, 16, 15], indirect=True)
def test_a_set_has_nothing_that_a_crash_could_take_back(lab: World, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with living(lab, machine, **ASYNCHRONOUS):
        with stopped(lab), monkeypatch.context() as patch:
            patch.setattr(Snapshot, "require_flushed", partialmethod(Snapshot.require_flushed, wait_seconds=3))
            purpose(lab, "lost")
            transactions(lab, 60)
            with pytest.raises(OperationError, match=r"the server did not flush WAL up to .* within 3 s"):
                lab.backup()
            assert states(lab) == ["full unfinished"]
        # Now it is waited for.
        purpose(lab, "kept")
        assert lab.backup().startswith("STORED")
        crash(lab)
        assert purposes(lab) == [("kept",)]
        purpose(lab, "real")
        go_on(lab)
        assert "1 to update" in lab.run(full_restore, "backup_restorer", in_place=True)
        assert "differential" in lab.differential()
        assert recovered(lab).startswith("real: ")


@pytest.mark.parametrize("machine", [16, 18], indirect=True)
def test_a_history_that_forked_in_one_life_is_found_by_the_next_full(
    lab: World, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory snapshot of a machine cannot be made here: a crash that nobody waited for is the same to the product."""
    with living(lab, machine, **ASYNCHRONOUS):
        lab.backup()
        with stopped(lab), monkeypatch.context() as patch:
            patch.setattr(Snapshot, "require_flushed", lambda *_: None)
            purpose(lab, "lost")
            transactions(lab, 60)
            lab.backup()
            crash(lab)
        assert purposes(lab) != [("lost",)]
        purpose(lab, "real")
        go_on(lab)
        # This cannot be told yet: by number and place the row is the one that the full has.
        lab.differential()
        first, second = (one.id for one in manifests(lab)[:2])
        with pytest.raises(OperationError, match=f"STORED: .*, but no row of public.teams counts as written since {second}"):
            lab.backup()
        assert states(lab) == ["full stored", "differential set aside", "full set aside", "full stored"]
        assert listed(lab)[-1]["id"] == first
        assert recovered(lab).startswith("real: ")
        # The next ones find nothing any more.
        lab.differential()
        assert lab.backup().startswith("STORED")
        assert lab.run(watch_recovery_point, "backup_reader", refresh=False).startswith("PASS")


def test_the_memory_of_a_machine_put_back_is_seen_by_its_log(lab: World, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with living(lab, machine):
        lab.backup()
        with monkeypatch.context() as patch:
            # What a machine would have stored that was further on.
            told(patch, "instant", "'F0/0'")
            lab.backup()
        with pytest.raises(
            OperationError, match=r"SET ASIDE: .* is behind .*, which it took itself .* the server was restored to an older state"
        ):
            lab.backup()
        assert states(lab) == ["full set aside", "full set aside", "full stored"]
        assert "none of them counts; now take a full" in adopt(lab)
        assert states(lab) == ["full set aside", "full set aside", "full stored"]
        assert lab.backup().startswith("STORED")
        lab.differential()
        assert states(lab)[:2] == ["differential stored", "full stored"]


def test_a_safety_set_of_another_server_undoes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.backup()
    with local.postgres(copy_of=world.source, **SETTINGS) as copy:
        login = {"host": local.HOST, "port": str(copy.port), "user": "backup_restorer", "password": copy.password}
        take_set = take.take_set
        monkeypatch.setattr(safety_set, "take_set", lambda site, *said: take_set(replace(site, server=Server(login)), *said))
        purpose(world, "changed")
        with pytest.raises(OperationError, match="was taken from another server than the one to be changed"):
            world.run(full_restore, "backup_restorer", in_place=True, dry_run=False, confirm_database=DATABASE)
    assert purposes(world) == [("changed",)]


def test_the_old_server_taken_back_after_a_recovery_elsewhere(world: World) -> None:
    world.backup()
    world.recover()
    with pytest.raises(BadInput, match="sets of bc-004 are written by the cluster"):
        world.run(daily_backup, "backup_reader", world.target)
    adopt(world, world.target)
    with world.connect(world.target) as connection:
        connection.execute(f"UPDATE teams SET purpose = 'elsewhere' WHERE id = {TEAM}".encode())
    world.run(daily_backup, "backup_reader", world.target)
    world.run(differential_backup, "backup_reader", world.target)
    assert states(world) == ["differential stored", "full stored", "full stored"]
    # The way back is said once, and is no alarm.
    assert "of the sets numbered 2 to 3, only those of the server started" in adopt(world)
    purpose(world, "back")
    assert "differential" in world.differential()
    assert states(world) == ["differential stored", "differential set aside", "full set aside", "full stored"]
    drop_databases(world.target)
    assert recovered(world).startswith("back: ")
