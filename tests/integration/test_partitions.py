"""Partitions are made in time, without keeping anybody waiting; what stands in the way is found and explained."""

import re
from pathlib import Path
from typing import Any

import pytest

from flows.partitions import create_partitions
from tasks.core.errors import OperationError
from tasks.partitions import transaction
from tasks.run import site
from tests.support.clock import at
from tests.support.database import ask, execute
from tests.support.oracle import State
from tests.support.partitions import LEAVES, USERS, assert_nobody_waited, hierarchy, unfinished_detach, with_default
from tests.support.traffic import traffic
from tests.support.world import World

long = pytest.mark.long


@pytest.fixture(autouse=True)
def december(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs begin when 2027 is the year that is to come."""
    at(monkeypatch, "2026-12-01T04:00+09:00")


def create(world: World, **parameters: Any) -> str:
    return str(world.run(create_partitions, "backup_restorer", **parameters))


def partition_of(world: World, name: str) -> dict[str, Any]:
    """Return all that the oracle says of one partition, with its name taken out of it."""
    state: State = world.state()
    return {
        part: {key.replace(name, "*"): str(value).replace(name, "*") for key, value in getattr(state, part).items() if name in key}
        for part in ("statements", "rows", "relations", "partitions", "triggers", "foreign_keys", "indexes")
    }


def test_what_is_missing_is_made_while_users_work(world: World) -> None:
    made = partition_of(world, "policy_violations_2027")
    execute(world, "DROP TABLE policy_violations_2027", "DROP TABLE policy_violations_2024")
    with traffic(world.connect, USERS) as seen:
        assert create(world) == "PASS: created policy_violations_2024, policy_violations_2027"
    assert_nobody_waited(seen)
    leaves = dict(ask(world, LEAVES))
    assert leaves["policy_violations_2027"] == "FOR VALUES FROM ('2027-01-01 00:00:00') TO ('2028-01-01 00:00:00')"
    assert leaves["policy_violations_2024"] == "FOR VALUES FROM ('2024-01-01 00:00:00') TO ('2025-01-01 00:00:00')"
    # Exactly what CREATE TABLE … PARTITION OF makes: no index twice (defect 18), none missing.
    assert partition_of(world, "policy_violations_2027") == made
    assert create(world) == "PASS: nothing was missing"


def test_a_lock_that_is_not_to_be_had_leaves_everything_as_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "LOCK_TRIES", 2)
    execute(world, "DROP TABLE policy_violations_2027")
    before, state = hierarchy(world), world.state()
    with world.connect() as writer:
        writer.execute("SET application_name = 'a long writer'")
        writer.execute("BEGIN")
        writer.execute("UPDATE users SET name = name")
        with traffic(world.connect, [USERS[0], *USERS[2:4]]) as seen, pytest.raises(OperationError) as error:
            create(world)
        writer.execute("ROLLBACK")
    assert re.search(r"2027 could not be attached: .*lock timeout.*nothing was changed \(a long writer .*users", str(error.value))
    assert_nobody_waited(seen)
    assert hierarchy(world) == before
    assert state.differences(world.state()) == []
    assert create(world) == "PASS: created policy_violations_2027"


def test_what_stands_in_the_way_is_explained_and_keeps_no_other_from_being_made(world: World) -> None:
    execute(
        world, "DROP TABLE policy_violations_2026, policy_violations_2027",
        "CREATE TABLE policy_violations_2026 (LIKE policy_violations)",
        "CREATE TABLE odd PARTITION OF policy_violations FOR VALUES FROM ('2027-03-01') TO ('2027-05-01')",
    )  # fmt: skip
    with pytest.raises(OperationError) as error:
        create(world, ahead=2)
    said = str(error.value)
    assert "created policy_violations_2028" in said
    assert "public.policy_violations_2026 is a table, not the partition of public.policy_violations FOR VALUES FROM" in said
    assert 'ALTER TABLE "public"."policy_violations" ATTACH PARTITION "public"."policy_violations_2026"' in said
    assert "policy_violations_2027 cannot be created: public.odd covers part of that period" in said
    execute(world, "DROP TABLE policy_violations_2026, odd")
    assert create(world, ahead=2) == "PASS: created policy_violations_2026, policy_violations_2027"


def test_rows_in_a_default_partition_are_told_and_moved(world: World) -> None:
    with_default(world)
    (rows, every) = ask(world, "SELECT count(*) FROM policy_violations_rest WHERE detected_at < '2028-01-01' UNION ALL "
                               "SELECT count(*) FROM policy_violations")  # fmt: skip
    digest = "SELECT md5(string_agg(v::text, '' ORDER BY v.id)) FROM policy_violations v"
    before, text = hierarchy(world), ask(world, digest)
    with pytest.raises(OperationError, match=rf"_rest has {rows[0]:,} rows of that period; pass move_default_rows"):
        create(world)
    assert hierarchy(world) == before
    with traffic(world.connect, USERS[:1]) as seen:
        assert create(world, move_default_rows=True) == "PASS: created policy_violations_2027"
    assert_nobody_waited(seen)
    assert ask(world, digest) == text
    assert ask(world, "SELECT count(*) FROM policy_violations_2027") == [rows]
    assert ask(world, "SELECT count(*) FROM policy_violations") == [every]
    states = (
        "SELECT tgenabled FROM pg_trigger WHERE tgname = 'never' ORDER BY tgrelid = 'policy_violations_rest'::regclass, tgrelid"
    )
    assert ask(world, states)[-1] == ("A",)
    assert {one[0] for one in ask(world, states)[:-1]} == {"O"}
    assert not ask(world, "SELECT conname FROM pg_constraint WHERE conname LIKE '%being%'")


@long
def test_rows_that_others_refer_to_are_not_moved(world: World) -> None:
    with_default(world)
    execute(
        world, "CREATE TABLE appeals (id uuid, at timestamp, FOREIGN KEY (id, at) REFERENCES policy_violations ON DELETE CASCADE)",
        "INSERT INTO appeals SELECT id, detected_at FROM policy_violations_rest",
    )  # fmt: skip
    kept = ask(world, "SELECT count(*) FROM appeals")
    with pytest.raises(OperationError, match=r"cannot be moved: rows would violate .*foreign key .* of .*appeals meanwhile"):
        create(world, move_default_rows=True)
    assert ask(world, "SELECT count(*) FROM appeals") == kept


def test_a_detach_that_was_not_finished_is_told(world: World) -> None:
    unfinished_detach(world, "policy_violations_2026")
    with pytest.raises(OperationError, match=r"policy_violations_2026 has an unfinished DETACH … CONCURRENTLY.*FINALIZE"):
        create(world)


MONTHLY = """
  - {table: meetings, column: held_at, period: month, name: "meetings_{year}_{month:02}", keep: 18 months}
"""


@long
def test_months_and_a_time_with_zone(world: World, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = "SET ROLE consulting_owner"
    execute(
        world, owner, "CREATE TABLE meetings (id int, held_at timestamptz NOT NULL, PRIMARY KEY (id, held_at)) "
        "PARTITION BY RANGE (held_at)",
        "CREATE TABLE meetings_2026_10 PARTITION OF meetings FOR VALUES FROM ('2026-10-01 00:00+09') TO ('2026-11-01 00:00+09')",
    )  # fmt: skip
    place = folder / "contexts" / "bc-004"
    place.mkdir(parents=True)
    for file in (site.CONTEXTS / "bc-004").iterdir():
        text = file.read_text("utf-8")
        text = text.replace("  - policy_violations\n", "  - policy_violations\n  - meetings\n").replace(
            "\nviews:", f"{MONTHLY}\nviews:"
        )
        (place / file.name).write_text(text, "utf-8")
    monkeypatch.setattr(site, "CONTEXTS", folder / "contexts")
    assert create(world, ahead=2) == (
        "PASS: created policy_violations_2028, meetings_2026_11, meetings_2026_12, meetings_2027_01, meetings_2027_02"
    )
    execute(world, "INSERT INTO meetings VALUES (1, '2026-12-31 23:59:59+09'), (2, '2026-12-31 15:00+00')")
    places = ask(world, "SELECT id, tableoid::regclass::text FROM meetings ORDER BY id")
    assert places == [(1, "meetings_2026_12"), (2, "meetings_2027_01")]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE policy_violations RENAME TO gone", "public.policy_violations does not exist"),
        (
            "ALTER TABLE policy_violations OWNER TO postgres",
            'belongs to "postgres", of which login "backup_loader" is not a member',
        ),
    ],
)
def test_a_table_that_is_not_as_its_rule_says(world: World, statement: str, said: str) -> None:
    execute(world, statement)
    before = hierarchy(world)
    with pytest.raises(OperationError, match=said):
        create(world)
    assert hierarchy(world) == before
