"""Archives of odd schemas, under odd settings, and what must not be taken for the same."""

import threading
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError

from flows.partitions import create_partitions
from flows.restore import full_restore, table_restore
from tasks.core import sql
from tasks.core.errors import BadInput, OperationError, UnsafeTarget
from tasks.core.sql import partitions as sql_partitions
from tasks.partitions import due as partitions_due
from tasks.partitions import transaction
from tasks.run import site
from tests.support.archives import ROW, ROWS, acting, archive, archives, reattach
from tests.support.database import ask, execute
from tests.support.example import DATABASE
from tests.support.faults import wait_for
from tests.support.moments import SECONDS
from tests.support.partitions import hierarchy, leaves
from tests.support.world import World

long = pytest.mark.long

OTHERS = "SELECT count(*), md5(string_agg(v::text, '' ORDER BY v.id)) FROM policy_violations v WHERE detected_at >= '2023-01-01'"


@long
def test_a_set_of_one_year_says_nothing_of_the_others(old: World) -> None:
    rows, others = ask(old, ROWS), ask(old, OTHERS)
    archive(old)
    backup = archives(old)[0].name
    words = {"backup": backup, "dry_run": False, "confirm_database": DATABASE}
    old.run(table_restore, "backup_restorer", table="policy_violations", mode="replace", **words)
    assert (ask(old, ROWS), ask(old, OTHERS)) == (rows, others)
    execute(old, "DELETE FROM policy_violations_2022 WHERE severity = 'error'")
    old.run(full_restore, "backup_restorer", in_place=True, **words)
    assert (ask(old, ROWS), ask(old, OTHERS)) == (rows, others)


@long
def test_a_row_that_is_committed_while_the_drop_waits_keeps_the_partition(old: World) -> None:
    execute(old, f"ALTER DATABASE {DATABASE} SET default_transaction_isolation = 'repeatable read'")
    said, failed = list[str](), list[Exception]()

    def run() -> None:
        try:
            said.append(archive(old))
        except OperationError as error:
            failed.append(error)

    # The Prefect server that flows are recorded on is known to the context.
    thread = threading.Thread(target=copy_context().run, args=[run])
    with old.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("SELECT count(*) FROM policy_violations")
        thread.start()
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'"
        wait_for(lambda: ask(old, waiting), SECONDS, "the drop")
        writer.execute(f"UPDATE policy_violations_2022 SET resolution = 'late' WHERE id = {ROW}".encode())
        writer.execute("COMMIT")
    thread.join()
    assert said == []
    assert "1 rows of public.policy_violations_2022 were written since" in str(failed[0])
    assert ask(old, "SELECT count(*) FROM policy_violations_2022 WHERE resolution = 'late'") == [(1,)]


@long
@pytest.mark.parametrize(
    "statements",
    [["ALTER TABLE policy_violations ADD COLUMN region text DEFAULT 'JP'",
      "ALTER TABLE policy_violations ALTER region SET DEFAULT 'X'"],
     ["ALTER TABLE policy_violations DROP COLUMN resolution"]],
    ids=["added", "dropped"],
)  # fmt: skip
def test_other_columns_are_another_partition(old: World, statements: list[str]) -> None:
    execute(old, "CREATE VIEW of_2022 AS SELECT id FROM policy_violations_2022")
    with pytest.raises(OperationError, match="of_2022"):
        archive(old)
    execute(old, "DROP VIEW of_2022", *statements)
    rows = ask(old, ROWS)
    assert archive(old) == "ARCHIVED: policy_violations_2022 archived and dropped"
    assert len(archives(old)) == 2
    reattach(old, year="2022")
    assert ask(old, ROWS) == rows


@long
def test_a_held_row_that_other_rows_decide(old: World, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    condition = "policy_id IN (SELECT id FROM public.governance_policies WHERE status = 'draft')"
    with_context(monkeypatch, folder, "hold: status = 'active'", f'hold: "{condition}"')
    execute(old, "UPDATE governance_policies SET status = 'active'")
    with monkeypatch.context() as patch:
        acting(patch, "cool", lambda: execute(old, "UPDATE governance_policies SET status = 'draft'"))
        with pytest.raises(OperationError, match=r"rows of public\.policy_violations_2022 hold the partition now"):
            archive(old)
    assert "2022" in leaves(old)


def with_context(monkeypatch: pytest.MonkeyPatch, folder: Path, was: str, becomes: str) -> None:
    place = folder / "contexts" / "bc-004"
    place.mkdir(parents=True)
    for file in (site.CONTEXTS / "bc-004").iterdir():
        (place / file.name).write_text(file.read_text("utf-8").replace(was, becomes), "utf-8")
    monkeypatch.setattr(site, "CONTEXTS", folder / "contexts")


@long
def test_users_that_are_busy_are_not_kept_waiting_by_what_is_given_up(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(old)
    monkeypatch.setattr(transaction, "LOCK_SECONDS", 1.0)
    monkeypatch.setattr(transaction, "LOCK_TRIES", 1)
    before = hierarchy(old)
    validate = sql.partitions.validate_key

    def busy_from_here(*arguments: str) -> Any:
        reader.execute("SELECT count(*) FROM users")
        return validate(*arguments)

    monkeypatch.setattr(sql_partitions, "validate_key", busy_from_here)
    with old.connect() as reader:
        reader.execute("BEGIN")
        with pytest.raises(OperationError, match="could not be"):
            reattach(old, year="2022")
        # Nobody queues behind a lock that is waited for without an end.
        assert ask(old, "SELECT count(*) FROM pg_locks WHERE NOT granted") == [(0,)]
        reader.execute("ROLLBACK")
    monkeypatch.undo()
    assert hierarchy(old) == before
    reattach(old, year="2022")
    assert "2022" in leaves(old)


@long
def test_leaves_that_differ_from_their_parent(old: World) -> None:
    execute(
        old, "SET ROLE consulting_owner", "ALTER TABLE policy_violations_2022 SET UNLOGGED",
        "ALTER TABLE policy_violations_2022 ADD CONSTRAINT own CHECK (severity <> 'none')",
        "ALTER TABLE policy_violations_2022 ALTER COLUMN severity SET DEFAULT 'info'",
        "ALTER TABLE policy_violations_2022 SET (fillfactor = 70)", "ALTER TABLE policy_violations_2022 REPLICA IDENTITY FULL",
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$",
        "CREATE TRIGGER told AFTER INSERT ON policy_violations FOR EACH ROW EXECUTE FUNCTION nothing()",
        "ALTER TABLE policy_violations_2022 DISABLE TRIGGER told",
        "ALTER TABLE policy_violations ADD CONSTRAINT later CHECK (detected_at > '2023-06-01') NOT VALID",
    )  # fmt: skip
    rows = ask(old, ROWS)
    archive(old)
    verdict = reattach(old, year="2022")
    assert ask(old, ROWS) == rows
    facts = "SELECT relpersistence::text FROM pg_class WHERE relname = 'policy_violations_2022'"
    assert ask(old, facts) == [("u",)]
    assert ask(
        old, "SELECT tgenabled::text FROM pg_trigger WHERE tgrelid = 'policy_violations_2022'::regclass AND tgname = 'told'"
    ) == [("D",)]
    checks = "SELECT conname::text FROM pg_constraint WHERE conrelid = 'policy_violations_2022'::regclass AND contype = 'c'"
    assert {("own",), ("later",)} <= {*ask(old, checks)}
    # What is made like its parent is told.
    assert "differs: " in verdict and "policy_violations_2022" in verdict.partition("differs: ")[2]


@long
def test_keys_to_a_partitioned_table(old: World) -> None:
    execute(
        old, "SET ROLE consulting_owner", "CREATE TABLE areas (id int PRIMARY KEY) PARTITION BY LIST (id)",
        "CREATE TABLE areas_1 PARTITION OF areas FOR VALUES IN (1)", "CREATE TABLE areas_2 PARTITION OF areas FOR VALUES IN (2)",
        "INSERT INTO areas VALUES (1), (2)", "ALTER TABLE policy_violations ADD COLUMN area int DEFAULT 2 REFERENCES areas",
        "UPDATE policy_violations SET area = 1 WHERE severity = 'error'",
    )  # fmt: skip
    before = old.state()
    archive(old)
    reattach(old, year="2022")
    assert before.differences(old.state()) == []


@long
def test_a_set_of_another_cluster_is_not_taken_for_the_same(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(old, f"UPDATE policy_violations SET status = 'active', resolved_at = NULL WHERE id = {ROW}")
    archive(old)
    (first,) = archives(old)
    monkeypatch.setattr(partitions_due, "incompatibility", lambda *_: "it is of another timeline")
    with pytest.raises(OperationError, match="is not known: it is of another timeline"):
        archive(old)
    monkeypatch.undo()
    assert first in archives(old)
    assert "2022" in leaves(old)


def test_numbers_that_are_none(old: World) -> None:
    with pytest.raises(ParameterTypeError, match="ahead"):
        old.run(create_partitions, "backup_restorer", ahead=-1)
    with pytest.raises(BadInput, match='"0000" is not a year'):
        reattach(old, year="0000")
    with pytest.raises(BadInput, match="name a year, such as 2023, or an archive set"):
        reattach(old)
    with pytest.raises(BadInput, match="no archive set bc-004_archive_20270101_000000_0000 of bc-004 is complete"):
        reattach(old, backup="bc-004_archive_20270101_000000_0000")


@long
def test_by_the_name_of_the_set(old: World) -> None:
    archive(old)
    reattach(old, backup=archives(old)[0].name)
    assert "2022" in leaves(old)
    with pytest.raises(UnsafeTarget):
        reattach(old, backup=archives(old)[0].name)
