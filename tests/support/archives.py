"""Archives of partitions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.partitions import archive_partitions, reattach_partition
from tasks.partitions import archive as partitions_archive
from tests.support.example import CONTEXT, DATABASE
from tests.support.world import World

RESOLVED = (
    "UPDATE policy_violations SET status = 'resolved', resolved_at = detected_at "
    "WHERE status = 'active' AND detected_at < '2024-01-01'"
)
# When the years before 2023 are past what the example's rule keeps, and 2023 is not.
ONE_YEAR_IS_DUE = "2026-01-15T05:00+09:00"
ROW = "(SELECT min(id::text)::uuid FROM policy_violations_2022)"
ROWS = "SELECT count(*), md5(string_agg(v::text, '' ORDER BY v.id)) FROM policy_violations v WHERE detected_at < '2023-01-01'"


def archive(world: World, **parameters: Any) -> str:
    words = {"dry_run": False, "confirm_database": DATABASE} | parameters
    return str(world.run(archive_partitions, "backup_restorer", **words))


def reattach(world: World, **parameters: Any) -> str:
    return str(world.run(reattach_partition, "backup_restorer", **parameters))


def archives(world: World) -> list[Path]:
    """Return the archive sets that are committed."""
    return [path.parent for path in sorted(world.store_folder.glob(f"{CONTEXT}/archive/*/manifest.json"))]


def acting(monkeypatch: pytest.MonkeyPatch, step: str, act: Callable[[], object], *, after: bool = True) -> None:
    """Do something once after, or before, a step of the archive."""
    original, done = getattr(partitions_archive, step), list[bool]()

    def stand_in(*arguments: Any, **more: Any) -> Any:
        if not after and not done:
            done.append(True)
            act()
        found = original(*arguments, **more)
        if after and not done:
            done.append(True)
            act()
        return found

    monkeypatch.setattr(partitions_archive, step, stand_in)
