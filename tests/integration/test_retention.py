"""Pruning real stores with the clock moved on: what goes, what stays byte for byte, and a death at any moment in between."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from deployments.local import LocalS3
from flows.backup import daily_backup
from flows.recovery import disaster_recovery
from flows.watch import verify_backups
from tasks.core.errors import OperationError
from tasks.core.postgres.programs import Running
from tasks.core.run.clock import now
from tasks.core.sets.facts import ExpiryRecord
from tasks.database.locks import context_lock
from tasks.run import site
from tasks.run.run import Run
from tasks.sets import survey
from tasks.sets.prune import carry_out
from tasks.store.address import StoreAddress
from tasks.store.folder import FolderStore
from tests.support.clock import later
from tests.support.database import execute, server_of
from tests.support.example import CONTEXT
from tests.support.retention import FOREIGN, Kept, contents, prune, states
from tests.support.servers import drop_databases
from tests.support.stores import bucket_of, client_of, keys
from tests.support.variants import EVERY_VARIANT
from tests.support.world import World


def recorded(world: World) -> set[str]:
    """Return the ids of the sets that pruning recorded as expired."""
    files = (world.store_folder / CONTEXT / ExpiryRecord.folder).glob("*.json")
    return {one.id for file in files for one in ExpiryRecord.model_validate_json(file.read_bytes()).sets}


def test_the_life_of_sets(kept_world: World, kept: Kept) -> None:
    everything = contents(kept_world)
    with later(days=400):
        assert prune(kept_world, dry_run=True).startswith(
            "PLANNED, nothing touched: 2 sets expire, 0 expired and 0 unfinished ones are deleted, 4 examined"
        )
    assert contents(kept_world) == everything
    with later(days=6):
        assert prune(kept_world).startswith("PRUNED: 0 sets expire")
    assert contents(kept_world) == everything

    with later(days=8):
        prune(kept_world)
    assert states(kept_world) == {"full 0": "stored", "differential 1": "expired", "full 2": "stored", "differential 3": "stored"}
    with later(days=31):
        prune(kept_world)
    # The newer full is as old, but it is the newest, and the newest state needs it.
    assert states(kept_world) == {"full 0": "expired", "full 1": "stored", "differential 2": "stored"}
    with later(hours=23):
        prune(kept_world)
    assert states(kept_world)["full 0"] == "expired"
    with later(days=40):
        prune(kept_world)
    assert states(kept_world) == {"full 0": "stored", "differential 1": "stored"}
    assert len(recorded(kept_world)) == 2
    left = contents(kept_world)
    assert {key: left.get(key) for key in FOREIGN} == {key: everything[key] for key in FOREIGN}
    assert left.items() <= everything.items()
    try:
        assert kept_world.run(disaster_recovery, "backup_restorer", kept_world.target).startswith("PASS")
        kept_world.assert_recovered(kept.before)
    finally:
        drop_databases(kept_world.target)


@pytest.mark.long
def test_an_expired_set_can_be_made_one_again(kept_world: World) -> None:
    with later(days=8):
        prune(kept_world)
    (expired,) = kept_world.store_folder.rglob("expired.json")
    expired.rename(expired.with_name("manifest.json"))
    (expired.parent / "pinned.json").touch()
    with later(days=9):
        prune(kept_world)
    assert states(kept_world)["differential 1"] == "stored"
    assert kept_world.run(verify_backups, "backup_reader", backup=expired.parent.name).startswith("PASS")


@pytest.mark.long
@pytest.mark.parametrize("why", ["held", "proven", "labelled"])
def test_what_stays_whatever_its_age(world: World, why: str) -> None:
    world.run(daily_backup, "backup_reader", **({"keep_until": "2999-01-01"} if why == "labelled" else {}))
    (older,) = world.set_folders()
    if why == "proven":
        world.run(verify_backups, "backup_reader")
    world.backup()
    if why == "held":
        (older / "hold-0a1f.json").write_text("{}")
    with later(days=40):
        prune(world)
    # A hold is forgotten after a week: whoever left it is dead.
    assert states(world) == {"full 0": "expired" if why == "held" else {"proven": "decoded"}.get(why, "stored"), "full 1": "stored"}
    assert not (older / "hold-0a1f.json").exists()


@pytest.mark.long
def test_a_restore_that_reads_a_set_keeps_it(kept_world: World) -> None:
    with later(days=8):
        first = kept_world.set_folders("differential")[0]
        (first / "hold-0a1f.json").write_text("{}")
        os.utime(first / "hold-0a1f.json", (later_stamp := (now() + timedelta(days=7, hours=23)).timestamp(), later_stamp))
        assert prune(kept_world).startswith("PRUNED: 0 sets expire")


@pytest.mark.long
def test_nothing_goes_while_the_newest_is_suspect(world: World) -> None:
    world.backup()
    world.backup()
    execute(world, "TRUNCATE policy_scopes")
    with pytest.raises(OperationError, match="SUSPECT"):
        world.backup()
    before = contents(world)
    with later(days=400):
        prune(world)
    assert contents(world) == before
    world.backup(accept_losses=True)
    with later(days=400):
        assert prune(world).startswith("PRUNED: 3 sets expire")


@pytest.mark.long
def test_a_set_that_expires_while_it_is_listed(kept_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = FolderStore.list
    gone = kept_world.set_folders("differential")[0] / "manifest.json"

    def expiring(store: FolderStore, prefix: str) -> Iterator[Any]:
        objects = list(listing(store, prefix))
        gone.unlink(missing_ok=True)
        return iter(objects)

    monkeypatch.setattr(FolderStore, "list", expiring)
    assert sorted(states(kept_world)) == ["differential 2", "full 0", "full 1"]


class Death(BaseException):
    """The process ends here."""


@contextmanager
def dying_at(moment: int) -> Iterator[list[str]]:
    """Let the store's n-th change never come, and none after it; what was changed is noted."""
    done = list[str]()

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(store: FolderStore, key: str, *rest: Any) -> Any:
            if len(done) == moment:
                raise Death(key)
            done.append(key)
            return real(store, key, *rest)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for name in ("delete", "replace", "create"):
            patch.setattr(FolderStore, name, counting(getattr(FolderStore, name)))
        yield done


@pytest.mark.long
def test_a_death_at_any_moment(kept_world: World, kept: Kept) -> None:
    def ends(days: int) -> dict[str, str]:
        # Twice, because what expires is deleted a day later, and files do not age as fast as this clock.
        for _ in range(2):
            with later(days=days):
                prune(kept_world)
        return contents(kept_world)

    # Of the moments one in three, others for each number of days.
    stride = 1 if EVERY_VARIANT else 3
    for first, days in enumerate((8, 31, 40)):
        start = shutil.copytree(kept_world.store_folder, kept_world.folder / f"start-{days}")
        expected = ends(days)
        moment = earliest = first % stride
        while True:
            shutil.rmtree(kept_world.store_folder)
            shutil.copytree(start, kept_world.store_folder)
            with dying_at(moment) as done, later(days=days):
                try:
                    prune(kept_world)
                except Death:
                    pass
                else:
                    assert 0 <= moment - len(done) < stride
                    break
            assert {path.parent.name for path in kept_world.store_folder.rglob("expired.json")} <= recorded(kept_world)
            # What is listed as good is good: a differential has its base, a set all its objects.
            assert "damaged" not in states(kept_world).values(), (days, done)
            assert ends(days) == expected, (days, done)
            moment += stride
        assert moment > earliest
        assert kept_world.run(verify_backups, "backup_reader", fraction=1).startswith("PASS")


@pytest.mark.long
def test_two_at_once(kept_world: World) -> None:
    store, definition = StoreAddress(str(kept_world.store_folder)), site.find_context(CONTEXT)
    for days in (8, 40):
        instant = now() + timedelta(days=days)
        ((_, _, periods),) = survey.places(definition, store)
        # Two who do not know of each other: their locks are not the same.
        with later(days=days), disable_run_logger(), ExitStack() as stack:
            locks = [
                stack.enter_context(context_lock(server_of(kept_world, "backup_reader"), f"pruning {one}", "")) for one in range(2)
            ]
            plans = [survey.survey(store, definition, periods, instant, lock) for lock in locks]
            for lock, one in zip(locks, plans, strict=True):
                run = Run("prune_backups", CONTEXT, f"000{locks.index(lock)}", instant, kept_world.folder, Running())
                carry_out(store, run, lock, one)
    assert states(kept_world) == {"full 0": "expired", "full 1": "stored", "differential 2": "stored"}


# What only S3 has.


@pytest.fixture
def locking(world: World, s3: LocalS3, folder: Path) -> World:
    """A world whose store is a bucket with object lock."""
    client_of(s3).create_bucket(
        Bucket=folder.name.lower().replace("_", "-"), ObjectLockEnabledForBucket=True,
        CreateBucketConfiguration={"LocationConstraint": "ap-northeast-1"},
    )  # fmt: skip
    world.store = s3.environment() | {"BACKUP_STORE": f"s3://{folder.name.lower().replace('_', '-')}/a prefix"}
    return world


@pytest.mark.long
@pytest.mark.parametrize("how", ["retention", "legal hold"])
def test_an_object_lock_keeps_a_set(locking: World, s3: LocalS3, how: str) -> None:
    locking.backup()
    locking.backup()
    locked = next(key for key in keys(locking, s3) if key.endswith("teams.copy.zst"))
    if how == "retention":
        client_of(s3).put_object_retention(
            Bucket=bucket_of(locking), Key=locked,
            Retention={"Mode": "GOVERNANCE", "RetainUntilDate": now() + timedelta(days=50)},
        )  # fmt: skip
    else:
        client_of(s3).put_object_legal_hold(Bucket=bucket_of(locking), Key=locked, LegalHold={"Status": "ON"})
    with later(days=40):
        assert prune(locking).startswith("PRUNED: 0 sets expire")
    with later(days=60):
        assert prune(locking).startswith(f"PRUNED: {int(how == 'retention')} sets expire")


@pytest.mark.long
def test_what_died_unfinished_is_swept(s3_world: World, s3: LocalS3) -> None:
    s3_world.backup()
    client, bucket, root = client_of(s3), bucket_of(s3_world), s3_world.folder.name
    ours, theirs = (f"{root}/bc-004/daily/bc-004_full_2020010{day}_000000_aaaa" for day in (1, 2))

    def put(key: str, **metadata: str) -> None:
        client.put_object(Bucket=bucket, Key=key, Body=b"x", Metadata=metadata)

    put(f"{ours}/data/teams.copy.zst", run="aaaa")
    put(f"{ours}/schema.list", run="aaaa")
    put(f"{theirs}/data/teams.copy.zst", run="aaaa")
    put(f"{theirs}/data/units.copy.zst", run="bbbb")
    uploads = [
        f"{ours}/data/big.copy.zst",
        f"{root}/bc-004/violations/2024/policy_violations_2024_11.dump.gz",
        f"other/{ours}/data/x",
    ]
    for key in uploads:
        client.create_multipart_upload(Bucket=bucket, Key=key)
    before = set(keys(s3_world, s3))
    with later(days=6):
        assert " 0 unfinished ones are deleted" in prune(s3_world)
    assert set(keys(s3_world, s3)) == before
    with later(days=8):
        assert " 0 unfinished ones are deleted" in prune(s3_world)
        assert set(keys(s3_world, s3)) == before | {f"{ours}/unfinished.json"}
        said = prune(s3_world)
    assert " 1 unfinished ones are deleted" in said
    assert before - set(keys(s3_world, s3)) == {f"{ours}/data/teams.copy.zst", f"{ours}/schema.list"}
    left = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert {one["Key"] for one in left} & set(uploads) == set(uploads[1:])


@pytest.mark.long
def test_a_lock_that_came_after_a_set_expired(locking: World, s3: LocalS3) -> None:
    locking.backup()
    locking.backup()
    with later(days=40):
        assert prune(locking).startswith("PRUNED: 1 sets expire")
    before = keys(locking, s3)
    locked = next(key for key in before if key.endswith("teams.copy.zst"))
    client_of(s3).put_object_legal_hold(Bucket=bucket_of(locking), Key=locked, LegalHold={"Status": "ON"})
    with later(days=45):
        assert ", 0 expired and" in prune(locking)
    assert keys(locking, s3) == before


@pytest.mark.long
def test_a_clock_that_is_wrong_prunes_nothing(s3_world: World, s3: LocalS3) -> None:
    s3_world.backup()
    before = keys(s3_world, s3)
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(OperationError, match=r"the clock of this machine says .*clock skew"),
    ):
        patch.setattr(survey, "now", lambda: now() + timedelta(minutes=6))
        prune(s3_world)
    assert keys(s3_world, s3) == before


@pytest.mark.long
def test_what_died_unfinished_in_a_folder_is_swept(world: World) -> None:
    world.backup()
    died = world.store_folder / "bc-004" / "daily" / "bc-004_full_20200101_000000_aaaa"
    strange = died.with_name("bc-004_full_20200102_000000_aaaa")
    for file in (died / "data" / "teams.copy.zst", died / "data" / ".partial-0a", strange / "data" / "teams.dump.gz"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    before = contents(world)
    with later(days=8):
        assert " 0 unfinished ones are deleted" in prune(world)
        assert " 1 unfinished ones are deleted" in prune(world)
    assert before.keys() - contents(world).keys() == {
        f"bc-004/daily/{died.name}/data/{name}" for name in ("teams.copy.zst", ".partial-0a")
    }  # fmt: skip
    assert not died.exists()
