"""What a recovery says and leaves when what it made is not, or not yet, what was backed up."""

import json
from collections.abc import Iterator
from contextlib import suppress

import httpx
import psycopg
import pytest

from tasks.core.errors import BadInput, DamagedSet, OperationError, RestoreDiffers
from tasks.restore import compare
from tasks.restore.target import Target
from tasks.sets.stage import StagedSet
from tests.support.example import CONTEXT, DATABASE
from tests.support.manifests import rewrite_manifest
from tests.support.servers import databases
from tests.support.world import World


def newest_report(world: World) -> str:
    """Return what the newest recovery report says first."""
    asked = {"artifacts": {"key": {"any_": [f"{CONTEXT}-recovery"]}}, "sort": "CREATED_DESC", "limit": 1}
    found = httpx.post(f"{world.api}/artifacts/filter", json=asked).raise_for_status().json()
    return str(found[0]["description"])


def assert_kept_for_inspection(world: World) -> None:
    """Assert that nothing has the final name, that what was made is there, and that the next run leaves it alone."""
    left = databases(world.target)
    assert DATABASE not in left
    assert len(left) == 1
    assert newest_report(world).startswith("FAIL")
    # Where a digest was tampered with, the next full finds that the history forked, and says so once it is stored.
    with suppress(OperationError):
        world.backup()
    assert world.recover().startswith("PASS")
    assert databases(world.target) == left | {DATABASE}


@pytest.mark.long
@pytest.mark.parametrize(("relation", "changes"), [("teams", {"rows": 51}), ("governance_rules", {"digest": "0" * 32})])
def test_a_recovery_that_differs_fails_and_says_so(world: World, relation: str, changes: dict[str, object]) -> None:
    world.backup()
    rewrite_manifest(world, relation, **changes)
    with pytest.raises(RestoreDiffers, match=relation):
        world.recover()
    assert_kept_for_inspection(world)


@pytest.mark.long
def test_what_was_proven_is_not_thrown_away_by_a_rename(world: World) -> None:
    world.backup()
    proven = compare.compare_with_manifest
    held: list[psycopg.Connection] = []

    def prove_and_hold(staged: StagedSet, target: Target, *arguments: object) -> None:
        proven(staged, target, *arguments)
        held.append(world.target.connect(target.working_name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "compare_with_manifest", prove_and_hold)
        with pytest.raises(OperationError, match="RENAME TO"):
            world.recover()
    working = databases(world.target)
    assert DATABASE not in working
    assert len(working) == 1
    held[0].close()
    before = world.state()
    with world.target.connect() as connection:
        name = working.pop()
        connection.execute(f'ALTER DATABASE "{name}" RENAME TO {DATABASE}')
    world.assert_recovered(before)


@pytest.mark.long
def test_a_database_that_was_renamed_by_hand_is_never_swept(world: World) -> None:
    world.backup()
    world.target.create_database("rescued", "consulting_owner")
    with world.target.connect() as connection:
        connection.execute("COMMENT ON DATABASE rescued IS 'unfinished restore of bc-004: set x, run y'")
        connection.execute("CREATE DATABASE half_restoring_ab12")
        connection.execute("COMMENT ON DATABASE half_restoring_ab12 IS 'unfinished restore of bc-004: set x, run y'")
        connection.execute("ALTER DATABASE half_restoring_ab12 OWNER TO backup_restorer")
    world.recover()
    assert databases(world.target) == {DATABASE, "rescued"}


@pytest.mark.long
def test_verification_is_not_content_with_an_older_set(world: World) -> None:
    from flows.watch import verify_backups

    world.backup()
    world.backup()
    part = next((world.set_folders()[-1] / "data").iterdir())
    part.write_bytes(b"x" + part.read_bytes()[1:])
    with pytest.raises(DamagedSet, match="passed over"):
        world.run(verify_backups, "backup_reader")


def test_a_view_over_anothers_table_is_refused_before_anything_is_stored(world: World) -> None:
    with world.connect() as connection:
        connection.execute("DROP MATERIALIZED VIEW mv_team_statistics")
        connection.execute("CREATE MATERIALIZED VIEW mv_team_statistics AS SELECT id AS team_id FROM users")
    with pytest.raises(BadInput, match=r"materialized view public\.mv_team_statistics needs table public\.users"):
        world.backup()
    assert world.set_folders() == []


@pytest.mark.long
def test_helpers_are_found_however_they_are_spelled(world: World) -> None:
    with world.connect() as connection:
        connection.execute("CREATE FUNCTION note_it() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        connection.execute("CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM Note_It(); RETURN NEW; END'")
        connection.execute("CREATE TRIGGER note BEFORE UPDATE ON teams FOR EACH ROW EXECUTE FUNCTION note()")
        for function in ("note_it()", "note()"):
            connection.execute(f"ALTER FUNCTION {function} OWNER TO consulting_owner")
    world.backup()
    world.recover()
    with world.connect(world.target) as connection:
        connection.execute("UPDATE teams SET purpose = 'note'")


@pytest.mark.long
def test_what_belongs_to_a_superuser_is_warned_of_and_refused_to_others(world: World) -> None:
    with world.connect() as connection:
        connection.execute("ALTER TABLE governance_rules OWNER TO postgres")
    assert "warnings" in world.backup()
    with pytest.raises(BadInput, match="belong to superuser postgres"):
        world.recover()
    # Not by a superuser either, unless he says that the owner's code may do what he may.
    with pytest.raises(BadInput, match="confirm that with BACKUP_LOAD_AS_SUPERUSER="):
        world.recover("postgres")
    assert databases(world.target) == set()
    world.extra["BACKUP_LOAD_AS_SUPERUSER"] = "postgres"
    assert world.recover("postgres").startswith("PASS")


@pytest.fixture(autouse=True)
def _no_leftovers(world: World) -> Iterator[None]:
    yield
    assert json.dumps([str(one) for one in (world.folder / "staging").glob("*")]) == "[]"
