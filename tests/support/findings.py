"""What the checks of a database find, as the flow runs them, without a flow around them."""

from datetime import UTC, datetime
from typing import Any

from prefect.logging import disable_run_logger

from tasks.checks.integrity import run_checks
from tasks.checks.partitions import compare_past_partitions
from tasks.checks.witness import compare_with_newest_backup
from tasks.core.checks.definition import Finding
from tasks.core.context import CONTEXT_FILE, parse_context, read_context_folder
from tasks.core.postgres.programs import Running
from tasks.run import site
from tasks.run.run import Run
from tasks.store.address import StoreAddress
from tests.support.database import server_of
from tests.support.example import CONTEXT
from tests.support.world import World

SUMMER = datetime(2027, 6, 1, tzinfo=UTC)


def check(world: World, instant: datetime = SUMMER, **how: Any) -> list[Finding]:
    """Run all checks of a database as of an instant."""
    files = read_context_folder(site.CONTEXTS / CONTEXT)
    run = Run("integrity_check", CONTEXT, "3f9c", instant, world.folder, Running())
    definition = parse_context(files[CONTEXT_FILE], "").model_copy(update=how.get("keys", {}))
    place = (server_of(world, how.get("user", "backup_reader")), world.database, run, definition)
    seconds, store = how.get("timeout_seconds", 60), StoreAddress(how.get("store", world.store["BACKUP_STORE"]))
    with disable_run_logger():
        findings = [*run_checks.fn(*place, files, seconds, instant), *compare_with_newest_backup.fn(*place, store, seconds)]
        return [*findings, *compare_past_partitions.fn(*place, store, seconds)[0]]
