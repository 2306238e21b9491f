"""Partitions are archived without losing a row: whatever changes, fails or dies on the way, they are in one place or in both."""

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from deployments import local
from deployments.local import LocalS3
from flows.backup import list_backups, long_term_backup
from flows.checks import integrity_check
from flows.restore import table_restore
from tasks.backup import long_term
from tasks.core.errors import DamagedSet, OperationError, RestoreDiffers, StoreUnavailable, UnsafeTarget
from tasks.database import catalog
from tasks.partitions import transaction
from tasks.restore import new_database
from tasks.sets import stage, upload
from tests.support import PROJECT
from tests.support.archives import RESOLVED, ROW, ROWS, acting, archive, archives, reattach
from tests.support.clock import at
from tests.support.database import ask, execute
from tests.support.example import CONTEXT, DATABASE
from tests.support.partitions import USERS, assert_nobody_waited, hierarchy, leaves, unfinished_detach
from tests.support.servers import databases
from tests.support.stores import client_of
from tests.support.traffic import traffic
from tests.support.world import World

long = pytest.mark.long

CHANGE = f"UPDATE policy_violations SET resolution = 'changed' WHERE id = {ROW} AND detected_at < '2023-01-01'"


def test_archived_dropped_and_brought_back_as_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(world, RESOLVED)
    at(monkeypatch, "2027-01-15T05:00+09:00")
    before = world.state()
    leaving = "policy_violations_2021, policy_violations_2022, policy_violations_2023"
    assert archive(world, dry_run=True) == f"PLANNED, nothing touched: {leaving} would be archived and dropped"
    with pytest.raises(UnsafeTarget, match='refusing to drop partitions of the live database "consulting_tool"'):
        archive(world, confirm_database="another")
    assert (before.differences(world.state()), archives(world)) == ([], [])
    world.backup()
    # 2024 stays; 2021 and 2022, which were missed, leave as well.
    with traffic(world.connect, USERS) as seen:
        assert archive(world).endswith(
            "policy_violations_2021, policy_violations_2022, policy_violations_2023 archived and dropped"
        )
    assert_nobody_waited(seen)
    assert leaves(world) == ["2024", "2025", "2026", "2027"]
    assert len(archives(world)) == 3
    assert all((path / "drilled.json").exists() for path in archives(world))
    assert databases(world.source) == {DATABASE}
    assert archive(world) == "ARCHIVED: nothing, no partition is past retention"
    # What was archived is not lost: neither a witness nor the next backup says so.
    world.run(integrity_check, "backup_reader")
    assert world.backup().startswith("STORED")
    with traffic(world.connect, USERS[:4]) as seen:
        for year in ("2021", "2023", "2022"):
            assert reattach(world, year=year).startswith(f"ATTACHED: public.policy_violations_{year} with 1,000 rows")
    assert_nobody_waited(seen)
    # Rows that the traffic wrote are in other partitions.
    theirs = ("policy_violations_2025", "policy_violations_2026")
    assert [one for one in before.differences(world.state()) if not any(name in one for name in theirs)] == []
    with pytest.raises(UnsafeTarget, match="policy_violations_2022 covers that period already"):
        reattach(world, year="2022")


def test_what_a_plan_asks_of_the_catalogue_does_not_grow_with_the_partitions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    asked = list[str]()
    for name in ("read_members", "read_relations"):
        original = getattr(catalog, name)

        def counted(*arguments: Any, original: Any = original, name: str = name, **more: Any) -> Any:
            asked.append(name)
            return original(*arguments, **more)

        monkeypatch.setattr(catalog, name, counted)
    found = list[int]()
    for year, going in (("2026", 2), ("2029", 5)):
        asked.clear()
        at(monkeypatch, f"{year}-01-15T05:00+09:00")
        assert archive(world, dry_run=True).count("policy_violations_20") == going
        found.append(len(asked))
    assert found[0] == found[1] > 0


# Indexes that are alike: of the year alone beside one that it has of its table, and two of the table, made and named crosswise.
ALIKE = {
    "own": ["CREATE INDEX of_all ON policy_violations (resolved_at)", "CREATE INDEX a_own ON policy_violations_2022 (resolved_at)"],
    "unique": ["CREATE UNIQUE INDEX a_own ON policy_violations_2022 (id, detected_at)"],
    "two": [
        "CREATE INDEX z_first ON policy_violations (resolved_at)",
        "CREATE INDEX a_second ON policy_violations (resolved_at)",
        "ALTER INDEX policy_violations_2022_resolved_at_idx RENAME TO z_2022",
        "CREATE INDEX a_own ON policy_violations_2022 (resolved_at)",
    ],
}


ATTACHED = (
    "SELECT i.indexrelid::regclass::text, h.inhparent::regclass::text FROM pg_index i LEFT JOIN pg_inherits h "
    "ON h.inhrelid = i.indexrelid WHERE i.indrelid = 'policy_violations_2022'::regclass ORDER BY 1"
)


@long
@pytest.mark.parametrize("alike", ALIKE)
def test_indexes_that_are_alike_are_attached_as_they_were(old: World, alike: str) -> None:
    execute(old, "SET ROLE consulting_owner", *ALIKE[alike])
    before, attached = old.state(), ask(old, ATTACHED)
    archive(old)
    said = reattach(old, year="2022")
    assert said.startswith("ATTACHED: ") and said.endswith(", compared"), said
    assert ask(old, ATTACHED) == attached
    assert before.differences(old.state()) == []


@long
def test_beside_for_an_audit(old: World) -> None:
    rows = ask(old, ROWS)
    archive(old)
    before = hierarchy(old)
    assert reattach(old, year="2022", mode="side-by-side").startswith("RESTORED: 1,000 rows of")
    (name,) = [row[0] for row in ask(old, "SELECT relname FROM pg_class WHERE relname ~ '_2022_restored_' AND relkind = 'r'")]
    assert ask(old, f"SELECT count(*), md5(string_agg(v::text, '' ORDER BY v.id)) FROM {name} v") == rows
    assert hierarchy(old) == before


@pytest.mark.long
def test_rows_that_hold_keep_their_partition(old: World) -> None:
    execute(old, f"UPDATE policy_violations SET status = 'active', resolved_at = NULL WHERE id = {ROW}")
    before = old.state()
    assert archive(old, dry_run=True) == "PLANNED, nothing touched: policy_violations_2022 would be archived and kept"
    assert archive(old) == "ARCHIVED: policy_violations_2022 archived, kept because of rows that hold it"
    assert before.differences(old.state()) == []
    (first,) = archives(old)
    # Nothing changed: nothing is copied twice.
    assert archive(old) == "ARCHIVED: policy_violations_2022 archived, kept because of rows that hold it"
    assert archives(old) == [first]
    execute(old, RESOLVED)
    assert archive(old) == "ARCHIVED: policy_violations_2022 archived and dropped"
    assert len(archives(old)) == 2


STEPS = ["take_archive", "prove_archive", "compare_with_archive", "cool"]


@pytest.mark.parametrize("step", [pytest.param(one, marks=() if one == "cool" else long) for one in STEPS])
def test_a_row_that_changes_on_the_way_keeps_the_partition(old: World, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    key = ask(old, f"SELECT {ROW}::text")[0][0]
    with monkeypatch.context() as patch:
        acting(patch, step, lambda: execute(old, CHANGE))
        with pytest.raises(OperationError) as error:
            archive(old)
    assert "policy_violations_2022 stays: " in str(error.value)
    assert "1 rows of public.policy_violations_2022 were written since" in str(error.value)
    # Which they are stands in no message; the report has it.
    assert key not in str(error.value)
    assert ask(old, "SELECT count(*) FROM policy_violations_2022 WHERE resolution = 'changed'") == [(1,)]
    assert archive(old) == "ARCHIVED: policy_violations_2022 archived and dropped"
    # The newest set has the changed row, and brings it back.
    reattach(old, year="2022")
    assert ask(old, "SELECT count(*) FROM policy_violations_2022 WHERE resolution = 'changed'") == [(1,)]


@long
@pytest.mark.parametrize(
    "change",
    [f"DELETE FROM policy_violations_2022 WHERE id = {ROW}",
     "VACUUM FULL policy_violations_2022",
     f"BEGIN; UPDATE policy_violations_2022 SET resolution = 'x' WHERE id = {ROW}; COMMIT; VACUUM (FREEZE) policy_violations_2022",
     f"WITH gone AS (DELETE FROM policy_violations_2022 WHERE id = {ROW} RETURNING *) INSERT INTO policy_violations_2022 "
     "SELECT (jsonb_populate_record(g, jsonb_build_object('id', gen_random_uuid()))).* FROM gone g"],
    ids=["deleted", "rewritten", "frozen", "exchanged"],
)  # fmt: skip
def test_changes_of_other_kinds(old: World, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    with monkeypatch.context() as patch:
        acting(patch, "cool", lambda: execute(old, *change.split("; ")))
        with pytest.raises(OperationError, match="policy_violations_2022 stays: "):
            archive(old)
    rows = ask(old, ROWS)
    assert rows[0][0] >= 999
    assert archive(old) == "ARCHIVED: policy_violations_2022 archived and dropped"
    reattach(old, year="2022")
    assert ask(old, ROWS) == rows


@pytest.mark.long
def test_locks_that_are_not_to_be_had(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "LOCK_TRIES", 2)
    before, tree, said = old.state(), hierarchy(old), r"lock timeout.*a long report .*AccessShareLock"
    with old.connect() as reader:
        reader.execute("SET application_name = 'a long report'")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM policy_violations")
        with (
            traffic(old.connect, [USERS[0], *USERS[2:4]]) as seen,
            pytest.raises(OperationError, match=said),
        ):
            archive(old)
        reader.execute("ROLLBACK")
    assert_nobody_waited(seen)
    assert (before.differences(old.state()), hierarchy(old)) == ([], tree)
    assert archive(old) == "ARCHIVED: policy_violations_2022 archived and dropped"
    assert len(archives(old)) == 1


@long
def test_what_needs_a_partition_keeps_it(old: World) -> None:
    execute(old, "CREATE VIEW of_2022 AS SELECT id FROM policy_violations_2022")
    before = old.state()
    with pytest.raises(OperationError, match=r"2022 stays: cannot drop table .*view public.of_2022 depends on table"):
        archive(old)
    assert before.differences(old.state()) == []


@long
def test_keys_of_others_keep_a_partition_that_they_need(old: World) -> None:
    execute(
        old, "CREATE TABLE appeals (id uuid, at timestamp, FOREIGN KEY (id, at) REFERENCES policy_violations)",
        "INSERT INTO appeals SELECT id, detected_at FROM policy_violations_2022 LIMIT 1",
    )  # fmt: skip
    before = old.state()
    with pytest.raises(OperationError, match="policy_violations_2022 stays: "):
        archive(old)
    assert before.differences(old.state()) == []


@pytest.mark.long
def test_somebody_elses_detach_is_finished_first(old: World) -> None:
    rows, before = ask(old, ROWS), old.state()
    unfinished_detach(old, "policy_violations_2022")
    assert ask(old, ROWS)[0][0] == 0
    assert archive(old) == "ARCHIVED: policy_violations_2022 archived and dropped"
    assert leaves(old)[0] == "2023"
    reattach(old, year="2022")
    assert (ask(old, ROWS), before.differences(old.state())) == (rows, [])


FAILURES: dict[str, tuple[Any, str, Exception]] = {
    "the upload": (upload, "read_back", StoreUnavailable("no")),
    "the scratch restore": (new_database, "compare_with_manifest", RestoreDiffers("it differs")),
    "the download": (stage, "require_list", DamagedSet("it is damaged")),
}


@pytest.mark.long
@pytest.mark.parametrize(
    "failure", ["the scratch restore", pytest.param("the upload", marks=long), pytest.param("the download", marks=long)]
)
def test_what_fails_drops_nothing(old: World, monkeypatch: pytest.MonkeyPatch, quick_retries: None, failure: str) -> None:
    module, name, error = FAILURES[failure]
    before = old.state()

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        with pytest.raises(OperationError, match=f"policy_violations_2022 stays: .*{error}"):
            archive(old)
    assert before.differences(old.state()) == []
    assert databases(old.source) == {DATABASE}
    assert archive(old) == "ARCHIVED: policy_violations_2022 archived and dropped"
    reattach(old, year="2022")
    assert before.differences(old.state()) == []


KILLED = """
import os, signal, sys
from importlib import import_module
module, name, when, count = import_module(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
original, seen = getattr(module, name), []
def stand_in(*arguments, **more):
    seen.append(1)
    if when == "before" and len(seen) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    found = original(*arguments, **more)
    if when == "after" and len(seen) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
setattr(module, name, stand_in)
import pytest
from flows.partitions import archive_partitions, reattach_partition
from tests.support.archives import ONE_YEAR_IS_DUE
from tests.support.clock import at
at(pytest.MonkeyPatch(), ONE_YEAR_IS_DUE)
if sys.argv[5] == "archive":
    archive_partitions(dry_run=False, confirm_database="consulting_tool")
else:
    reattach_partition(year="2022")
"""
# Steps of the archive, in their order; what is called how often before it is killed.
KILLS = [
    ("tasks.backup.take", "publish", "before", 1), ("tasks.backup.take", "publish", "after", 1),
    ("tasks.restore.new_database", "fill_database", "after", 1), ("tasks.partitions.archive", "mark", "before", 1),
    ("tasks.partitions.archive", "mark", "after", 1), ("tasks.partitions.archive", "compare_with_archive", "after", 1),
    ("tasks.partitions.archive", "cool", "after", 1), ("tasks.core.sql.partitions", "lock_alone", "after", 1),
    ("tasks.core.sql.partitions", "drop_table", "after", 1), ("tasks.partitions.archive", "drop_partition", "after", 1),
]  # fmt: skip


def kill(world: World, what: str, module: str, name: str, when: str, count: int) -> None:
    kept = local.bare_environment()
    died = subprocess.run(
        [sys.executable, "-c", KILLED, module, name, when, str(count), what], cwd=PROJECT, text=True, capture_output=True,
        check=False, env=kept | world.environment(world.source, "backup_restorer"),
    )  # fmt: skip
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]


@long
@pytest.mark.parametrize(
    ("module", "name", "when", "count"), [pytest.param(*one, id=f"{one[1]} {one[2]}") for one in KILLS],
)  # fmt: skip
def test_killed_at_a_step_the_next_run_finishes(old: World, module: str, name: str, when: str, count: int) -> None:
    rows, before = ask(old, ROWS), old.state()
    kill(old, "archive", module, name, when, count)
    gone = name == "drop_partition"
    assert ask(old, ROWS)[0][0] == (0 if gone else 1000)
    if not gone:
        assert before.differences(old.state()) == []
    assert (
        archive(old)
        == f"ARCHIVED: {'nothing, no partition is past retention' if gone else 'policy_violations_2022 archived and dropped'}"
    )
    assert len(archives(old)) == 1
    assert databases(old.source) == {DATABASE}
    reattach(old, year="2022")
    assert (ask(old, ROWS), before.differences(old.state())) == (rows, [])


@long
@pytest.mark.parametrize(
    ("module", "name", "when", "count"),
    [
        ("tasks.partitions.reattach", "load_rows", "after", 1), ("tasks.partitions.reattach", "_make", "after", 1),
        ("tasks.partitions.attach", "_validate_key", "after", 2), ("tasks.partitions.attach", "attach", "after", 1),
        ("tasks.core.sql.rows", "analyze_relation", "before", 1),
    ],
)  # fmt: skip
def test_a_reattachment_that_is_killed_is_done_by_the_next_run(old: World, module: str, name: str, when: str, count: int) -> None:
    before = old.state()
    archive(old)
    kill(old, "reattach", module, name, when, count)
    if name == "analyze":
        with pytest.raises(UnsafeTarget, match="covers that period already"):
            reattach(old, year="2022")
    else:
        assert "2022" not in leaves(old)
        reattach(old, year="2022")
    assert before.differences(old.state()) == []


@long
def test_rows_that_refer_to_nothing_any_more_are_told_and_nothing_is_left(old: World) -> None:
    archive(old)
    execute(old, "ALTER TABLE policy_violations DISABLE TRIGGER USER", "SET session_replication_role = replica",
            "DELETE FROM governance_rules")  # fmt: skip
    before = hierarchy(old)
    with pytest.raises(OperationError, match=r"cannot be attached to public\.policy_violations: rows reference missing rows"):
        reattach(old, year="2022")
    assert hierarchy(old) == before
    assert ask(old, "SELECT relname FROM pg_class WHERE relname = 'policy_violations_2022'") == []


def test_bad_input_touches_nothing(old: World) -> None:
    tree = hierarchy(old)
    for parameters, said in (
        ({"year": "2019"}, "no archive set of bc-004 has the partition of public.policy_violations that begins 2019-01-01"),
        ({"year": "2022-05"}, '"2022-05" is not a year'), ({"year": "2022", "table": "teams"}, "table teams is not partitioned"),
    ):  # fmt: skip
        with pytest.raises(OperationError, match=said):
            reattach(old, **parameters)
    with pytest.raises(OperationError, match='no long-term job "nothing"; it has: violations'):
        old.run(long_term_backup, "backup_reader", name="nothing")
    assert hierarchy(old) == tree


@long
def test_long_term_sets_are_no_base_never_latest_and_can_be_restored(resolved: World) -> None:
    for _ in range(2):
        assert str(resolved.run(long_term_backup, "backup_reader")).startswith("STORED: bc-004_violations_")
    sets_ = sorted(resolved.store_folder.glob(f"{CONTEXT}/violations/*/*/manifest.json"))
    assert len(sets_) == 2
    manifest = json.loads(sets_[0].read_bytes())["manifest"]
    assert {one["name"][:18] for one in manifest["relations"]} == {"policy_violations_"}
    with pytest.raises(OperationError, match="no backup set of context"):
        resolved.recover()
    assert "_full_" in resolved.differential()
    rows = ask(resolved, ROWS)
    execute(resolved, "DELETE FROM policy_violations WHERE detected_at < '2023-01-01'")
    words = {"dry_run": False, "confirm_database": DATABASE}
    resolved.run(table_restore, "backup_restorer", table="policy_violations_2022", backup=manifest["id"], mode="replace", **words)
    assert ask(resolved, ROWS) == rows
    listed = {str(row["kind"]) for row in resolved.run(list_backups, "backup_reader")}
    assert {"long-term", "full", "safety"} <= listed


@long
def test_a_set_that_was_not_cooled_is_cooled_by_the_next_run(s3_world: World, s3: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    def classes() -> list[str]:
        found = client_of(s3).list_objects_v2(Bucket=s3.bucket, Prefix=f"{s3_world.folder.name}/{CONTEXT}/violations/")["Contents"]
        return [one["StorageClass"] for one in found if "/data/" in one["Key"]]

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(long_term, "cool", die)
        with pytest.raises(KeyboardInterrupt):
            s3_world.run(long_term_backup, "backup_reader")
    assert {*classes()} == {"STANDARD"}
    s3_world.run(long_term_backup, "backup_reader")
    assert {*classes()} == {"GLACIER"}
