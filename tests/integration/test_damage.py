"""A set that is damaged in any of its objects is refused by name, and `latest` falls back and says so."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect import flow
from prefect.artifacts import Artifact

from deployments.local import LocalServer
from tasks.core.errors import BadInput, DamagedSet
from tasks.core.run.clock import now
from tasks.core.sets.name import Kind, SetName
from tasks.restore import new_database
from tasks.restore.new_database import Recovery
from tasks.run import site
from tasks.run.run import begin, task_runner
from tasks.sets.manifest import find_manifest
from tasks.sets.stage import fetch
from tasks.store.address import StoreAddress, open_store
from tests.support.example import CONTEXT
from tests.support.manifests import canonical
from tests.support.servers import databases, drop_databases
from tests.support.world import TwoSets, World

DATA = "data/policy_violations_2023.copy.zst"
OBJECTS = [
    DATA,
    "data/team_leaders.copy.zst",
    "schema.dump.zst",
    "schema.list",
    "context/context.yaml",
    "restore.sh",
    "manifest.json",
]


@pytest.fixture
def world(source: LocalServer, target: LocalServer, two_sets: TwoSets, prefect_api: str, folder: Path) -> Iterator[World]:
    """A store with two good sets, for the test to damage, and an empty server."""
    store = two_sets.copy(folder / "store")
    yield World(source, target, folder, prefect_api, {"BACKUP_STORE": str(store)})
    drop_databases(target)


def set_folder(world: World, set_id: str) -> Path:
    return world.store_folder / CONTEXT / "daily" / set_id


def flip(file: Path, bit: int) -> None:
    """Flip one bit; negative numbers count from the end."""
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    file.write_bytes(data)


def first_bit(file: Path, other: Path) -> None:
    flip(file, 0)


def middle_bit(file: Path, other: Path) -> None:
    flip(file, file.stat().st_size * 4 + 3)


def last_bit(file: Path, other: Path) -> None:
    flip(file, -1)


def missing(file: Path, other: Path) -> None:
    file.unlink()


def cut_short(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def emptied(file: Path, other: Path) -> None:
    file.write_bytes(b"")


def lengthened(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\n")


def swapped(file: Path, other: Path) -> None:
    """Put the other set's object there, or, where both sets hold the same bytes, another table's."""
    same = other.read_bytes() == file.read_bytes()
    shutil.copyfile(file.with_name("organizations.copy.zst") if same else other, file)


FAULTS = [first_bit, middle_bit, last_bit, missing, cut_short, emptied, lengthened, swapped]
CASES = [
    (path, fault) for path in OBJECTS for fault in FAULTS
    if not (path == "manifest.json" and fault is missing)  # an unfinished set: below
    and not (fault is swapped and path in ("schema.list", "context/context.yaml", "restore.sh"))  # the same bytes in both sets
]  # fmt: skip


@flow(task_runner=task_runner())
def stage(context: str, backup: str) -> tuple[str, list[str]]:
    """Do what a restore does before it touches anything: choose, download and verify; return the set and what was passed over."""
    with begin("stage", context) as run:
        recovery = Recovery(site.find_store(context), now())
        found, _ = new_database.stage(recovery, site.find_server(None, context), run, backup, None)
        return found.set.name.id, [*found.passed_over]


def staged(world: World, backup: str = "latest") -> tuple[str, list[str]]:
    found: tuple[str, list[str]] = world.run(stage, "backup_restorer", world.target, context=CONTEXT, backup=backup)
    return found


def verify(world: World, set_id: str) -> None:
    """Read a set as a restore does, object by object, without Prefect around it."""
    address = StoreAddress(str(world.store_folder))
    name = SetName(CONTEXT, Kind.FULL, set_id)
    staging = world.folder / "verify"
    staging.mkdir()
    manifest = find_manifest(open_store(address), address, name)
    assert manifest
    for number, stored in enumerate(manifest.objects):
        fetch.fn(address, name, stored, staging / str(number))


@pytest.mark.parametrize(("path", "fault"), CASES, ids=[f"{path}-{fault.__name__}" for path, fault in CASES])
def test_every_damage_to_every_kind_of_object_is_found_and_named(
    world: World, two_sets: TwoSets, path: str, fault: Callable[[Path, Path], None]
) -> None:
    good = set_folder(world, two_sets.older)
    fault(set_folder(world, two_sets.newer) / path, good / path)

    with pytest.raises(DamagedSet) as refused:
        verify(world, two_sets.newer)

    named = f"{CONTEXT}/daily/{two_sets.newer}" + ("" if path == "manifest.json" else f"/{path}")
    assert named in str(refused.value)
    assert "restore another set" in str(refused.value)


def test_eight_bits_of_every_object(world: World, two_sets: TwoSets) -> None:
    newer = set_folder(world, two_sets.newer)
    verify(world, two_sets.newer)
    for path in OBJECTS:
        file = newer / path
        intact = file.read_bytes()
        for step in range(8):
            shutil.rmtree(world.folder / "verify")
            flip(file, step * (len(intact) * 8 - 1) // 7)
            with pytest.raises(DamagedSet, match=two_sets.newer):
                verify(world, two_sets.newer)
            file.write_bytes(intact)


@pytest.mark.parametrize(
    ("path", "fault"), list(zip(OBJECTS, [middle_bit, swapped, missing, cut_short, first_bit, lengthened, emptied], strict=True))
)
def test_a_damaged_set_is_refused_when_named_and_passed_over_when_not(
    world: World, two_sets: TwoSets, path: str, fault: Callable[[Path, Path], None]
) -> None:
    fault(set_folder(world, two_sets.newer) / path, set_folder(world, two_sets.older) / path)

    with pytest.raises(DamagedSet, match=f"{CONTEXT}/daily/{two_sets.newer}.*restore another set"):
        staged(world, two_sets.newer)
    chosen, passed_over = staged(world)

    assert chosen == two_sets.older
    assert len(passed_over) == 1
    assert two_sets.newer in passed_over[0]
    assert path == "manifest.json" or path in passed_over[0]


@pytest.mark.long
def test_a_recovery_says_what_it_passed_over_and_brings_back_the_older_state(world: World, two_sets: TwoSets) -> None:
    middle_bit(set_folder(world, two_sets.newer) / "manifest.json", Path())

    with pytest.raises(DamagedSet, match=two_sets.newer):
        world.recover(backup=two_sets.newer)
    assert databases(world.target) == set()

    verdict = world.recover()

    assert verdict.startswith("PASS") and two_sets.older in verdict
    world.assert_recovered(two_sets.before_older)
    report = Artifact.get(f"{CONTEXT}-recovery")
    assert report is not None
    passed_over = str(report.data).split("## Newer sets that were passed over")[1].split("##")[0]
    assert two_sets.newer in passed_over


def test_an_unfinished_set_is_never_chosen(world: World, two_sets: TwoSets) -> None:
    (set_folder(world, two_sets.newer) / "manifest.json").unlink()

    assert staged(world) == (two_sets.older, [])
    with pytest.raises(BadInput, match=f"{two_sets.newer}.*no manifest.json there.*list_backups"):
        staged(world, two_sets.newer)


def test_an_undamaged_store_gives_the_newest(world: World, two_sets: TwoSets) -> None:
    assert staged(world) == (two_sets.newer, [])


def test_a_set_is_found_by_its_path(world: World, two_sets: TwoSets) -> None:
    assert staged(world, f"{world.store_folder}/bc-004/daily/{two_sets.older}/manifest.json") == (two_sets.older, [])


def test_a_manifest_in_another_sets_folder_is_refused(world: World, two_sets: TwoSets) -> None:
    older, newer = set_folder(world, two_sets.older), set_folder(world, two_sets.newer)
    shutil.copyfile(older / "manifest.json", newer / "manifest.json")

    with pytest.raises(DamagedSet, match=f"{two_sets.newer}: its manifest is that of set {two_sets.older}; restore another set"):
        verify(world, two_sets.newer)


def test_a_renamed_set_is_refused(world: World, two_sets: TwoSets) -> None:
    renamed = two_sets.newer[:-4] + "0000"
    set_folder(world, two_sets.newer).rename(set_folder(world, renamed))

    with pytest.raises(DamagedSet, match=f"{renamed}: its manifest is that of set {two_sets.newer}"):
        verify(world, renamed)


def test_a_newer_version_of_the_manifest_is_refused_with_the_remedy(world: World, two_sets: TwoSets) -> None:
    manifest = set_folder(world, two_sets.newer) / "manifest.json"
    rewrite(manifest, version=2)

    with pytest.raises(
        DamagedSet, match=f"{two_sets.newer}: the manifest has version 2, this release reads only 1; use a newer one"
    ):
        verify(world, two_sets.newer)
    chosen, passed_over = staged(world)
    assert chosen == two_sets.older
    assert "the manifest has version 2" in passed_over[0]


def rewrite(manifest: Path, **changes: object) -> None:
    """Change keys of a manifest and give it the right checksum, as a newer release, or an attacker, would."""
    body = json.loads(manifest.read_bytes())["manifest"] | changes
    manifest.write_bytes(canonical({"manifest": body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}))


def test_rewriting_a_manifest_without_a_change_is_no_damage(world: World, two_sets: TwoSets) -> None:
    rewrite(set_folder(world, two_sets.newer) / "manifest.json")

    verify(world, two_sets.newer)


def test_a_path_that_leads_out_of_the_set_is_refused(world: World, two_sets: TwoSets) -> None:
    manifest = set_folder(world, two_sets.newer) / "manifest.json"
    stored = json.loads(manifest.read_bytes())["manifest"]["schema_list"]
    rewrite(manifest, schema_list=stored | {"path": "../../../owner.json"})

    with pytest.raises(DamagedSet, match=f"{two_sets.newer}: the manifest is not valid"):
        verify(world, two_sets.newer)


def test_when_every_set_is_damaged_each_is_named(world: World, two_sets: TwoSets) -> None:
    middle_bit(set_folder(world, two_sets.newer) / DATA, Path())
    middle_bit(set_folder(world, two_sets.older) / "manifest.json", Path())

    with pytest.raises(DamagedSet) as refused:
        world.recover()

    assert two_sets.newer in str(refused.value) and two_sets.older in str(refused.value)
    assert databases(world.target) == set()
