"""temp_file_limit: what needs more ends with one error that names login, limit and remedy, and with nothing changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.sql import SQL

from deployments import local
from flows.checks import integrity_check
from flows.restore import full_restore
from tasks.core import sql
from tasks.core.errors import OperationError
from tests.support.database import execute, unlike
from tests.support.example import DATABASE, make_template
from tests.support.reports import newest_report
from tests.support.servers import CONTRIB, SETTINGS, bin_of, prepare
from tests.support.world import World, new_world

pytestmark = pytest.mark.long
REMEDY = r'"?temp_file_limit"? \(0kB\); as a superuser, raise the limit of the login: ALTER ROLE '
# Sorts and joins of a few rows need files then.
LITTLE = SQL("SELECT set_config('work_mem', '64kB', false)")
LITTLE_TO_SORT = SQL("SET maintenance_work_mem = '1MB'")


@pytest.fixture(params=[CONTRIB, 16, 15], ids=["18", "16", "15"])
def limited(prefect_api: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A world with a backup and damaged rows, on a server where no login of ours may have a temporary file."""
    with local.postgres(bin_of(request.param), **SETTINGS) as server:
        make_template(prepare(server), violations_per_year=20_000)
        world = new_world(server, server, prefect_api, folder)
        world.backup()
        execute(world, "DELETE FROM policy_violations_2025 WHERE ctid < '(9,1)'", "DROP INDEX policy_violations_target_idx")
        execute(world, "ALTER SYSTEM SET work_mem = '64kB'", "SELECT pg_reload_conf()")
        limit(world, 0, "backup_reader", "backup_restorer", "backup_loader")
        yield world


def limit(world: World, kilobytes: int, *logins: str) -> None:
    execute(world, *(f"ALTER ROLE {login} SET temp_file_limit = {kilobytes}" for login in logins))


def restore(world: World, **more: Any) -> str:
    return str(world.run(full_restore, "backup_restorer", in_place=True, **more))


def test_what_needs_more_than_the_limit(limited: World, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged, sets = limited.state(), limited.set_folders()
    with pytest.raises(OperationError, match=rf'login "backup_reader" in database "{DATABASE}": .*{REMEDY}"backup_reader" SET'):
        limited.backup()
    assert [folder for folder in limited.set_folders() if (folder / "manifest.json").exists()] == sets
    # Before 18 the catalog's own queries need files, so that no check can be run.
    with pytest.raises(OperationError, match=rf'^(FAIL: .* CANNOT BE RUN; |login "backup_reader" in database ).*{REMEDY}'):
        limited.run(integrity_check, "backup_reader")
    # From here on of the login alone that writes: another takes the safety set.
    limit(limited, -1, "backup_restorer")
    execute(limited, "ALTER SYSTEM RESET work_mem", "SELECT pg_reload_conf()")
    with (
        monkeypatch.context() as patch,
        pytest.raises(OperationError, match=rf'login "backup_loader" .*{REMEDY}"backup_loader" SET'),
    ):
        patch.setattr(sql.staging, "JOIN_IN_MEMORY", LITTLE)
        restore(limited)
    assert restore(limited).startswith("PLANNED, nothing touched: ")
    assert 'login "backup_loader" may have 0 of temporary files' in newest_report(limited, "bc-004-restore-plan")
    confirmed = {"dry_run": False, "confirm_database": DATABASE}
    with monkeypatch.context() as patch, pytest.raises(OperationError, match=rf'is unchanged: .*{REMEDY}"backup_loader" SET'):
        patch.setattr(sql.session, "SORT_IN_MEMORY", LITTLE_TO_SORT)
        restore(limited, **confirmed)
    assert unlike(damaged, limited.state()) == []
    limit(limited, -1, "backup_loader")
    assert restore(limited, **confirmed).startswith("RESTORED: ")
    assert "temporary files" not in newest_report(limited, "bc-004-restore-plan")
