"""Files of the old scripts."""

import subprocess
from pathlib import Path

from tests.support.example import CONTEXT, DATABASE, TABLES
from tests.support.world import World


def old_script(world: World, *more: str) -> Path:
    """Make the file that the old daily script makes: named tables of one schema, and nothing that they need."""
    file = world.store_folder / CONTEXT / "daily" / "bc-004_full_20251103_020000.dump"
    file.parent.mkdir(parents=True, exist_ok=True)
    tables = [word for name in TABLES for word in ("-t", name)]
    subprocess.run(
        [world.source.bin / "pg_dump", "-Fc", "--schema=public", *tables, *more, "-f", file, world.source.conninfo(DATABASE)],
        check=True,
    )
    return file
