"""A store with backups of several kinds, and their pruning."""

import hashlib
from pathlib import Path
from typing import Any

from flows.backup import list_backups
from flows.retention import prune_backups
from tasks.core.sets.facts import ExpiryRecord
from tests.support.example import CONTEXT
from tests.support.oracle import State
from tests.support.world import World

# The scripts' own files in all their prefixes, among them one inside a folder where ours lie, and things of others.
FOREIGN = [
    "bc-004/daily/bc-004_full_20241103_020000.dump.gz", "bc-004/violations/2024/policy_violations_2024_11.dump.gz",
    "bc-004/archive/policy_violations_2021.dump.gz", "bc-004/differential/bc-004_teams_20241103_020000.dump.gz",
    "bc-004/bc-004_full_20241103_020000.dump", "bc-004/notes.txt", "bc-005/daily/bc-005_full_20200101_000000_aaaa/data/x.copy.zst",
    "elsewhere/bc-004/daily/bc-004_full_20200101_000000_aaaa/data/x.copy.zst",
]  # fmt: skip


class Kept:
    """A store with two fulls, each with a differential, and what belongs to others; tests work on copies of it."""

    def __init__(self, folder: Path, before: State) -> None:
        self.folder, self.before = folder, before


def prune(world: World, **parameters: Any) -> str:
    return str(world.run(prune_backups, "backup_reader", **{"dry_run": False} | parameters))


def states(world: World) -> dict[str, str]:
    """Return the states of what is listed by kind and place in time, for example {"full 0": "stored"}."""
    rows = [row for row in world.run(list_backups, "backup_reader") if row["kind"] != "legacy"]
    ids = sorted({str(row["id"]) for row in rows}, key=lambda one: one[-20:])
    return {f"{row['kind']} {ids.index(str(row['id']))}": str(row["state"]) for row in rows}


def contents(world: World) -> dict[str, str]:
    """Return every object of a folder store but the records of pruning, with a digest of its bytes."""
    root = world.store_folder
    files = [path for path in root.rglob("*") if path.is_file() and path.parent != root / CONTEXT / ExpiryRecord.folder]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
