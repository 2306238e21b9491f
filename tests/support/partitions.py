"""The partitions of policy_violations, and who uses them."""

from typing import Any

import psycopg
import pytest

from tasks.partitions.transaction import LOCK_SECONDS
from tests.support.database import ask, execute
from tests.support.traffic import Traffic
from tests.support.world import World

LEAVES = (
    "SELECT c.relname::text, pg_get_expr(c.relpartbound, c.oid) FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid "
    "WHERE i.inhparent = 'policy_violations'::regclass ORDER BY 1"
)
# What every attempt that fails has to leave as it was.
HIERARCHY = (
    "SELECT inhrelid::regclass::text, inhparent::regclass::text, inhdetachpending, (SELECT array_agg(conname || contype::text || "
    "convalidated::text ORDER BY conname) FROM pg_constraint WHERE conrelid = inhrelid) FROM pg_inherits ORDER BY 1"
)
USERS = [
    "SELECT count(*) FROM users", "UPDATE users SET name = name WHERE id = (SELECT min(id::text)::uuid FROM users)",
    "SELECT count(*) FROM policy_violations WHERE detected_at >= '2025-01-01' AND detected_at < '2026-01-01'",
    "SELECT count(*) FROM policy_violations",
    "UPDATE policy_violations SET error_message = error_message WHERE detected_at >= '2026-01-01' AND detected_at < '2026-02-01'",
    "INSERT INTO policy_violations SELECT (jsonb_populate_record(v, jsonb_build_object('id', gen_random_uuid()))).* "
    "FROM policy_violations_2025 v LIMIT 1",
]  # fmt: skip


def leaves(world: World) -> list[str]:
    return [row[0].removeprefix("policy_violations_") for row in ask(world, LEAVES)]


def hierarchy(world: World) -> list[tuple[Any, ...]]:
    return ask(world, HIERARCHY)


def assert_nobody_waited(seen: Traffic) -> None:
    assert seen.errors == []
    assert seen.runs > len(seen.slowest), "a statement every 20 ms has run more than once"
    assert max(seen.slowest.values()) < LOCK_SECONDS, seen.slowest


def with_default(world: World) -> None:
    execute(
        world, "SET ROLE consulting_owner", "DROP TABLE policy_violations_2027",
        "CREATE TABLE policy_violations_rest PARTITION OF policy_violations DEFAULT",
        "INSERT INTO policy_violations SELECT (jsonb_populate_record(v, jsonb_build_object('id', gen_random_uuid(), "
        "'detected_at', v.detected_at + interval '2 years'))).* FROM policy_violations_2025 v",
        "INSERT INTO policy_violations SELECT (jsonb_populate_record(v, jsonb_build_object('id', gen_random_uuid(), "
        "'detected_at', v.detected_at + interval '5 years'))).* FROM policy_violations_2025 v",
        "CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'a trigger fired'; END$$",
        "CREATE TRIGGER never AFTER INSERT OR UPDATE OR DELETE ON policy_violations FOR EACH ROW EXECUTE FUNCTION never()",
        "ALTER TABLE policy_violations_rest ENABLE ALWAYS TRIGGER never",
    )  # fmt: skip


def unfinished_detach(world: World, leaf: str) -> None:
    """Leave a partition as a DETACH … CONCURRENTLY does that gave up waiting."""
    with world.connect() as reader, world.connect() as impatient:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM policy_violations")
        impatient.execute("SET statement_timeout = '1s'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            impatient.execute(f"ALTER TABLE policy_violations DETACH PARTITION {leaf} CONCURRENTLY".encode())
        reader.execute("ROLLBACK")
