"""What rows hold, their keys included, stands in no log, state, event or error; keys only in reports that name what to do."""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import local
from deployments.local import LocalServer
from tasks.run.run import operation, step
from tests.support.example import CONTEXT, DATABASE
from tests.support.prefect_server import tell_the_rest
from tests.support.servers import drop_databases
from tests.support.world import World, new_world

pytestmark = [pytest.mark.long, pytest.mark.every_variant]

# A key, which reports may name, and what a row holds, which nothing may.
KEY = "dead0000-beef-4000-8000-00000000c0de"
CONTENT = "ROWMARK-91c2"
SECONDS = 300
# The tables of Prefect's database that hold reports, and what operators typed themselves.
REPORTS = {"artifact", "artifact_collection"}
TYPED = {"flow_run"}
TO_DO = (
    "## To undo it",
    "## Still to do\n",
    "## Live rows that have unique values of rows to restore",
    "## Old rows that stay, and why",
    "rows are those of the backup",
)


@dataclass
class Recorded:
    """A world whose flows are recorded by a Prefect server whose database can be looked into."""

    world: World
    prefect: LocalServer
    said: list[str] = field(default_factory=list)

    def run(self, module: str, flow: str, *arguments: str, server: LocalServer | None = None, code: int = 0) -> str:
        """Run a flow by hand; keep what it says."""
        process = self.world.start(module, flow, "backup_restorer", server=server, arguments=arguments)
        text, _ = process.communicate(timeout=SECONDS)
        self.said.append(text)
        assert process.returncode == code, text[-3000:]
        return text

    def execute(self, *statements: str, server: LocalServer | None = None) -> None:
        """Do something to the database."""
        with self.world.connect(server) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def tables(self) -> dict[str, str]:
        """Return what each table of Prefect's database holds."""
        dumped = subprocess.run(
            [self.prefect.bin / "pg_dump", "--dbname=prefect", "--data-only"], env=self.prefect.environment(), capture_output=True,
            check=True, text=True,
        ).stdout  # fmt: skip
        return dict(re.findall(r"^COPY public\.(\w+) .*? FROM stdin;\n(.*?)^\\\.$", dumped, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def recorded(source: LocalServer, target: LocalServer) -> Iterator[Recorded]:
    """A source with a team and members that bear the marks, which broke its own key, and a backup of it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backup-test-")))
        own = stack.enter_context(local.postgres(local.prefect_bin()))
        api = stack.enter_context(local.prefect_server(own))
        stack.callback(drop_databases, target)
        stack.callback(drop_databases, source)
        it = Recorded(new_world(source, target, api, folder), own)
        it.execute(
            "SET session_replication_role = replica",
            f"UPDATE teams SET id = '{KEY}', name = '{CONTENT}', purpose = '{CONTENT}' "
            "WHERE id = (SELECT min(id::text)::uuid FROM teams)",
            f"UPDATE team_members SET team_id = '{KEY}', role = '{CONTENT}' WHERE team_id NOT IN (SELECT id FROM teams)",
            f"UPDATE team_leaders SET team_id = '{KEY}' WHERE team_id NOT IN (SELECT id FROM teams)",
            # A key of its own that its rows violate; and one to another context that they will violate.
            f"UPDATE team_leaders SET member_id = '{KEY}' WHERE id = (SELECT min(id::text)::uuid FROM team_leaders)",
            f"CREATE UNIQUE INDEX only_once ON teams ((name || coalesce(purpose, ''))) WHERE name = '{CONTENT}'",
        )
        it.run("backup", "daily_backup")
        yield it


def test_a_recovery_of_rows_that_violate_keys(recorded: Recorded) -> None:
    said = recorded.run("recovery", "disaster_recovery", server=recorded.world.target)
    assert "already inconsistent" in said
    # Users without those that the rows name.
    recorded.execute(
        "CREATE TABLE users (id uuid PRIMARY KEY)", "ALTER TABLE users OWNER TO consulting_owner", server=recorded.world.target
    )
    resumed = recorded.run("recovery", "disaster_recovery", "--resume", "constraints", server=recorded.world.target, code=1)
    assert "rows refer to missing rows" in resumed


def test_rows_brought_back_with_their_parents(recorded: Recorded) -> None:
    recorded.execute(
        "SET session_replication_role = replica", f"DELETE FROM team_members WHERE team_id = '{KEY}'",
        f"DELETE FROM teams WHERE id = '{KEY}'",
    )  # fmt: skip
    words = ("--table", "team_members", "--mode", "missing")
    assert "rows of public.teams that are missing" in recorded.run("restore", "table_restore", *words, code=1)
    # Another row took a value of the one that would come back.
    recorded.execute(
        "INSERT INTO teams (organization_id, unit_id, name, team_type, purpose) "
        f"SELECT organization_id, unit_id, '{CONTENT}', team_type, '{CONTENT}' FROM teams LIMIT 1"
    )
    done = ("--include-parents", "true", "--dry-run", "false", "--confirm-database", DATABASE)
    assert "only_once" in recorded.run("restore", "table_restore", *words, *done, code=1)
    recorded.execute(f"DELETE FROM teams WHERE name = '{CONTENT}'")
    assert "to undo the restore after the commit" in recorded.run("restore", "table_restore", *words, *done)
    report = artifact(recorded, f"{CONTEXT}-restore")
    assert "--keys" in report and KEY in report


def test_wrong_keys_are_not_repeated(recorded: Recorded) -> None:
    for keys in (f'["{KEY}", 5', f'["{CONTENT}"]', f"id = '{CONTENT}'", f"name = '{CONTENT}'", f'["{KEY[:-1]}f"]'):
        said = recorded.run("restore", "table_restore", "--table", "teams", "--mode", "missing", "--keys", keys, code=1)
        assert "keys" in said and CONTENT not in said and KEY[:-1] not in said, said


def test_old_rows_that_stay(recorded: Recorded) -> None:
    recorded.execute(
        "SET session_replication_role = replica", f"UPDATE teams SET deleted_at = '2015-01-01' WHERE id = '{KEY}'",
        f"CREATE TABLE IF NOT EXISTS others (team_id uuid REFERENCES teams); INSERT INTO others VALUES ('{KEY}')",
        "ALTER TABLE others OWNER TO consulting_owner",
    )  # fmt: skip
    assert "others references this row" in recorded.run("retention", "clean_up_old_data")
    assert KEY in artifact(recorded, f"{CONTEXT}-clean-up-plan")


def test_an_error_that_leaves_a_task(recorded: Recorded) -> None:
    """Whatever PostgreSQL says in whatever task: the kind of it, not what was seen today."""

    @step
    def insert_twice() -> None:
        with recorded.world.connect() as connection:
            connection.execute("CREATE TEMP TABLE once (k text PRIMARY KEY)")
            connection.execute("INSERT INTO once VALUES (%s)", [CONTENT])
            connection.execute("INSERT INTO once VALUES (%s)", [CONTENT])

    @step
    def misread() -> None:
        with recorded.world.connect() as connection:
            try:
                connection.execute("SELECT %s::int", [CONTENT])
            except psycopg.Error as error:
                raise ValueError("wrapped") from error

    @operation("fail {context}")
    def fail(context: str = CONTEXT) -> None:
        insert_twice(return_state=True)
        misread(return_state=True)
        with recorded.world.connect() as connection:
            connection.execute(f"DO $$ BEGIN RAISE EXCEPTION '{CONTENT}' USING DETAIL = '{CONTENT}'; END $$".encode())

    tell_the_rest()
    with temporary_settings({PREFECT_API_URL: recorded.world.api}), pytest.raises(psycopg.errors.RaiseException) as raised:
        fail()
    with temporary_settings({PREFECT_API_URL: recorded.world.api}):
        tell_the_rest()
    assert CONTENT not in str(raised.value)
    asked: dict[str, Any] = {"task_runs": {"state": {"type": {"any_": ["FAILED"]}}}}
    messages = [one["state"]["message"] for one in httpx.post(f"{recorded.world.api}/task_runs/filter", json=asked).json()]
    assert any("UniqueViolation" in one and "once_pkey" in one for one in messages)
    assert not [one for one in messages if CONTENT in one]


def test_nothing_of_it_is_kept(recorded: Recorded) -> None:
    tables = recorded.tables()
    assert "to undo the restore after the commit" in tables["log"] and len(recorded.said) > 8
    kept = {name: text for name, text in tables.items() if name not in TYPED}
    # Prefect tells of each report that is made or replaced, and what stands in it.
    kept["events"] = "\n".join(line for line in kept["events"].splitlines() if "\tprefect.artifact" not in line)
    assert "live-restore.done" in kept["events"]
    assert [excerpt(text, CONTENT) for text in kept.values() if CONTENT in text] == []
    assert [excerpt(text, CONTENT) for text in recorded.said if CONTENT in text] == []
    assert [excerpt(text, KEY) for name, text in kept.items() if KEY in text and name not in REPORTS] == []
    assert [excerpt(text, KEY) for text in recorded.said if KEY in text] == []
    # What operators typed is in the parameters of their run, and nowhere else of it.
    assert set(re.findall(rf"\"(\w+)\": \"[^\"]*(?:{CONTENT}|{KEY})", tables["flow_run"])) <= {"keys"}
    markdown = [one["data"] for one in artifacts(recorded) if one["type"] == "markdown" and KEY in str(one["data"])]
    assert markdown and [excerpt(text, KEY) for text in markdown if not any(title in text for title in TO_DO)] == []


def artifacts(recorded: Recorded) -> list[dict[str, Any]]:
    answer = httpx.post(f"{recorded.world.api}/artifacts/filter", json={"sort": "CREATED_DESC", "limit": 200})
    found: list[dict[str, Any]] = answer.raise_for_status().json()
    return found


def artifact(recorded: Recorded, key: str) -> str:
    return next(json.dumps(one["data"], ensure_ascii=False) for one in artifacts(recorded) if one["key"] == key)


def excerpt(text: str, mark: str) -> str:
    return text[max(0, text.index(mark) - 300) :][:400]
