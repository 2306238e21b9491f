"""Materialized views are computed in order and in limited time, readers go on, and one that fails stops no other."""

import json
import re
from typing import Any

import psycopg
import pytest
from prefect.artifacts import Artifact
from prefect.exceptions import ParameterTypeError

from flows.checks import integrity_check
from flows.views import refresh_views
from tasks.core.errors import BadInput, OperationError
from tests.support.contexts import edit_context
from tests.support.database import execute
from tests.support.example import TABLES
from tests.support.world import World

OURS = ["mv_user_allocation_summary", "mv_team_statistics", "mv_unit_statistics"]
# Each reads the one before, the second through a plain view that is no part of the context; named in no order.
CHAIN = """
SET ROLE consulting_owner;
CREATE MATERIALIZED VIEW mv_z_first AS SELECT organization_id, count(*) AS teams FROM teams GROUP BY 1;
CREATE VIEW between_them AS SELECT organization_id, teams FROM mv_z_first;
CREATE MATERIALIZED VIEW mv_m_second AS SELECT sum(teams) AS teams FROM between_them;
CREATE MATERIALIZED VIEW mv_a_third AS SELECT 1 / (1000 - teams) AS share, teams FROM mv_m_second;
RESET ROLE;
"""
CHAINED = ["mv_a_third", "mv_m_second", "mv_z_first"]


def refresh(world: World, user: str = "backup_restorer", **parameters: Any) -> str:
    return str(world.run(refresh_views, user, **parameters))


def failed(world: World, kind: type[Exception] | tuple[type[Exception], ...] = OperationError, **parameters: Any) -> str:
    with pytest.raises(kind) as caught:
        refresh(world, **parameters)
    return str(caught.value)


def shown() -> dict[str, dict[str, Any]]:
    """Return the rows of the table artifact by view."""
    found = Artifact.get("bc-004-views-refreshed")
    assert found and isinstance(found.data, str)
    return {row["view"].removeprefix("public."): row for row in json.loads(found.data)}


def test_views_are_refreshed_and_told_how_stale_they_were(world: World) -> None:
    execute(world, "UPDATE organization_members SET role_in_unit = 'x'", "UPDATE teams SET name = name || '!'")
    with world.connect() as connection:
        teams = connection.execute("SELECT count(*) FROM teams").fetchall()[0][0]
    before = world.state()
    assert before.views["public.mv_team_statistics"].stored != before.views["public.mv_team_statistics"].recomputed
    verdict = refresh(world)
    after = world.state()
    assert all(view.stored == view.recomputed for view in after.views.values())
    assert before.differences(after, views="ignored") == []
    rows = shown()
    assert rows.keys() == {*OURS}
    team = rows["mv_team_statistics"]
    assert (team["rows before"], team["rows after"], team["stale before"], team["stale after"], team["how"]) == (
        teams, teams, 2 * teams, 0, "concurrently",
    )  # fmt: skip
    assert rows["mv_user_allocation_summary"]["stale before"] == 0
    report = Artifact.get("bc-004-views")
    assert report and report.description == verdict and verdict.startswith("REFRESHED: ")
    assert isinstance(report.data, str) and "| `public.mv_unit_statistics` | " in report.data


ODD_VIEW = """SET ROLE consulting_owner;
CREATE TABLE things (id int PRIMARY KEY, said json, place point, price numeric, many json[]);
INSERT INTO things SELECT n, '{"a" : 1}', '(1,2)', 1.0, ARRAY['{}'::json] FROM generate_series(1, 3) AS n;
CREATE MATERIALIZED VIEW mv_things AS SELECT id AS "r.id", said, place, price, many FROM things;
RESET ROLE"""
ODD_CHANGES = {
    "nothing": "SELECT",
    "json": "UPDATE things SET said = '{}' WHERE id = 1",
    "point": "UPDATE things SET place = '(2,1)' WHERE id = 1",
    "scale": "UPDATE things SET price = 1.00 WHERE id = 1",
    "array": "UPDATE things SET many = '{}' WHERE id = 1",
    "null": "UPDATE things SET said = NULL WHERE id = 1",
    "both": "UPDATE things SET said = '[]', price = 2 WHERE id < 3",
}
SELDOM = ("point", "array", "null", "both")


@pytest.mark.parametrize("change", [pytest.param(one, marks=[pytest.mark.long] if one in SELDOM else []) for one in ODD_CHANGES])
def test_rows_of_types_without_equality_are_compared(world: World, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    expected = {"nothing": 0, "both": 4}.get(change, 2)
    execute(world, ODD_VIEW, 'CREATE UNIQUE INDEX ON mv_things ("r.id")')
    edit_context(world, monkeypatch, tables=[*TABLES, "things"], views=["mv_things"])
    if expected:
        execute(world, ODD_CHANGES[change])
    world.run(integrity_check, "backup_restorer")
    checked = Artifact.get("bc-004-integrity-checks")
    assert checked and isinstance(checked.data, str)
    (found,) = (one for one in json.loads(checked.data) if one["check"] == "view mv_things is current")
    assert (found["offending rows"], found["verdict"]) == (expected, "warning" if expected else "ok"), found
    verdict = refresh(world)
    assert f"; {expected} rows were stale; " in verdict
    assert (shown()["mv_things"]["stale before"], shown()["mv_things"]["stale after"]) == (expected, 0)


def test_what_could_not_be_counted_is_not_called_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(
        world, "SET ROLE consulting_owner; CREATE TABLE things (id int PRIMARY KEY); CREATE FUNCTION writes(n int) RETURNS int "
        "LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.things SELECT max(id) + 1 FROM public.things; RETURN n; END $$; "
        "INSERT INTO things VALUES (1); CREATE MATERIALIZED VIEW mv_writes AS SELECT writes(1) AS one; "
        "CREATE MATERIALIZED VIEW mv_new AS SELECT 1 AS one WITH NO DATA",
        "UPDATE teams SET name = name || '!'",
    )  # fmt: skip
    edit_context(world, monkeypatch, views=["mv_writes"])
    said = "the number of stale rows is unknown of public.mv_writes (not counted: cannot execute INSERT in a read-only transaction"
    assert refresh(world).startswith(f"REFRESHED: public.mv_writes; {said}")
    assert "not counted: " in shown()["mv_writes"]["stale before"]
    edit_context(world, monkeypatch, views=["mv_writes", "mv_new", "mv_team_statistics"])
    verdict = refresh(world)
    assert re.search(r"; [1-9]\d* rows were stale, the number of stale rows is unknown of public\.mv_", verdict), verdict
    assert "public.mv_new (never populated)" in verdict


def test_only_the_named_ones(world: World) -> None:
    execute(world, "UPDATE teams SET name = name || '!'")
    assert refresh(world, views=["mv_unit_statistics"]).startswith("REFRESHED: public.mv_unit_statistics; ")
    assert shown().keys() == {"mv_unit_statistics"}
    assert refresh(world, views=["mv_team_statistics", "mv_team_statistics"]).startswith("REFRESHED: public.mv_team_statistics; ")


def test_what_cannot_be_refreshed_concurrently_is_refreshed_plainly(world: World) -> None:
    execute(
        world,
        "REFRESH MATERIALIZED VIEW mv_team_statistics WITH NO DATA",
        "DROP INDEX mv_unit_statistics_unit_key; CREATE UNIQUE INDEX ON mv_unit_statistics (unit_id) WHERE active_members > 0",
    )
    refresh(world)
    rows = shown()
    assert rows["mv_team_statistics"]["how"] == "readers waited: it was never populated"
    assert rows["mv_team_statistics"]["rows before"] is None
    assert rows["mv_unit_statistics"]["how"] == "readers waited: it has no unique index over all its rows"
    refresh(world)
    assert shown()["mv_team_statistics"]["how"] == "concurrently"


def test_views_that_read_each_other_are_refreshed_in_order(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(
        world, CHAIN,
        "INSERT INTO teams (organization_id, unit_id, name, team_type, status) "
        "SELECT organization_id, unit_id, name || '!', team_type, 'inactive' FROM teams LIMIT 5",
    )  # fmt: skip
    with world.connect() as connection:
        teams = connection.execute("SELECT count(*) FROM teams").fetchall()[0][0]
    edit_context(world, monkeypatch, views=CHAINED)
    verdict = refresh(world)
    names = "public.mv_z_first, public.mv_m_second, public.mv_a_third"
    assert verdict.startswith(f"REFRESHED: {names}; "), verdict
    with world.connect() as connection:
        assert connection.execute("SELECT teams FROM mv_a_third").fetchall() == [(teams,)]


def test_a_view_that_fails_stops_no_other_and_fails_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(
        world, CHAIN,
        "CREATE MATERIALIZED VIEW mv_z_fourth AS SELECT 1; ALTER MATERIALIZED VIEW mv_z_fourth OWNER TO postgres",
        "CREATE OR REPLACE FUNCTION refuse() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$",
        "SET ROLE consulting_owner; CREATE MATERIALIZED VIEW mv_failing AS SELECT refuse() FROM teams WITH NO DATA",
        "SET ROLE consulting_owner; CREATE MATERIALIZED VIEW mv_reading AS SELECT 1 AS one FROM mv_failing WITH NO DATA",
        "UPDATE teams SET name = name || '!'",
    )  # fmt: skip
    edit_context(world, monkeypatch, views=["mv_failing", "mv_reading", "mv_z_fourth", "mv_team_statistics", "mv_gone"])
    said = failed(world)
    assert said.startswith("FAIL: 4 of 5 views not refreshed: ")
    assert "public.mv_gone: it does not exist" in said
    assert "public.mv_failing: RaiseException (P0001)" in said
    assert 'public.mv_reading: materialized view "mv_failing" has not been populated' in said
    assert 'materialized view mv_z_fourth; GRANT its owner TO "backup_loader"' in said
    assert "refreshed: public.mv_team_statistics; " in said
    assert shown()["mv_team_statistics"]["stale after"] == 0


def test_what_reads_a_failed_view_is_refreshed_from_old_rows_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(world, CHAIN, "ALTER MATERIALIZED VIEW mv_z_first OWNER TO postgres", "GRANT SELECT ON mv_z_first TO consulting_owner")
    edit_context(world, monkeypatch, views=CHAINED)
    failed(world)
    assert shown()["mv_m_second"]["how"].endswith("; built from old rows of public.mv_z_first")
    assert shown()["mv_a_third"]["how"].endswith("; built from old rows of public.mv_m_second, public.mv_z_first")


def test_who_uses_a_view_for_long_is_named(world: World) -> None:
    with psycopg.connect(world.source.conninfo(world.database), application_name="monthly report") as other:
        other.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY mv_team_statistics")
        said = failed(world, lock_timeout_seconds=1)
        assert "public.mv_team_statistics: lock timeout after 1 s (monthly report (postgres, pid " in said
        assert said.startswith("FAIL: 1 of 3 views not refreshed: ")
    refresh(world)


def test_readers_go_on_meanwhile(world: World) -> None:
    with world.connect() as connection, connection.transaction():
        connection.execute("SELECT count(*) FROM mv_team_statistics")
        # It holds ACCESS SHARE until the end, which a plain refresh would wait for.
        assert refresh(world, lock_timeout_seconds=1).startswith("REFRESHED: ")


def test_a_view_that_takes_too_long_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(
        world,
        "SET ROLE consulting_owner; CREATE MATERIALIZED VIEW mv_slow AS SELECT pg_sleep(60)::text FROM teams WITH NO DATA",
    )
    edit_context(world, monkeypatch, views=["mv_slow", "mv_team_statistics"])
    said = failed(world, statement_timeout_seconds=1)
    assert "public.mv_slow: the refresh takes more than 1 s; raise statement_timeout_seconds" in said
    assert "refreshed: public.mv_team_statistics" in said


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"views": ["mv_team_statistics", "teams"]}, "teams: no materialized view of context bc-004; name some of mv_user_"),
        ({"statement_timeout_seconds": 0}, "statement_timeout_seconds"),
        ({"lock_timeout_seconds": -1}, "lock_timeout_seconds"),
    ],
)
def test_bad_input_is_refused(world: World, parameters: dict[str, Any], said: str) -> None:
    execute(world, "UPDATE teams SET name = name || '!'")
    before = world.state()
    assert said in failed(world, (BadInput, ParameterTypeError), **parameters)
    assert before.differences(world.state(), views="stored") == []


@pytest.mark.long
def test_by_hand(world: World) -> None:
    process = world.start("views", "refresh_views", "backup_restorer", arguments=["--views", *OURS[1:]])
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "REFRESHED: public.mv_team_statistics, public.mv_unit_statistics; " in said
