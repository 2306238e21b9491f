"""Partitions whose period is over, compared with the newest good set: what is lost, changed, frozen, and not compared."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger
from psycopg import sql

from deployments.local import LocalServer
from flows.checks import integrity_check
from flows.partitions import archive_partitions
from tasks.checks import partitions
from tasks.checks.partitions import Comparing, compare_past_partitions
from tasks.checks.partitions import _compare as compare_one
from tasks.core.checks.definition import Finding, Verdict
from tasks.core.checks.partitions import PARTITIONS
from tasks.core.checks.record import CheckRecord
from tasks.core.checks.rotation import TURN, Rotation
from tasks.core.context import CONTEXT_FILE, Context, parse_context, read_context_folder
from tasks.core.errors import OperationError
from tasks.core.postgres.programs import Running
from tasks.run import site
from tasks.run.run import Run
from tasks.sets.records import keep_record, read_records
from tasks.store.address import StoreAddress
from tests.support.clean_ups import clean_up
from tests.support.contexts import edit_context
from tests.support.database import execute, server_of
from tests.support.example import CONTEXT, DATABASE
from tests.support.findings import SUMMER
from tests.support.servers import drop_databases
from tests.support.world import World, new_world

DEFINITION = parse_context(read_context_folder(site.CONTEXTS / CONTEXT)[CONTEXT_FILE], "")
PAST = [f"public.policy_violations_{year}" for year in range(2021, 2027)]
A_ROW = "(SELECT min(id::text)::uuid FROM policy_violations_{})"


@pytest.fixture(scope="module")
def healthy(
    source: LocalServer, target: LocalServer, prefect_api: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """The example database and one full of it; tests damage copies."""
    world = new_world(source, target, prefect_api, tmp_path_factory.mktemp("past"))
    world.backup()
    yield world
    drop_databases(source)


@pytest.fixture
def copy(healthy: World, folder: Path) -> Iterator[World]:
    """A copy of the database and of its store."""
    name = f"copy_{datetime.now(UTC):%H%M%S%f}"
    with healthy.source.connect() as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER consulting_owner")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(DATABASE)))
    store = shutil.copytree(healthy.store_folder, folder / "store")
    yield replace(healthy, database=name, folder=folder, extra={"PGDATABASE": name}, store={"BACKUP_STORE": str(store)})
    with healthy.source.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def defined(frozen_after: str | None = None, **keys: Any) -> Context:
    rules = [rule.model_copy(update={"frozen_after": frozen_after}) for rule in DEFINITION.partitions]
    return DEFINITION.model_copy(update={"partitions": rules, **keys})


def compare(
    world: World, context: Context = DEFINITION, instant: datetime = SUMMER, user: str = "backup_reader"
) -> tuple[Finding, Rotation]:  # fmt: skip
    run = Run("integrity_check", CONTEXT, "3f9c", instant, world.folder, Running())
    place = server_of(world, user), world.database, run, context, StoreAddress(world.store["BACKUP_STORE"])
    with disable_run_logger():
        (finding,), rotation = compare_past_partitions.fn(*place, 60)
    assert finding.check == PARTITIONS
    assert [*world.folder.glob("*-rows")] == []
    return finding, rotation


def remember(world: World, rotation: Rotation, instant: datetime) -> None:
    record = CheckRecord(instant=instant, run="3f9c", verdict="PASS: x", results=[], partitions=rotation)
    with disable_run_logger():
        keep_record(StoreAddress(world.store["BACKUP_STORE"]), CONTEXT, record)


def test_an_undamaged_database_is_equal(copy: World) -> None:
    finding, rotation = compare(copy, defined("1 month"))
    assert (finding.verdict, finding.offending) == (Verdict.OK, 0)
    assert finding.note.startswith("6 of 6 partitions whose period is over were compared with bc-004_full_")
    assert rotation.compared == dict.fromkeys(PAST, SUMMER)


def test_a_frozen_partition_in_which_a_row_changed_fails(copy: World) -> None:
    execute(copy, f"UPDATE policy_violations SET error_message = 'other' WHERE id = {A_ROW.format(2024)}")
    finding, _ = compare(copy, defined("1 year"))
    assert finding.fails
    (line,) = finding.sample
    assert line.startswith("public.policy_violations_2024 (frozen): ")
    assert line.endswith(" now: 0 only in the set, 1 changed, 0 only in the database")


def test_a_frozen_partition_takes_no_row(copy: World) -> None:
    execute(
        copy, "INSERT INTO policy_violations SELECT (jsonb_populate_record(v, jsonb_build_object('id', gen_random_uuid()))).* "
        "FROM policy_violations_2024 v LIMIT 2",
    )  # fmt: skip
    assert compare(copy)[0].verdict is Verdict.OK, "one that is over may"
    finding, _ = compare(copy, defined("1 year"))
    assert finding.fails and finding.sample[0].endswith("0 only in the set, 0 changed, 2 only in the database")


def test_frozen_is_what_ended_so_long_ago(copy: World) -> None:
    execute(copy, f"UPDATE policy_violations SET error_message = 'other' WHERE id = {A_ROW.format(2026)}")
    # The year ended in Tokyo on New Year's Eve at 15:00 in Greenwich.
    before = compare(copy, defined("3 months"), datetime(2027, 3, 31, 14, 59, tzinfo=UTC))[0]
    assert before.verdict is Verdict.WARNING and "(frozen)" not in before.sample[0]
    assert compare(copy, defined("3 months"), datetime(2027, 3, 31, 15, tzinfo=UTC))[0].fails


def test_what_is_not_over_is_not_compared(copy: World) -> None:
    execute(copy, "DELETE FROM policy_violations_2026")
    finding, rotation = compare(copy, defined("0 days"), datetime(2026, 12, 31, 14, 59, tzinfo=UTC))
    assert finding.verdict is Verdict.OK and [*rotation.compared] != [] and PAST[-1] not in rotation.compared


def test_of_a_past_partition_a_lost_row_fails_and_a_changed_one_warns(copy: World) -> None:
    execute(copy, f"UPDATE policy_violations SET error_message = 'other' WHERE id = {A_ROW.format(2025)}")
    finding, _ = compare(copy)
    assert (finding.verdict, finding.offending) == (Verdict.WARNING, 1)
    assert "0 only in the set, 1 changed, 0 only in the database" in finding.sample[0]
    execute(copy, f"DELETE FROM policy_violations WHERE id = {A_ROW.format(2023)}")
    finding, _ = compare(copy)
    assert finding.fails and finding.offending == 2
    assert "policy_violations_2023: " in finding.sample[0], "what fails comes first"
    assert "1 only in the set, 0 changed, 0 only in the database" in finding.sample[0]
    assert "take a backup now" in finding.note


def test_a_row_that_another_takes_the_place_of_is_lost(copy: World) -> None:
    execute(copy, f"UPDATE policy_violations SET id = gen_random_uuid() WHERE id = {A_ROW.format(2023)}")
    finding, _ = compare(copy)
    assert finding.fails and finding.sample[0].endswith("1 only in the set, 0 changed, 1 only in the database")


@pytest.mark.long
def test_the_newest_good_state_counts_be_it_a_differentials(copy: World) -> None:
    copy.backup()
    execute(copy, f"UPDATE policy_violations SET error_message = 'other' WHERE id = {A_ROW.format(2025)}")
    copy.differential()
    finding, _ = compare(copy)
    assert finding.verdict is Verdict.OK and "bc-004_differential_" in finding.note
    execute(copy, f"UPDATE policy_violations SET error_message = 'third' WHERE id = {A_ROW.format(2025)}")
    execute(copy, f"DELETE FROM policy_violations WHERE id = {A_ROW.format(2022)}")
    lines = compare(copy)[0].sample
    assert [line.partition(" now: ")[2] for line in lines] == [
        "1 only in the set, 0 changed, 0 only in the database", "0 only in the set, 1 changed, 0 only in the database",
    ]  # fmt: skip


@pytest.mark.long
def test_a_suspect_set_is_no_witness(copy: World) -> None:
    execute(copy, "DELETE FROM policy_violations_2023 WHERE id::text < '8'")
    for take in (copy.backup, copy.differential):
        with pytest.raises(OperationError, match=r"^SUSPECT: "):
            take()
    finding, _ = compare(copy)
    assert finding.fails and "policy_violations_2023: " in finding.sample[0]


@pytest.mark.long
def test_what_clean_ups_archived_is_no_loss_and_one_row_more_is(copy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"table": "policy_violations", "clock": "detected_at", "keep": "3 years", "condition": "status <> 'active'"}
    edit_context(copy, monkeypatch, clean_up=[rule])
    assert "deleted" in clean_up(copy, confirm_database=copy.database)
    finding, _ = compare(copy)
    assert finding.verdict is Verdict.OK, finding
    execute(copy, f"DELETE FROM policy_violations WHERE id = {A_ROW.format(2022)}")
    finding, _ = compare(copy)
    (line,) = finding.sample
    assert finding.fails and "clean-ups archived " in line


@pytest.mark.long
def test_a_partition_that_was_archived_is_not_missed(copy: World) -> None:
    execute(copy, "UPDATE policy_violations SET status = 'resolved', resolved_at = now(), resolution = 'x'")
    copy.backup()
    verdict = copy.run(archive_partitions, "backup_restorer", dry_run=False, confirm_database=copy.database)
    finding, rotation = compare(copy)
    assert finding.verdict is Verdict.OK, (verdict, finding)
    assert len(rotation.compared) < len(PAST)


@pytest.mark.long
def test_rows_without_a_key_are_counted_off_and_leaf_partitions_are_compared_together(copy: World) -> None:
    execute(
        copy, "SET ROLE consulting_owner",
        "CREATE TABLE visits (day date, who text) PARTITION BY RANGE (day)",
        "CREATE TABLE visits_2025 PARTITION OF visits FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY HASH (who)",
        "CREATE TABLE visits_2025_0 PARTITION OF visits_2025 FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE visits_2025_1 PARTITION OF visits_2025 FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        "INSERT INTO visits SELECT '2025-02-01', number % 50 FROM generate_series(1, 100) AS number",
    )  # fmt: skip
    rule = {"table": "visits", "column": "day", "period": "year", "name": "visits_{year}", "keep": "9 years"}
    with pytest.MonkeyPatch.context() as patch:
        edit_context(copy, patch, tables=["visits"], partitions=[rule], views=[], clean_up=[], long_term={})
        copy.backup()
        text = (site.CONTEXTS / CONTEXT / CONTEXT_FILE).read_text("utf-8")
    context = parse_context(text, "")
    assert compare(copy, context)[0].verdict is Verdict.OK
    execute(copy, "DELETE FROM visits_2025_0 WHERE ctid = (SELECT min(ctid) FROM visits_2025_0)")
    finding, rotation = compare(copy, context)
    assert finding.fails and [*rotation.compared] == ["public.visits_2025"]
    assert "public.visits_2025: 100 rows in the set, 99 now: 1 only in the set, 0 changed" in finding.sample[0]


# Time, and its turns.


def test_without_time_nothing_is_compared_and_nothing_is_said_to_be_equal(copy: World) -> None:
    execute(copy, "DELETE FROM policy_violations_2023")
    finding, rotation = compare(copy, defined(comparison_seconds=0))
    assert finding.verdict is Verdict.NOT_RUN and not finding.fails
    assert finding.note.startswith("0 of 6 partitions whose period is over were compared with ")
    assert "not compared: the limit of 0 s (`comparison_seconds`) was reached: " in finding.note
    assert all(f"{name} (last compared never)" in finding.note for name in PAST)
    assert "not compared within 7 days, raise `comparison_seconds`: " in finding.note
    assert rotation == Rotation()


@pytest.mark.long
def test_a_partition_that_takes_too_long_is_not_compared_and_waits_for_its_turn(copy: World) -> None:
    execute(
        copy, "ALTER TABLE policy_violations_2026 ALTER COLUMN error_message SET STORAGE EXTERNAL",
        "UPDATE policy_violations_2026 SET error_message = repeat(md5(id::text), 30000)",
    )  # fmt: skip
    remember(copy, Rotation(compared=dict.fromkeys(PAST, SUMMER), tried=dict.fromkeys(PAST[:-1], SUMMER)), SUMMER)
    later = SUMMER + timedelta(hours=1)
    finding, rotation = compare(copy, defined(comparison_seconds=1), later)
    assert finding.verdict is Verdict.NOT_RUN and "policy_violations_2026 (last compared 2027-06-01)" in finding.note
    assert "within 7 days" not in finding.note
    assert rotation.tried[PAST[-1]] == later and rotation.compared[PAST[-1]] == SUMMER
    remember(copy, rotation, later)
    third = later + timedelta(hours=1)
    _, rotation = compare(copy, defined(comparison_seconds=20), third)
    assert {rotation.compared[name] for name in PAST[:-1]} == {third}, "it does not keep the others from their turn"


def test_a_check_a_day_comes_round_in_a_week(copy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each there is time for one partition."""
    monkeypatch.setattr(Comparing, "is_over", property(lambda self: bool(done)))
    monkeypatch.setattr(partitions, "_compare", lambda *given: done.append(True) or compare_one(*given))
    for day in range(TURN.days - 1):
        done = list[bool]()
        finding, rotation = compare(copy, instant=SUMMER + timedelta(days=day))
        remember(copy, rotation, SUMMER + timedelta(days=day))
    assert {*rotation.compared} == {*PAST}
    assert "within 7 days" not in finding.note


@pytest.mark.long
def test_the_record_of_a_run_says_when_each_was_compared(copy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_context(copy, monkeypatch, comparison_seconds=0)
    long_ago = datetime.now(UTC) - timedelta(days=300)
    remember(copy, Rotation(compared={PAST[0]: long_ago}), long_ago)
    for seconds in (0, 60):
        edit_context(copy, monkeypatch, comparison_seconds=seconds)
        with suppress(OperationError):
            copy.run(integrity_check, "backup_reader")
        address = StoreAddress(copy.store["BACKUP_STORE"])
        with disable_run_logger():
            record = read_records(address, CONTEXT, CheckRecord, lambda keys: keys[:1])[0]
        assert PARTITIONS in {result.check for result in record.results}
        if not seconds:
            assert record.partitions.compared == {PAST[0]: long_ago}
    assert record.partitions.compared == dict.fromkeys(record.partitions.tried, record.instant) != {}


@pytest.mark.parametrize("frozen_after", [None, pytest.param("1 year", marks=pytest.mark.long)])
def test_what_a_backup_took_along_between_two_checks_is_told_once(copy: World, frozen_after: str | None) -> None:
    context, days = defined(frozen_after), (SUMMER + timedelta(days=day) for day in range(9))
    remember(copy, compare(copy, context, day := next(days))[1], day)
    execute(copy, f"UPDATE policy_violations SET error_message = 'other' WHERE id = {A_ROW.format(2024)}")
    copy.backup()
    finding, rotation = compare(copy, context, day := next(days))
    assert finding.fails is bool(frozen_after), finding
    remember(copy, rotation, day)
    execute(copy, f"DELETE FROM policy_violations WHERE id = {A_ROW.format(2022)}")
    copy.backup()
    finding, rotation = compare(copy, context, day := next(days))
    (line,) = finding.sample
    assert finding.fails and "policy_violations_2022" in line and "which ones differ is not known: bc-004_full_" in line
    remember(copy, rotation, day)
    assert compare(copy, context, next(days))[0].verdict is Verdict.OK


# What cannot be looked at.


def test_what_may_not_be_read_is_not_compared(copy: World) -> None:
    execute(copy, "ALTER TABLE policy_violations_2022 ENABLE ROW LEVEL SECURITY")
    finding, rotation = compare(copy)
    assert finding.verdict is Verdict.NOT_RUN
    assert "public.policy_violations_2022 (last compared never)" in finding.note
    assert "5 of 6 " in finding.note and len(rotation.compared) == 5


def test_what_is_locked_is_not_compared(copy: World) -> None:
    with copy.connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE policy_violations_2022 IN ACCESS EXCLUSIVE MODE")
        finding, _ = compare(copy)
    assert finding.verdict is not Verdict.OK
    assert "lock timeout" in finding.note


def test_other_columns_are_not_compared(copy: World) -> None:
    execute(copy, "ALTER TABLE policy_violations ADD COLUMN more int")
    assert compare(copy)[0].verdict is Verdict.OK, "what the set has is there"
    execute(copy, "ALTER TABLE policy_violations ALTER COLUMN severity TYPE varchar(40)")
    finding, _ = compare(copy)
    assert finding.verdict is Verdict.NOT_RUN and "its columns differ from those in bc-004_full_" in finding.note
    assert "comparison_seconds" not in finding.note, "more time would not help"


def test_a_table_that_is_not_as_its_rule_says_is_not_compared(copy: World) -> None:
    rule = DEFINITION.partitions[0].model_copy(update={"column": "created_at"})
    finding, _ = compare(copy, DEFINITION.model_copy(update={"partitions": [rule]}))
    assert finding.verdict is Verdict.NOT_RUN and "is not partitioned by range of created_at alone" in finding.note


def test_without_a_set_nothing_is_compared(copy: World) -> None:
    shutil.rmtree(copy.store_folder / CONTEXT)
    assert compare(copy)[0].verdict is Verdict.NOT_RUN


def test_a_damaged_set_costs_the_rows_and_not_the_verdict(copy: World) -> None:
    execute(copy, f"DELETE FROM policy_violations WHERE id = {A_ROW.format(2022)}")
    (stored,) = copy.store_folder.glob(f"{CONTEXT}/daily/*/data/policy_violations_2022.copy.zst")
    stored.write_bytes(stored.read_bytes()[:-1] + b"?")
    finding, _ = compare(copy)
    assert finding.fails and "which ones differ is not known: " in finding.sample[0]
