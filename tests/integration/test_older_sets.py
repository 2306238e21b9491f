"""Sets that earlier commits made are listed, verified and restored by the code as it is now."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments import local
from deployments.local import LocalServer
from flows.backup import list_backups
from flows.restore import full_restore, table_restore
from flows.watch import verify_backups
from tests.support.adoption import adopt
from tests.support.archives import reattach
from tests.support.clean_ups import bring_back
from tests.support.database import execute, unlike
from tests.support.example import DATABASE, TEMPLATE, copy_template
from tests.support.older_sets import GENERATIONS, Generation, unpack
from tests.support.oracle import State
from tests.support.restores import restore, restore_by_hand
from tests.support.servers import drop_databases, prepare
from tests.support.world import World

pytestmark = pytest.mark.every_variant
long = pytest.mark.long

KINDS = ["archive", "clean-up", "daily", "differential", "safety", "violations"]


@pytest.fixture(scope="module", params=GENERATIONS, ids=lambda one: one.name.partition(".")[0])
def generation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generation:
    """What one commit made; its store is copied by those who use it."""
    return unpack(request.param, tmp_path_factory.mktemp("generation"))


@pytest.fixture(scope="module")
def server(generation: Generation) -> Iterator[LocalServer]:
    """A server of the version that the sets are of, so that the texts of pg_dump can be compared."""
    with local.postgres(local.wheel_bin(generation.server_major)) as server:
        yield prepare(server)


def world_of(generation: Generation, server: LocalServer, api: str, folder: Path) -> World:
    """Return a world that has a copy of the store, and one server."""
    return World(server, server, folder, api, {"BACKUP_STORE": str(shutil.copytree(generation.store, folder / "store"))})


@pytest.fixture
def older(generation: Generation, server: LocalServer, prefect_api: str, folder: Path) -> Iterator[World]:
    """A store of older sets, and a server without databases."""
    yield world_of(generation, server, prefect_api, folder)
    drop_databases(server)


@pytest.fixture(scope="module")
def recovered(generation: Generation, server: LocalServer, prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> State:
    """What the newest older set is after its recovery beside the table that its keys refer to; then it is the template."""
    world = world_of(generation, server, prefect_api, tmp_path_factory.mktemp("recovered"))
    generation.give_users(server)
    assert world.recover().startswith("PASS")
    state = world.state()
    with server.connect() as connection:
        connection.execute(f"ALTER DATABASE {DATABASE} RENAME TO {TEMPLATE}".encode())
    return state


@pytest.fixture
def living(older: World, recovered: State) -> World:
    """The same with the database as the newest older set has it, on a server that has taken the store over."""
    copy_template(older.source)
    adopt(older)
    return older


def listed(world: World) -> list[tuple[str, str]]:
    """Return kind and state of what is listed, sorted."""
    return sorted((str(row["kind"]), str(row["state"])) for row in world.run(list_backups, "backup_reader"))


def test_there_are_generations() -> None:
    assert GENERATIONS


def test_every_set_is_whole(older: World, generation: Generation) -> None:
    kinds = ["archive", "clean-up", "differential", "full", "full", "long-term", "safety"]
    stored = [(kind, "drilled" if kind == "archive" else "stored") for kind in kinds]
    assert listed(older) == sorted([*stored, ("legacy", "legacy")])
    assert older.run(verify_backups, "backup_reader", fraction=1.0).startswith("PASS")
    marked = {path.parent.name for path in older.store_folder.rglob("decoded.json")}
    assert marked == {one for kind in KINDS for one in generation.ids(kind)}


def test_a_full_is_recovered_on_an_empty_server(older: World, generation: Generation) -> None:
    assert older.recover(backup=generation.full).startswith("PASS")
    older.assert_recovered(generation.states["full"])


@long
def test_a_differential_is_recovered_on_a_newer_server(older: World, generation: Generation, target: LocalServer) -> None:
    older.target = target
    try:
        assert older.recover(backup=generation.the("differential")).startswith("PASS")
        before, after = generation.states["differential"], older.state(target)
    finally:
        drop_databases(target)
    # Another major spells the same objects differently.
    assert (after.rows, after.partitions) == (before.rows, before.partitions)
    assert (after.triggers, after.indexes) == (before.triggers, before.indexes)


def test_a_differential_is_recovered_beside_what_keys_refer_to(generation: Generation, recovered: State) -> None:
    assert unlike(generation.states["differential"], recovered) == []


@long
def test_a_full_is_restored_in_place(living: World, generation: Generation) -> None:
    verdict = restore(living, backup=generation.full)
    assert verdict.startswith("RESTORED")
    assert "is of an earlier release: tablespaces, comments of sequences" in verdict
    assert unlike(generation.states["full"], living.state()) == []


@long
def test_a_safety_set_undoes(living: World, generation: Generation) -> None:
    assert restore(living, backup=generation.the("safety")).startswith("RESTORED")
    assert unlike(generation.states["safety"], living.state()) == []


@long
def test_a_table_is_restored(living: World, generation: Generation) -> None:
    execute(living, "UPDATE teams SET purpose = 'wrong'")
    words = {"table": "teams", "mode": "merge", "dry_run": False, "confirm_database": DATABASE}
    said = living.run(table_restore, "backup_restorer", backup=generation.the("differential"), **words)
    assert said.startswith("RESTORED")
    assert unlike(generation.states["differential"], living.state()) == []
    living.run(table_restore, "backup_restorer", backup=generation.full, **words)
    assert living.state().rows["public.teams"] == generation.states["full"].rows["public.teams"]


@long
def test_rows_of_a_long_term_set_are_restored(living: World, generation: Generation) -> None:
    execute(living, "DELETE FROM policy_violations_2025")
    words = {"table": "policy_violations_2025", "mode": "missing", "dry_run": False, "confirm_database": DATABASE}
    living.run(table_restore, "backup_restorer", backup=generation.the("violations"), **words)
    assert unlike(generation.states["differential"], living.state()) == []


@long
def test_an_archived_partition_is_attached_again(living: World, generation: Generation) -> None:
    cleaned = generation.states["before the clean-up"].differences(generation.states["differential"], views="ignored")
    assert cleaned
    assert reattach(living, year="2022").startswith("ATTACHED: public.policy_violations_2022 with 80 rows")
    # All that is still missing then is what was cleaned up.
    assert generation.states["before the archive"].differences(living.state(), views="ignored") == cleaned


@long
def test_rows_that_were_cleaned_up_come_back(living: World, generation: Generation) -> None:
    assert bring_back(living, generation.the("clean-up")).startswith("RESTORED")
    assert unlike(generation.states["before the clean-up"], living.state()) == []


@long
def test_a_set_that_was_signed_is_trusted_and_no_other(older: World, generation: Generation) -> None:
    older.extra = {"BACKUP_VERIFY_KEY": str(generation.folder / "backup-verify.pem"), "BACKUP_SIGNED_FOR": generation.signed_for}
    assert [one for one in listed(older) if one[1] not in ("untrusted", "legacy")] == [("full", "stored")]
    assert older.recover().startswith("PASS")
    older.assert_recovered(generation.states["full"])


@long
def test_a_file_of_the_old_scripts(older: World, generation: Generation) -> None:
    older.database = "consulting_tool_legacy"
    file = older.store_folder / generation.legacy_file.relative_to(generation.store)
    said = older.run(full_restore, "backup_restorer", backup=str(file), target_database=older.database)
    assert said.startswith("RESTORED, UNPROVEN: ")
    # It has the rows of all tables but of the partitions.
    seen, before = older.state().rows, generation.states["full"].rows
    assert {name: seen[name] for name in seen if name in before} == {name: before[name] for name in before if name in seen}
    assert before.keys() - seen.keys() == {name for name in before if "policy_violations_" in name}


@long
def test_by_hand(older: World, generation: Generation) -> None:
    restore_by_hand(older, DATABASE, generation.full)
    older.assert_recovered(generation.states["full"])
    drop_databases(older.source)
    restore_by_hand(older, DATABASE, generation.the("differential"))
    older.assert_recovered(generation.states["differential"])


@long
def test_backups_go_on_beside_older_sets(living: World) -> None:
    assert living.backup().startswith("STORED")
    execute(living, "UPDATE teams SET purpose = 'changed'")
    before = living.state()
    assert "differential" in living.differential()
    drop_databases(living.source)
    assert living.recover().startswith("PASS")
    living.assert_recovered(before)
