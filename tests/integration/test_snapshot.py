"""A backup's snapshot is of one state, though tables go and come while it is taken."""

from typing import Any

import pytest

from tasks.core.context import Context
from tasks.core.errors import BadInput
from tasks.core.postgres.connection import Connection
from tasks.database import snapshot
from tests.support.database import execute
from tests.support.example import TABLES
from tests.support.world import World

GO, COME = "ALTER SCHEMA public RENAME TO aside", "ALTER SCHEMA aside RENAME TO public"


@pytest.mark.parametrize("come_back", [True, False])
def test_all_tables_go_just_before_they_are_locked(world: World, monkeypatch: pytest.MonkeyPatch, come_back: bool) -> None:
    """Where they come back, as after a migration that swaps schemas, it is taken again; else they are named as missing."""
    read, found = snapshot.read_relations, list[Any]()

    def late(connection: Connection, context: Context) -> Any:
        if not found:
            execute(world, GO)
        found.append(read(connection, context))
        if come_back and len(found) == 1:
            execute(world, COME)
        return found[-1]

    monkeypatch.setattr(snapshot, "read_relations", late)
    if come_back:
        assert world.backup().startswith("STORED")
        assert [len(relations) > len(TABLES) for relations in found] == [False, True]
    else:
        with pytest.raises(BadInput, match=rf"{', '.join(TABLES)}.* not found"):
            world.backup()
        assert [*world.store_folder.glob("bc-004/*/*/manifest.json")] == []
    assert found[0] == ()
