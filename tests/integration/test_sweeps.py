"""What is deleted of a store, and of the staging folder, is provably dead: lost manifests, wrong clocks, no database."""

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.artifacts import Artifact

from deployments.local import LocalS3
from flows.backup import list_backups
from flows.retention import prune_backups
from flows.watch import backup_report, verify_backups, watch_recovery_point
from tasks.core.errors import BadInput, DamagedSet, OperationError
from tasks.core.run.clock import now
from tasks.run import run as runs
from tasks.sets import survey
from tests.support.clock import later
from tests.support.example import CONTEXT
from tests.support.retention import Kept, contents, prune, states
from tests.support.stores import bucket_of, client_of, keys
from tests.support.world import World

long = pytest.mark.long


def report(key: str = "pruning") -> str:
    found = Artifact.get(f"{CONTEXT}-{key}")
    assert found and isinstance(found.data, str)
    return found.data


def notes(world: World) -> dict[str, str]:
    return {str(row["id"]): str(row["note"]) for row in world.run(list_backups, "backup_reader")}


def sets(world: World, kind: str = "daily") -> list[Path]:
    """Return the folders of sets, oldest first, but no files of older scripts."""
    return [path for path in world.set_folders(kind) if path.is_dir()]


def lose(folder: Path, *names: str) -> None:
    """Delete files of a set that was stored some hours ago."""
    for name in ("manifest.json", *names):
        (folder / name).unlink()
    if "restore.sh" not in names:
        stamp = (now() - timedelta(hours=2)).timestamp()
        os.utime(folder / "restore.sh", (stamp, stamp))


@pytest.fixture
def stale(kept_world: World) -> Iterator[World]:
    """The same, when a new full came now and everything else had its time: what is deleted is deleted for good reason."""
    with later(days=40):
        yield kept_world


# Manifests that were lost


def test_a_full_whose_manifest_is_lost_is_kept_and_named(stale: World, kept: Kept) -> None:
    full, needing = sets(stale)[0], sets(stale, "differential")[0].name
    manifest = (full / "manifest.json").read_bytes()
    lose(full)
    there = {path: path.read_bytes() for path in full.rglob("*") if path.is_file()}
    for _ in range(3):
        prune(stale)
    assert {path: path.read_bytes() for path in full.rglob("*") if path.is_file()} == there
    said = "manifest lost, restorable by its restore.sh"
    assert f"{full.name}: {said}" in notes(stale)[full.name]
    assert f"{full.name}: {said}" in report().partition("## Left alone")[2]
    assert states(stale)["full 0"] == "damaged"
    # Put back, it is a set as before, and has its time like any other.
    assert not (stale.store_folder / CONTEXT / "differential" / needing).exists()
    (full / "manifest.json").write_bytes(manifest)
    assert states(stale)["full 0"] == "stored"
    prune(stale)
    prune(stale)
    assert not full.exists()


@pytest.mark.parametrize("needing", ["a set", pytest.param("an expired set", marks=long), pytest.param("one unread", marks=long)])
def test_a_full_that_is_needed_is_kept(kept_world: World, needing: str) -> None:
    full, differential = sets(kept_world)[1], sets(kept_world, "differential")[1]
    lose(full, "restore.sh")
    if needing == "an expired set":
        (differential / "manifest.json").rename(differential / "expired.json")
        # It was made a set again, as it were, and pinned.
        (differential / "pinned.json").touch()
    elif needing == "one unread":
        (differential / "manifest.json").write_text("{")
    else:
        assert f"{full.name}: manifest lost, needed by {differential.name}; never pruned" in notes(kept_world)[full.name]
    # The differential itself has its time, and goes with the second.
    for _ in range(2):
        with later(days=8):
            prune(kept_world)
    assert (full / "data").exists()
    assert full.name in report().partition("## Left alone")[2]


def test_what_nothing_speaks_for_goes_in_two_steps(kept_world: World) -> None:
    full, differential = sets(kept_world)[0], sets(kept_world, "differential")[0]
    shutil.rmtree(differential)
    lose(full, "restore.sh")
    mark = full / "unfinished.json"
    with later(days=6):
        assert " 0 unfinished ones are deleted" in prune(kept_world)
    assert not mark.exists()
    with later(days=8):
        assert " 0 unfinished ones are deleted" in prune(kept_world, dry_run=True)
        assert not mark.exists()
        assert " 0 unfinished ones are deleted" in prune(kept_world)
        assert f"marked for deletion a day later, because it was never finished: {full.name}" in report()
    assert (full / "data").exists()
    assert "no manifest, so that it is deleted after " in notes(kept_world)[full.name]
    # Within that day, and while somebody reads it, it stays.
    stamp = (now() + timedelta(days=8)).timestamp()
    os.utime(mark, (stamp, stamp))
    with later(days=8, hours=23):
        assert " 0 unfinished ones are deleted" in prune(kept_world)
    hold = full / "hold-0a1f.json"
    hold.write_text("{}")
    os.utime(hold, (stamp, stamp))
    with later(days=9, hours=1):
        assert " 0 unfinished ones are deleted" in prune(kept_world)
    assert (full / "data").exists()
    hold.unlink()
    with later(days=9, hours=1):
        assert " 1 unfinished ones are deleted" in prune(kept_world)
    assert not full.exists()


@long
def test_a_mark_on_what_became_a_set_again_is_removed(kept_world: World) -> None:
    full = sets(kept_world)[1]
    (full / "unfinished.json").write_text("{}")
    with later(days=3):
        prune(kept_world)
    assert not (full / "unfinished.json").exists()
    assert states(kept_world)["full 2"] == "stored"


@long
def test_lost_manifests_in_s3(s3_world: World, s3: LocalS3) -> None:
    s3_world.backup()
    s3_world.backup()
    client, bucket = client_of(s3), bucket_of(s3_world)
    found = sorted(key for key in keys(s3_world, s3) if key.startswith(f"{s3_world.folder.name}/"))
    first, second = sorted({key.rpartition("/")[0] for key in found if key.endswith("manifest.json")})
    client.delete_object(Bucket=bucket, Key=f"{first}/manifest.json")
    s3_world.backup()
    for name in ("manifest.json", "restore.sh"):
        client.delete_object(Bucket=bucket, Key=f"{second}/{name}")

    def left(folder: str) -> list[str]:
        return [key for key in keys(s3_world, s3) if key.startswith(f"{folder}/")]

    before = left(first)
    for _ in range(2):
        with later(days=8):
            assert left(second)
            prune(s3_world)
    assert (left(first), left(second)) == (before, [])


@long
def test_latest_and_the_watch_and_the_report_name_it(kept_world: World) -> None:
    newest = sets(kept_world, "differential")[1]
    lose(newest)
    with pytest.raises(DamagedSet, match=rf"{newest.name}: manifest lost, restorable by its restore\.sh"):
        kept_world.run(verify_backups, "backup_reader")
    assert "1 newer or equally new sets are damaged" in str(kept_world.run(watch_recovery_point, "backup_reader", refresh=False))
    assert f"{newest.name}: manifest lost" in report("recovery-point")
    kept_world.run(backup_report, "backup_reader")
    assert newest.name in report("report")
    # Nobody can say which full it needs.
    with later(days=40):
        for _ in range(2):
            prune(kept_world)
    assert states(kept_world)["full 0"] == "stored"


def test_a_backup_that_is_about_to_commit_is_no_lost_one(kept_world: World) -> None:
    newest = sets(kept_world, "differential")[1]
    lose(newest)
    (newest / "restore.sh").touch()
    assert states(kept_world)["differential 3"] == "unfinished"
    assert str(kept_world.run(verify_backups, "backup_reader")).startswith("PASS")


@long
def test_a_backup_that_fails_at_its_end_has_no_script(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.backup import take
    from tasks.core.errors import MovedSnapshot
    from tasks.database.snapshot import Snapshot

    def moved(_: Any) -> None:
        raise MovedSnapshot("the session was lost")

    monkeypatch.setattr(Snapshot, "require_held", moved)
    monkeypatch.setattr(take, "SNAPSHOT_TRIES", 1)
    with pytest.raises(MovedSnapshot):
        world.backup()
    (folder,) = world.set_folders()
    assert (folder / "schema.list").exists()
    assert not (folder / "restore.sh").exists()
    assert list(states(world).values()) == ["unfinished"]


# Clocks, and sets that do not come


def test_a_machine_whose_clock_is_ahead_prunes_nothing(kept_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(kept_world)
    for days in (400, -400):
        for module in (runs, survey):
            monkeypatch.setattr(module, "now", lambda days=days: now() + timedelta(days=days))
        for dry_run in (True, False):
            with pytest.raises(OperationError, match=r"clock of this machine says .*, that of the database server .*NTP"):
                prune(kept_world, dry_run=dry_run)
    assert contents(kept_world) == before


def test_a_database_that_is_gone_prunes_nothing(kept_world: World) -> None:
    before, kept_world.extra = contents(kept_world), {"PGPORT": "1", "PGCONNECT_TIMEOUT": "2"}
    for dry_run in (True, False):
        with (
            later(days=40),
            pytest.raises(
                BadInput, match=r"nothing is pruned, because the database's clock and locks cannot be read.*check that the server"
            ),
        ):
            prune(kept_world, dry_run=dry_run)
    assert contents(kept_world) == before


def test_nothing_is_pruned_while_no_full_comes(kept_world: World) -> None:
    died = kept_world.store_folder / CONTEXT / "daily" / "bc-004_full_20200101_000000_aaaa" / "data" / "teams.copy.zst"
    died.parent.mkdir(parents=True)
    died.write_bytes(b"x")
    with later(days=8):
        prune(kept_world)
    before = contents(kept_world)
    with pytest.MonkeyPatch.context() as patch:
        for days in (2.1, 400):
            patch.setattr(runs, "now", lambda days=days: now() + timedelta(days=days))
            for dry_run in (True, False):
                said = prune(kept_world, dry_run=dry_run)
                assert said.startswith("SUSPENDED: no new full backup for ")
                assert "at most 2.0 days are allowed between two: nothing is pruned; find out why" in said
                assert "nothing is pruned" in report()
        patch.setattr(runs, "now", lambda: now() + timedelta(days=1.9))
        assert contents(kept_world) == before
        assert prune(kept_world).startswith("PRUNED: 0 sets expire, 1 expired and 0 unfinished")


def test_a_login_that_may_only_connect(kept_world: World) -> None:
    with kept_world.source.connect() as connection:
        connection.execute("DROP ROLE IF EXISTS passer_by; CREATE ROLE passer_by LOGIN")
    kept_world.source.allow_login("passer_by")
    try:
        with later(days=8):
            assert str(kept_world.run(prune_backups, "passer_by", dry_run=False)).startswith("PRUNED: 1 sets expire")
    finally:
        with kept_world.source.connect() as connection:
            connection.execute("DROP ROLE passer_by")


# Staging


def test_a_staging_folder_that_holds_other_things(kept_world: World, tmp_path: Path) -> None:
    staging = tmp_path / "work"
    (staging / "uv").mkdir(parents=True)
    staging.chmod(0o700)
    (staging / "uv" / "main.py").write_text("x")
    (staging / "uv.lock").touch()
    kept_world.extra = {"BACKUP_STAGING": str(staging)}
    assert prune(kept_world, dry_run=True).startswith("PLANNED")
    assert {path.name for path in staging.rglob("*")} == {"uv", "main.py", "uv.lock"}
