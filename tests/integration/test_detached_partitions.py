"""A detached partition is attached again by a restore in place where its rows allow it; the plan says so, or why not."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.partitions import create_partitions
from flows.restore import full_restore, table_restore
from tasks.core.checks.partitions import PARTITIONS
from tasks.core.errors import OperationError
from tasks.run import site
from tests.support import PROJECT
from tests.support.adoption import adopt
from tests.support.contexts import edit_context
from tests.support.copies import AS_BACKED_UP, backed_up_once, copy_of
from tests.support.database import ask, count, execute
from tests.support.example import DATABASE, copy_template
from tests.support.findings import check
from tests.support.oracle import State, capture
from tests.support.reports import newest_report
from tests.support.restores import undo
from tests.support.servers import CONTRIB, Servers, drop_databases
from tests.support.traffic import traffic
from tests.support.variants import first_quick
from tests.support.world import World, new_world

long = pytest.mark.long
TABLE, PART = "policy_violations", "policy_violations_2024"
DETACH = f"ALTER TABLE {TABLE} DETACH PARTITION {PART}"
# A partitioned table that is divided again, has a DEFAULT partition, a trigger, an identity, keys and a table that refers to it.
MEASURES = (
    "SET ROLE consulting_owner",
    """CREATE TABLE measures (id int NOT NULL, region text NOT NULL, team uuid REFERENCES teams, value int,
         PRIMARY KEY (id, region), CONSTRAINT measures_value CHECK (value > 0)) PARTITION BY LIST (region)""",
    "CREATE INDEX measures_by_value ON measures (value)",
    "CREATE FUNCTION kept() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER measures_kept BEFORE UPDATE ON measures FOR EACH ROW EXECUTE FUNCTION kept()",
    "CREATE TABLE measures_jp PARTITION OF measures FOR VALUES IN ('東京', 'jp') PARTITION BY RANGE (id)",
    "CREATE TABLE measures_jp_1 PARTITION OF measures_jp FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE measures_jp_2 PARTITION OF measures_jp FOR VALUES FROM (100) TO (200)",
    "CREATE TABLE measures_us PARTITION OF measures FOR VALUES IN ('us')",
    "CREATE TABLE measures_rest PARTITION OF measures DEFAULT",
    "CREATE TABLE notes (id int PRIMARY KEY, measure int, region text, FOREIGN KEY (measure, region) REFERENCES measures)",
    "INSERT INTO measures SELECT n, r, (SELECT min(id::text)::uuid FROM teams), n + 1 "
    "FROM generate_series(1, 150) AS n, unnest(ARRAY['東京', 'us', 'de']) AS r",
    "INSERT INTO notes SELECT n, n, '東京' FROM generate_series(1, 20) AS n",
    "CREATE TYPE reading_kind AS ENUM ('a', 'b', 'c')", "CREATE DOMAIN reading_id AS int CHECK (VALUE > 0)",
    "CREATE TABLE readings (id reading_id, kind reading_kind, value int, PRIMARY KEY (id, kind)) PARTITION BY HASH (kind, id)",
    "CREATE TABLE readings_0 PARTITION OF readings FOR VALUES WITH (MODULUS 3, REMAINDER 0)",
    "CREATE TABLE readings_1 PARTITION OF readings FOR VALUES WITH (MODULUS 3, REMAINDER 1)",
    "CREATE TABLE readings_2 PARTITION OF readings FOR VALUES WITH (MODULUS 3, REMAINDER 2) PARTITION BY RANGE (id)",
    "CREATE TABLE readings_2_low PARTITION OF readings_2 FOR VALUES FROM (1) TO (50)",
    "CREATE TABLE readings_2_high PARTITION OF readings_2 FOR VALUES FROM (50) TO (200)",
    "INSERT INTO readings SELECT n, k, n FROM generate_series(1, 100) AS n, unnest(enum_range(NULL::reading_kind)) AS k",
    "RESET ROLE",
)  # fmt: skip
TABLES = [
    "organizations", "organization_units", "organization_hierarchies", "organization_members", "teams", "team_members",
    "team_leaders", "governance_policies", "governance_rules", "policy_scopes", "policy_violations", "measures", "notes",
    "readings",
]  # fmt: skip
# Read as tables of their own too: a detached one is in no table.
PARTS = [
    PART, "policy_violations_2023", "measures_jp", "measures_jp_1", "measures_us", "measures_rest", "readings_0", "readings_1",
    "readings_2", "readings_2_low",
]  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[CONTRIB, pytest.param(16, marks=long), pytest.param(15, marks=long)],
    ids=["18", "16", "15"],
)
def backed_up(
    servers: Servers, prefect_api: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[World]:
    """A world with one backup, and its database as a template."""
    server = servers[request.param]
    with pytest.MonkeyPatch.context() as patch:
        world = new_world(server, server, prefect_api, tmp_path_factory.mktemp("detached"))
        edit_context(world, patch, tables=TABLES)
        with backed_up_once(world, *MEASURES) as backed_up:
            yield backed_up


@pytest.fixture
def world(backed_up: World, folder: Path) -> Iterator[World]:
    """A copy of that world."""
    with copy_of(backed_up, folder) as copied:
        yield copied


def unlike(before: State, after: State) -> list[str]:
    """Compare two states, without PostgreSQL's numbers of a foreign key's parts: they come in the order of attaching."""
    parts = re.compile(r"foreign key public\.notes\.notes_measure_region_fkey_?\d")
    lines = [line for line in before.differences(after, views="recomputed") if not parts.match(line)]
    # What neither has is no difference.
    return [line for line in lines if before.missing != after.missing or "nothing to compare with" not in line]


def state(world: World, database: str = DATABASE) -> State:
    return capture(world.source.conninfo(database), bin_dir=world.source.bin, tables=[*TABLES, *PARTS])


def restore(world: World, table: str = "", **more: Any) -> str:
    words = {"dry_run": False, "confirm_database": DATABASE} | more
    if table:
        return str(world.run(table_restore, "backup_restorer", table=table, **({"mode": "replace"} | words)))
    return str(world.run(full_restore, "backup_restorer", in_place=True, **words))


def refusal(world: World, table: str = "", **more: Any) -> str:
    """Return why a plan and a restore are refused; nothing is changed by either."""
    before = state(world)
    with pytest.raises(OperationError) as planned:
        restore(world, table, dry_run=True, confirm_database=None, **more)
    with pytest.raises(OperationError) as refused:
        restore(world, table, **more)
    assert unlike(before, state(world)) == []
    assert str(planned.value) == str(refused.value)
    assert str(refused.value).startswith("REFUSED, nothing touched: ")
    return str(refused.value)


WITHOUT = "without a check, an index, keys and a default"
ROWS_CHANGED = (
    f"DELETE FROM {PART} WHERE ctid < '(2,1)'", f"UPDATE {PART} SET error_message = 'wrong' WHERE ctid < '(9,1)'",
    f"INSERT INTO {PART} SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid()))).* FROM {PART} t LIMIT 3",
)  # fmt: skip
DETACHED = {
    "one, and nothing else": (DETACH,),
    "two, one with other rows, one empty, and another made": (
        DETACH, *ROWS_CHANGED, f"ALTER TABLE {TABLE} DETACH PARTITION policy_violations_2023", "TRUNCATE policy_violations_2023",
        f"CREATE TABLE newer PARTITION OF {TABLE} FOR VALUES FROM ('2031-01-01') TO ('2032-01-01')",
        "ALTER TABLE newer OWNER TO consulting_owner",
    ),
    WITHOUT: (
        DETACH, f"ALTER TABLE {PART} DROP CONSTRAINT policy_violations_resolved_check",
        f"ALTER TABLE {PART} ALTER COLUMN status DROP DEFAULT",
        f"""DO $$ BEGIN EXECUTE (SELECT 'DROP INDEX ' || min(indexrelid::regclass::text) FROM pg_index
            WHERE indrelid = '{PART}'::regclass AND NOT indisunique); END $$""",
        f"""DO $$ BEGIN EXECUTE (
              SELECT 'ALTER TABLE {PART} ' || string_agg('DROP CONSTRAINT ' || quote_ident(conname), ', ')
              FROM pg_constraint WHERE conrelid = '{PART}'::regclass AND contype IN ('f', 'p')); END $$""",
    ),
    "a divided one, and one beside the DEFAULT partition": (
        "DELETE FROM notes", "ALTER TABLE measures DETACH PARTITION measures_jp", "DELETE FROM measures_jp_1",
        "ALTER TABLE measures DETACH PARTITION measures_us", "UPDATE measures_us SET value = 5",
    ),
    "one of another that is detached too, and the DEFAULT partition": (
        "DELETE FROM notes", "ALTER TABLE measures_jp DETACH PARTITION measures_jp_1", "DELETE FROM measures_jp_2",
        "ALTER TABLE measures DETACH PARTITION measures_jp", "ALTER TABLE measures DETACH PARTITION measures_rest",
        "DELETE FROM measures_rest WHERE id < 9",
    ),
    "one by hash": (
        "ALTER TABLE readings DETACH PARTITION readings_0", "DELETE FROM readings_0 WHERE id < 20",
        "UPDATE readings_0 SET value = 0 WHERE id > 80", "DELETE FROM readings_1 WHERE id < 9",
    ),
    "all by hash, one of them divided by range": (
        "ALTER TABLE readings DETACH PARTITION readings_0", "ALTER TABLE readings DETACH PARTITION readings_1",
        "ALTER TABLE readings_2 DETACH PARTITION readings_2_low", "ALTER TABLE readings DETACH PARTITION readings_2",
        "DELETE FROM readings_2_low WHERE id < 20", "DELETE FROM readings_1", "UPDATE readings_2 SET value = 0",
    ),
    "one of another": (
        "DELETE FROM notes", "ALTER TABLE measures_jp DETACH PARTITION measures_jp_1", "UPDATE measures_jp_1 SET value = 7",
    ),
}  # fmt: skip


@long
@pytest.mark.parametrize("damage", DETACHED)
def test_attached_again_and_detached_by_an_undo(world: World, damage: str) -> None:
    healthy = state(world, AS_BACKED_UP)
    execute(world, *DETACHED[damage])
    damaged = state(world)
    # What is missing is made also without this.
    objects = "restore" if damage == WITHOUT else "plan"
    verdict = restore(world, objects=objects)
    for name in re.findall(r"DETACH PARTITION (\w+)", " ".join(DETACHED[damage])):
        line = rf"table public\.{name} of public\.\w+: bound was \[.*\], is \[\]; attached\n"
        assert re.search(line, newest_report(world, "bc-004-restore-plan"))
    left = [line for line in unlike(healthy, state(world)) if "newer" not in line]
    assert left == []
    assert verdict.startswith("RESTORED, BUT " if "made" in damage else "RESTORED: "), verdict
    undo(world)
    assert unlike(damaged, state(world)) == []
    if damage == next(iter(DETACHED)):
        # Its own undo is the restore.
        undo(world)
        assert unlike(healthy, state(world)) == []


@long
@pytest.mark.parametrize("mode", ["replace", "merge", "missing"])
def test_restored_as_a_table(world: World, mode: str) -> None:
    healthy = state(world, AS_BACKED_UP)
    execute(world, DETACH, *ROWS_CHANGED[:-1])
    damaged = state(world)
    assert restore(world, TABLE, mode=mode).startswith("RESTORED: ")
    assert count(world, TABLE, "tableoid::regclass::text LIKE '%2024'") == count(world, PART)
    assert ask(world, f"SELECT relispartition FROM pg_class WHERE oid = '{PART}'::regclass") == [(True,)]
    left = unlike(healthy, state(world))
    assert (left == []) is (mode != "missing"), left
    assert undo(world) == [TABLE]
    assert unlike(damaged, state(world)) == []
    # By its own name, too.
    assert restore(world, PART, mode=mode).startswith("RESTORED: ")
    assert unlike(healthy, state(world)) == left


@long
def test_another_table_does_not_attach_it(world: World) -> None:
    execute(world, DETACH, "UPDATE teams SET purpose = 'wrong'")
    restore(world, "teams")
    assert ask(world, f"SELECT relispartition FROM pg_class WHERE oid = '{PART}'::regclass") == [(False,)]


REFUSED = {
    "rows": (
        (
            DETACH, f"UPDATE {PART} SET detected_at = '2030-01-01' WHERE ctid < '(0,3)'",
            "ALTER TABLE measures DETACH PARTITION measures_us", "INSERT INTO measures TABLE measures_us",
            "DELETE FROM notes", "ALTER TABLE measures_jp DETACH PARTITION measures_jp_1",
            "INSERT INTO measures_jp_1 (id, region) VALUES (5, 'us')",
            "ALTER TABLE readings DETACH PARTITION readings_0", "INSERT INTO readings_0 SELECT * FROM readings_1 WHERE id < 50",
        ),
        (
            r"2 of its rows are outside its bound FOR VALUES FROM \('2024-01-01 00:00:00'\) TO \('2025-01-01 00:00:00'\); move or",
            r"150 rows of the DEFAULT partition public\.measures_rest are within its bound FOR VALUES IN \('us'\); move or delete",
            r"1 of its rows are outside its bound FOR VALUES FROM \(0\) TO \(100\); move or delete",
            r"\d+ of its rows are outside its bound FOR VALUES WITH \(modulus 3, remainder 0\); move or delete",
        ),
    ),
    "tables": (
        (
            DETACH, f"CREATE TABLE other PARTITION OF {TABLE} FOR VALUES FROM ('2024-06-01') TO ('2024-07-01')",
            "ALTER TABLE other OWNER TO consulting_owner",
            f"ALTER TABLE {TABLE} DETACH PARTITION policy_violations_2023",
            "ALTER TABLE policy_violations_2023 ALTER COLUMN severity DROP NOT NULL",
            f"ALTER TABLE {TABLE} DETACH PARTITION policy_violations_2022", "DROP TABLE policy_violations_2022",
            "CREATE TABLE policy_violations_2022 (id uuid PRIMARY KEY, note text)",
            "ALTER TABLE policy_violations_2022 OWNER TO consulting_owner",
            f"ALTER TABLE {TABLE} DETACH PARTITION policy_violations_2025", "ALTER TABLE policy_violations_2025 DROP resolution",
            "ALTER TABLE readings DETACH PARTITION readings_1",
            "CREATE TABLE more PARTITION OF readings FOR VALUES WITH (MODULUS 6, REMAINDER 4)",
            "ALTER TABLE more OWNER TO consulting_owner",
        ),
        (
            rf'partition "{PART}" would overlap partition "other"; fix that, or rename \S+ if it is another table',
            r'column "severity".* must be marked NOT NULL; fix that', r'contains column "note" not found in parent',
            r'child table is missing column "resolution"; fix that',
            r'partition "readings_1" would overlap partition "more"; ',
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", first_quick(1, REFUSED))
def test_refused_with_the_reason_and_the_statement(world: World, damage: str) -> None:
    statements, reasons = REFUSED[damage]
    execute(world, *statements)
    refusal(world)
    planned = newest_report(world, "bc-004-restore-plan")
    begin = r"public\.\w+ is detached from public\.\w+ and cannot be attached again: "
    statement = r"ALTER TABLE public\.\w+ ATTACH PARTITION public\.\w+ FOR VALUES .*;"
    for reason in reasons:
        assert re.search(rf"{begin}.*{reason}.*; then restore again, or run: {statement}", planned), planned


LACKING = {
    "a check": ("measures_jp", "ALTER TABLE measures_jp DROP CONSTRAINT measures_value"),
    "its primary key": ("measures_jp", "ALTER TABLE measures_jp DROP CONSTRAINT measures_jp_pkey"),
    "an index": ("measures_jp", "DROP INDEX measures_jp_value_idx"),
    "an index and a check of one of two": (
        "measures_jp_1", "DROP INDEX measures_jp_1_value_idx", "ALTER TABLE measures_jp_1 DROP CONSTRAINT measures_value",
    ),
    "an index of a partition of it": (
        "measures_jp", "ALTER TABLE measures_jp DETACH PARTITION measures_jp_1", "DROP INDEX measures_jp_1_value_idx",
    ),
}  # fmt: skip


@long
@pytest.mark.parametrize("lack", LACKING)
def test_what_it_lacks_is_told_where_rows_need_it_attached(world: World, lack: str) -> None:
    """Rows that refer to its rows are written before what it lacks is created: only then it could be attached."""
    partition, *statements = LACKING[lack]
    healthy, parent = state(world, AS_BACKED_UP), partition.rpartition("_")[0]
    execute(world, "DELETE FROM notes", f"ALTER TABLE {parent} DETACH PARTITION {partition}", *statements)
    refused = refusal(world)
    fact = r"public\.measures_jp(_1)? is detached from public\.measures(_jp)? and cannot be attached before rows of public\.notes"
    assert re.search(fact, refused)
    create = refused.partition("create that, then restore again: ")[2].partition("; public.measures")[0]
    execute(world, create)
    damaged = state(world)
    assert restore(world).startswith("RESTORED: ")
    assert unlike(healthy, state(world)) == []
    undo(world)
    assert unlike(damaged, state(world)) == []


@long
@pytest.mark.parametrize("lack", LACKING)
def test_what_it_lacks_is_created_where_no_row_needs_it_attached(world: World, lack: str) -> None:
    partition, *statements = LACKING[lack]
    healthy, parent = state(world, AS_BACKED_UP), partition.rpartition("_")[0]
    execute(world, "DELETE FROM notes", f"ALTER TABLE {parent} DETACH PARTITION {partition}", *statements)
    damaged = state(world)
    restore(world, "measures")
    restored = [line for line in unlike(healthy, state(world)) if "rows of: public.notes" not in line]
    assert [line for line in restored if "notes" not in line] == []
    undo(world)
    assert unlike(damaged, state(world)) == []


@long
@pytest.mark.parametrize(
    "moved",
    [
        f"ALTER TABLE {PART} RENAME TO {PART}_old",
        f"CREATE SCHEMA aside AUTHORIZATION consulting_owner; ALTER TABLE {PART} SET SCHEMA aside",
    ],
)
def test_a_partition_with_another_name_or_schema(world: World, moved: str) -> None:
    healthy = state(world, AS_BACKED_UP)
    execute(world, *moved.split("; "), f"DELETE FROM {TABLE} WHERE ctid < '(2,1)'")
    refused = refusal(world)
    statement = re.search(rf'"{PART}\w*" is that partition, run: (ALTER TABLE [^;]*); else detach it', refused)
    assert statement, refused
    execute(world, statement[1])
    assert restore(world).startswith("RESTORED: ")
    assert unlike(healthy, state(world)) == []


@long
def test_a_partition_of_a_dropped_table(world: World) -> None:
    execute(
        world, "DELETE FROM notes", "ALTER TABLE measures_jp DETACH PARTITION measures_jp_1", "DROP TABLE measures_jp CASCADE"
    )  # fmt: skip
    assert "public.measures_jp_1 exists, but not as table of public.measures_jp; rename it" in refusal(world)


@long
def test_what_it_lacks_is_created_with_its_table(world: World) -> None:
    healthy = state(world, AS_BACKED_UP)
    execute(world, *(statement for statement in DETACHED[WITHOUT] if "DEFAULT" not in statement))
    damaged = state(world)
    assert restore(world, TABLE).startswith("RESTORED: ")
    assert unlike(healthy, state(world)) == []
    assert undo(world) == [TABLE]
    assert unlike(damaged, state(world)) == []


@long
def test_a_pending_detach_is_finished_first(world: World) -> None:
    with world.connect() as reader, world.connect() as detacher:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute(f"SELECT FROM {TABLE}".encode())
        detacher.execute("SET lock_timeout = '1s'")
        with pytest.raises(Exception, match="lock timeout"):
            detacher.execute(f"{DETACH} CONCURRENTLY".encode())
    statement = f'ALTER TABLE "public"."{TABLE}" DETACH PARTITION "public"."{PART}" FINALIZE'
    fact = f"public.{PART} has an unfinished DETACH … CONCURRENTLY, so that its table does not show its rows; "
    fact += f"finish it: {statement}"
    # Restores, backups, checks and the flow that makes partitions say it in the same words.
    for table in ("", TABLE):
        assert fact in refusal(world, table)
    for asked in (world.backup, lambda: world.run(create_partitions, "backup_restorer")):
        with pytest.raises(OperationError) as told:
            asked()
        assert fact in str(told.value)
    assert fact in " ".join(finding.note for finding in check(world) if finding.check == PARTITIONS)
    execute(world, statement)
    verdict = restore(world)
    assert ask(world, f"SELECT relispartition FROM pg_class WHERE oid = '{PART}'::regclass") == [(True,)]
    # DETACH … CONCURRENTLY leaves a check.
    assert verdict.startswith("RESTORED, BUT ")
    assert "was not in the source" in newest_report(world)


@long
def test_rows_that_come_after_the_plan(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes meanwhile is not lost, and what does not fit is refused with nothing changed."""
    from tasks.in_place import apply

    execute(world, DETACH)
    before, lock = state(world), apply._lock
    more = (
        f"INSERT INTO {PART} SELECT (jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(), 'detected_at', %s))).*"
        f" FROM {PART} t LIMIT 1"
    )

    def late(merge: Any) -> None:
        execute(world, more.replace("%s", "'2030-01-01'"))
        lock(merge)

    with (
        monkeypatch.context() as patch,
        pytest.raises(OperationError, match=r"is unchanged: .*1 of its rows are outside its bound"),
    ):
        patch.setattr(apply, "_lock", late)
        restore(world)
    execute(world, f"DELETE FROM {PART} WHERE detected_at >= '2030-01-01'")
    assert unlike(before, state(world)) == []


@long
def test_while_somebody_writes(world: World) -> None:
    healthy = state(world, AS_BACKED_UP)
    execute(world, DETACH)
    same = "UPDATE {0} SET {1} = {1} WHERE id IN (SELECT id FROM {0} ORDER BY random() LIMIT 3)"
    writing = [same.format(name, "severity") for name in (PART, TABLE)] + [same.format("users", "id")]
    with traffic(world.connect, writing) as seen:
        assert restore(world).startswith("RESTORED: ")
    assert seen.runs > len(writing)
    assert [error for error in seen.errors if "deadlock" not in error] == []
    assert unlike(healthy, state(world)) == []


@long
def test_a_partition_of_somebody_else(world: World) -> None:
    execute(world, DETACH, f"ALTER TABLE {PART} OWNER TO postgres")
    with pytest.raises(Exception, match=rf"is not a member of the owner of public.{PART}; run as a superuser: ALTER TABLE"):
        restore(world)


@long
def test_across_major_versions(servers: Servers, prefect_api: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Definitions are not compared then; whether a partition is attached is."""
    monkeypatch.setattr(site, "CONTEXTS", PROJECT / "deployments" / "contexts")
    world = new_world(servers[16], servers[16], prefect_api, folder)
    world.backup()
    newer = servers[CONTRIB]
    copy_template(newer)
    upgraded = replace(world, source=newer, target=newer)
    adopt(upgraded)
    execute(upgraded, DETACH)
    verdict = restore(upgraded)
    assert verdict.startswith("RESTORED: ")
    assert ask(upgraded, f"SELECT relispartition FROM pg_class WHERE oid = '{PART}'::regclass") == [(True,)]
    undo(upgraded)
    assert ask(upgraded, f"SELECT relispartition FROM pg_class WHERE oid = '{PART}'::regclass") == [(False,)]
    drop_databases(servers[16])
    drop_databases(newer)
