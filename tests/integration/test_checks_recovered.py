"""What the checks say of a database that was recovered a moment ago."""

from datetime import UTC, datetime

import pytest
from prefect.logging import disable_run_logger

from tasks.checks.integrity import WITNESSES
from tasks.checks.witness import compare_with_newest_backup
from tasks.core.checks.definition import Verdict
from tasks.core.context import CONTEXT_FILE, parse_context, read_context_folder
from tasks.core.postgres.connection import Server
from tasks.core.postgres.programs import Running
from tasks.run import site
from tasks.run.run import Run
from tasks.store.address import StoreAddress
from tests.support.example import CONTEXT
from tests.support.world import World


@pytest.mark.long
def test_its_objects_are_as_in_the_backup(world: World) -> None:
    world.backup()
    world.recover()
    given = world.environment(world.target, "backup_reader")
    server = Server({name: given[f"PG{name.upper()}"] for name in ("host", "port", "user", "password")})
    context = parse_context(read_context_folder(site.CONTEXTS / CONTEXT)[CONTEXT_FILE], "")
    run = Run("integrity_check", CONTEXT, "3f9c", datetime.now(UTC), world.folder, Running())
    with disable_run_logger():
        found = compare_with_newest_backup.fn(server, world.database, run, context, StoreAddress(world.store["BACKUP_STORE"]), 60)
    changed = {one.check: (one.verdict, one.sample) for one in found}[WITNESSES[2]]
    assert changed == (Verdict.OK, [])
