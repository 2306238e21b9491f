"""A restore into the live database happened, or it did not: rows, objects, and what others have."""

import pytest

from flows.backup import differential_backup
from tasks.core.errors import UnsafeTarget
from tests.support.database import execute, unlike
from tests.support.example import TABLES
from tests.support.restores import ALL, DAMAGE, plan, restore, safety_sets
from tests.support.world import World

long = pytest.mark.long


def test_planned_confirmed_done_and_undone(world: World) -> None:
    before = world.state()
    world.backup()
    assert plan(world) == "PLANNED, nothing touched: nothing differs"
    execute(world, *DAMAGE["rows deleted and changed"], f"TRUNCATE {ALL.rpartition(',')[0].rpartition(',')[2]}")
    damaged = world.state()
    said = plan(world)
    assert said.startswith("PLANNED, nothing touched: ")
    with pytest.raises(UnsafeTarget, match='pass confirm_database="consulting_tool"'):
        restore(world, confirm_database="another")
    assert damaged.differences(world.state()) == []
    assert safety_sets(world) == []

    assert restore(world).startswith("RESTORED")
    assert unlike(before, world.state()) == []
    (safety,) = safety_sets(world)
    # It is no backup that anything else would take.
    assert "differential" in str(world.run(differential_backup, "backup_reader"))
    assert restore(world, backup=safety).startswith("RESTORED")
    assert unlike(damaged, world.state()) == []


@long
def test_a_differential_into_the_living(world: World) -> None:
    world.backup()
    execute(world, *DAMAGE["rows moved to another partition"])
    before = world.state()
    world.differential(accept_losses=True)
    execute(world, *DAMAGE["all tables empty"])
    assert restore(world).startswith("RESTORED")
    assert unlike(before, world.state()) == []


@pytest.mark.long
def test_where_nothing_of_the_context_is_left(world: World) -> None:
    before = world.state()
    world.backup()
    execute(world, f"DROP TABLE {', '.join(TABLES)} CASCADE")
    assert restore(world).startswith("RESTORED")
    assert unlike(before, world.state()) == []
