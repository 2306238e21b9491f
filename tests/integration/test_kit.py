"""The recovery kit: with it and the store, all else being gone, the database comes back as its README says."""

import re
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from deployments import local
from flows.backup import list_backups
from flows.recovery import recovery_drill
from flows.retention import prune_backups
from tests.support import PROJECT
from tests.support.example import CONTEXT, DATABASE, OUTBOUND_KEYS, TABLES
from tests.support.oracle import capture
from tests.support.reports import artifact
from tests.support.servers import drop_databases
from tests.support.world import World

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARK = "SECRETMARK-7c1e"
# What asks a package index; the programs themselves are those of the kit.
INSTALLING = ("python3 -m venv", ". .venv/bin/activate", "pip install")


def make_kit(world: World, folder: Path, **extra: str) -> "subprocess.CompletedProcess[str]":
    """Make a kit as an operator does, without a Prefect server."""
    given = local.bare_environment() | world.environment(world.source, "backup_reader") | extra
    given.pop("PREFECT_API_URL")
    return subprocess.run(
        [sys.executable, "-m", "deployments.kit", str(folder)], env=given, cwd=PROJECT, capture_output=True, text=True, check=False
    )


def texts(folder: Path) -> str:
    """Return all that a kit holds, also of what is packed."""
    plain = [path.read_bytes().decode(errors="replace") for path in folder.iterdir() if path.suffix != ".gz"]
    with tarfile.open(folder / "project.tar.gz") as packed:
        members = [packed.extractfile(one) for one in packed.getmembers() if one.isfile()]
        return "\n".join([*plain, *(one.read().decode(errors="replace") for one in members if one)])


@pytest.fixture
def made(world: World) -> World:
    """A world with a full, a differential, and a kit in `kit`."""
    world.backup()
    with world.connect() as connection:
        connection.execute("UPDATE teams SET purpose = 'since the full' WHERE id = (SELECT min(id::text)::uuid FROM teams)")
    assert world.differential().startswith("STORED")
    done = make_kit(world, world.folder / "kit", PGPASSWORD=MARK, PGSSLMODE="prefer")
    assert done.returncode == 0, done.stderr
    return world


def blocks(kit: Path, readme: str = "README.md") -> list[str]:
    """Return the blocks of commands of a kit's README."""
    return BLOCK.findall((kit / readme).read_text("utf-8"))


def follow(world: World, kit: Path, commands: str, user: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    """Type commands in the kit's folder, against an empty server, with nothing else of this project."""
    addresses = kit / "addresses.env"
    lines = [line for line in addresses.read_text("utf-8").splitlines() if not line.startswith(("export PGPORT", "export PGUSER"))]
    addresses.write_text("\n".join([*lines, f"export PGPORT={world.target.port}", f"export PGUSER={user}", ""]), "utf-8")
    kept = "\n".join(line for line in commands.splitlines() if not line.startswith(INSTALLING))
    zstd = Path(shutil.which("zstd") or pytest.skip("the zstd program is not installed"))
    given = {
        **local.bare_environment(), "PREFECT_API_URL": world.api, "BACKUP_STAGING": str(world.folder / "staging2"),
        "PATH": f"{world.folder / 'bin'}:{Path(sys.executable).parent}:{world.target.bin}:{zstd.parent}:/usr/bin:/bin",
        "PGPASSWORD": world.target.password, "PYTHONPATH": "", **extra,
    }  # fmt: skip
    return subprocess.run(["bash", "-uo", "pipefail", "-c", kept], env=given, cwd=kit, capture_output=True, text=True, check=False)


def lose_everything(world: World) -> None:
    drop_databases(world.source)


@pytest.mark.long
def test_recovered_with_kit_and_store_alone(made: World) -> None:
    before, kit = made.state(), made.folder / "kit"
    lose_everything(made)
    addresses, programs, _roles, recovery, _stock = blocks(kit)
    said = follow(made, kit, addresses + programs + recovery, "backup_restorer")
    assert "PASS: RTO" in said.stderr + said.stdout, said.stderr[-3000:]
    assert (kit / "project" / "deployments" / "roles.sql").is_file()
    made.assert_recovered(before)


@pytest.mark.long
@pytest.mark.every_variant
@pytest.mark.parametrize("place", ["folder", "s3"])
def test_recovered_with_stock_tools(world: World, request: pytest.FixtureRequest, place: str) -> None:
    if place == "s3":
        request.getfixturevalue("s3_world")
        make_aws(world.folder / "bin")
    made = request.getfixturevalue("made")
    before, kit = made.state(), made.folder / "kit"
    lose_everything(made)
    shutil.rmtree(made.folder / "staging", ignore_errors=True)
    addresses, _programs, _recovery, _roles, stock = blocks(kit)
    aws = {name: value for name, value in made.store.items() if name.startswith("AWS_") and "KEY" in name}
    said = follow(made, kit, addresses + stock, "postgres", NEW="by hand", **aws)
    assert "restored; left to do" in said.stdout, said.stderr[-3000:]
    after = capture(made.target.conninfo("by hand"), bin_dir=made.target.bin, tables=TABLES)
    assert before.differences(after, ignore_foreign_keys=OUTBOUND_KEYS, views="recomputed") == []


def make_aws(folder: Path) -> None:
    """Make a program `aws` that does what the one of Amazon does with `s3 cp --recursive`, and nothing else."""
    folder.mkdir()
    program = folder / "aws"
    program.write_text(f"""#!{sys.executable}
import boto3, sys
from pathlib import Path
assert sys.argv[1:4] == ["s3", "cp", "--recursive"], sys.argv
bucket, _, prefix = sys.argv[4].removeprefix("s3://").partition("/")
client = boto3.client("s3")
for one in client.list_objects_v2(Bucket=bucket, Prefix=prefix + "/")["Contents"]:
    file = Path(sys.argv[5]) / one["Key"].removeprefix(prefix + "/")
    file.parent.mkdir(parents=True, exist_ok=True)
    client.download_file(bucket, one["Key"], str(file))
""")
    program.chmod(0o755)


@pytest.mark.long
def test_a_kit_is_private_whole_and_says_no_secret(made: World) -> None:
    kit = made.folder / "kit"
    assert stat.S_IMODE(kit.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in kit.iterdir()} == {0o600}
    names = {"README.md", "README.ja.md", "addresses.env", "runbook.md", "runbook.ja.md", "constraints.txt", "restore.sh",
             "project.tar.gz", "kit.json"}  # fmt: skip
    assert {path.name for path in kit.iterdir()} == names
    assert blocks(kit) == blocks(kit, "README.ja.md") and len(blocks(kit)) == 5
    # Made again with whatever else is secret, and a public key.
    secret = {"AWS_SECRET_ACCESS_KEY": MARK, "AWS_SESSION_TOKEN": MARK, "AWS_ENDPOINT_URL": f"https://{MARK}:{MARK}@s3.example.org",
              "PGPASSWORD": MARK, "BACKUP_SIGNING_KEY": MARK, "BACKUP_VERIFY_KEY": "PUBLICKEY-1",
              "PREFECT_API_AUTH_STRING": MARK}  # fmt: skip
    again = make_kit(made, kit, **secret)
    assert again.returncode == 0, again.stderr
    assert MARK not in texts(kit) + again.stdout + again.stderr
    assert "https://s3.example.org" in texts(kit) and (kit / "verify-key").read_text() == "PUBLICKEY-1\n"
    assert make_kit(made, kit).returncode == 0
    assert {path.name for path in kit.iterdir()} == names
    # What a shell reads leads where it is.
    shown = subprocess.run(["bash", "-c", ". ./addresses.env; env"], cwd=kit, capture_output=True, text=True, check=True).stdout
    for line in (
        f"PGPORT={made.source.port}",
        "PGUSER=backup_reader",
        f"BACKUP_STORE={made.store_folder}",
        f"PGDATABASE={DATABASE}",
    ):
        assert line in shown.splitlines()
    newest = made.set_folders("differential")[-1]
    assert (kit / "restore.sh").read_bytes() == (newest / "restore.sh").read_bytes()
    assert newest.name in (kit / "README.md").read_text("utf-8")


@pytest.mark.long
def test_its_date_disturbs_nothing_and_is_told_by_the_drill(world: World) -> None:
    world.backup()
    world.run(recovery_drill, "backup_restorer")
    assert "there is no recovery kit; make one: `python -m deployments.kit FOLDER`" in artifact(world, f"{CONTEXT}-drill")["data"]
    listed = world.run(list_backups, "backup_reader")
    done = make_kit(world, world.folder / "kit")
    assert done.returncode == 0 and str(world.store_folder / CONTEXT / "kit.json") in done.stdout
    assert [one["kind"] for one in world.run(list_backups, "backup_reader")] == [one["kind"] for one in listed]
    world.run(prune_backups, "backup_reader", dry_run=False)
    assert (world.store_folder / CONTEXT / "kit.json").is_file()
    world.run(recovery_drill, "backup_restorer")
    assert "0 days ago, with bc-004_full_" in artifact(world, f"{CONTEXT}-drill")["data"]


@pytest.mark.long
def test_what_is_no_kit_stays_as_it_is(world: World) -> None:
    kit = world.folder / "kit"
    none = make_kit(world, kit)
    assert none.returncode == 1 and 'no backup set of context "bc-004"' in none.stderr
    world.backup()
    kit.mkdir()
    (kit / "diary.txt").write_text("mine")
    refused = make_kit(world, kit)
    assert refused.returncode == 1 and "is not empty, and has no kit" in refused.stderr
    assert [path.name for path in kit.iterdir()] == ["diary.txt"]
    other = world.folder / "other"
    assert make_kit(world, other).returncode == 0
    (other / "kit.json").write_text((other / "kit.json").read_text().replace('"context": "bc-004"', '"context": "bc-009"'))
    refused = make_kit(world, other)
    assert refused.returncode == 1 and "has the kit of bc-009" in refused.stderr
    # A script that is not the set's is none to trust on that day.
    (script,) = world.store_folder.rglob("restore.sh")
    script.write_bytes(script.read_bytes() + b"# changed\n")
    damaged = make_kit(world, world.folder / "third")
    assert damaged.returncode == 1 and "is damaged" in damaged.stderr + damaged.stdout
