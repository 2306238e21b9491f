"""Code of whoever owns the tables runs with his rights, whatever flow calls it and whatever it tries first.

What it tries, and as whom, it writes into the server's log: that survives a rollback, a READ ONLY transaction, a dropped database.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from deployments.local import LocalServer
from flows.checks import integrity_check
from flows.partitions import archive_partitions, reattach_partition
from flows.recovery import recovery_drill
from flows.restore import full_restore, restore_cleaned_up, table_restore
from flows.retention import clean_up_old_data
from flows.views import refresh_views
from tasks.run import site
from tests.support.clock import at
from tests.support.contexts import edit_context
from tests.support.example import CONTEXT, DATABASE
from tests.support.restores import restore_by_hand
from tests.support.servers import databases
from tests.support.world import World

VIEWS = ["mv_user_allocation_summary", "mv_team_statistics", "mv_unit_statistics", "mv_hostile", "hostile_view"]
# Undo what SET ROLE and SET SESSION AUTHORIZATION did, then take whatever the session's login has to give.
# COPY ... TO PROGRAM is put together at run time: the trial of writes leaves out code that says so openly.
ATTEMPTS = """
CREATE FUNCTION public.attempt(place text) RETURNS boolean LANGUAGE plpgsql AS $code$
DECLARE what text; won text[] := '{}';
BEGIN
    FOREACH what IN ARRAY ARRAY['RESET ROLE', 'RESET SESSION AUTHORIZATION', 'SELECT set_config(''role'', ''none'', false)',
        'GRANT pg_execute_server_program TO consulting_owner', 'GRANT pg_read_all_data TO consulting_owner',
        'COPY (SELECT 1) TO PRO' || 'GRAM ''cat > /dev/null''', 'ALTER ROLE consulting_owner CREATEDB CREATEROLE',
        'CREATE ROLE made_by_code', 'SELECT count(*) FROM private.secrets', 'SELECT pg_read_file(''PG_VERSION'')']
    LOOP
        BEGIN
            EXECUTE what;
            IF what !~ '^RESET|set_config' THEN won := won || what; END IF;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
    RAISE LOG 'ATTEMPT [%] [%] [%]', place, session_user, array_to_string(won, '; ');
    RETURN true;
END $code$;
CREATE FUNCTION public.attempt_immutable(place text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql
    AS $code$ BEGIN RETURN public.attempt(place); END $code$;
CREATE FUNCTION public.attempt_trigger() RETURNS trigger LANGUAGE plpgsql
    AS $code$ BEGIN PERFORM public.attempt('trigger'); RETURN coalesce(NEW, OLD); END $code$;
"""
HOSTILE = (
    "CREATE DOMAIN hostile_text AS text CHECK (public.attempt('domain'))",
    "ALTER TABLE governance_policies ADD COLUMN note hostile_text DEFAULT 'x'",
    "ALTER TABLE teams ADD COLUMN odd boolean GENERATED ALWAYS AS (public.attempt_immutable('generated')) STORED",
    "ALTER TABLE teams ADD COLUMN later boolean DEFAULT public.attempt('default')",
    "ALTER TABLE teams ADD CONSTRAINT hostile_check CHECK (public.attempt('check'))",
    "CREATE INDEX hostile_index ON teams ((public.attempt_immutable('index')))",
    "CREATE INDEX hostile_violations ON policy_violations ((public.attempt_immutable('index of partitions')))",
    "CREATE MATERIALIZED VIEW mv_hostile AS SELECT id, public.attempt('materialized view') AS code FROM teams",
    "CREATE UNIQUE INDEX ON mv_hostile (id)",
    "CREATE VIEW hostile_view AS SELECT id FROM teams WHERE NOT public.attempt('view')",
    "CREATE POLICY hostile_policy ON governance_rules USING (public.attempt('policy'))",
    "ALTER TABLE governance_rules ENABLE ROW LEVEL SECURITY",
    "UPDATE teams SET purpose = 'broken' WHERE id = (SELECT min(id::text)::uuid FROM teams)",
    "UPDATE policy_violations SET status = 'resolved', resolved_at = detected_at WHERE detected_at < '2024-01-01'",
    "CREATE TRIGGER hostile_trigger BEFORE INSERT OR UPDATE OR DELETE ON teams FOR EACH ROW EXECUTE FUNCTION attempt_trigger()",
)
CHECKS = """
-- check: hostile_view_is_empty
-- severity: warning
-- Nothing is in it.
SELECT id FROM hostile_view;

-- check: nothing_is_broken
-- severity: warning
-- repair: UPDATE teams SET purpose = 'mended' FROM broken WHERE id = team_id AND public.attempt('repair')
-- No purpose is broken.
SELECT id AS team_id FROM teams WHERE purpose = 'broken';
"""
LINE = re.compile(r"ATTEMPT \[(?P<place>.*?)\] \[(?P<login>.*?)\] \[(?P<won>.*?)\]")


@dataclass(frozen=True)
class Attempt:
    """One call of the owner's code: from where, in whose session, and what it got."""

    place: str
    login: str
    won: str


class Log:
    """What the code of the owner tried since it was asked last."""

    def __init__(self, server: LocalServer) -> None:
        self._file = server.data.parent / "server.log"
        self._seen = self._file.stat().st_size

    def read(self) -> list[Attempt]:
        data = self._file.read_bytes()[self._seen :]
        self._seen += len(data)
        return [Attempt(**found.groupdict()) for found in LINE.finditer(data.decode(errors="replace"))]


@pytest.fixture
def hostile(any_version: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A database whose owner wrote code wherever a table can have some; its server has what others would like to read."""
    world = any_version
    with world.connect() as connection:
        connection.execute("CREATE SCHEMA private; CREATE TABLE private.secrets AS SELECT 1; ALTER ROLE backup_reader BYPASSRLS")
        # Its workers call code of index expressions too, as the owner of the table: that is PostgreSQL's own business.
        connection.execute("ALTER SYSTEM SET autovacuum = off")
        connection.execute("SELECT pg_reload_conf()")
    with psycopg.connect(world.source.conninfo(DATABASE, "backup_loader"), autocommit=True) as owner:
        owner.execute("SET ROLE consulting_owner; SET search_path = public")
        owner.execute(ATTEMPTS)
        for statement in HOSTILE:
            owner.execute("SET ROLE consulting_owner")
            owner.execute(statement.encode())
    edit_context(world, monkeypatch, views=VIEWS, long_term={})
    with (site.CONTEXTS / CONTEXT / "checks.sql").open("a", encoding="utf-8") as file:
        file.write(CHECKS)
    yield world
    with world.source.connect() as connection:
        connection.execute("ALTER ROLE backup_reader NOBYPASSRLS")
        connection.execute("ALTER SYSTEM RESET autovacuum")


def damage(world: World, *statements: str) -> None:
    """Do what an application does, as the owner: nobody else's session may run his code."""
    with psycopg.connect(world.source.conninfo(DATABASE, "backup_loader"), autocommit=True) as owner:
        for statement in statements:
            owner.execute(statement.encode())


LIVE: dict[str, Any] = {"dry_run": False, "confirm_database": DATABASE}


@pytest.mark.long
@pytest.mark.every_variant
@pytest.mark.parametrize("any_version", [15, 16, 18], indirect=True)
def test_code_of_the_owner_gets_no_more_than_his_rights(hostile: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world, log, seen = hostile, Log(hostile.source), dict[str, set[str]]()

    def done(what: str, *places: str) -> None:
        found = log.read()
        assert [one for one in found if one.won] == [], what
        assert {one.login for one in found if not re.fullmatch(r"backup_loader(_by_hand_[0-9a-f]{8})?", one.login)} == set(), what
        assert {*places} <= {one.place for one in found}, what
        seen[what] = {one.place for one in found}

    def run(flow: Any, **words: Any) -> str:
        return str(world.run(flow, "backup_restorer", **words))

    assert world.backup().startswith("STORED")
    done("backup")
    assert seen["backup"] == set()
    damage(world, "UPDATE teams SET purpose = 'other' WHERE purpose <> 'broken'")
    log.read()
    assert "differential" in world.differential()
    done("differential")
    assert seen["differential"] == set()
    assert run(recovery_drill).startswith("PASS")
    done("drill", "check", "domain", "generated", "index", "materialized view", "view", "trigger")
    assert run(full_restore, target_database="beside").startswith("PASS")
    done("recovery", "check", "domain", "generated", "index", "materialized view", "view")
    restore_by_hand(world, "by hand")
    done("restore.sh", "check", "domain", "generated", "index", "materialized view")
    damage(world, "UPDATE teams SET purpose = 'fine'")
    log.read()
    assert run(table_restore, table="teams", mode="merge", **LIVE).startswith("RESTORED")
    done("table restore", "check", "generated", "repair")
    assert run(table_restore, table="governance_policies").startswith("RESTORED")
    done("table beside", "domain")
    damage(world, "UPDATE teams SET purpose = 'fine'", "DELETE FROM policy_scopes")
    log.read()
    assert run(full_restore, in_place=True, **LIVE).startswith("RESTORED")
    done("in place", "check", "generated", "materialized view")
    assert "mv_hostile" in run(refresh_views)
    done("refresh", "materialized view")
    world.run(integrity_check, "backup_reader")
    done("integrity check", "view", "materialized view", "index")
    run(clean_up_old_data, **LIVE)
    done("clean-up", "trigger", "index")
    (cleaned,) = [one.name for one in world.set_folders("clean-up") if '"teams"' in (one / "manifest.json").read_text("utf-8")]
    run(restore_cleaned_up, backup=cleaned, **LIVE)
    done("bring back", "check", "generated")
    at(monkeypatch, "2027-01-15T05:00+09:00")
    run(archive_partitions, **LIVE)
    done("archive", "index of partitions")
    run(reattach_partition, year="2022")
    done("reattach", "index of partitions")
    with world.source.connect() as connection:
        granted = "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = 'consulting_owner'"
        assert connection.execute(granted).fetchall() == [(0,)]
        left = "SELECT FROM pg_roles WHERE rolname ~ '^backup_loader_|^made_by' OR rolname = 'consulting_owner' AND rolcreatedb"
        assert connection.execute(left).fetchall() == []
    assert databases(world.source) == {DATABASE, "beside", "by hand"}
