"""The drill: rehearsed from the store into a scratch database, measured, reported, recorded, and nothing left behind."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import zstandard
from prefect_sqlalchemy import ConnectionComponents, SqlAlchemyConnector

from blocks.bounded_context import BoundedContext
from deployments import local
from deployments.local import LocalServer
from flows.backup import list_backups
from flows.recovery import recovery_drill
from tasks.core.context import parse_context, read_context_folder
from tasks.core.errors import BadInput, DamagedSet, OperationError, RestoreDiffers
from tasks.core.rows.unpacking import blocks_of
from tasks.core.sets.manifest import Manifest, StoredObject
from tasks.core.sets.manifest_file import parse_manifest, render_manifest
from tasks.database.locks import SPACE
from tasks.run.site import CONTEXTS
from tasks.sets.choose import random_recent
from tasks.store.address import StoreAddress
from tests.support import PROJECT, moments
from tests.support.blocks import delete_blocks
from tests.support.example import CONTEXT, DATABASE, OUTBOUND_KEYS, TABLES, copy_template
from tests.support.faults import shim, wait_for
from tests.support.moments import Gates
from tests.support.oracle import State, capture
from tests.support.reports import artifact
from tests.support.servers import Servers, databases, drop_databases
from tests.support.world import World, new_world

long = pytest.mark.long

PHASES = ["download and verification", "schema before data", "data", "indexes, keys, triggers", "statistics and views",
          "comparison", "integrity checks", "triggers"]  # fmt: skip
INCONSISTENT = "The source was already inconsistent"
TEAMS = "data/teams.copy.zst"


# What a drill leaves


@dataclass(frozen=True)
class Report:
    """A published report, with its table of relations."""

    id: str
    verdict: str
    text: str
    relations: list[dict[str, Any]]

    def section(self, title: str) -> str:
        """Return what stands below a heading, nothing if there is none."""
        found = re.search(rf"^## {re.escape(title)}[^\n]*\n(.*?)(?=^## |\Z)", self.text, re.MULTILINE | re.DOTALL)
        return found[1] if found else ""

    @property
    def titles(self) -> list[str]:
        return re.findall(r"^## (.*)$", self.text, re.MULTILINE)

    @property
    def phases(self) -> list[str]:
        return re.findall(r"^\| ([a-z][^|]*) \| [\d:.]+(?: s)? \|$", self.section("Phases"), re.MULTILINE)


@dataclass(frozen=True)
class Drill:
    """What a drill said and kept; it failed if there is an error."""

    report: Report
    record: dict[str, Any]
    error: OperationError | None = None

    @property
    def verdict(self) -> str:
        return self.report.verdict


def newest_report(world: World) -> Report:
    report, table = artifact(world, f"{CONTEXT}-drill"), artifact(world, f"{CONTEXT}-drill-relations")
    rows = json.loads(table["data"] or "[]") if isinstance(table["data"], str) else table["data"]
    return Report(report["id"], report["description"], report["data"], rows)


def records(world: World) -> list[dict[str, Any]]:
    """Return the records of drills that can be read, oldest first."""
    files = sorted(world.store_folder.glob(f"{CONTEXT}/drills/*.json"), key=lambda file: file.stat().st_mtime_ns)
    return [json.loads(file.read_text()) for file in files]


def drill(world: World, server: LocalServer | None = None, user: str = "backup_restorer", **parameters: Any) -> Drill:
    """Run a drill in this process, on the empty server unless told otherwise; return what it published and recorded."""
    before, kept, error = newest_report(world), len(records(world)), None
    try:
        said = world.run(recovery_drill, user, server or world.target, **parameters)
    except OperationError as failed:
        said, error = None, failed
    report = newest_report(world)
    assert report.id != before.id, f"no report was published: {error}"
    assert len(records(world)) == kept + 1
    assert said in (None, report.verdict)
    assert (error is not None) == report.verdict.startswith("FAIL: ")
    assert list((world.folder / "staging").glob("*")) == []
    return Drill(report, records(world)[-1], error)


def by_hand(world: World, *arguments: str) -> tuple[int, str]:
    """Run a drill on the empty server as an operator would; return its exit code and what it said."""
    kept = local.bare_environment()
    argv = [sys.executable, "-m", "flows.recovery", "recovery_drill", *arguments]
    done = subprocess.run(
        argv, cwd=PROJECT, env=kept | world.environment(world.target, "backup_restorer"), text=True, timeout=300, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, done.stdout


def state_of(server: LocalServer, database: str) -> State:
    return capture(server.conninfo(database), bin_dir=server.bin, tables=TABLES)


def comment_on(server: LocalServer, database: str) -> str:
    with server.connect() as connection:
        row = connection.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [database]
        ).fetchone()
    return str(row and row[0])


# Sets and how they are altered


def set_folder(world: World, set_id: str) -> Path:
    return world.store_folder / CONTEXT / "daily" / set_id


def alter_manifest(folder: Path, change: Callable[[Manifest], dict[str, Any]]) -> None:
    """Let a set's manifest say something else, with a checksum that is right."""
    file = folder / "manifest.json"
    manifest = parse_manifest(file.read_bytes(), str(file))
    file.write_bytes(render_manifest(manifest.model_copy(update=change(manifest))))


def age(folder: Path, to: timedelta) -> None:
    """Let a set be so old, however long ago it was taken."""
    instant = datetime.now(UTC) - to
    alter_manifest(folder, lambda manifest: {"snapshot": manifest.snapshot.model_copy(update={"instant": instant})})


def as_stored(path: str, file: Path) -> StoredObject:
    data = file.read_bytes()
    return StoredObject(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def exchange_consistently(folder: Path, relation: str, other: bytes) -> None:
    """Put other rows in place of a relation's, such that nothing but the number and the digest of its rows can tell."""
    path = f"data/{relation}.copy.zst"
    (folder / path).write_bytes(other)
    changes = {"parts": [as_stored(path, folder / path)], "plain_bytes": sum(map(len, blocks_of(folder / path, 1 << 30)))}
    alter_manifest(
        folder,
        lambda manifest: {
            "relations": [one.model_copy(update=changes) if one.name == relation else one for one in manifest.relations]
        },
    )


def alter_context(folder: Path, old: str, new: str) -> None:
    """Let the context that a set carries say something else."""
    file = folder / "context" / "context.yaml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    changed = as_stored("context/context.yaml", file)
    alter_manifest(
        folder,
        lambda manifest: {"context_files": [changed if one.path == changed.path else one for one in manifest.context_files]},
    )


# A drill by hand beside the live database, during which that database changes and is backed up: what follows looks at it.


@dataclass(frozen=True)
class Rehearsed:
    """What was before, during and after that drill; the store has the sets from before and during it. The database is gone."""

    world: World
    older: str
    newer: str
    state_of_older: State
    state_before: State
    state_after: State
    advisory_locks: list[tuple[int, int]]
    own_lock: tuple[int, int]
    databases_during: set[str]
    databases_after: set[str]
    code: int
    said: str
    drill: Drill
    listing: list[dict[str, Any]]


ADVISORY_LOCKS = """SELECT l.classid::bigint, l.objid::bigint FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND a.application_name LIKE 'bc-004 recovery_drill %'"""


@pytest.fixture(scope="module")
def rehearsed(source: LocalServer, target: LocalServer, prefect_api: str) -> Iterator[Rehearsed]:
    """A drill on the live server itself, held in its midst while a backup runs."""
    # Not one of pytest's numbered folders: processes are found by its name.
    with tempfile.TemporaryDirectory(prefix="backup-test-") as name:
        folder = Path(name)
        (folder / "store").mkdir()
        copy_template(source)
        try:
            world = World(source, source, folder, prefect_api, {"BACKUP_STORE": str(folder / "store")})
            state_of_older = world.state()
            world.backup()
            (folder / "store" / CONTEXT / "drills").mkdir()
            (folder / "store" / CONTEXT / "drills" / "20200101T000000Z_dead.json").write_text("{")
            with moments.gates(world) as held:
                held.close("pg_restore", only="--dbname")
                started = held.start("recovery", "recovery_drill")
                held.wait_for("pg_restore")
                with source.connect() as connection:
                    locks = [(space, key) for space, key in connection.execute(ADVISORY_LOCKS)]
                    key = SPACE, zlib.crc32(f"drill of {CONTEXT}".encode()) & 0x7FFFFFFF
                during = databases(source)
                with world.connect() as connection:
                    connection.execute("UPDATE teams SET purpose = 'during the drill' WHERE id = (SELECT id FROM teams LIMIT 1)")
                state_before = world.state()
                assert world.backup().startswith("STORED")
                assert not started.ended, started.said
                held.open_all()
                code = started.wait()
                (folder / "store" / CONTEXT / "drills" / "20200101T000000Z_dead.json").unlink()
                assert records(world), started.said[-3000:]
            after, left, listing = world.state(), databases(source), world.run(list_backups, "backup_reader")
            older, newer = (one.name for one in world.set_folders())
            drilled = Drill(newest_report(world), records(world)[-1])
        finally:
            drop_databases(source)
        world.target = target
        yield Rehearsed(
            world, older, newer, state_of_older, state_before, after, locks, key, during, left, code, started.said, drilled, listing
        )


def test_a_drill_passes_and_says_how_fast_and_how_fresh(rehearsed: Rehearsed) -> None:
    assert rehearsed.code == 0, rehearsed.said[-3000:]
    relations = len(rehearsed.state_before.rows)
    said = rf"PASS: RTO 0:0\d:\d\d of 4:00:00, RPO 0:\d\d:\d\d of 4:00:00, {relations} relations identical"
    assert re.match(said, rehearsed.drill.verdict)
    assert rehearsed.older in rehearsed.drill.verdict
    assert rehearsed.drill.verdict in rehearsed.said


def test_the_report_has_the_evidence(rehearsed: Rehearsed) -> None:
    report = rehearsed.drill.report
    assert report.text.startswith(f"# PASS\n\n**{report.verdict.removeprefix('PASS: ')}**\n")
    assert report.phases == PHASES
    assert report.section("Phases").strip().startswith("![seconds of each phase](data:image/svg+xml;base64,")
    assert rehearsed.older in report.section("Objectives")
    assert "extrapolated" in report.section("Objectives")
    relations = report.section("Relations, each compared by row count and digest, and identical")
    assert all(f"| {name} | {rows.count:,} |" in relations for name, rows in rehearsed.state_of_older.rows.items())
    assert "FAILED" not in report.section("Integrity checks")
    fired = report.section("Test writes, with their triggers, rolled back")
    triggers = {name.rpartition(".")[2] for name in rehearsed.state_of_older.triggers}
    assert [name for name in triggers if name not in fired] == []
    # Setting every column to what it is moves no unit.
    outcomes = re.findall(r"^\| public.(\w+) \| (\w+) \| ([^|]*) \| ([^|]*) \|", fired, re.MULTILINE)
    assert [one for one in outcomes if one[3] != "ran"] == [
        ("organization_units", "UPDATE", "organization_units_move_in_hierarchy", "did not fire")
    ]
    assert "DBA責任者" in report.section("Contacts")
    assert all(key.split(".")[1] in report.section("Still to do") for key in OUTBOUND_KEYS)
    assert "**Not off-host:**" in report.text
    assert INCONSISTENT not in report.text
    assert not {"What failed", "Differences from the backup", "Databases that earlier runs left, and that were dropped"} & {
        *report.titles
    }


def test_the_table_has_every_relation(rehearsed: Rehearsed) -> None:
    rows = {row["relation"]: row["rows"] for row in rehearsed.drill.report.relations}
    assert rows == {name: one.count for name, one in rehearsed.state_of_older.rows.items()}


def test_a_record_is_kept_off_host(rehearsed: Rehearsed) -> None:
    record = rehearsed.drill.record
    assert (record["set"], record["passed"], record["proven"]) == (rehearsed.older, True, True)
    assert record["verdict"] == rehearsed.drill.verdict
    assert list(record["phases"]) == PHASES
    assert sum(record["phases"].values()) == pytest.approx(record["rto_seconds"])
    assert (record["rto_limit_seconds"], record["rpo_limit_seconds"]) == (4 * 3600, 4 * 3600)
    assert 0 < record["rpo_seconds"] < 600
    assert record["rows"] == sum(one.count for one in rehearsed.state_of_older.rows.values())
    assert "## The last drills" in rehearsed.drill.report.text


def test_the_set_is_listed_as_drilled(rehearsed: Rehearsed) -> None:
    assert {row["id"]: row["state"] for row in rehearsed.listing} == {rehearsed.older: "drilled", rehearsed.newer: "stored"}


def test_the_live_database_beside_it_is_untouched_and_nothing_is_left(rehearsed: Rehearsed) -> None:
    assert rehearsed.state_before.differences(rehearsed.state_after) == []
    (scratch,) = rehearsed.databases_during - {DATABASE}
    assert re.fullmatch(rf"{DATABASE}_drill_[0-9a-f]{{4}}", scratch)
    assert rehearsed.databases_after == {DATABASE}


def test_a_drill_holds_no_lock_but_its_own(rehearsed: Rehearsed) -> None:
    assert rehearsed.advisory_locks == [rehearsed.own_lock]


# What only needs a store works on a copy of that one, with an empty server.


@pytest.fixture
def stored(rehearsed: Rehearsed, target: LocalServer, folder: Path) -> Iterator[World]:
    """A store with two good sets of different states, for the test to damage, and an empty server."""
    store = Path(shutil.copytree(rehearsed.world.store_folder, folder / "store"))
    yield World(rehearsed.world.source, target, folder, rehearsed.world.api, {"BACKUP_STORE": str(store)})
    drop_databases(target)


@long
def test_the_scratch_database_is_kept_on_demand_and_survives_the_next_drill(stored: World, rehearsed: Rehearsed) -> None:
    code, said = by_hand(stored, "--keep", "true", "--backup", rehearsed.newer)
    assert code == 0, said[-3000:]
    (kept,) = databases(stored.target)
    note = f"restored from {rehearsed.newer} and found equal to it in a drill; drop this database after use"
    assert comment_on(stored.target, kept) == note
    # The triggers fired in it, and rows went and came back: nothing of that may be left.
    after = state_of(stored.target, kept)
    assert rehearsed.state_before.differences(after, ignore_foreign_keys=OUTBOUND_KEYS, views="recomputed") == []
    assert after.outside == ()
    named = newest_report(stored)

    random = drill(stored, backup="random")
    assert databases(stored.target) == {kept}
    assert "Databases that earlier runs left, and that were dropped" not in random.report.titles
    # Of a set that somebody, or chance, chose there is no recovery point to be judged.
    for report, record in ((named, records(stored)[-2]), (random.report, random.record)):
        assert report.verdict.startswith("PASS: RTO ")
        assert "RPO" not in report.verdict
        assert "(RPO)" not in report.section("Objectives")
        assert (record["rpo_seconds"], record["passed"]) == (None, True)
    assert rehearsed.newer in named.verdict
    assert random.record["set"] in (rehearsed.older, rehearsed.newer)


def test_chance_chooses_among_the_whole_sets_of_the_last_thirty_days(stored: World, rehearsed: Rehearsed) -> None:
    address, instant = StoreAddress(str(stored.store_folder)), datetime.now(UTC)
    assert {random_recent(address, CONTEXT, instant) for _ in range(20)} == {rehearsed.older, rehearsed.newer}
    age(set_folder(stored, rehearsed.newer), timedelta(days=30, minutes=1))
    assert {random_recent(address, CONTEXT, instant) for _ in range(8)} == {rehearsed.older}
    (set_folder(stored, rehearsed.older) / TEAMS).unlink()
    with pytest.raises(BadInput, match="no complete backup set of context"):
        random_recent(address, CONTEXT, instant)


@pytest.mark.parametrize("backup", ["random", "latest"])
def test_without_any_set_there_is_one_clear_error(stored: World, backup: str) -> None:
    shutil.rmtree(stored.store_folder / CONTEXT)
    failed = drill(stored, backup=backup)
    assert isinstance(failed.error, BadInput)
    assert re.search(f'no (complete )?backup set of context "{CONTEXT}"', str(failed.error))
    assert failed.report.section("What failed").strip() == f"- {failed.error}"
    assert (failed.record["set"], failed.record["proven"], failed.record["passed"]) == (None, False, False)
    assert databases(stored.target) == set()


@long
def test_an_object_of_another_day_fails_the_drill_although_an_older_set_is_good(stored: World, rehearsed: Rehearsed) -> None:
    newer, older = set_folder(stored, rehearsed.newer), set_folder(stored, rehearsed.older)
    assert (newer / TEAMS).read_bytes() != (older / TEAMS).read_bytes()
    shutil.copyfile(older / TEAMS, newer / TEAMS)
    failed = drill(stored)
    assert re.match(r"FAIL: 1 newer sets passed over, RTO .*17 relations identical", failed.verdict)
    (said,) = failed.report.section("Newer sets that were passed over").strip().splitlines()
    assert f"daily/{rehearsed.newer}: {TEAMS} has " in said
    assert failed.report.titles[0] == "Newer sets that were passed over"
    assert rehearsed.older in failed.verdict
    assert (failed.record["proven"], failed.record["passed"]) == (True, False)
    assert databases(stored.target) == set()


@long
def test_an_object_of_another_day_under_a_manifest_that_fits_is_told_by_its_rows(stored: World, rehearsed: Rehearsed) -> None:
    exchange_consistently(set_folder(stored, rehearsed.newer), "teams", (set_folder(stored, rehearsed.older) / TEAMS).read_bytes())
    before = newest_report(stored)
    code, said = by_hand(stored)
    report, record = newest_report(stored), records(stored)[-1]
    assert code == 1
    assert said.splitlines()[-1].startswith("RestoreDiffers: ")
    assert "Traceback" not in said
    assert report.id != before.id
    assert report.text.startswith("# FAIL\n")
    assert report.titles[:2] == ["What failed", "Differences from the backup"]
    (difference,) = report.section("Differences from the backup").strip().splitlines()
    assert difference.startswith("- public.teams: ")
    assert "equality was NOT proven" in report.text
    assert (record["proven"], record["passed"], record["set"]) == (False, False, rehearsed.newer)
    assert databases(stored.target) == set()
    assert not (set_folder(stored, rehearsed.newer) / "drilled.json").exists()


@long
def test_a_missed_objective_fails_a_drill_that_is_proven(stored: World, rehearsed: Rehearsed) -> None:
    newer = set_folder(stored, rehearsed.newer)
    shutil.rmtree(set_folder(stored, rehearsed.older))
    age(newer, timedelta(hours=5))
    failed = drill(stored)
    assert re.match(r"FAIL: RPO missed, RTO 0:0\d:\d\d of 4:00:00, RPO 5:0\d:\d\d of 4:00:00, 17 relations", failed.verdict)
    assert (failed.record["proven"], failed.record["passed"]) == (True, False)
    assert 5 * 3600 < failed.record["rpo_seconds"] < 5 * 3600 + 1200
    rows: list[dict[str, Any]] = stored.run(list_backups, "backup_reader")
    assert [row["state"] for row in rows] == ["drilled"]

    alter_context(newer, "rto: 4 hours", "rto: PT0.1S")
    alter_context(newer, "rpo: 4 hours", "rpo: 6 hours")
    failed = drill(stored)
    assert failed.verdict.startswith("FAIL: RTO missed, RTO ")
    assert "RPO missed" not in failed.verdict
    assert (failed.record["proven"], failed.record["passed"], failed.record["rto_limit_seconds"]) == (True, False, 0.1)
    assert databases(stored.target) == set()


# A drill that fails in phase k


def in_download(world: World, rehearsed: Rehearsed) -> None:
    shutil.rmtree(set_folder(world, rehearsed.older))
    (set_folder(world, rehearsed.newer) / TEAMS).unlink()


def in_schema(world: World, rehearsed: Rehearsed) -> None:
    kill_pg_restore(world, "pre-data")


def in_data(world: World, rehearsed: Rehearsed) -> None:
    newer = set_folder(world, rehearsed.newer)
    exchange_consistently(newer, "teams", (newer / "data" / "organizations.copy.zst").read_bytes())


def in_rows(world: World, rehearsed: Rehearsed) -> None:
    newer = set_folder(world, rehearsed.newer)
    rows = zstandard.ZstdDecompressor().decompressobj().decompress((newer / TEAMS).read_bytes()).splitlines(keepends=True)
    exchange_consistently(newer, "teams", zstandard.compress(b"".join(rows[1:])))


def in_indexes(world: World, rehearsed: Rehearsed) -> None:
    kill_pg_restore(world, "post-data")


def kill_pg_restore(world: World, section: str) -> None:
    """Let pg_restore be killed in a section."""
    killed = f'case "$*" in *--section={section}*) kill -9 $$ ;; esac'
    world.extra["PG_BIN"] = str(shim(world.folder / "killed", world.target.bin, "pg_restore", before=killed))
    (world.folder / "killed" / "pg_restore.go").touch()


@pytest.mark.parametrize(
    ("fault", "kind", "named", "phases"),
    [
        pytest.param(in_download, DamagedSet, TEAMS, 1, marks=long),
        pytest.param(in_schema, OperationError, "pg_restore ended with exit code 137", 2, marks=long),
        pytest.param(in_data, OperationError, "loading public.teams", 3, marks=long),
        pytest.param(in_indexes, OperationError, "post-data", 4),
        pytest.param(in_rows, RestoreDiffers, "public.teams: 49 rows were loaded, but the manifest has 50", 3, marks=long),
    ],
    ids=["download", "schema", "data", "indexes", "rows"],
)
def test_a_drill_reports_the_phases_up_to_the_one_that_failed(
    stored: World, rehearsed: Rehearsed, fault: Callable[[World, Rehearsed], None], kind: type[Exception], named: str, phases: int
) -> None:
    fault(stored, rehearsed)
    failed = drill(stored)
    assert isinstance(failed.error, kind)
    assert named in failed.verdict
    assert failed.report.titles[0] == "What failed"
    assert failed.report.phases == PHASES[:phases]
    assert list(failed.record["phases"]) == PHASES[:phases]
    assert sum(failed.record["phases"].values()) == pytest.approx(failed.record["rto_seconds"])
    assert (failed.record["proven"], failed.record["passed"]) == (False, False)
    assert databases(stored.target) == set()


def test_a_login_without_createdb_is_told_what_it_lacks(stored: World) -> None:
    failed = drill(stored, user="backup_reader")
    assert isinstance(failed.error, BadInput)
    assert 'login "backup_reader" may not create databases' in failed.verdict
    assert 'use login "backup_restorer", which may' in failed.report.section("What failed")
    assert (failed.record["proven"], failed.record["passed"]) == (False, False)
    assert databases(stored.target) == set()


# Sources that are not what they should be, backed up as they are


def spoil(world: World, *statements: str) -> None:
    with world.connect() as connection:
        connection.execute("SET ROLE consulting_owner")
        for statement in statements:
            connection.execute(statement)


@long
def test_a_source_that_was_inconsistent_is_another_finding_than_a_bad_restore(world: World) -> None:
    spoil(
        world,
        "UPDATE organization_units SET member_count = member_count + 1 WHERE id = (SELECT id FROM organization_units LIMIT 1)",
        "DELETE FROM organization_hierarchies WHERE id = (SELECT id FROM organization_hierarchies WHERE depth = 3 LIMIT 1)",
        "ALTER TABLE policy_violations DISABLE TRIGGER USER",
        "ALTER TABLE teams DISABLE TRIGGER USER",
    )  # fmt: skip
    world.backup()
    passed = drill(world)
    assert passed.verdict.startswith("PASS: RTO ")
    assert passed.verdict.endswith("the source was already inconsistent (3 checks)")
    assert sorted(re.findall(r"\*\*(.*?)\*\*", passed.report.section(INCONSISTENT))) == [
        "closure_against_tree", "triggers enabled", "unit_member_count",
    ]  # fmt: skip
    assert not {"What failed", "Differences from the backup"} & {*passed.report.titles}
    assert passed.record["passed"]


@pytest.mark.long
def test_triggers_that_do_not_run_fail_the_drill(world: World) -> None:
    spoil(
        world,
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM nowhere(); RETURN NEW; END'",
        "CREATE TRIGGER note_rules BEFORE UPDATE ON governance_rules FOR EACH ROW EXECUTE FUNCTION note()",
    )
    world.backup()
    failed = drill(world)
    assert failed.verdict.startswith("FAIL: 1 writes fail because of triggers, RTO ")
    (said,) = failed.report.section("Writes that fail").strip().splitlines()
    assert re.match(r"- UPDATE on public.governance_rules \(.*note_rules.*\): function nowhere\(\) does not exist", said)
    assert failed.report.titles[0] == "Writes that fail"
    assert (failed.record["proven"], failed.record["passed"]) == (True, False)
    assert databases(world.target) == set()


@long
def test_a_trigger_that_did_not_fire_is_not_said_to_have_run(world: World) -> None:
    spoil(
        world,
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM nowhere(); RETURN NEW; END'",
        """CREATE TRIGGER note_change AFTER UPDATE ON governance_rules
           FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name) EXECUTE FUNCTION note()""",
        """CREATE CONSTRAINT TRIGGER note_at_the_end AFTER UPDATE ON policy_scopes
           DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()""",
        "CREATE TRIGGER zzz_note AFTER INSERT ON organization_units FOR EACH ROW EXECUTE FUNCTION note()",
        # A session has a currval() where it took a number itself: a write to another table before this one does not count.
        "CREATE SEQUENCE numbers; CREATE FUNCTION number() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF TG_ARGV[0] THEN PERFORM nextval(''numbers''); END IF; PERFORM currval(''numbers''); RETURN NEW; END'",
        "CREATE TRIGGER number_taken BEFORE INSERT ON governance_policies FOR EACH ROW EXECUTE FUNCTION number(true)",
        "CREATE TRIGGER number_read BEFORE INSERT ON teams FOR EACH ROW EXECUTE FUNCTION number(false)",
    )
    triggers = {"note_change", "note_at_the_end", "zzz_note", "number_taken", "number_read"}
    world.backup()
    failed = drill(world)
    fired = re.findall(
        r"^\| public.(\w+) \| \w+ \| ([^|]*) \| ([^|]*) \|",
        failed.report.section("Test writes, with their triggers, rolled back"), re.MULTILINE,
    )  # fmt: skip
    became = {(table, outcome) for table, names, outcome in fired if triggers & {*names.split(", ")}}
    assert became == {
        ("governance_rules", "did not fire"), ("policy_scopes", "FAILED"), ("organization_units", "FAILED"),
        ("governance_policies", "ran"), ("teams", "FAILED"),
    }  # fmt: skip
    assert failed.verdict.startswith("FAIL: 3 writes fail because of triggers, RTO ")


@long
def test_a_session_lost_while_the_triggers_fire_is_reported_with_every_phase(world: World) -> None:
    spoil(
        world,
        """CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql
           AS 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END'""",
        "CREATE TRIGGER leave_rules BEFORE UPDATE ON governance_rules FOR EACH ROW EXECUTE FUNCTION leave()",
    )
    world.backup()
    failed = drill(world)
    assert "UPDATE on public.governance_rules (" in failed.report.section("Writes that fail")
    assert "was lost" in failed.report.section("Writes that fail")
    assert failed.report.phases == PHASES
    assert (failed.record["proven"], failed.record["passed"]) == (True, False)
    assert databases(world.target) == set()


@long
def test_an_index_that_cannot_be_made_fails_the_drill_by_name(world: World) -> None:
    spoil(
        world,
        f"""CREATE FUNCTION only_here(text) RETURNS text LANGUAGE plpgsql IMMUTABLE
            AS $$BEGIN ASSERT current_database() = '{DATABASE}', 'another database'; RETURN $1; END$$""",
        "CREATE INDEX governance_rules_only_here_idx ON governance_rules (only_here(name))",
    )
    world.backup()
    failed = drill(world)
    assert isinstance(failed.error, RestoreDiffers)
    differences = failed.report.section("Differences from the backup")
    assert "index public.governance_rules_only_here_idx of public.governance_rules is missing" in differences
    assert failed.report.phases == PHASES[: PHASES.index("comparison") + 1]
    assert (failed.record["proven"], failed.record["passed"]) == (False, False)
    assert databases(world.target) == set()


# Where a drill happens


@pytest.fixture
def registered(stored: World) -> Iterator[Callable[[str], None]]:
    """Register the context with the name of a connector block for its drills; the blocks are deleted at the end."""
    text, files = (CONTEXTS / CONTEXT / "context.yaml").read_text(encoding="utf-8"), read_context_folder(CONTEXTS / CONTEXT)

    def register(connector: str) -> None:
        definition = parse_context(f"{text}\ndrill_database: {connector}\n", "context.yaml")
        block = BoundedContext(definition=definition, files=files, database=CONTEXT, store=f"local-file-system/{CONTEXT}")
        block.save(CONTEXT, overwrite=True)

    yield register
    delete_blocks(f"bounded-context/{CONTEXT}", "sqlalchemy-connector/drill")


@long
def test_a_drill_happens_on_the_server_that_the_context_names(stored: World, registered: Callable[[str], None]) -> None:
    registered("drill")
    server = ConnectionComponents(
        driver="postgresql+psycopg", host="127.0.0.1", port=stored.target.port, username="backup_restorer",
        password=stored.target.password, database="postgres",
    )  # fmt: skip
    SqlAlchemyConnector(connection_info=server).save("drill", overwrite=True)
    before = databases(stored.source)
    passed = drill(stored, stored.source, keep=True)
    (kept,) = databases(stored.target)
    assert re.fullmatch(rf"{DATABASE}_drill_[0-9a-f]{{4}}", kept)
    assert passed.verdict.startswith("PASS: RTO ")
    assert databases(stored.source) == before


def test_a_server_that_is_not_registered_is_one_clear_error(stored: World, registered: Callable[[str], None]) -> None:
    registered("nowhere")
    before = databases(stored.source)
    with pytest.raises(BadInput, match="no block sqlalchemy-connector/nowhere"):
        stored.run(recovery_drill, "backup_restorer", stored.source)
    assert databases(stored.source) == before
    assert databases(stored.target) == set()


# Drills that do not come to their end


@pytest.fixture
def held(stored: World) -> Iterator[Gates]:
    """A drill in a process of its own, held when its scratch database was just made."""
    with moments.gates(stored) as built:
        built.close("pg_restore", only="--dbname")
        built.start("recovery", "recovery_drill")
        built.wait_for("pg_restore")
        yield built


BYSTANDERS = {
    "consulting_tool_drill_0001": None,
    "consulting_tool_drill_0002": "restored from some set and kept after a drill",
    "consulting_tool_drill_0003": "scratch database of a drill of bc-005: set x, run y",
    "consulting_tool_drill_0004": "scratch database of a drill of bc-004x: set x, run y",
    "consulting_tool_restoring_0005": "unfinished restore of bc-004: set x, run y",
    "consulting_tool_drill": "scratch database of a drill of bc-004: set x, run y",
    "rescued": "scratch database of a drill of bc-004: set x, run y",
}


def make_bystanders(server: LocalServer) -> None:
    """Make databases that look like an orphan of ours, which our login could drop."""
    with server.connect() as connection:
        for name, comment in BYSTANDERS.items():
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {} OWNER backup_restorer").format(psycopg.sql.Identifier(name)))
            statement = psycopg.sql.SQL("COMMENT ON DATABASE {} IS {}")
            connection.execute(statement.format(psycopg.sql.Identifier(name), psycopg.sql.Literal(comment)))


@long
def test_the_orphan_of_a_killed_drill_is_removed_by_the_next_one(held: Gates) -> None:
    world = held.world
    make_bystanders(world.target)
    (orphan,) = databases(world.target) - {*BYSTANDERS}
    os.kill(held.flow.process.pid, signal.SIGKILL)
    held.open_all()
    held.flow.wait()
    held.flow.wait_until_gone()
    assert databases(world.target) == {orphan, *BYSTANDERS}
    shutil.rmtree(world.folder / "staging")
    next_one = drill(world)
    assert next_one.verdict.startswith("PASS: ")
    (said,) = next_one.report.section("Databases that earlier runs left, and that were dropped").strip().splitlines()
    assert said.startswith(f'- database "{orphan}" of a dead run was dropped')
    assert databases(world.target) == {*BYSTANDERS}


def autovacuum_at_work(server: LocalServer, name: str) -> None:
    """Keep a worker of autovacuum busy in a database for as long as it lives."""
    with server.connect(name) as connection:
        connection.execute(
            "CREATE TABLE slow WITH (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,"
            " autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 0) AS SELECT generate_series(1, 200000)"
        )
        connection.execute("DELETE FROM slow")
        worker = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'autovacuum worker'"
        wait_for(lambda: connection.execute(worker.encode()).fetchall(), 60, "autovacuum")


@long
def test_an_orphan_with_sessions_and_autovacuum_in_it_is_removed_by_a_login_without_superuser(stored: World) -> None:
    """DROP DATABASE … WITH (FORCE) is refused to it: "permission denied to terminate process"."""
    orphan = "consulting_tool_drill_0001"
    with stored.target.connect() as connection:
        connection.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute(f"CREATE DATABASE {orphan} OWNER backup_restorer")
        connection.execute(f"COMMENT ON DATABASE {orphan} IS 'scratch database of a drill of {CONTEXT}: set x, run y'")
    try:
        autovacuum_at_work(stored.target, orphan)
        session = psycopg.connect(stored.target.conninfo(orphan, "backup_restorer"), autocommit=True)
        assert drill(stored).verdict.startswith("PASS: ")
        with pytest.raises(psycopg.errors.AdminShutdown):
            session.execute("SELECT")
    finally:
        with stored.target.connect() as connection:
            connection.execute("ALTER SYSTEM RESET autovacuum_naptime")
            connection.execute("SELECT pg_reload_conf()")
    assert databases(stored.target) == set()


@long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_drill_leaves_nothing(held: Gates, number: signal.Signals) -> None:
    world = held.world
    assert len(databases(world.target)) == 1
    held.flow.process.send_signal(number)
    assert held.flow.wait() not in (0, None)
    held.flow.wait_until_gone()
    assert databases(world.target) == set()
    assert moments.staged(world) == []


@long
def test_a_recovery_on_the_same_server_leaves_a_running_drill_alone(held: Gates) -> None:
    world = held.world
    (scratch,) = databases(world.target)
    assert world.recover().startswith("PASS")
    assert databases(world.target) == {scratch, DATABASE}
    held.open_all()
    assert held.flow.wait() == 0, held.flow.said[-3000:]
    assert databases(world.target) == {DATABASE}


# Major versions


@pytest.fixture(scope="module")
def stored_on_15(servers: Servers, prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A set made on PostgreSQL 15."""
    folder = tmp_path_factory.mktemp("from 15")
    world = new_world(servers[15], servers[15], prefect_api, folder)
    assert world.backup().startswith("STORED")
    drop_databases(servers[15])
    return world


@pytest.mark.every_variant
@long
@pytest.mark.parametrize("major", [15, 16, 18])
def test_a_set_of_15_is_drilled_on_newer_servers(stored_on_15: World, servers: Servers, major: int) -> None:
    passed = drill(stored_on_15, servers[major])
    assert passed.verdict.startswith("PASS: RTO ")
    assert "Differences from the backup" not in passed.report.titles
    assert databases(servers[major]) == set()


@long
@pytest.mark.parametrize("major", [15, 16])
def test_a_set_of_18_is_refused_by_an_older_server(stored: World, servers: Servers, major: int) -> None:
    failed = drill(stored, servers[major])
    assert isinstance(failed.error, BadInput)
    assert f"the server is PostgreSQL {major}, the backup is from 18" in failed.report.section("What failed")
    assert failed.report.phases == PHASES[:1]
    assert databases(servers[major]) == set()
