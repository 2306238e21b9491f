"""Signed sets: taken and restored with keys, refused in every form but the one that was signed; old sets signed afterwards."""

import json
import logging
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import boto3
import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client

from deployments import local
from deployments.local import LocalServer
from deployments.sign import make_keys
from flows.backup import daily_backup, list_backups
from flows.partitions import reattach_partition
from flows.recovery import disaster_recovery, recovery_drill
from flows.restore import full_restore, restore_cleaned_up, table_restore
from flows.retention import prune_backups
from flows.watch import verify_backups, watch_recovery_point
from tasks.core.errors import BadInput, DamagedSet, UntrustedSet
from tasks.core.sets.manifest_file import MANIFEST_FILE, sign_manifest
from tasks.core.sets.signature import Signer, parse_signing_key
from tests.support import PROJECT
from tests.support.blocks import delete_blocks
from tests.support.contexts import edit_context
from tests.support.database import unlike
from tests.support.example import CONTEXT
from tests.support.legacy import old_script
from tests.support.manifests import canonical
from tests.support.servers import databases, drop_databases
from tests.support.variants import first_quick
from tests.support.world import World, new_world

long = pytest.mark.long


@dataclass(frozen=True)
class Keys:
    """A pair of key files."""

    private: Path
    public: Path

    @property
    def signing(self) -> dict[str, str]:
        return {"BACKUP_SIGNING_KEY": str(self.private)}

    @property
    def verifying(self) -> dict[str, str]:
        return {"BACKUP_VERIFY_KEY": str(self.public)}

    @property
    def both(self) -> dict[str, str]:
        return self.signing | self.verifying

    @property
    def secrets(self) -> list[str]:
        """What of the private key must be seen nowhere."""
        pem = self.private.read_text("ascii")
        raw = parse_signing_key(pem.encode(), "").private_bytes_raw()
        return [pem.splitlines()[1], raw.hex()]

    def sign(self, manifest: Path, store: str) -> None:
        manifest.write_bytes(sign_manifest(manifest.read_bytes(), Signer(parse_signing_key(self.private.read_bytes(), ""), store)))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(*make_keys(tmp_path_factory.mktemp("keys")))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Keys of somebody else."""
    return Keys(*make_keys(tmp_path_factory.mktemp("other-keys")))


def change_a_team(world: World, purpose: str) -> None:
    with world.connect() as connection:
        connection.execute("UPDATE teams SET purpose = %s WHERE id = (SELECT min(id::text)::uuid FROM teams)", [purpose])


def envelope(manifest: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(manifest.read_bytes())
    return found


def strip(manifest: Path) -> None:
    """Take the signature away, as if there had never been one."""
    manifest.write_bytes(canonical({key: value for key, value in envelope(manifest).items() if key != "signature"}))


def states(world: World) -> dict[str, str]:
    return {str(row["id"]): str(row["state"]) for row in world.run(list_backups, "backup_reader") if row["kind"] != "legacy"}


def verify(world: World, backup: str = "latest", **more: Any) -> str:
    return str(world.run(verify_backups, "backup_reader", backup=backup, **more))


def sign(world: World, *sets: str) -> tuple[int, str]:
    """Run the command; return its exit code and what it says."""
    ended = subprocess.run(
        [sys.executable, "-m", "deployments.sign", *sets], cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=local.bare_environment() | world.environment(world.source, "backup_reader"), check=False,
    )  # fmt: skip
    return ended.returncode, ended.stdout


# Taken and restored


@contextmanager
def command_lines() -> Iterator[set[str]]:
    """Collect the command lines of all processes meanwhile."""
    seen, over = set[str](), threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def stored(world: World) -> dict[str, bytes]:
    """Return every object of a store."""
    url = world.store["BACKUP_STORE"]
    if not url.startswith("s3://"):
        return {str(file.relative_to(url)): file.read_bytes() for file in Path(url).rglob("*") if file.is_file()}
    name, _, prefix = url.removeprefix("s3://").partition("/")
    bucket = boto3.resource("s3", endpoint_url=world.store["AWS_ENDPOINT_URL"], aws_access_key_id=world.store["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=world.store["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1").Bucket(name)  # fmt: skip
    return {one.key.removeprefix(f"{prefix}/"): one.get()["Body"].read() for one in bucket.objects.filter(Prefix=f"{prefix}/")}


def manifests(world: World) -> list[dict[str, Any]]:
    return [json.loads(data) for key, data in stored(world).items() if key.endswith(MANIFEST_FILE)]


@long
@pytest.mark.every_variant
@pytest.mark.parametrize("place", ["world", "s3_world"])
def test_backup_differential_and_recovery_with_keys(
    place: str, keys: Keys, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    world: World = request.getfixturevalue(place)
    Secret(value=keys.private.read_text("ascii")).save("signing-test", overwrite=True)
    named = {"BACKUP_SIGNING_KEY": "secret/signing-test"} if place == "s3_world" else keys.signing
    world.extra = named | keys.verifying
    try:
        with command_lines() as seen, caplog.at_level(logging.DEBUG):
            assert world.backup().startswith("STORED")
            change_a_team(world, "changed")
            world.differential()
            before = world.state()
            world.extra = keys.verifying
            assert "PASS" in world.recover()
            assert world.run(recovery_drill, "backup_restorer").startswith("PASS")
    finally:
        delete_blocks("secret/signing-test")
    world.assert_recovered(before)
    found = manifests(world)
    assert sorted(one["manifest"]["kind"] for one in found) == ["differential", "full"]
    assert {one["signature"]["store"] for one in found} == {world.store["BACKUP_STORE"]}
    with get_client(sync_client=True) as client:
        artifacts = "".join(str(one.data) for one in client.read_artifacts())
    assert any("pg_dump" in line for line in seen) and "stored and read back" in caplog.text and "STORED" in artifacts
    told = [caplog.text, artifacts, *seen, *(data.decode(errors="replace") for data in stored(world).values())]
    assert not [secret for secret in keys.secrets for text in told if secret in text]


# Refused


@pytest.fixture(scope="module")
def taken(source: LocalServer, target: LocalServer, prefect_api: str, tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Path:
    """A folder store with two signed fulls, and a signed differential against the newer one."""
    folder = tmp_path_factory.mktemp("signed")
    world = new_world(source, target, prefect_api, folder)
    world.extra = keys.both
    world.backup()
    world.backup()
    change_a_team(world, "changed")
    world.differential()
    drop_databases(source)
    return world.store_folder


@pytest.fixture
def signed(source: LocalServer, target: LocalServer, prefect_api: str, folder: Path, taken: Path, keys: Keys) -> World:
    """A copy of that store, which is said to be one."""
    store = shutil.copytree(taken, folder / "store")
    extra = keys.verifying | {"BACKUP_SIGNED_FOR": str(taken)}
    return World(source, target, folder, prefect_api, {"BACKUP_STORE": str(store)}, extra=extra)


def sets_of(world: World) -> tuple[Path, Path, Path]:
    """Return the folders of the older full, the newer full and the differential."""
    older, newer = world.set_folders()
    (differential,) = world.set_folders("differential")
    return older, newer, differential


def unsigned(world: World, manifest: Path, others: Keys) -> None:
    strip(manifest)


def foreign(world: World, manifest: Path, others: Keys) -> None:
    others.sign(manifest, world.extra["BACKUP_SIGNED_FOR"])


def changed(manifest: Path, **changes: Any) -> None:
    found = envelope(manifest)
    body = found["manifest"] | changes
    manifest.write_bytes(canonical(found | {"manifest": body, "sha256": sha256(canonical(body)).hexdigest()}))


def altered(world: World, manifest: Path, others: Keys) -> None:
    changed(manifest, losses=["nothing"])


def redated(world: World, manifest: Path, others: Keys) -> None:
    changed(manifest, finished="2030-01-01T00:00:00Z", snapshot=envelope(manifest)["manifest"]["snapshot"] | {"lsn": "FFFF/0"})


def replayed(world: World, manifest: Path, others: Keys) -> None:
    """Put an older signed set into the place of a newer one, under its name."""
    older, _, _ = sets_of(world)
    folder = manifest.parent
    shutil.rmtree(folder)
    shutil.copytree(older, folder)
    changed(folder / MANIFEST_FILE, id=folder.name, kind=folder.name.split("_")[1])


def swapped(world: World, manifest: Path, others: Keys) -> None:
    older, _, _ = sets_of(world)
    shutil.copyfile(older / MANIFEST_FILE, manifest)


FAULTS = {
    unsigned: "is not signed, and BACKUP_VERIFY_KEY is set", foreign: "is signed with key .*, BACKUP_VERIFY_KEY has",
    altered: "its signature does not match", redated: "its signature does not match", replayed: "its signature does not match",
    swapped: "its manifest is that of set",
}  # fmt: skip


def leave_marks(folder: Path) -> None:
    """Write every mark that says something good of a set."""
    for mark in ("decoded", "drilled", "cleaned-up", "pinned", "hold-3f9c"):
        (folder / f"{mark}.json").write_text('{"instant": "2026-01-01T00:00:00Z", "run": "3f9c", "verdict": "PASS", "deleted": {}}')


@pytest.mark.parametrize(("fault", "said"), first_quick(1, FAULTS.items()), ids=[one.__name__ for one in FAULTS])
def test_what_is_not_as_it_was_signed_is_refused(
    signed: World, others: Keys, fault: Callable[[World, Path, Keys], None], said: str
) -> None:
    older, newer, differential = sets_of(signed)
    fault(signed, differential / MANIFEST_FILE, others)
    leave_marks(differential)
    (signed.store_folder / CONTEXT / "owner.json").write_text('{"system_identifier": "1"}')

    is_swapped = fault is swapped
    assert states(signed) == {
        older.name: "stored", newer.name: "stored", differential.name: "damaged" if is_swapped else "untrusted"
    }  # fmt: skip
    with pytest.raises(DamagedSet if is_swapped else UntrustedSet, match=f"{differential.name}:? {said}"):
        verify(signed, differential.name)
    with pytest.raises(DamagedSet, match=f"{newer.name} is good, but newer sets were passed over: .*{differential.name}:? {said}"):
        verify(signed)
    watched = signed.run(watch_recovery_point, "backup_reader", refresh=False)
    assert newer.name in watched and "1 newer or equally new sets are damaged" in watched
    if fault is unsigned:
        assert verify(signed, trust_unsigned=True).startswith("PASS") and verify(signed, differential.name, trust_unsigned=True)
    else:
        with pytest.raises(DamagedSet, match=f"{differential.name}:? {said}"):
            verify(signed, differential.name, trust_unsigned=True)
    assert signed.run(prune_backups, "backup_reader").startswith("PLANNED, nothing touched: 0 sets expire")


def test_signed_sets_are_accepted(signed: World, keys: Keys, taken: Path) -> None:
    assert {*states(signed).values()} == {"stored"}
    assert verify(signed).startswith("PASS")
    assert signed.run(watch_recovery_point, "backup_reader", refresh=False).startswith("PASS")
    signed.extra = keys.verifying
    assert {*states(signed).values()} == {"untrusted"}
    with pytest.raises(DamagedSet, match=f"was signed for store {taken}, not for this one; .*export BACKUP_SIGNED_FOR={taken}"):
        verify(signed)
    signed.extra = {}
    assert verify(signed).startswith("PASS")


def test_a_differential_on_a_full_that_is_not_trusted(signed: World, others: Keys) -> None:
    older, newer, differential = sets_of(signed)
    strip(newer / MANIFEST_FILE)
    assert states(signed) == {older.name: "stored", newer.name: "untrusted", differential.name: "damaged"}
    with pytest.raises(DamagedSet, match=f"{differential.name} cannot be restored without its base.*{newer.name} is not signed"):
        verify(signed, differential.name)
    with pytest.raises(DamagedSet, match=f"{older.name} is good, but newer sets were passed over"):
        verify(signed)
    assert verify(signed, trust_unsigned=True).startswith("PASS")
    foreign(signed, newer / MANIFEST_FILE, others)
    with pytest.raises(DamagedSet, match=f"{newer.name} is signed with key"):
        verify(signed, differential.name, trust_unsigned=True)


@long
def test_a_base_is_one_that_is_trusted(world: World, keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    world.backup()
    world.extra = keys.both
    world.differential()
    assert world.set_folders("differential") == [] and len(world.set_folders()) == 2
    assert f"passed over as base: {world.store_folder}/{CONTEXT}/daily/{world.set_folders()[0].name} is not signed" in caplog.text
    world.differential()
    assert envelope(world.set_folders("differential")[0] / MANIFEST_FILE)["manifest"]["base"] == world.set_folders()[1].name


@long
def test_nothing_is_restored_from_what_is_not_trusted(world: World, keys: Keys) -> None:
    world.backup()
    before = world.state()
    world.extra = keys.verifying
    for server, flow, more in (
        (world.target, disaster_recovery, {}),
        (world.source, recovery_drill, {}),
        (world.source, full_restore, {"target_database": "consulting_tool_copy"}),
        (world.source, full_restore, {"in_place": True, "dry_run": False, "confirm_database": world.database}),
        (world.source, table_restore, {"table": "teams"}),
        (world.source, table_restore, {"table": "teams", "mode": "merge"}),
    ):
        with pytest.raises(DamagedSet, match="is not signed"):
            world.run(flow, "backup_restorer", server, **more)
    assert databases(world.source) == {world.database} and databases(world.target) == set()
    assert unlike(before, world.state()) == []
    assert "PASS" in world.recover(trust_unsigned=True)
    world.assert_recovered(before)

    change_a_team(world, "changed")
    changed_state = world.state()
    world.extra = keys.both
    into = {"in_place": True, "dry_run": False, "confirm_database": world.database}
    world.run(full_restore, "backup_restorer", trust_unsigned=True, **into)
    assert unlike(before, world.state()) == []
    # What undoes it is signed.
    (safety,) = world.set_folders("safety")
    world.run(full_restore, "backup_restorer", backup=safety.name, **into)
    assert unlike(changed_state, world.state()) == []


@pytest.mark.parametrize(
    ("flow", "more"),
    [
        (full_restore, {"in_place": True}), (full_restore, {"target_database": "x"}), (table_restore, {"table": "teams"}),
        (disaster_recovery, {}), (recovery_drill, {}), (restore_cleaned_up, {"backup": "bc-004_clean-up_20251103_020000_3f9c"}),
        (reattach_partition, {"backup": "bc-004_archive_20251103_020000_3f9c"}), (verify_backups, {}),
    ],
    ids=lambda one: getattr(one, "name", None) or ",".join(one),
)  # fmt: skip
def test_every_flow_that_reads_sets_takes_the_parameter(
    world: World, keys: Keys, flow: Any, more: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    world.extra = keys.verifying
    for given in ({}, {"trust_unsigned": True}):
        caplog.clear()
        with pytest.raises(BadInput, match=r"no (backup|archive) set"):
            world.run(flow, "backup_restorer", **more, **given)
        assert ("trust_unsigned: sets without a signature are accepted" in caplog.text) == bool(given)


@long
def test_a_file_of_the_old_scripts_is_not_signed(world: World, keys: Keys) -> None:
    world.extra = keys.verifying
    file, more = str(old_script(world)), {"target_database": "consulting_tool_legacy"}
    with pytest.raises(UntrustedSet, match=f"{file} is not signed"):
        world.run(full_restore, "backup_restorer", backup=file, **more)
    assert databases(world.source) == {world.database}
    assert world.run(full_restore, "backup_restorer", backup=file, trust_unsigned=True, **more).startswith("RESTORED")


@pytest.mark.parametrize("wrong", ["no signer", "other signer", "open", "no file", "no block"])
def test_wrong_settings_are_told_before_anything_is_touched(world: World, keys: Keys, others: Keys, wrong: str) -> None:
    opened = world.folder / "open.pem"
    shutil.copyfile(keys.private, opened)
    opened.chmod(0o644)
    extra, said = {
        "no signer": (keys.verifying, "BACKUP_VERIFY_KEY is set and BACKUP_SIGNING_KEY is not"),
        "other signer": (others.signing | keys.verifying, "BACKUP_VERIFY_KEY has no key that belongs to BACKUP_SIGNING_KEY"),
        "open": ({"BACKUP_SIGNING_KEY": str(opened)}, "can be read by other accounts"),
        "no file": ({"BACKUP_SIGNING_KEY": "/nowhere/key.pem"}, "BACKUP_SIGNING_KEY /nowhere/key.pem: No such file"),
        "no block": ({"BACKUP_SIGNING_KEY": "secret/none-such"}, "there is no block secret/none-such"),
    }[wrong]
    world.extra = extra
    with pytest.raises(BadInput, match=said):
        world.run(daily_backup, "backup_reader")
    assert world.set_folders() == []


# Signed afterwards


@long
def test_old_sets_are_signed_once_they_were_decoded(world: World, keys: Keys, others: Keys) -> None:
    world.backup()
    change_a_team(world, "changed")
    world.differential()
    world.backup()
    before = world.state()
    old, damaged = world.set_folders()
    (differential,) = world.set_folders("differential")
    bodies = {one.name: envelope(one / MANIFEST_FILE) for one in (old, damaged, differential)}
    data = damaged / "data" / "teams.copy.zst"
    data.write_bytes(bytes(reversed(data.read_bytes())))

    code, said = sign(world)
    assert code == 1 and "BACKUP_SIGNING_KEY is not set; name the private key's file, or make a pair of keys" in said
    world.extra = keys.signing
    code, said = sign(world)

    assert code == 1 and "FAIL: 2 sets signed, 0 were signed already, 1 are not signed" in said
    assert f"{damaged.name}/data/teams.copy.zst is damaged" in said
    assert envelope(damaged / MANIFEST_FILE) == bodies.pop(damaged.name)
    for one in (old, differential):
        assert {key: value for key, value in envelope(one / MANIFEST_FILE).items() if key != "signature"} == bodies[one.name]
        assert envelope(one / MANIFEST_FILE)["signature"]["store"] == str(world.store_folder)
    world.extra = keys.verifying
    assert states(world) == {old.name: "decoded", differential.name: "decoded", damaged.name: "untrusted"}
    shutil.rmtree(damaged)
    world.recover()
    world.assert_recovered(before)

    # From now on nobody's set is signed that was not named, and nobody else's at all.
    world.extra = keys.both
    strip(old / MANIFEST_FILE)
    others.sign(differential / MANIFEST_FILE, str(world.store_folder))
    code, said = sign(world)
    assert code == 1 and f"{old.name} is not signed" in said and f"{differential.name} is signed with key" in said
    code, said = sign(world, differential.name)
    assert code == 1 and f"{differential.name} is signed with key" in said and "0 sets signed" in said
    code, said = sign(world, old.name)
    assert code == 0 and "SIGNED: 1 sets signed, 0 were signed already, 0 are not signed" in said
    code, said = sign(world, "bc-004_full_20251103_020000_3f9c")
    assert code == 1 and "there is no set" in said
    assert not [secret for secret in keys.secrets if secret in said]


@long
def test_keys_are_changed(world: World, keys: Keys, others: Keys) -> None:
    world.extra = keys.both
    world.backup()
    both = world.folder / "both.pem"
    both.write_bytes(keys.public.read_bytes() + others.public.read_bytes())
    world.extra = others.signing | {"BACKUP_VERIFY_KEY": str(both)}
    change_a_team(world, "changed")
    world.differential()
    assert len(world.set_folders("differential")) == 1, "a full of the old key is a base all the same"
    assert verify(world).startswith("PASS")
    world.extra = others.both
    assert sorted(states(world).values()) == ["damaged", "untrusted"]
    world.extra = others.signing | {"BACKUP_VERIFY_KEY": str(both)}
    code, said = sign(world)
    assert code == 0 and "SIGNED: 1 sets signed, 1 were signed already, 0 are not signed" in said
    world.extra = others.both
    assert verify(world).startswith("PASS") and len({*states(world).values()}) == 1

    # The store moves for good, and its sets are signed anew for the new place.
    moved = world.store_folder.rename(world.folder / "moved")
    there, world.store = world.store["BACKUP_STORE"], {"BACKUP_STORE": str(moved)}
    code, said = sign(world)
    assert code == 1 and said.count(f"was signed for store {there}, not for this one") >= 2
    world.extra = others.both | {"BACKUP_SIGNED_FOR": there}
    code, said = sign(world)
    assert code == 0 and "SIGNED: 2 sets signed, 0 were signed already" in said
    world.extra = others.both
    assert verify(world).startswith("PASS")


@long
def test_the_way_to_signed_sets_is_the_documented_one(world: World) -> None:
    world.backup()
    world.differential()
    (way, *others) = re.findall(
        r"^```sh\n(.*?)^```", (PROJECT / "docs" / "signatures.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert not others
    words = local.bare_environment() | world.environment(world.source, "backup_reader") | {"KEYS": str(world.folder / "keys")}
    words["PATH"] = f"{Path(sys.executable).parent}:{words['PATH']}"
    ended = subprocess.run(["bash", "-euc", way], cwd=PROJECT, env=words, text=True, capture_output=True, check=False)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "SIGNED: 2 sets signed" in said and "PASS: " in said
    world.extra = {"BACKUP_VERIFY_KEY": f"{words['KEYS']}/backup-verify.pem"}
    assert {*states(world).values()} == {"decoded"}


@long
def test_a_local_copy_is_signed_for_the_store(world: World, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = world.folder / "copies"
    copies.mkdir()
    edit_context(world, monkeypatch, local_copy={"folder": str(copies), "keep": "3 days"})
    world.backup()
    world.extra = keys.signing
    monkeypatch.chdir(PROJECT)
    from deployments.sign import sign_backups

    assert world.run(sign_backups, "backup_reader").count("SIGNED: 1 sets signed") == 2
    world.extra = keys.both
    world.backup()
    for manifest in world.store_folder.glob(f"*/daily/*/{MANIFEST_FILE}"):
        assert (copies / manifest.relative_to(world.store_folder)).read_bytes() == manifest.read_bytes()
    assert world.run(prune_backups, "backup_reader").count("2 examined") == 2
    main, world.store = str(world.store_folder), {"BACKUP_STORE": str(copies)}
    world.extra = keys.verifying
    with pytest.raises(DamagedSet, match=f"was signed for store {main}"):
        verify(world)
    world.extra = keys.verifying | {"BACKUP_SIGNED_FOR": main}
    assert verify(world).startswith("PASS")
