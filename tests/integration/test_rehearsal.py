"""A changed schema is drilled the same night, by an event, an automation and the drill's deployment: once, or until it passes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.events import Event
from prefect.events.schemas.events import Resource
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import local
from flows.recovery import recovery_drill
from tasks.core.sets.manifest_file import MANIFEST_FILE, parse_manifest
from tests.support import PROJECT
from tests.support.database import execute
from tests.support.example import CONTEXT, DATABASE
from tests.support.faults import wait_for
from tests.support.prefect_server import tell_the_rest
from tests.support.reports import report
from tests.support.world import World

long = pytest.mark.long
AS_OWNER = "SET ROLE consulting_owner"
UNANSWERED = (
    'the event was sent, but the automation "bc-004: schema changed" that it should start is missing: '
    "python -m deployments.register"
)


def said_of_schema(world: World) -> str:
    """Return what the report of the last backup says of the schema."""
    text = report(world, f"{CONTEXT}-backup")
    (line,) = [line for line in text.splitlines() if line.startswith("| schema |")]
    return line.removeprefix("| schema | ").removesuffix(" |")


def events(world: World) -> list[dict[str, Any]]:
    """Return the events that asked for a drill, newest first."""
    asked = {"filter": {"event": {"name": ["schema.changed"]}, "order": "DESC"}}
    return list(httpx.post(f"{world.api}/events/filter", json=asked).raise_for_status().json()["events"])


def event_about(world: World, set_id: str) -> dict[str, Any]:
    """Wait for the event of a set."""
    found = wait_for(lambda: [one for one in events(world) if one["payload"]["set"] == set_id], 60, f"the event of {set_id}")
    assert found and len(found) == 1
    return found[0]


def test_a_schema_that_is_not_proven_is_told(world: World) -> None:
    world.backup()
    (first,) = world.set_folders()
    assert said_of_schema(world) == f"schema not proven: no drill has run yet: {UNANSWERED}"
    to_do = report(world, f"{CONTEXT}-backup").partition("## Still to do")[2]
    assert f"python -m flows.recovery recovery_drill --backup {first.name}" in to_do
    event = event_about(world, first.name)
    assert event["resource"]["prefect.resource.id"] == f"bounded-context.{CONTEXT}"
    assert (event["payload"]["drilled"], event["resource"]["drill.last"]) == ("", "")
    assert world.run(recovery_drill, "backup_restorer", world.target).startswith("PASS")
    # Rows, ids, the order of grants, and what is others', change nothing; nor does another minor version of pg_dump.
    execute(
        world, "CREATE TABLE public.of_others (id int)", AS_OWNER, "UPDATE teams SET purpose = 'other'", "VACUUM FULL teams",
        "ALTER TABLE teams DROP CONSTRAINT teams_type_check",
        "ALTER TABLE teams ADD CONSTRAINT teams_type_check CHECK (team_type IN ('permanent', 'project', 'task_force'))",
        "REVOKE ALL ON teams FROM consulting_app; GRANT UPDATE, SELECT, INSERT, DELETE ON teams TO consulting_app",
    )  # fmt: skip
    world.extra = {"PG_BIN": str(local.prefect_bin())}
    world.backup()
    assert said_of_schema(world).startswith(f"unchanged since {first.name}, whose drill passed on 20")
    execute(world, AS_OWNER, "CREATE TABLE policy_violations_2031 PARTITION OF policy_violations "
            "FOR VALUES FROM ('2031-01-01') TO ('2032-01-01')")  # fmt: skip
    world.backup()
    assert said_of_schema(world).startswith(f"schema changed since the last drill ({first.name}, 20")
    newest = world.set_folders()[-1].name
    assert event_about(world, newest)["payload"]["drilled"] == first.name
    assert {one["payload"]["set"] for one in events(world)} & {one.name for one in world.set_folders()} == {first.name, newest}


@long
def test_without_a_server_a_backup_says_that_nobody_was_asked(world: World) -> None:
    with world.start("backup", "daily_backup", "backup_reader", PREFECT_API_URL="http://127.0.0.1:9/api") as process:
        said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert "STORED: " in said
    assert "schema not proven: no drill has run yet: no event could be sent, because there is no Prefect server" in said


@long
def test_a_store_that_cannot_be_read_leaves_open_what_was_proven(world: World) -> None:
    world.backup()
    drills = world.store_folder / CONTEXT / "drills"
    drills.mkdir()
    with (drills / "20200101T000000Z_dead.json").open("wb") as file:
        file.truncate(1 << 40)
    world.backup()
    assert said_of_schema(world).startswith("whether the schema changed since the last drill is unknown: ")


CHANGES = {
    "column": "ALTER TABLE teams ADD COLUMN more int",
    "default": "ALTER TABLE teams ALTER COLUMN purpose SET DEFAULT 'none'",
    "statistics of a column": "ALTER TABLE teams ALTER COLUMN purpose SET STATISTICS 500",
    "storage of a column": "ALTER TABLE teams ALTER COLUMN purpose SET STORAGE EXTERNAL",
    "index": "CREATE INDEX ON teams (purpose)",
    "check": "ALTER TABLE teams ADD CHECK (purpose <> 'x') NOT VALID",
    "bounds": "ALTER TABLE policy_violations DETACH PARTITION policy_violations_2027; ALTER TABLE policy_violations "
    "ATTACH PARTITION policy_violations_2027 FOR VALUES FROM ('2027-01-01') TO ('2027-07-01')",
    "a trigger's function": "CREATE OR REPLACE FUNCTION keep_last_leader() RETURNS trigger LANGUAGE plpgsql "
    "AS 'BEGIN RETURN NEW; END'",
    "what a function calls": "CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "a trigger switched off": "ALTER TABLE team_leaders DISABLE TRIGGER team_leaders_keep_last",
    "aggregate": "CREATE AGGREGATE sum_of (int) (SFUNC = int4pl, STYPE = int)",
    "aggregate, otherwise": "DROP AGGREGATE sum_of (int); CREATE AGGREGATE sum_of (int) (SFUNC = int4mul, STYPE = int)",
    "grant": "GRANT SELECT ON teams TO PUBLIC",
    "grant of a column": "GRANT UPDATE (description) ON organizations TO PUBLIC",
    "comment": "COMMENT ON COLUMN teams.purpose IS 'why'",
    "policy": "CREATE POLICY all_of_it ON teams USING (true)",
    "extended statistics": "CREATE STATISTICS purpose_and_name ON purpose, name FROM teams",
    "option of a table": "ALTER TABLE teams SET (fillfactor = 70)",
    "unlogged": "ALTER TABLE policy_scopes SET UNLOGGED",
    "setting of the database": f"RESET ROLE; ALTER DATABASE {DATABASE} SET work_mem = '8MB'",
    "grant of the database": f"RESET ROLE; GRANT CREATE ON DATABASE {DATABASE} TO consulting_app",
}  # fmt: skip


@long
def test_whatever_a_restore_makes_is_a_change(world: World) -> None:
    fingerprints = {"before": fingerprint(world)}
    for name, statements in CHANGES.items():
        execute(world, f"{AS_OWNER}; {statements}")
        fingerprints[name] = fingerprint(world)
    same = [
        name
        for name, other in zip(list(fingerprints)[1:], list(fingerprints), strict=False)
        if fingerprints[name] == fingerprints[other]
    ]
    assert same == []


def fingerprint(world: World) -> str:
    """Return what the next backup says that a restore makes."""
    assert world.backup(accept_losses=True).startswith("STORED")
    folder = world.set_folders()[-1]
    found = parse_manifest((folder / MANIFEST_FILE).read_bytes(), str(folder)).schema_fingerprint
    assert found
    return found


# From the event to the drill


@dataclass(frozen=True)
class Deployed:
    """A world that is registered on a Prefect server which answers events."""

    world: World
    client: SyncPrefectClient

    def back_up(self) -> str:
        """Take a full; return its id."""
        assert self.world.backup().startswith("STORED")
        return self.world.set_folders()[-1].name

    def drilled(self) -> dict[str, FlowRun]:
        """Return the runs of the drill that events asked for, by their sets, when all events until now were answered."""
        # Events are answered in the order in which they come.
        resource = {"prefect.resource.id": f"bounded-context.{CONTEXT}", "schema.fingerprint": str(uuid4()), "drill.last": ""}
        last = Event(event="schema.changed", resource=Resource(resource), payload={"set": str(uuid4())})
        self.client.request("POST", "/events", json=[last.model_dump(mode="json")])

        def asked() -> dict[str, FlowRun]:
            named = DeploymentFilter(name=DeploymentFilterName(any_=["bc-004-drill"]))
            found = self.client.read_flow_runs(deployment_filter=named, limit=200)
            return {run.parameters["backup"]: run for run in found if not run.auto_scheduled}

        found = wait_for(lambda: last.payload["set"] in (runs := asked()) and runs, 60, "the answer to an event")
        assert found
        self.client.delete_flow_run(found.pop(last.payload["set"]).id)
        return found

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Run a worker."""
        given = {"BACKUP_STAGING": str(self.world.folder / "staging"), "PG_BIN": str(self.world.source.bin)}
        with local.prefect_worker(self.world.api, "backup", given, self.world.folder / "worker.log"):
            yield

    def end_of(self, run: FlowRun) -> str:
        """Wait for the end of a run; return what it came to."""

        def final() -> FlowRun | None:
            found = self.client.read_flow_run(run.id)
            return found if found.state and found.state.is_final() else None

        found = wait_for(final, 300, f"the end of {run.name}")
        assert found and found.state
        return f"{found.state.name}: {found.state.message}"


@pytest.fixture
def deployed(world: World) -> Iterator[Deployed]:
    """The world, registered on a server of its own."""
    with ExitStack() as stack:
        world.api, world.target = stack.enter_context(local.prefect_server()), world.source
        tell_the_rest()
        stack.enter_context(temporary_settings({PREFECT_API_URL: world.api}))
        stack.callback(tell_the_rest)
        assert register(world) == (0, None)
        yield Deployed(world, stack.enter_context(get_client(sync_client=True)))


def register(world: World, *words: str) -> tuple[int, str | None]:
    """Run `python -m deployments.register` as an operator would; return its exit code, and with words what it said."""
    environment = local.bare_environment() | world.environment(world.source, "backup_restorer")
    argv = [sys.executable, "-m", "deployments.register", *words]
    done = subprocess.run(argv, env=environment, cwd=PROJECT, check=False, timeout=600, capture_output=True, text=True)
    return done.returncode, done.stdout if words else None


@long
def test_a_schema_is_drilled_once_and_again_if_that_failed(deployed: Deployed) -> None:
    first, second = deployed.back_up(), deployed.back_up()
    assert said_of_schema(deployed.world) == "schema not proven: no drill has run yet: drill requested"
    assert deployed.drilled().keys() == {first}
    assert deployed.drilled()[first].parameters == {"context": CONTEXT, "backup": first}
    with deployed.worker():
        assert deployed.end_of(deployed.drilled()[first]).startswith("Completed: PASS")
    deployed.back_up()
    assert said_of_schema(deployed.world).startswith(f"unchanged since {first}, ")
    execute(deployed.world, AS_OWNER, "CREATE OR REPLACE FUNCTION keep_last_leader() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM nowhere(); RETURN NEW; END'")  # fmt: skip
    broken = deployed.back_up()
    assert said_of_schema(deployed.world).startswith(f"schema changed since the last drill ({first}, ")
    assert said_of_schema(deployed.world).endswith("): drill requested")
    with deployed.worker():
        assert "writes fail because of triggers" in deployed.end_of(deployed.drilled()[broken])
    # Nothing was proven: the next night asks again.
    again = deployed.back_up()
    assert deployed.drilled().keys() == {first, broken, again}
    assert second not in deployed.drilled()


@long
def test_what_answers_a_changed_schema_is_registered(deployed: Deployed) -> None:
    name = "bc-004: schema changed"
    assert f'automation "{name}"' not in str(register(deployed.world, "--check")[1])
    (automation,) = deployed.client.read_automations_by_name(name)
    deployed.client.pause_automation(automation.id)
    deployed.back_up()
    assert said_of_schema(deployed.world).endswith(f'the event was sent, but the automation "{name}" that it should start is off')
    assert f'automation "{name}" differs' in str(register(deployed.world, "--check")[1])
    deployed.client.delete_automation(automation.id)
    assert f'automation "{name}" is missing' in str(register(deployed.world, "--check")[1])
    assert register(deployed.world) == (0, None)
    deployed.back_up()
    assert said_of_schema(deployed.world).endswith(": drill requested")
