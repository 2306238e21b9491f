"""A backup is chosen by an instant: the newest state at or before it."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prefect.exceptions import ParameterTypeError

from deployments.local import LocalServer
from flows.backup import list_backups
from flows.recovery import disaster_recovery, recovery_drill
from flows.restore import full_restore, table_restore
from flows.watch import verify_backups
from tasks.core.errors import BadInput, DamagedSet
from tasks.core.sets.manifest_file import MANIFEST_FILE, parse_manifest
from tests.support.database import ask
from tests.support.example import CONTEXT
from tests.support.world import TwoSets, World

TOKYO = ZoneInfo("Asia/Tokyo")


@pytest.fixture
def stored(source: LocalServer, target: LocalServer, prefect_api: str, folder: Path, two_sets: TwoSets) -> World:
    """A world of which only the store is looked at."""
    return World(source, target, folder, prefect_api, {"BACKUP_STORE": str(two_sets.copy(folder / "sets"))})


def taken(world: World) -> list[datetime]:
    """Return the instants of the two states, the older first."""
    manifests = [folder / MANIFEST_FILE for folder in world.set_folders()]
    return [parse_manifest(file.read_bytes(), str(file)).snapshot.instant for file in manifests]


def chosen(world: World, instant: datetime | str) -> str:
    """Return the verdict of verifying the set that an instant names."""
    text = instant if isinstance(instant, str) else instant.isoformat()
    return str(world.run(verify_backups, "backup_reader", backup=text))


def test_the_newest_state_at_or_before(stored: World, two_sets: TwoSets) -> None:
    older, newer = taken(stored)
    assert two_sets.newer in chosen(stored, newer)
    assert two_sets.older in chosen(stored, newer - timedelta(microseconds=1))
    assert two_sets.older in chosen(stored, older)
    assert two_sets.newer in chosen(stored, datetime.now(UTC))


def test_an_instant_is_in_the_contexts_zone(stored: World, two_sets: TwoSets) -> None:
    _, newer = taken(stored)
    in_tokyo = (newer + timedelta(hours=9)).astimezone(UTC).replace(tzinfo=None)
    assert two_sets.older in chosen(stored, f"{in_tokyo - timedelta(microseconds=1)}")
    assert two_sets.newer in chosen(stored, f"{in_tokyo} JST")
    assert two_sets.newer in chosen(stored, f"{in_tokyo}")


def test_nothing_is_that_old(stored: World) -> None:
    with pytest.raises(
        BadInput,
        match=r"no backup was taken at or before 2001-01-01 00:00:00 JST: the oldest is of 20.* JST; pass a later timestamp",
    ):
        chosen(stored, "2001-01-01")


IN_TIME_TO_COME = [
    (verify_backups, {}),
    (full_restore, {"target_database": "beside"}),
    (full_restore, {"in_place": True}),
    (table_restore, {"table": "teams"}),
    (table_restore, {"table": "teams", "mode": "merge"}),
    (disaster_recovery, {"target_database": "beside"}),
    (disaster_recovery, {"resume": "constraints"}),
    (recovery_drill, {}),
]


@pytest.mark.parametrize(
    ("flow", "parameters"), IN_TIME_TO_COME, ids=[f"{flow.name}{number}" for number, (flow, _) in enumerate(IN_TIME_TO_COME)]
)
@pytest.mark.parametrize("backup", ["2999-01-01 00:00", pytest.param("tomorrow", marks=pytest.mark.long)])
def test_no_flow_takes_an_instant_to_come_for_now(
    two_sets: TwoSets, world: World, flow: Any, parameters: dict[str, Any], backup: str
) -> None:  # fmt: skip
    world.store = {"BACKUP_STORE": str(two_sets.copy(world.folder / "sets"))}
    before, databases = world.state(), ask(world, "SELECT datname FROM pg_database ORDER BY 1")
    said = backup if backup != "tomorrow" else f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d %H:%M}"
    with pytest.raises(
        BadInput,
        match=rf'backup "{said}" is in the future: by the clock of this machine it is 20.* JST; pass a timestamp',
    ):
        world.run(flow, "backup_restorer", backup=said, **parameters)
    assert before.differences(world.state()) == []
    assert ask(world, "SELECT datname FROM pg_database ORDER BY 1") == databases


def test_a_damaged_one_is_passed_over_aloud(stored: World, two_sets: TwoSets) -> None:
    (Path(stored.store["BACKUP_STORE"]) / CONTEXT / "daily" / two_sets.newer / "schema.list").unlink()
    with pytest.raises(DamagedSet, match=f"{two_sets.older} is good, but newer sets were passed over: .*{two_sets.newer}"):
        chosen(stored, taken(stored)[1])


def test_no_instant(stored: World) -> None:
    with pytest.raises(BadInput, match='"2025-13-03" is not a valid timestamp'):
        chosen(stored, "2025-13-03")


def states(world: World) -> dict[str, str]:
    return {str(row["id"]): str(row["state"]) for row in world.run(list_backups, "backup_reader")}


def test_a_share_of_the_sets_is_verified_those_longest_not_first(stored: World, two_sets: TwoSets) -> None:
    assert stored.run(verify_backups, "backup_reader", fraction=0.1) == "PASS: 1 sets decoded"
    assert states(stored) == {two_sets.older: "decoded", two_sets.newer: "stored"}
    assert stored.run(verify_backups, "backup_reader", fraction=0.5) == "PASS: 1 sets decoded"
    assert states(stored) == {two_sets.older: "decoded", two_sets.newer: "decoded"}


def test_a_damaged_set_does_not_keep_others_from_being_verified(stored: World, two_sets: TwoSets) -> None:
    folder = Path(stored.store["BACKUP_STORE"]) / CONTEXT / "daily" / two_sets.older / "data"
    file = folder / "teams.copy.zst"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedSet, match=rf"^FAIL: 1 sets decoded, 1 damaged: .*{two_sets.older}/data/teams.copy.zst is damaged"):
        stored.run(verify_backups, "backup_reader", fraction=1)
    assert states(stored) == {two_sets.older: "damaged", two_sets.newer: "decoded"}


def test_damaged_sets_do_not_use_up_the_share(stored: World, two_sets: TwoSets) -> None:
    folder = Path(stored.store["BACKUP_STORE"]) / CONTEXT / "daily" / two_sets.older / "data"
    (folder / "teams.copy.zst").write_bytes(b"no longer")
    with pytest.raises(DamagedSet, match=r"^FAIL: 1 sets decoded, 1 damaged"):
        stored.run(verify_backups, "backup_reader", fraction=0.1)
    assert states(stored)[two_sets.newer] == "decoded"


@pytest.mark.parametrize("fraction", [0, -1, 1.5])
def test_no_share(stored: World, fraction: float) -> None:
    with pytest.raises(ParameterTypeError, match="fraction"):
        stored.run(verify_backups, "backup_reader", fraction=fraction)


@pytest.mark.long
def test_wherever_server_and_operator_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.connect() as connection:
        connection.execute(f"ALTER DATABASE {world.database} SET timezone = 'America/New_York'".encode())
    listings = list[list[tuple[object, ...]]]()
    try:
        for zone in ("Pacific/Kiritimati", "America/Los_Angeles"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            world.backup()
            world.differential()
            listings.append([(row["id"], row["instant"], row["kind"]) for row in world.run(list_backups, "backup_reader")])
            manifests = [parse_manifest(file.read_bytes(), "") for file in world.store_folder.rglob(MANIFEST_FILE)]
            for one in manifests:
                in_tokyo = one.snapshot.instant.astimezone(TOKYO)
                assert f"_{in_tokyo:%Y%m%d_%H%M%S}_" in one.id
                assert one.id in chosen(world, f"{in_tokyo.replace(tzinfo=None)}")
        monkeypatch.setenv("TZ", "UTC")
        time.tzset()
        assert [(row["id"], row["instant"], row["kind"]) for row in world.run(list_backups, "backup_reader")] == listings[-1]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert listings[-1][2:] == listings[0]
    assert all(str(state).endswith("JST") for _, state, _ in listings[-1])
