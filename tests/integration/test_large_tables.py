"""A large table is dumped and compared in parts, under one snapshot; the set is that of a dump in one piece."""

import subprocess
from collections.abc import Iterator

import pytest

from tasks.core.errors import RestoreDiffers
from tasks.core.rows import pages
from tasks.core.sets.manifest import Manifest, Relation
from tasks.core.sets.manifest_file import parse_manifest
from tests.support.database import execute
from tests.support.example import CONTEXT
from tests.support.manifests import rewrite_manifest
from tests.support.servers import drop_databases
from tests.support.traffic import traffic
from tests.support.world import World

LEAF = "policy_violations_2025"
# A leaf of the example has some 30 pages.
PART_BYTES = 1 << 16
pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pages, "PART_BYTES", PART_BYTES)
    yield


def newest(world: World, kind: str = "daily") -> Manifest:
    folder = world.set_folders(kind)[-1]
    return parse_manifest((folder / "manifest.json").read_bytes(), str(folder))


def named(manifest: Manifest, name: str = LEAF) -> Relation:
    return next(relation for relation in manifest.relations if relation.name == name)


def test_dumped_in_parts_as_in_one_piece(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Pages of which nothing is left, at both ends and between.
    execute(world, f"DELETE FROM {LEAF} WHERE split_part(ctid::text, ',', 1) IN ('(0', '(1', '(9')", f"VACUUM {LEAF}")
    before = world.state()
    assert world.backup().startswith("STORED")
    parts = newest(world)
    assert len(named(parts).parts) > 3
    assert world.recover().startswith("PASS")
    world.assert_recovered(before)
    drop_databases(world.target)
    monkeypatch.setattr(pages, "PART_BYTES", 1 << 40)
    assert world.backup().startswith("STORED")
    whole = newest(world)
    assert {len(relation.parts) for relation in whole.relations} == {1}
    facts = [
        [(relation.qualified, relation.rows, relation.digest, relation.plain_bytes) for relation in manifest.relations]
        for manifest in (parts, whole)
    ]
    assert facts[0] == facts[1]
    counts = [(folder / "block-rows.json.zst").read_bytes() for folder in world.set_folders()]
    assert counts[0] == counts[1]


@pytest.mark.long
def test_a_differential_inherits_rows_from_parts(world: World) -> None:
    world.backup()
    blocks = "split_part(ctid::text, ',', 1)"
    execute(
        world, f"UPDATE {LEAF} SET resolution = 'changed' WHERE {blocks} = '(0'", f"DELETE FROM {LEAF} WHERE {blocks} = '(12'",
        f"DELETE FROM {LEAF} WHERE ctid = (SELECT max(ctid) FROM {LEAF})",
    )  # fmt: skip
    before = world.state()
    assert "differential" in world.differential()
    inherited = named(newest(world, "differential")).inherited
    assert inherited and inherited.rows > 500 and inherited.left_out
    assert world.recover().startswith("PASS")
    world.assert_recovered(before)


@pytest.mark.long
def test_the_script_of_a_set_restores_parts(world: World) -> None:
    before = world.state()
    world.backup()
    (script,) = world.store_folder.glob(f"{CONTEXT}/daily/*/restore.sh")
    environment = world.target.environment() | {"PATH": f"{world.target.bin}:/usr/bin:/bin"}
    done = subprocess.run(
        ["bash", str(script), world.database], env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    world.assert_recovered(before)


@pytest.mark.long
def test_a_table_that_grows_while_it_is_dumped(world: World) -> None:
    grow = (
        f"INSERT INTO {LEAF} SELECT (jsonb_populate_record(v, jsonb_build_object('id', gen_random_uuid()))).* "
        f"FROM {LEAF} v LIMIT 20"
    )
    with traffic(world.connect, [grow]) as seen:
        for _ in range(3):
            assert world.backup().startswith("STORED")
    assert seen.errors == []
    assert world.recover().startswith("PASS")


@pytest.mark.long
@pytest.mark.every_variant
@pytest.mark.parametrize("any_version", [15, 16], indirect=True)
def test_on_other_versions(any_version: World) -> None:
    world = any_version
    before = world.state()
    world.backup()
    assert len(named(newest(world)).parts) > 3
    drop_databases(world.source)
    assert world.recover().startswith("PASS")
    world.assert_recovered(before)


@pytest.mark.long
def test_code_of_the_owner_keeps_a_table_in_one_piece(world: World) -> None:
    execute(
        world, "CREATE FUNCTION as_text(text) RETURNS text IMMUTABLE LANGUAGE sql RETURN $1",
        f"CREATE INDEX odd ON {LEAF} (as_text(resolution))",
    )  # fmt: skip
    world.backup()
    assert len(named(newest(world)).parts) == 1
    assert len(named(newest(world), "policy_violations_2024").parts) > 3


@pytest.mark.long
def test_other_rows_in_parts_fail_the_recovery(world: World) -> None:
    world.backup()
    drop_databases(world.source)
    rewrite_manifest(world, LEAF, rows=1001)
    with pytest.raises(RestoreDiffers, match=rf"{LEAF}: 1000 rows were loaded, but the manifest has 1001"):
        world.recover()
