"""Each right that a restore into a live database needs, taken away: the plan names it, and what it says to run is enough."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments.local import LocalServer
from flows.partitions import archive_partitions
from flows.restore import full_restore
from tasks.core.errors import OperationError
from tests.support.copies import SEQUENCE, backed_up_once, copy_of
from tests.support.database import execute
from tests.support.example import DATABASE
from tests.support.restores import safety_sets
from tests.support.world import World, new_world

long = pytest.mark.long
# What belongs to others and is used by tables of the context.
USED = (
    *SEQUENCE,
    "CREATE FUNCTION folded(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN upper($1)",
    "CREATE INDEX teams_folded ON teams (folded(name))",
    "CREATE FUNCTION is_short(text) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN length($1) < 10000",
    "ALTER TABLE teams ADD CONSTRAINT teams_short CHECK (is_short(purpose))",
    "CREATE TYPE mood AS ENUM ('good', 'bad')",
    "ALTER TABLE teams ADD COLUMN mood mood",
    "ALTER SCHEMA public OWNER TO postgres",
    "GRANT USAGE, CREATE ON SCHEMA public TO consulting_owner",
    "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    "ALTER TABLE users OWNER TO postgres",
    "GRANT ALL ON users TO consulting_owner",
)
LOST = "DELETE FROM policy_scopes"
CHANGED = ("ALTER TABLE teams DISABLE TRIGGER USER", "UPDATE teams SET purpose = 'wrong'", "ALTER TABLE teams ENABLE TRIGGER USER")
ADDED = (
    "INSERT INTO policy_scopes SELECT (jsonb_populate_record(s, jsonb_build_object('id', gen_random_uuid(), 'target_id', "
    "gen_random_uuid()))).* FROM policy_scopes AS s",
)
INDEX_GONE = "DROP INDEX teams_active_key"
TRIGGER_GONE = (
    "DO $$ BEGIN EXECUTE (SELECT format('DROP TRIGGER %I ON teams', tgname) FROM pg_trigger "
    "WHERE tgrelid = 'teams'::regclass AND NOT tgisinternal LIMIT 1); END $$"
)
CALLED = "(SELECT tgfoid::regprocedure::text FROM pg_trigger WHERE tgrelid = 'teams'::regclass AND NOT tgisinternal LIMIT 1)"


@dataclass(frozen=True)
class Right:
    """A right that is taken away after a damage, and what the plan says to run."""

    remedy: str
    statements: tuple[str, ...]

    def __str__(self) -> str:
        return self.remedy


OWNER = "consulting_owner"
RIGHTS = (
    Right(f"GRANT INSERT ON public.policy_scopes TO {OWNER};", (LOST, f"REVOKE INSERT ON policy_scopes FROM {OWNER}")),
    Right(f"GRANT UPDATE ON public.teams TO {OWNER};", (*CHANGED, f"REVOKE UPDATE ON teams FROM {OWNER}")),
    Right(f"GRANT DELETE ON public.policy_scopes TO {OWNER};", (*ADDED, f"REVOKE DELETE ON policy_scopes FROM {OWNER}")),
    Right(f"GRANT UPDATE ON public.governance_rules TO {OWNER};",
          (*CHANGED, f"REVOKE UPDATE, DELETE, TRUNCATE ON governance_rules FROM {OWNER}",
           f"DO $$ BEGIN IF current_setting('server_version_num')::int >= 170000 THEN "
           f"REVOKE MAINTAIN ON governance_rules FROM {OWNER}; END IF; END $$")),
    Right("SELECT ON public.teams", (*CHANGED, f"REVOKE SELECT ON teams FROM {OWNER}")),
    Right("USAGE ON SCHEMA public", (*CHANGED, f"REVOKE USAGE ON SCHEMA public FROM PUBLIC, {OWNER}")),
    Right(f"GRANT CREATE ON SCHEMA public TO {OWNER};", (INDEX_GONE, f"REVOKE CREATE ON SCHEMA public FROM {OWNER}")),
    Right(f"GRANT TRIGGER ON public.teams TO {OWNER};", (TRIGGER_GONE, f"REVOKE TRIGGER ON teams FROM {OWNER}")),
    Right(f"GRANT EXECUTE ON FUNCTION public.folded(text) TO {OWNER};", (*CHANGED, "REVOKE ALL ON FUNCTION folded FROM PUBLIC")),
    Right(f"GRANT EXECUTE ON FUNCTION public.is_short(text) TO {OWNER};",
          (*CHANGED, "REVOKE ALL ON FUNCTION is_short FROM PUBLIC")),
    Right(f"GRANT USAGE ON TYPE public.mood TO {OWNER};", (*CHANGED, "REVOKE USAGE ON TYPE mood FROM PUBLIC")),
    Right(f"GRANT UPDATE ON SEQUENCE public.ticket TO {OWNER};", (*CHANGED, f"REVOKE UPDATE ON SEQUENCE ticket FROM {OWNER}")),
    Right("GRANT TEMPORARY ON DATABASE", (*CHANGED, f"REVOKE TEMPORARY ON DATABASE {DATABASE} FROM PUBLIC, {OWNER}")),
)  # fmt: skip


@pytest.fixture(scope="module")
def backed_up(
    source: LocalServer, target: LocalServer, prefect_api: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A world with one backup, whose tables use what belongs to others, and a login that may do what their owner may."""
    with source.connect() as connection:
        connection.execute(f"CREATE ROLE lean LOGIN NOSUPERUSER IN ROLE {OWNER}")
    source.allow_login("lean")
    folder = tmp_path_factory.mktemp("rights")
    with backed_up_once(new_world(source, target, prefect_api, folder), *USED) as world:
        yield world
    with source.connect() as connection:
        connection.execute("DROP ROLE lean")


@pytest.fixture
def copied(backed_up: World, folder: Path) -> Iterator[World]:
    """A copy of that world."""
    with copy_of(backed_up, folder) as world:
        yield world


def plan(world: World, **more: Any) -> str:
    return str(world.run(full_restore, "lean", in_place=True, **more))


CONFIRMED = {"dry_run": False, "confirm_database": DATABASE}


@long
@pytest.mark.parametrize("right", RIGHTS, ids=str)
def test_a_right_that_is_taken_away(copied: World, right: Right) -> None:
    execute(copied, *right.statements)
    damaged = copied.state()
    for words in ({}, CONFIRMED):
        with pytest.raises(OperationError, match=re.escape(right.remedy)) as refused:
            plan(copied, **words)
    assert safety_sets(copied) == []
    assert damaged.differences(copied.state()) == []
    grant(copied, refused.value)
    try:
        plan(copied)
    except OperationError as error:
        # What the login may now, the owner of views may not yet.
        grant(copied, error)
    assert plan(copied).startswith("PLANNED, nothing touched: ")
    assert plan(copied, **CONFIRMED).startswith("RESTORED")


def grant(world: World, error: BaseException) -> None:
    """Run what an error says."""
    execute(world, *re.findall(r"GRANT [^;]+", str(error).partition(" or, for all")[0]))


@long
def test_a_key_that_may_not_refer_is_left_and_not_promised(copied: World) -> None:
    execute(
        copied, *CHANGED, "ALTER TABLE team_members DROP CONSTRAINT team_members_user_fkey",
        f"REVOKE REFERENCES ON users FROM {OWNER}",
    )  # fmt: skip
    said = plan(copied)
    assert said.startswith("PLANNED, nothing touched: ")
    assert (
        "1 object (1 of them errors: constraint team_members_user_fkey of public.team_members is missing) differ and would be"
        in said
    )
    assert plan(copied, **CONFIRMED).startswith("RESTORED, BUT OBJECTS DIFFER: ")


@long
def test_an_archive_is_not_planned_whose_copies_could_not_be_proven(copied: World) -> None:
    with pytest.raises(OperationError, match='login "lean" may not create databases'):
        copied.run(archive_partitions, "lean")
    assert str(copied.run(archive_partitions, "backup_restorer")).startswith("PLANNED")
