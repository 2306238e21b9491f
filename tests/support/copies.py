"""A world that is backed up once, and copied for each test of a module."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg import sql

from tests.support.database import execute
from tests.support.servers import drop_databases
from tests.support.world import World

AS_BACKED_UP = "as_backed_up"
SEQUENCE = "CREATE SEQUENCE ticket", "ALTER SEQUENCE ticket OWNER TO consulting_owner", "ALTER SEQUENCE ticket OWNED BY teams.id"


@contextmanager
def backed_up_once(world: World, *statements: str) -> Iterator[World]:
    """Change a world's database, back it up, and keep it as a template."""
    execute(world, *statements)
    world.backup()
    with world.source.connect() as connection:
        renamed = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        connection.execute(renamed.format(sql.Identifier(world.database), sql.Identifier(AS_BACKED_UP)))
    yield world
    drop_databases(world.source)


@contextmanager
def copy_of(world: World, folder: Path) -> Iterator[World]:
    """Have a copy of such a world, with a store of its own."""
    names = sql.Identifier(world.database), sql.Identifier(AS_BACKED_UP)
    with world.source.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER consulting_owner").format(*names))
    store = shutil.copytree(world.store_folder, folder / "store")
    yield World(world.source, world.target, folder, world.api, {"BACKUP_STORE": str(store)})
    with world.source.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(names[0]))
