"""Databases with drawn schemas."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from deployments.local import LocalServer
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.manifest_file import MANIFEST_FILE, parse_manifest
from tasks.run import site
from tests.support.contexts import write_context
from tests.support.random_schemas import Changes, Schema, Version, ident
from tests.support.random_surroundings import BESIDE, NEIGHBOURS, schemas
from tests.support.servers import drop_databases
from tests.support.variants import EVERY_VARIANT
from tests.support.whole_database import Whole, whole
from tests.support.world import World

THERE_ALREADY = (
    psycopg.errors.DuplicateObject, psycopg.errors.DuplicateTable, psycopg.errors.DuplicateFunction, psycopg.errors.DuplicateSchema,
)  # fmt: skip
ROLE = 'Rolle "zufällig"'
DATABASE = "zufällig"
CONTEXT = "bc-902"
DRAWN = schemas(ident(ROLE), Version())
# Debian's has collations of ICU.
DRAWN_FOR_15 = schemas(ident(ROLE), Version(15, icu=True))
# An example takes seconds, most of which are the database's; what failed can be run again by the blob that is printed.
HOW = settings(
    deadline=None, print_blob=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)  # fmt: skip
# The same schemas each time, so that a red run is due to a change; as many others as are asked for, to look for what nobody knows.
OTHERS = int(os.environ.get("RANDOM_SCHEMAS", "0"))
thoroughly = settings(HOW, max_examples=OTHERS or 25, derandomize=not OTHERS)
repeatedly = settings(HOW, max_examples=OTHERS or (25 if EVERY_VARIANT else 5), derandomize=not OTHERS)


@dataclass(frozen=True)
class TwoServers:
    """Where schemas are made and recovered."""

    source: LocalServer
    target: LocalServer
    api: str


@dataclass(frozen=True)
class Drawn:
    """A drawn schema in a database of its own."""

    world: World
    schema: Schema

    def execute(self, statements: Iterable[str], *, owner: bool = True, all_of_them: bool = True) -> None:
        """Run statements; of rows those that violate nothing."""
        passed_over: tuple[type[Exception], ...] = () if all_of_them else (psycopg.DatabaseError,)
        with self.world.connect() as connection:
            connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(self.schema.namespace)))
            if owner:
                connection.execute("SET ROLE consulting_owner")
            for statement in statements:
                with contextlib.suppress(*passed_over):
                    connection.execute(statement.encode())

    def make(self) -> None:
        """Make the schema and its rows."""
        around = self.schema.around
        first = [statement for piece in around for statement in piece.first]
        self.execute([*NEIGHBOURS, *dict.fromkeys(first), *self.schema.spaces], owner=False)
        self.execute(self.schema.statements())
        # Row-level security may be forced on the owner.
        self.execute(self.schema.rows(), owner=False, all_of_them=False)
        self.execute(self.schema.finish())
        self.execute([statement for piece in around for statement in (*piece.theirs, *piece.last)], owner=False)

    def change(self, drawn: Changes) -> None:
        """Change rows, as far as constraints allow."""
        self.execute(drawn.statements(self.schema, self.leaves()), owner=False, all_of_them=False)

    def leaves(self) -> list[str]:
        """Return the relations that hold rows."""
        with self.world.connect() as connection:
            connection.execute("SET search_path = pg_catalog")
            found = connection.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid >= 16384 ORDER BY 1")
            return [row[0] for row in found]

    def state(self, server: LocalServer) -> Whole:
        """Return what the oracle sees, and all that pg_dump prints."""
        views = [view.name for view in self.schema.all_views()]
        return whole(server, DATABASE, self.schema.namespace, self.schema.all_tables(), views)

    def refresh(self) -> None:
        """Fill the materialized views with what they would show now."""
        self.execute(self.schema.refresh())

    def manifest(self) -> Manifest:
        """Return the manifest of the newest set."""
        *_, file = sorted(self.world.store_folder.glob(f"{CONTEXT}/*/*/{MANIFEST_FILE}"), key=lambda path: path.stat().st_mtime_ns)
        return parse_manifest(file.read_bytes(), str(file))

    def named(self) -> set[str]:
        """Return what the newest set says that it does not have."""
        manifest = self.manifest()
        return {*(one.name for one in manifest.by_hand), *manifest.left_out, *manifest.forgotten_tables}

    def complete(self) -> None:
        """Make in the recovered database what belongs to others, and what the set has by its statements only."""
        by_hand = [one for one in self.manifest().by_hand if not re.match(rf"[a-z ]+ {BESIDE}(\.|$)", one.name)]
        assert [one.name for one in by_hand if not one.statements] == []
        theirs = [statement for piece in self.schema.around for statement in piece.theirs]
        with self.world.connect(self.world.target) as connection:
            for statement in NEIGHBOURS:
                connection.execute(statement.encode())
            for one in by_hand:
                connection.execute(one.statements.encode())
            connection.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(self.schema.namespace)))
            for statement in theirs:
                connection.execute(statement.encode())
        if self.manifest().outbound_keys:
            assert self.world.recover(context=CONTEXT, resume="constraints").startswith("PASS")

    def make_what_went(self, manifest: Manifest) -> None:
        """Make in the database what a set has by its statements only, as far as it went with what was dropped."""
        with self.world.connect() as connection:
            for left_out in manifest.by_hand:
                with contextlib.suppress(*THERE_ALREADY):
                    connection.execute(left_out.statements.encode())


@contextlib.contextmanager
def made(servers: TwoServers, schema: Schema) -> Iterator[Drawn]:
    """Make a database with a drawn schema, a context file for it and an empty store, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="backup-test-") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        (folder / "store").mkdir()
        world = World(servers.source, servers.target, folder, servers.api, {"BACKUP_STORE": str(folder / "store")}, DATABASE)
        patch.setattr(site, "CONTEXTS", folder / "contexts")
        write_context(
            site.CONTEXTS, name=CONTEXT, database=DATABASE, schema=schema.namespace,
            tables=schema.all_tables(), views=[view.name for view in schema.all_views()],
            neighbours={"bc-003": [name for piece in schema.around for name in piece.neighbours]},
        )  # fmt: skip
        servers.source.create_database(DATABASE, "consulting_owner")
        try:
            drawn = Drawn(world, schema)
            drawn.make()
            yield drawn
        finally:
            for server in (servers.source, servers.target):
                drop_databases(server)
