"""Nothing of ours calls what others made: every flow, among functions and operators that PostgreSQL would take before its own.

They are in the database that is backed up, in every set and what is made of it, and in the one where the locks are. New databases
are made from template0, so that what others put into template1 is in none of them.
"""

import shutil
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import psycopg
import pytest
from prefect import Flow

import flows
from flows.backup import daily_backup, differential_backup, list_backups, long_term_backup
from flows.checks import integrity_check
from flows.partitions import archive_partitions, create_partitions, reattach_partition
from flows.recovery import disaster_recovery, recovery_drill
from flows.restore import full_restore, restore_cleaned_up, table_restore
from flows.retention import clean_up_old_data, prune_backups
from flows.views import refresh_views
from flows.watch import backup_report, verify_backups, watch_recovery_point
from tests.support import decoys
from tests.support.archives import ONE_YEAR_IS_DUE, RESOLVED
from tests.support.clean_ups import clean_up_sets, rules
from tests.support.clock import at, later
from tests.support.contexts import edit_context
from tests.support.database import execute
from tests.support.example import DATABASE, TABLES
from tests.support.restores import restore_by_hand
from tests.support.world import World

COPY, BY_HAND = "consulting_tool_copy", "consulting_tool_by_hand"
OWNER = "consulting_owner"
CONFIRMED: dict[str, Any] = {"dry_run": False, "confirm_database": DATABASE}
PURPOSE = "UPDATE public.teams SET purpose = '{}' WHERE id = (SELECT id FROM public.teams LIMIT 1)"
MEMBERS_GONE = "DELETE FROM team_members m WHERE NOT EXISTS (SELECT FROM team_leaders l WHERE l.member_id = m.id)"
# The table of another context that the keys refer to, as far as they do.
USERS = """
SET ROLE consulting_owner;
CREATE TABLE public.users AS SELECT user_id AS id FROM public.organization_members UNION SELECT user_id FROM public.team_members
UNION SELECT user_id FROM public.team_leaders UNION SELECT resolved_by FROM public.policy_violations WHERE resolved_by IS NOT NULL;
ALTER TABLE public.users ADD PRIMARY KEY (id)"""
# One of each sort.
CALLED = {
    "set_config(text,text,boolean)": "SELECT set_config('lock_timeout', '1', false)",
    '"result of array_agg"(text[],text)': "SELECT array_agg('x'::text)",
    '"operator ||"(text,name)': "SELECT 'x'::text || 'y'::name",
}
IN_PUBLIC = "SELECT count(*) FROM pg_operator WHERE oprnamespace = 'public'::regnamespace"


class Log:
    """Which decoys were called since it was asked last."""

    def __init__(self, world: World) -> None:
        self._file = world.source.data.parent / "server.log"
        self._seen = self._file.stat().st_size

    def read(self) -> set[str]:
        data = self._file.read_bytes()[self._seen :]
        self._seen += len(data)
        return decoys.calls(data.decode(errors="replace"))


@pytest.fixture
def among_decoys(any_version: World) -> Iterator[World]:
    decoys.make_decoys(any_version.source, DATABASE, OWNER)
    decoys.need_decoys(any_version.source, DATABASE, OWNER, "teams", "policy_violations")
    decoys.make_decoys(any_version.source, "postgres", "postgres")
    yield any_version


def every_flow() -> set[str]:
    """Return the names of all flows that there are."""
    modules = [import_module(f"flows.{module.name}") for module in iter_modules(flows.__path__)]
    return {one.name for module in modules for one in vars(module).values() if isinstance(one, Flow)}


def count_decoys(world: World, database: str) -> int:
    with world.source.connect(database) as connection:
        return int(connection.execute(IN_PUBLIC).fetchall()[0][0])


@pytest.mark.long
@pytest.mark.every_variant
@pytest.mark.parametrize("any_version", [15, 16, 18], indirect=True)
def test_no_flow_calls_a_decoy(among_decoys: World, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_context(among_decoys, monkeypatch, clean_up=[rules()[-1]])
    world, log, ran = among_decoys, Log(among_decoys), set[str]()

    def run(flow: Any, user: str = "backup_restorer", **parameters: Any) -> str:
        ran.add(flow.name)
        try:
            return str(world.run(flow, user, **parameters))
        finally:
            assert log.read() == set(), f"{flow.name} {parameters}"

    def read(flow: Any, **parameters: Any) -> str:
        return run(flow, "backup_reader", **parameters)

    # They do what they are for, wherever flows have sessions.
    for database in (DATABASE, "postgres"):
        for expected, statement in CALLED.items():
            with world.source.connect(database) as connection:
                connection.execute("SET application_name = 'a flow'")
                with pytest.raises(psycopg.errors.RaiseException, match="a decoy was called"):
                    connection.execute(statement.encode())
            assert [one for one in log.read() if expected in one], statement

    # Flows that read.
    assert read(daily_backup).startswith("STORED")
    execute(world, PURPOSE.format("x"))
    assert read(differential_backup).startswith("STORED")
    read(long_term_backup)
    read(list_backups)
    assert read(integrity_check).startswith("PASS")
    read(watch_recovery_point)
    read(backup_report)
    assert read(verify_backups).startswith("PASS")

    # Flows that make a database.
    assert run(recovery_drill).startswith("PASS")
    assert run(full_restore, target_database=COPY).startswith("PASS")
    with world.source.connect(COPY) as connection:
        connection.execute(f"TRUNCATE {', '.join(TABLES)}".encode())
    assert run(disaster_recovery, target_database=COPY).startswith("PASS")
    with world.source.connect(COPY) as connection:
        connection.execute(USERS)
    assert run(disaster_recovery, target_database=COPY, resume="constraints").startswith("PASS")
    if shutil.which("zstd"):
        restore_by_hand(world, BY_HAND)
        assert log.read() == set(), "restore.sh"
        assert count_decoys(world, BY_HAND) == count_decoys(world, DATABASE)
    assert count_decoys(world, COPY) == count_decoys(world, DATABASE) > 500

    # Flows that change rows.
    execute(world, MEMBERS_GONE, PURPOSE.format("y"))
    assert run(table_restore, table="teams").startswith("RESTORED")
    words = {"table": "team_members", "mode": "missing"}
    assert "PLANNED" in run(table_restore, **words)
    assert run(table_restore, **words, **CONFIRMED).startswith("RESTORED")
    assert "PLANNED" in run(full_restore, in_place=True)
    assert run(full_restore, in_place=True, **CONFIRMED).startswith("RESTORED")
    assert "PLANNED" in run(clean_up_old_data)
    assert run(clean_up_old_data, **CONFIRMED).startswith("CLEANED UP")
    (teams,) = clean_up_sets(world)["teams"]
    assert run(restore_cleaned_up, backup=str(teams["id"]), **CONFIRMED).startswith("RESTORED")

    # Flows that change the database itself, or the store.
    run(refresh_views)
    execute(world, "DROP TABLE policy_violations_2021", RESOLVED)
    with monkeypatch.context() as patch:
        at(patch, ONE_YEAR_IS_DUE)
        run(create_partitions)
        assert run(archive_partitions, **CONFIRMED).endswith("policy_violations_2022 archived and dropped")
        run(reattach_partition, year="2022", mode="side-by-side")
        run(reattach_partition, year="2022")
    with later(days=40):
        run(prune_backups, dry_run=False)
    assert ran == every_flow()
