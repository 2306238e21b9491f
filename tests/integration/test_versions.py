"""The main job on every major version that is here, and from one major to a newer one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.local import LocalS3, LocalServer, wheel_bin
from tasks.core.postgres import programs
from tests.support.example import OUTBOUND_KEYS, copy_template
from tests.support.oracle import State
from tests.support.servers import Servers, drop_databases
from tests.support.world import World

pytestmark = [pytest.mark.long, pytest.mark.every_variant]


class Journey:
    """A backup on one server and its recovery on another, or on the same one after the database was dropped."""

    def __init__(self, source: LocalServer, target: LocalServer, world: World) -> None:
        self.source, self.target, self.world = source, target, world

    def go(self) -> tuple[State, State]:
        copy_template(self.source)
        before = self.world.state(self.source)
        assert self.world.backup().startswith("STORED")
        drop_databases(self.source)
        assert self.world.recover().startswith("PASS")
        return before, self.world.state(self.target)


@pytest.fixture
def journey(servers: Servers, prefect_api: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[Journey]:
    """From one major version to another, over a folder store."""
    source, target = (servers[major] for major in request.param)
    (folder / "store").mkdir()
    world = World(source, target, folder, prefect_api, {"BACKUP_STORE": str(folder / "store")})
    yield Journey(source, target, world)
    drop_databases(source)
    drop_databases(target)


def same(*majors: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("journey", [(major, major) for major in majors], ids=map(str, majors), indirect=True)


@same(15, 16, 18)
def test_a_folder_store(journey: Journey) -> None:
    before, _ = journey.go()
    journey.world.assert_recovered(before)


@same(15, 16)
def test_an_s3_store(journey: Journey, s3: LocalS3) -> None:
    journey.world.store = s3.environment() | {"BACKUP_STORE": f"{s3.url}/{journey.world.folder.name}"}
    before, _ = journey.go()
    journey.world.assert_recovered(before)


@same(15, 16)
def test_with_newer_programs_than_the_server(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "program_folders", lambda: [wheel_bin(18)])
    before, _ = journey.go()
    journey.world.assert_recovered(before)


@pytest.mark.parametrize("journey", [(15, 18), (16, 18)], ids=["15 to 18", "16 to 18"], indirect=True)
def test_to_a_newer_major_version(journey: Journey) -> None:
    before, after = journey.go()
    # Between majors the same object is spelled differently: rows, and what there is, are compared, not texts.
    assert before.rows == after.rows
    assert {name: view.recomputed for name, view in before.views.items()} == {
        name: view.stored for name, view in after.views.items()
    }
    assert before.partitions == after.partitions
    assert before.triggers == after.triggers
    assert before.indexes == after.indexes
    assert after.missing == after.outside == ()


@same(15, 16)
def test_a_source_that_broke_a_key_of_a_partitioned_table(journey: Journey) -> None:
    copy_template(journey.source)
    with journey.world.connect(journey.source) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE policy_violations_2024 SET rule_id = gen_random_uuid() WHERE detected_at < '2024-01-03'")
    before = journey.world.state(journey.source)
    journey.world.backup()
    drop_databases(journey.source)
    assert "the source was already inconsistent" in journey.world.recover()
    after = journey.world.state(journey.target)
    broken = "policy_violations.policy_violations_rule_fkey"
    assert before.differences(after, ignore_foreign_keys=(*OUTBOUND_KEYS, broken), views="recomputed") == []
