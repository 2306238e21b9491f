"""A store in an attacker's hands: what its sets say is data. Nothing of it is executed, and nothing outside of it is touched."""

import copy
import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prefect.artifacts import Artifact

from flows.backup import list_backups
from flows.partitions import archive_partitions
from flows.recovery import disaster_recovery
from flows.restore import full_restore, restore_cleaned_up
from flows.watch import verify_backups
from tasks.core.errors import BadInput, DamagedSet, OperationError, StoreUnavailable
from tasks.core.postgres.programs import Program, Running
from tasks.core.run.clock import now
from tasks.partitions import archive as partitions_archive
from tasks.run import run as run_run
from tasks.run.run import Run, warn_of_unsafe
from tasks.sets import texts
from tasks.store.address import StoreAddress, open_store
from tasks.store.folder import FolderStore
from tests.support.archives import ONE_YEAR_IS_DUE, RESOLVED, archive, archives
from tests.support.clean_ups import OLD, clean_up, clean_up_sets, rules
from tests.support.clock import at
from tests.support.contexts import edit_context
from tests.support.database import ask, execute
from tests.support.example import CONTEXT, DATABASE
from tests.support.hostile import HOSTILE, leaves, replaced
from tests.support.manifests import canonical
from tests.support.servers import databases
from tests.support.variants import first_quick
from tests.support.world import TwoSets, World

long = pytest.mark.long

PWNED = "CREATE TABLE pwned AS SELECT current_user"
INJECTED = f"policy_scopes.target_id = teams.id); {PWNED}; SELECT (true"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Let a manifest say something else, with checksums that are right, as whoever owns the store can."""
    file = folder / "manifest.json"
    body = json.loads(file.read_bytes())["manifest"]
    change(body)
    file.write_bytes(canonical({"manifest": body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}))


def exchange(folder: Path, path: str, data: bytes) -> None:
    """Put other bytes in place of an object's."""
    (folder / path).write_bytes(data)

    def change(body: dict[str, Any]) -> None:
        for stored in objects(body):
            if stored["path"] == path:
                stored |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    rewrite(folder, change)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield what a manifest says of each object."""
    if isinstance(value, dict) and "path" in value:
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(one)


def exchange_context(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    said = yaml.safe_load((folder / "context" / "context.yaml").read_text("utf-8"))
    change(said)
    exchange(folder, "context/context.yaml", yaml.safe_dump(said, allow_unicode=True).encode())


@contextmanager
def nothing_happens(world: World) -> Iterator[None]:
    """Assert that nothing was executed, and that nothing beside the store was touched."""
    canary = world.folder / "outside"
    canary.mkdir(exist_ok=True)
    (canary / "manifest.json").write_text("canary")

    def seen() -> tuple[Any, ...]:
        roles = [row[0] for row in ask(world, "SELECT rolname FROM pg_roles WHERE rolname ~ 'pwned'")]
        tables = [row[0] for row in ask(world, "SELECT oid::regclass::text FROM pg_class WHERE relname ~ 'pwned'")]
        files = sorted(path.name for path in world.folder.iterdir() if path.name != "staging")
        return roles, tables, files, sorted(canary.iterdir()), (canary / "manifest.json").read_text()

    before = seen()
    yield
    assert seen() == before


def report(key: str) -> str:
    found = Artifact.get(f"{CONTEXT}-{key}")
    assert found and isinstance(found.data, str)
    return found.data


# --- conditions of a set -------------------------------------------------------------------------------------------------


@pytest.fixture
def cleaned(world: World) -> tuple[World, Path, list[str]]:
    """A database whose old teams were cleaned up, the set that has them, and the keys of those that scopes belonged to."""
    execute(
        world,
        "INSERT INTO policy_scopes (policy_id, target_type, target_id) SELECT p.id, 'team', t.id FROM teams t "
        "CROSS JOIN LATERAL (SELECT id FROM governance_policies ORDER BY id LIMIT 1) p "
        f"WHERE {OLD['teams']} ON CONFLICT DO NOTHING",
    )
    clean_up(world)
    (manifest,) = clean_up_sets(world)["teams"]
    folder = world.store_folder / CONTEXT / "clean-up" / manifest["id"]
    rows = zstandard.ZstdDecompressor().decompressobj().decompress((folder / "data/teams.copy.zst").read_bytes()).splitlines()
    return world, folder, [row.split(b"\t")[0].decode() for row in rows]


def bring_back(world: World, folder: Path, keys: list[str], **parameters: Any) -> str:
    return str(world.run(restore_cleaned_up, "backup_restorer", backup=folder.name, keys=keys, **parameters))


def with_where(folder: Path, where: str) -> None:
    def change(said: dict[str, Any]) -> None:
        said["clean_up"][3]["children"][2]["where"] = where

    exchange_context(folder, change)


REFUSED = {
    INJECTED: "cannot insert multiple commands into a prepared statement",
    f"true); {PWNED}; --": "syntax error",
    "pg_sleep(0) IS NOT NULL": "the text calls pg_sleep(double precision), which a condition must not",
    "pg_terminate_backend(-1)": "the text calls pg_terminate_backend",
    "set_config('role', 'none', false) = ''": "the text calls set_config",
    "EXISTS (SELECT FROM pg_authid)": "the text is more than a condition on policy_scopes and teams",
    "(SELECT true)": "the text is more than a condition on policy_scopes and teams",
    "true) JOIN users ON (true": "the text is more than a condition on policy_scopes and teams",
    "true) WHERE (lo_import('/etc/passwd') > 0": "the text calls lo_import",
    "policy_scopes.target_id = teams.id UNION SELECT": "syntax error",
    "policy_scopes.target_id": "must be type boolean",
    "no such column": "syntax error",
}  # fmt: skip


@long
def test_a_condition_of_a_set_is_a_condition_and_no_more(cleaned: tuple[World, Path, list[str]]) -> None:
    world, folder, keys = cleaned
    before = world.state()
    for where, why in REFUSED.items():
        with_where(folder, where)
        with nothing_happens(world), pytest.raises(DamagedSet) as refused:
            bring_back(world, folder, keys)
        assert f"{folder.name}/context/context.yaml: clean_up.3.children.2.where: " in str(refused.value)
        assert why in str(refused.value), where
        # Without keys it is not asked for, and does nothing.
        with nothing_happens(world):
            world.run(restore_cleaned_up, "backup_restorer", backup=folder.name)
    assert before.differences(world.state()) == []


def test_the_contexts_own_condition_is_taken_and_the_sets_where_it_has_none(
    cleaned: tuple[World, Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    world, folder, keys = cleaned
    with_where(folder, "policy_scopes.target_id IS NULL AND teams.id IS NULL")
    planned = bring_back(world, folder, keys)
    assert f"{len(keys)} rows to insert" not in planned and "rows to insert" in planned
    assert "the condition of this context is used instead" in report("restore-plan")

    without = copy.deepcopy(rules())
    without[3]["children"] = ["team_members", "team_leaders"]
    edit_context(world, monkeypatch, clean_up=without)
    assert "rows to insert" in bring_back(world, folder, keys)
    assert "this context has no such rule" in report("restore-plan")


@long
@pytest.mark.every_variant
@pytest.mark.parametrize("any_version", [15, 16, 18], indirect=True)
def test_every_version_reads_texts_alike(any_version: World) -> None:
    scopes, teams, violations = ("public", "policy_scopes"), ("public", "teams"), ("public", "policy_violations")
    with any_version.connect() as connection:
        connection.execute("SET search_path = pg_catalog")
        texts.require_condition(connection, "x", "policy_scopes.target_id = teams.id", scopes, teams)
        for where, why in REFUSED.items():
            with pytest.raises(DamagedSet, match=r"^x: ") as refused:
                texts.require_condition(connection, "x", where, scopes, teams)
            assert why in str(refused.value), where
        own = "CHECK ((name)::text <> ''::text) NOT VALID"
        assert texts.understood_check(connection, "x", teams, own).startswith("CHECK (")
        execute(any_version, "CREATE FUNCTION public.is_fine(text) RETURNS boolean LANGUAGE sql AS 'SELECT true'")
        with pytest.raises(DamagedSet, match=r"^x: the text calls public\.is_fine\(text\), which belongs to another role"):
            texts.understood_check(connection, "x", teams, "CHECK (public.is_fine(name))")
        execute(any_version, "ALTER FUNCTION public.is_fine(text) OWNER TO consulting_owner")
        assert "is_fine" in texts.understood_check(connection, "x", teams, "CHECK (public.is_fine(name))")
        for state in ("UNIQUE (name)", "CHECK (true); SELECT 1", "CHECK (no_such)", "CHECK ((SELECT true))", "PRIMARY KEY (id)"):
            with pytest.raises(DamagedSet, match=r"^x: "):
                texts.understood_check(connection, "x", teams, state)
        key = "RANGE (detected_at)"
        assert texts.understood_partition_key(connection, "x", violations, key) == key
        for state in (f"{key}; {PWNED}", "RANGE (random())", "RANGE (detected_at) AS SELECT 1", "x"):
            with pytest.raises(DamagedSet, match=r"^x: "):
                texts.understood_partition_key(connection, "x", violations, state)
        assert connection.execute("SELECT count(*) FROM pg_class WHERE relpersistence = 't'").fetchall() == [(0,)]


# --- checks, keys and bounds of a set ------------------------------------------------------------------------------------


@pytest.fixture
def stored(world: World, two_sets: TwoSets) -> World:
    """The two good sets in a store of the world's own."""
    shutil.rmtree(world.store_folder)
    two_sets.copy(world.store_folder)
    return world


def newest(world: World, two_sets: TwoSets) -> Path:
    return world.store_folder / CONTEXT / "daily" / two_sets.newer


HOSTILE_CHECKS = """
-- check: sleeper
-- severity: error
SELECT pg_sleep(0) AS slept

-- check: two statements
-- severity: error
SELECT 1 AS one) AS x; CREATE ROLE pwned; SELECT * FROM (SELECT 1 AS one

-- check: killer
-- severity: error
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE false

-- check: honest
-- severity: error
SELECT id AS team FROM teams WHERE updated_at > now() + interval '100 years' AND random() < 2
"""


def test_checks_of_a_set_do_nothing(stored: World, two_sets: TwoSets) -> None:
    exchange(newest(stored, two_sets), "context/checks.sql", HOSTILE_CHECKS.encode())
    with nothing_happens(stored):
        stored.recover(backup=two_sets.newer)
    said = report("recovery")
    assert "sleeper" in said and "the check calls pg_sleep(double precision), which a check must not call" in said
    assert "the check calls pg_terminate_backend(integer,bigint), which a check must not call" in said
    assert "cannot insert multiple commands into a prepared statement" in said
    assert "honest" not in said.partition("## Integrity")[0]


CHECK_STATES = {
    f"CHECK (true); {PWNED}; SELECT (true)": "cannot insert multiple commands",
    "CHECK ((pg_sleep(0) IS NOT NULL))": "the text calls pg_sleep",
    # The owner's login may not even that.
    "CHECK ((lo_import('/etc/passwd') > 0))": "permission denied for function lo_import",
    "CHECK (true) , OWNER TO backup_reader": "must be able to SET ROLE",
    # Of several changes of a table the check alone is made.
    "CHECK (true), ADD COLUMN pwned int": "",
}


@long
@pytest.mark.every_variant
@pytest.mark.parametrize("state", CHECK_STATES)
def test_a_check_that_the_database_lacks(stored: World, two_sets: TwoSets, state: str) -> None:
    def change(body: dict[str, Any]) -> None:
        body["inventory"].append({"kind": "constraint", "name": "said", "parent": "public.teams", "columns": "", "state": state})

    rewrite(newest(stored, two_sets), change)
    before = stored.state()
    words = {"in_place": True, "backup": two_sets.newer}
    assert f"check said of public.teams: {state}" in plan_of(stored, words)
    with nothing_happens(stored):
        if CHECK_STATES[state]:
            with pytest.raises(OperationError) as refused:
                stored.run(full_restore, "backup_restorer", dry_run=False, confirm_database=DATABASE, **words)
            assert f"{two_sets.newer}: inventory: constraint said of public.teams: state: " in str(refused.value)
            assert CHECK_STATES[state] in str(refused.value)
            assert before.differences(stored.state()) == []
        else:
            stored.run(full_restore, "backup_restorer", dry_run=False, confirm_database=DATABASE, **words)
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'teams'::regclass AND attname ~ 'pwned'"
    owner = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'teams'::regclass"
    assert (ask(stored, columns), ask(stored, owner)) == ([(0,)], [("consulting_owner",)])


@long
def test_no_check_on_a_table_of_another_context(stored: World, two_sets: TwoSets) -> None:
    item = {"kind": "constraint", "name": "said", "parent": "public.users", "columns": "", "state": "CHECK (false) NOT VALID"}
    rewrite(newest(stored, two_sets), lambda body: body["inventory"].append(item))
    with pytest.raises(OperationError, match=r"constraint said of public\.users could not be created"):
        stored.run(
            full_restore, "backup_restorer", in_place=True, backup=two_sets.newer, dry_run=False, confirm_database=DATABASE
        )  # fmt: skip
    assert ask(stored, "SELECT count(*) FROM pg_constraint WHERE conname = 'said'") == [(0,)]


def plan_of(world: World, words: dict[str, Any]) -> str:
    with nothing_happens(world):
        world.run(full_restore, "backup_restorer", **words)
    return report("restore-plan")


@long
@pytest.mark.every_variant
@pytest.mark.parametrize(
    "definition",
    ["FOREIGN KEY (resolved_by) REFERENCES public.users(id), ADD COLUMN pwned int",
     f"FOREIGN KEY (resolved_by) REFERENCES public.users(id); {PWNED}"],
)  # fmt: skip
def test_a_key_to_another_context(stored: World, two_sets: TwoSets, definition: str) -> None:
    execute(stored, "ALTER TABLE team_members DROP CONSTRAINT team_members_user_fkey")
    folder = newest(stored, two_sets)
    good = (folder / "manifest.json").read_bytes()
    assert (
        "foreign key team_members_user_fkey of public.team_members: FOREIGN KEY (user_id) REFERENCES public.users(id)"
        in plan_of(stored, {"in_place": True, "backup": two_sets.newer})
    )
    rewrite(folder, lambda body: [key.update(definition=definition) for key in body["outbound_keys"]] and None)
    with nothing_happens(stored), pytest.raises(DamagedSet, match=r"outbound_keys\.0\.definition: .*not a foreign key as"):
        stored.run(full_restore, "backup_restorer", in_place=True, backup=two_sets.newer)
    (folder / "manifest.json").write_bytes(good)


@long
def test_sequences_of_others_stay_where_they_are(stored: World, two_sets: TwoSets) -> None:
    execute(stored, "CREATE SEQUENCE others_seq OWNED BY NONE", "ALTER SEQUENCE others_seq OWNER TO consulting_owner")
    rewrite(
        newest(stored, two_sets),
        lambda body: body["sequences"].append({"schema": "public", "name": "others_seq", "last_value": 1 << 40, "is_called": True}),
    )
    stored.run(
        full_restore, "backup_restorer", in_place=True, backup=two_sets.newer, dry_run=False, confirm_database=DATABASE
    )  # fmt: skip
    assert ask(stored, "SELECT last_value, is_called FROM others_seq") == [(1, False)]


# --- paths -----------------------------------------------------------------------------------------------------------------


@long
def test_a_base_leads_nowhere_else(world: World) -> None:
    world.backup()
    world.differential()
    (folder,), (full,) = world.set_folders("differential"), world.set_folders()
    outside = shutil.copytree(full, world.folder / "outside")
    rewrite(outside, lambda body: body.update(id="outside"))
    for base in ("../../../../outside", "/etc", "other-1_full_20251103_020000_3f9c", f"{folder.name}"):
        rewrite(folder, partial(dict[str, Any].update, base=base))
        before = {path: path.stat().st_mtime_ns for path in outside.rglob("*")}
        with pytest.raises(DamagedSet, match="base"):
            world.recover(backup=folder.name)
        rows = {row["id"]: row for row in world.run(list_backups, "backup_reader")}
        assert rows[folder.name]["state"] == "damaged" and "base" in str(rows[folder.name]["note"])
        assert {path: path.stat().st_mtime_ns for path in outside.rglob("*")} == before
    assert databases(world.target) == set()


def test_a_folder_store_keeps_to_its_folder(tmp_path: Path) -> None:
    root, outside = tmp_path / "store", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("canary")
    (root / "link").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "round").symlink_to(root / "round")
    store, staged = open_store(StoreAddress(str(root))), tmp_path / "staged"
    staged.write_text("x")
    keys = ("../outside/secret", "link/secret", "file", "a/../../outside/secret", str(outside / "secret"), "round", "a\0b")
    for key in keys:
        for act in (
            store.read, store.head, store.require_readable, store.delete,
            lambda key: store.put(key, staged, "folder", {}), lambda key: store.create(key, b"x", "folder", {}),
            lambda key: store.replace(key, b"x", "folder"), lambda key: store.fetch(key, io.BytesIO()),
        ):  # fmt: skip
            with pytest.raises(BadInput, match="leads out of the store's folder"):
                act(key)
    assert [one.key for one in store.list("")] == []
    assert [path.name for path in outside.iterdir()] == ["secret"] and (outside / "secret").read_text() == "canary"
    # A link that stays within is the operator's.
    (root / "within").mkdir()
    (root / "inner").symlink_to(root / "within")
    store.replace("inner/a", b"1", "folder")
    assert store.read("within/a") == b"1"


def test_what_is_stored_is_there_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, real = list[str](), os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    root = tmp_path / "store"
    root.mkdir()
    FolderStore(root).replace("bc-004/daily/a-set/x", b"1", "folder")
    folders = [path for path in synced if ".partial-" not in path]
    assert {str(root), f"{root}/bc-004", f"{root}/bc-004/daily", f"{root}/bc-004/daily/a-set"} <= {*folders}
    (written,) = [number for number, path in enumerate(synced) if ".partial-" in path]
    assert synced[written + 1] == f"{root}/bc-004/daily/a-set"


# --- bombs -----------------------------------------------------------------------------------------------------------------


def bomb(count: int = 300 << 20) -> bytes:
    """Return a few bytes that unpack to very many."""
    return zstandard.compress(bytes(count))


@pytest.mark.parametrize("path", ["schema.dump.zst", "data/teams.copy.zst"])
def test_what_is_packed_unpacks_to_what_the_manifest_says(stored: World, two_sets: TwoSets, path: str) -> None:
    exchange(newest(stored, two_sets), path, bomb())
    with pytest.raises(DamagedSet, match=r"decompressed it has more than the [\d,]+ bytes that the manifest states"):
        stored.recover(backup=two_sets.newer)
    if path.startswith("data/"):
        with pytest.raises(DamagedSet, match=r"public\.teams: its parts cannot be decompressed"):
            stored.run(verify_backups, "backup_reader", backup=two_sets.newer)
    assert databases(stored.target) == set()


# --- programs --------------------------------------------------------------------------------------------------------------


def test_programs_that_a_dump_could_command_are_warned_of_once_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    monkeypatch.setattr(run_run, "get_run_logger", lambda: logging.getLogger("of a run"))
    old, new = (Program(tmp_path / "pg_restore", 17, version) for version in ("17.5", "17.6"))
    for _ in range(2):
        run = Run("f", CONTEXT, "0a1f", now(), tmp_path, Running())
        for one in (old, new, old):
            warn_of_unsafe(run, one)
            warn_of_unsafe(replace(run, id="0a20"), one)
    said = [record.getMessage() for record in caplog.records if record.name == "of a run"]
    assert len(said) == 2 and all("install 17.6 or newer" in one for one in said)


# --- marks -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", first_quick(1, ["damaged.json", "hold-0a1f.json", "thaw.json", "drilled.json", "pinned.json"]))
def test_marks_that_say_anything(stored: World, two_sets: TwoSets, mark: str) -> None:
    for data in (b"[" * 100_000, b"", b"\xff", b'{"found": {}}', b'{"asked": "0001-01-01T00:00:00", "tier": "x", "flow_run": 1}',
                 b'{"found": "' + b"x" * 1_000_000 + b'"}'):  # fmt: skip
        (newest(stored, two_sets) / mark).write_bytes(data)
        rows = stored.run(list_backups, "backup_reader")
        assert {row["id"] for row in rows} == {two_sets.older, two_sets.newer}
        assert all(len(str(row["note"])) < 11_000 for row in rows)


@long
def test_no_partition_is_dropped_on_a_marks_word(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The set says what the live rows are, and its mark that it was read back: its bytes are others."""
    at(monkeypatch, ONE_YEAR_IS_DUE)
    execute(world, "DROP TABLE policy_violations_2021", RESOLVED)

    def stop(*_: object) -> None:
        raise StoreUnavailable("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(partitions_archive, "compare_with_archive", stop)
        with pytest.raises(OperationError):
            archive(world)
    (folder,) = archives(world)
    assert (folder / "drilled.json").exists()
    part = folder / "data" / "policy_violations_2022.copy.zst"
    part.write_bytes(os.urandom(part.stat().st_size))
    rows = ask(world, "SELECT count(*) FROM policy_violations_2022")
    with pytest.raises(OperationError, match="policy_violations_2022 stays: "):
        world.run(archive_partitions, "backup_restorer", dry_run=False, confirm_database=DATABASE)
    assert ask(world, "SELECT count(*) FROM policy_violations_2022") == rows
    # The next one knows that it is damaged, and takes another.
    assert archive(world) == "ARCHIVED: policy_violations_2022 archived and dropped"
    assert len(archives(world)) == 2


# --- every field, any value ------------------------------------------------------------------------------------------------

FUZZED = settings(
    deadline=None, database=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


def try_all(world: World, folder: Path, *, deep: bool) -> None:
    """Let every flow that reads a set meet it: each comes to its end, or says in one error of ours what is wrong."""
    calls: list[Callable[[], Any]] = [
        lambda: world.run(list_backups, "backup_reader"),
        lambda: world.run(full_restore, "backup_restorer", backup=folder.name, in_place=True),
    ]
    if deep:
        calls += [
            lambda: world.run(verify_backups, "backup_reader", backup=folder.name),
            lambda: world.run(disaster_recovery, "backup_restorer", world.target, backup=folder.name),
        ]
    for call in calls:
        with suppress(OperationError):
            call()


def fuzz(world: World, two_sets: TwoSets, examples: int, *, deep: bool) -> None:
    folder = newest(world, two_sets)
    good = (folder / "manifest.json").read_bytes()
    body = json.loads(good)["manifest"]
    places = sorted(leaves(body), key=str)

    @settings(FUZZED, max_examples=examples)
    @given(st.sampled_from(places), st.sampled_from(HOSTILE))
    def one(place: tuple[Any, ...], value: Any) -> None:
        changed = replaced(body, place, value)
        (folder / "manifest.json").write_bytes(
            canonical({"manifest": changed, "sha256": hashlib.sha256(canonical(changed)).hexdigest()})
        )
        with nothing_happens(world):
            try_all(world, folder, deep=deep)
        for name in databases(world.target):
            with world.target.connect() as connection:
                connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())

    try:
        one()
    finally:
        (folder / "manifest.json").write_bytes(good)


def test_fields_of_a_manifest_with_hostile_values(stored: World, two_sets: TwoSets) -> None:
    fuzz(stored, two_sets, 3, deep=False)


@long
def test_any_field_of_a_manifest_with_hostile_values(stored: World, two_sets: TwoSets) -> None:
    fuzz(stored, two_sets, 40, deep=True)


def context_leaves(folder: Path) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    said: dict[str, Any] = yaml.safe_load((folder / "context" / "context.yaml").read_text("utf-8"))
    return said, sorted(leaves(said), key=str)


@long
def test_any_field_of_the_sets_context_with_hostile_values(stored: World, two_sets: TwoSets) -> None:
    folder = newest(stored, two_sets)
    said, places = context_leaves(folder)

    @settings(FUZZED, max_examples=30)
    @given(st.sampled_from(places), st.sampled_from([value for value in HOSTILE if value == value]))
    def one(place: tuple[Any, ...], value: Any) -> None:
        text = yaml.safe_dump(replaced(said, place, value), allow_unicode=True)
        exchange(folder, "context/context.yaml", text.encode("utf-8", "replace"))
        with nothing_happens(stored):
            try_all(stored, folder, deep=True)
        for name in databases(stored.target):
            with stored.target.connect() as connection:
                connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())

    one()
