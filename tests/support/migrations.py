"""Parts of the source database in the target."""

import subprocess

from tests.support.example import DATABASE
from tests.support.world import World


def copy_to_target(world: World, *options: str) -> None:
    """Copy a part of the source database into the target's, with PostgreSQL's own programs."""
    dump = [str(world.source.bin / "pg_dump"), f"--dbname={world.source.conninfo(DATABASE)}", *options]
    script = subprocess.run(dump, check=True, capture_output=True).stdout
    psql = [
        str(world.target.bin / "psql"),
        "--no-psqlrc",
        "--quiet",
        "--set=ON_ERROR_STOP=1",
        f"--dbname={world.target.conninfo(DATABASE)}",
    ]
    subprocess.run(psql, input=script, check=True, capture_output=True)


def give_users(world: World) -> None:
    """Let the other context's table be there, with all its rows."""
    copy_to_target(world, "--table=public.users")


def migrate(world: World) -> None:
    """Let the target have everything but rows of ours, as an application's migrations leave it."""
    copy_to_target(world, "--schema-only")
    copy_to_target(world, "--data-only", "--table=public.users")
