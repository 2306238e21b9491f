"""Clean-ups of old rows."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import yaml
from prefect.artifacts import Artifact

from flows.restore import restore_cleaned_up
from flows.retention import clean_up_old_data
from tasks.clean_up import rules as clean_up_rules
from tasks.core.context import CONTEXT_FILE
from tasks.run import site
from tests.support.contexts import edit_context
from tests.support.database import execute
from tests.support.example import CONTEXT, DATABASE, TABLES
from tests.support.world import World

# Where the rules draw the line: three years before the day on which a run begins, in the zone of the context.
THREE_YEARS_AGO = "((now() AT TIME ZONE 'Asia/Tokyo')::date - interval '3 years')"
# Rows that are too old, by table; what the rules would take were it not for what holds it.
OLD = {
    "team_leaders": f"status = 'inactive' AND removed_at < {THREE_YEARS_AGO}",
    "team_members": f"status = 'inactive' AND left_at < {THREE_YEARS_AGO}",
    "organization_members": f"status = 'inactive' AND left_at < {THREE_YEARS_AGO}",
    "teams": f"deleted_at < {THREE_YEARS_AGO}",
}
A_TEAM = f"(SELECT min(id::text)::uuid FROM teams WHERE {OLD['teams']})"
GREEDY = (
    "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ "
    "BEGIN DELETE FROM policy_scopes WHERE id = (SELECT min(id::text)::uuid FROM policy_scopes); RETURN NULL; END $$",
    "CREATE TRIGGER takes AFTER DELETE ON team_members FOR EACH ROW EXECUTE FUNCTION more()",
)

ITEMS = {"table": "items", "clock": "ended", "keep": "1 year"}


def rules() -> list[dict[str, Any]]:
    """Return the rules of the context's folder."""
    found: list[dict[str, Any]] = yaml.safe_load((site.CONTEXTS / CONTEXT / CONTEXT_FILE).read_text("utf-8"))["clean_up"]
    return found


def plan(world: World) -> str:
    return str(world.run(clean_up_old_data, "backup_restorer"))


def clean_up(world: World, **parameters: Any) -> str:
    words = {"dry_run": False, "confirm_database": DATABASE} | parameters
    return str(world.run(clean_up_old_data, "backup_restorer", **words))


def bring_back(world: World, backup: str, **parameters: Any) -> str:
    words = {"dry_run": False, "confirm_database": DATABASE} | parameters
    return str(world.run(restore_cleaned_up, "backup_restorer", backup=backup, **words))


def clean_up_sets(world: World) -> dict[str, list[dict[str, Any]]]:
    """Return the manifests of the committed clean-up sets by the table of their rule, oldest first."""
    found = dict[str, list[dict[str, Any]]]()
    for path in sorted(world.store_folder.glob(f"{CONTEXT}/clean-up/*/manifest.json")):
        manifest = json.loads(path.read_text("utf-8"))["manifest"]
        found.setdefault(manifest["only"]["tables"][0], []).append(manifest)
    return found


def report(key: str = "clean-up") -> str:
    found = Artifact.get(f"{CONTEXT}-{key}")
    assert found and isinstance(found.data, str)
    return found.data


def acting(monkeypatch: pytest.MonkeyPatch, step: str, act: Callable[[], object]) -> None:
    """Do something once after a step of the first clean-up."""
    original, done = getattr(clean_up_rules, step), list[bool]()

    def stand_in(*arguments: Any, **more: Any) -> Any:
        found = original(*arguments, **more)
        if not done:
            done.append(True)
            act()
        return found

    monkeypatch.setattr(clean_up_rules, step, stand_in)


def hang(world: World) -> None:
    """Let members and leaders, active ones too, hang on old teams: what nothing but the fate of their team makes old."""
    execute(
        world,
        "ALTER TABLE team_members DISABLE TRIGGER USER; ALTER TABLE team_leaders DISABLE TRIGGER USER",
        "INSERT INTO team_members (team_id, user_id, status, joined_at, left_at, allocation_rate) "
        f"SELECT t.id, u.id, s.status, now(), CASE s.status WHEN 'inactive' THEN now() END, 0.01 FROM teams t "
        f"CROSS JOIN (VALUES ('active'), ('inactive')) AS s (status) CROSS JOIN LATERAL "
        f"(SELECT id FROM users ORDER BY md5(id::text || t.id) LIMIT 3) u WHERE {OLD['teams']}",
        "INSERT INTO team_leaders (team_id, member_id, user_id, status, assigned_at) "
        "SELECT m.team_id, m.id, m.user_id, 'active', now() "
        f"FROM team_members m JOIN teams t ON t.id = m.team_id WHERE m.status = 'active' AND {OLD['teams']}",
        "ALTER TABLE team_members ENABLE TRIGGER USER; ALTER TABLE team_leaders ENABLE TRIGGER USER",
        "UPDATE teams t SET member_count = (SELECT count(*) FROM team_members m WHERE m.team_id = t.id AND m.status = 'active'), "
        "leader_count = (SELECT count(*) FROM team_leaders l WHERE l.team_id = t.id AND l.status = 'active')",
    )  # fmt: skip


def own(world: World, monkeypatch: pytest.MonkeyPatch, rule: dict[str, Any], tables: list[str], *statements: str) -> None:
    """Give the context tables and one rule."""
    with world.connect() as connection:
        connection.execute("SET ROLE consulting_owner")
        for statement in statements:
            connection.execute(statement.encode())
    edit_context(world, monkeypatch, tables=[*TABLES, *tables], clean_up=[rule], long_term={})


@contextmanager
def live(world: World, *statements: str) -> Iterator[list[float]]:
    """Run statements again and again as one transaction, as users do; give how long each took, and fail if one failed."""
    waits, errors, over = list[float](), list[str](), threading.Event()

    def work() -> None:
        with world.connect() as connection:
            while not over.is_set():
                started = time.monotonic()
                try:
                    with connection.transaction():
                        for statement in statements:
                            connection.execute(statement.encode())
                except psycopg.Error as error:
                    errors.append(str(error))
                waits.append(time.monotonic() - started)
                over.wait(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield waits
    finally:
        over.set()
        thread.join()
    assert errors == []
