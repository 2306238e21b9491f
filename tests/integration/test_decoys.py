"""Nothing of ours calls what others made: flows that read, among overloads that fit better than the built-in ones.

A function or an operator that fits its arguments exactly is taken, wherever on the path it is, before one that needs a cast
(https://www.postgresql.org/docs/current/typeconv-func.html).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flows.backup import list_backups
from flows.checks import integrity_check
from flows.retention import prune_backups
from flows.watch import backup_report, watch_recovery_point
from tasks.core import merge_sql, partition_sql, removal_sql, source_path, sql, stored
from tests.integration.conftest import World
from tests.integration.test_in_place import ask, execute

MODULES = (sql, merge_sql, partition_sql, removal_sql, source_path, stored)
CALLED = re.compile(r"\b([a-z_][a-z_0-9]*) ?\(")
TYPES = ("text", "varchar", "name", "int4", "int8", "oid", '"char"', "bool")
OPERATORS = dict.fromkeys(("=", "<>", "<", ">", "<=", ">=", "~", "!~", "~~", "&"), "bool") | {
    "||": "text",
    "+": "int8",
    "-": "int8",
}
SET_UP = """
CREATE ROLE decoy_maker LOGIN;
GRANT CREATE, USAGE ON SCHEMA public TO decoy_maker;
CREATE SCHEMA decoys AUTHORIZATION decoy_maker;
GRANT USAGE ON SCHEMA decoys TO PUBLIC;
SET SESSION AUTHORIZATION decoy_maker;
CREATE SEQUENCE decoys.calls;
GRANT USAGE, SELECT ON SEQUENCE decoys.calls TO PUBLIC
"""
# What functions of the owner call by bare names is his own affair: there the decoy is not the first function on the stack.
BODY = """
DECLARE stack pg_catalog.text; BEGIN
  GET DIAGNOSTICS stack = PG_CONTEXT;
  IF pg_catalog.strpos(pg_catalog.substr(stack, 2), 'PL/pgSQL function') OPERATOR(pg_catalog.=) 0 THEN
    PERFORM pg_catalog.nextval('decoys.calls');
    RAISE LOG 'decoy: %', stack;
  END IF;
  RETURN NULL;
END"""


def called() -> set[str]:
    """Return every word of the modules of SQL that stands before a bracket, as what a statement calls does."""
    return {word for module in MODULES for word in CALLED.findall(Path(str(module.__file__)).read_text("utf-8"))}


def overloads(connection: psycopg.Connection[Any]) -> Iterator[str]:
    """Yield the statements that make the decoys: of each built-in function, aggregate and operator that the SQL calls."""
    found = connection.execute(
        "SELECT proname, bool_or(prokind = 'a'), "
        "array_agg(DISTINCT CASE WHEN provariadic <> 0 THEN 3 ELSE least(pronargs, 3) END) "
        "FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY (%s) AND pronargs > 0 "
        "GROUP BY 1 ORDER BY 1",
        [sorted(called())],
    ).fetchall()
    assert {"array_agg", "format", "count", "set_config", "quote_ident", "array_to_string"} <= {name for name, *_ in found}
    body = f"LANGUAGE plpgsql AS $decoy${BODY}$decoy$"
    for name, is_aggregate, counts in found:
        for count in range(1, max(counts) + 1):
            for kind in TYPES:
                lists = {tuple([kind] * count), ("text", *[kind] * (count - 1)), (*[kind] * (count - 1), "text")}
                for arguments in sorted(lists):
                    signature = f"public.{name}({', '.join(arguments)})"
                    if is_aggregate and count == 1:
                        step = f"decoys.step_{name}(text, {kind})"
                        yield f"CREATE OR REPLACE FUNCTION {step} RETURNS text {body}"
                        yield f"CREATE OR REPLACE AGGREGATE {signature} (SFUNC = decoys.step_{name}, STYPE = text)"
                    elif not is_aggregate:
                        yield f"CREATE OR REPLACE FUNCTION {signature} RETURNS text {body}"
    for number, (operator, result) in enumerate(OPERATORS.items()):
        for left in TYPES:
            for right in TYPES:
                yield f"CREATE FUNCTION decoys.operator_{number}({left}, {right}) RETURNS {result} {body}"
                yield (
                    f"CREATE OPERATOR public.{operator} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = decoys.operator_{number})"
                )


@pytest.fixture
def decoys(any_version: World) -> Iterator[World]:
    with any_version.connect() as connection:
        connection.execute(SET_UP.encode())
        with connection.transaction():
            for statement in [*overloads(connection)]:
                connection.execute(statement.encode())
        made = connection.execute("SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace").fetchall()[0][0]
        assert made > 1000
    yield any_version
    with any_version.connect() as connection:
        connection.execute("DROP OWNED BY decoy_maker CASCADE")
    for name in [row[0] for row in ask(any_version, "SELECT datname FROM pg_database WHERE datname ~ 'copy'")]:
        with any_version.source.connect() as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
    with any_version.source.connect() as connection:
        connection.execute("DROP ROLE decoy_maker")


def calls(world: World) -> str:
    """Return what was called, as the server's log has it."""
    log = (world.source.data.parent / "server.log").read_text("utf-8", errors="replace")
    said = re.findall(r"decoy: (PL/pgSQL function [^\n]*)", log)
    statements = re.findall(r"decoy: PL/pgSQL.*?STATEMENT:\s*([^\n]*\n[^\n]*)", log, re.DOTALL)
    number = ask(world, "SELECT is_called, last_value FROM decoys.calls")
    return "" if number == [(False, 1)] else f"{number}: {sorted(set(said))}: {sorted(set(statements))[:9]}"


def check(world: World, what: str) -> None:
    assert calls(world) == "", what


@pytest.mark.long
@pytest.mark.parametrize("any_version", [18], indirect=True)
def test_no_flow_that_reads_calls_a_decoy(decoys: World) -> None:
    world = decoys

    def run(flow: Any, user: str, **parameters: Any) -> str:
        said = str(world.run(flow, user, **parameters))
        check(world, f"{flow.name} {parameters}")
        return said

    # They do what they are for.
    execute(world, "SET search_path = public", "SELECT array_agg(relname::text) FROM pg_class")
    assert "array_agg" in calls(world)
    execute(world, "ALTER SEQUENCE decoys.calls RESTART", "SELECT setval('decoys.calls', 1, false)")
    check(world, "set up")

    assert world.backup().startswith("STORED")
    check(world, "daily_backup")
    execute(world, "UPDATE public.teams SET purpose = 'x' WHERE id = (SELECT id FROM public.teams LIMIT 1)")
    assert world.differential().startswith("STORED")
    check(world, "differential_backup")
    assert run(integrity_check, "backup_reader").startswith("PASS")
    run(list_backups, "backup_reader")
    run(watch_recovery_point, "backup_reader")
    run(backup_report, "backup_reader")
    run(prune_backups, "backup_reader", dry_run=False)
