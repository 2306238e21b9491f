"""A small context `bc-902` in a schema of its own, with whatever a test puts around it."""

import pytest

from flows.recovery import recovery_drill
from tasks.core.errors import OperationError
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.manifest_file import MANIFEST_FILE, parse_manifest
from tasks.run import site
from tests.support.contexts import write_context
from tests.support.database import execute
from tests.support.example import DATABASE
from tests.support.reports import report
from tests.support.servers import drop_databases
from tests.support.world import World

CONTEXT = "bc-902"
AS_OWNER = "SET ROLE consulting_owner"
NEIGHBOURS = (
    "CREATE SCHEMA beside AUTHORIZATION consulting_owner", "CREATE TABLE beside.users (id uuid PRIMARY KEY)",
    "CREATE TABLE beside.log (at timestamptz DEFAULT now(), id int)",
    "ALTER TABLE beside.users OWNER TO consulting_owner; ALTER TABLE beside.log OWNER TO consulting_owner",
)  # fmt: skip


def surround(world: World, monkeypatch: pytest.MonkeyPatch, *statements: str, **keys: object) -> None:
    """Make `odd.t` with two rows, tables of others beside it, a context, and what the statements say, as the owner."""
    execute(
        world, *NEIGHBOURS, "CREATE SCHEMA odd AUTHORIZATION consulting_owner", AS_OWNER, "SET search_path = odd, public",
        "CREATE TABLE t (id int PRIMARY KEY, v text, u uuid)", "INSERT INTO t VALUES (1, 'a'), (2, 'b')", *statements,
    )  # fmt: skip
    monkeypatch.setattr(site, "CONTEXTS", world.folder / "contexts")
    write_context(site.CONTEXTS, **({"name": CONTEXT, "database": DATABASE, "schema": "odd", "tables": ["t"]} | keys))


def newest(world: World) -> Manifest:
    """Return the manifest of the newest full."""
    *_, folder = sorted(world.store_folder.glob(f"{CONTEXT}/daily/*"))
    return parse_manifest((folder / MANIFEST_FILE).read_bytes(), str(folder))


def to_do(text: str) -> str:
    """Return what a report says is still to be done."""
    return text.partition("## Still to do")[2].partition("\n## ")[0]


def stored_and_recovered(world: World, *, writes_fail: str = "") -> str:
    """Back up, and recover on the other server, where writes may fail for a reason; return what is still to be done there.

    Where there is no other, the databases are dropped first.
    """
    assert world.backup(context=CONTEXT).startswith("STORED")
    if world.source is world.target:
        drop_databases(world.source)
    if writes_fail:
        with pytest.raises(OperationError, match=f"^RECOVERED, WRITES FAIL: odd.t: {writes_fail}"):
            world.recover(context=CONTEXT)
    else:
        assert world.recover(context=CONTEXT).startswith("PASS")
    return to_do(report(world, f"{CONTEXT}-recovery"))


def rehearsed(world: World) -> str:
    """Rehearse the recovery of the newest set on the server of the source."""
    return str(world.run(recovery_drill, "backup_restorer", context=CONTEXT))


def run_on_target(world: World, *statements: str) -> None:
    """Run statements in the recovered database as the owner of the tables."""
    with world.connect(world.target) as connection:
        connection.execute(AS_OWNER)
        for statement in statements:
            connection.execute(statement.encode())


def ask_target(world: World, query: str) -> list[tuple[object, ...]]:
    with world.connect(world.target) as connection:
        return connection.execute(query.encode()).fetchall()
