"""Restores into a database in use: what they repair, and what undoes them."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows.backup import list_backups
from flows.restore import full_restore, table_restore
from tests.support.example import CONTEXT, DATABASE
from tests.support.reports import newest_report
from tests.support.world import World

ALL = (
    "organizations, organization_units, organization_hierarchies, organization_members, teams, team_members, team_leaders, "
    "governance_policies, governance_rules, policy_scopes, policy_violations"
)
DAMAGE = {
    "rows deleted and changed": [
        "DELETE FROM policy_violations_2025 WHERE ctid < '(9,1)'", "UPDATE teams SET purpose = 'wrong'",
        "UPDATE policy_violations_2024 SET error_message = 'wrong' WHERE ctid < '(9,1)'",
    ],
    "rows moved to another partition": [
        "UPDATE policy_violations SET detected_at = detected_at + interval '1 year' "
        "WHERE tableoid = 'policy_violations_2023'::regclass"
    ],
    "all tables empty": [f"TRUNCATE {ALL}"],
    "a key and a check dropped": [
        "ALTER TABLE teams DROP CONSTRAINT teams_unit_fkey, DROP CONSTRAINT teams_dates_check",
        "ALTER TABLE policy_violations DROP CONSTRAINT policy_violations_resolved_check",
        "ALTER TABLE team_members DROP CONSTRAINT team_members_user_fkey",
    ],
    "triggers switched": ["ALTER TABLE team_leaders DISABLE TRIGGER USER"],
    "a table dropped that others refer to": ["DROP TABLE teams CASCADE"],
    "a partition dropped": ["DROP TABLE policy_violations_2024"],
    "unique values exchanged": [
        "BEGIN", "CREATE TEMP TABLE two ON COMMIT DROP AS SELECT id, code, lead(code) OVER w AS next, lag(code) OVER w AS last "
        "FROM organizations WINDOW w AS (ORDER BY id) LIMIT 2",
        "UPDATE organizations o SET code = o.code || '-' FROM two WHERE o.id = two.id",
        "UPDATE organizations o SET code = coalesce(two.last, two.next) FROM two WHERE o.id = two.id", "COMMIT",
        "CREATE TABLE pair AS SELECT id, row_number() OVER () AS n FROM (SELECT id FROM organization_hierarchies WHERE depth = 1 "
        "LIMIT 2) AS two",
        "UPDATE organization_hierarchies SET id = gen_random_uuid(), path = 'moved' WHERE id = (SELECT id FROM pair WHERE n = 1)",
        "UPDATE organization_hierarchies SET id = (SELECT id FROM pair WHERE n = 1) WHERE id = (SELECT id FROM pair WHERE n = 2)",
        "UPDATE organization_hierarchies SET id = (SELECT id FROM pair WHERE n = 2) WHERE path = 'moved'", "DROP TABLE pair",
    ],
}  # fmt: skip


def plan(world: World, **parameters: Any) -> str:
    return str(world.run(full_restore, "backup_restorer", in_place=True, **parameters))


def restore(world: World, **parameters: Any) -> str:
    return plan(world, **{"dry_run": False, "confirm_database": DATABASE} | parameters)


def safety_sets(world: World, context: str = CONTEXT) -> list[str]:
    return [str(row["id"]) for row in world.run(list_backups, "backup_reader", context=context) if row["kind"] == "safety"]


def undo(world: World, context: str = CONTEXT) -> list[str]:
    """Do what the newest report says undoes it; return what the commands are about: tables, or all of it."""
    text = newest_report(world, f"{context}-restore").partition("## To undo it")[2].split("```")[1]
    about = list[str]()
    for line in text.replace("\\\n", " ").strip().splitlines():
        program, *words = shlex.split(line)
        if program == "psql":
            with world.connect() as connection:
                connection.execute(words[words.index("-c") + 1].encode())
            continue
        _, module, name, *words = words
        assert (program, module) == ("python", "flows.restore")
        said = {key[2:].replace("-", "_"): value for key, value in zip(words[::2], words[1::2], strict=True)}
        world.run({"table_restore": table_restore, "full_restore": full_restore}[name], "backup_restorer", **said)
        about.append(said.get("table", "all"))
    return about


def restore_by_hand(world: World, name: str, backup: str = "", context: str = CONTEXT, **more: str) -> None:
    """Run the restore.sh of the newest full, or of a set."""
    zstd = Path(shutil.which("zstd") or pytest.skip("the zstd program is not installed"))
    environment = world.source.environment() | {"PATH": f"{world.source.bin}:{zstd.parent}:/usr/bin:/bin"} | more
    (folder,) = world.store_folder.glob(f"{context}/*/{backup or world.set_folders(context=context)[-1].name}")
    script = folder / "restore.sh"
    done = subprocess.run(["bash", script, name], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
