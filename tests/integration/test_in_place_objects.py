"""Objects of a live context that are not what they were: a restore in place says so, or sets them back."""

from typing import Any

import pytest

from tests.support.damages import DAMAGES, OTHERS, Damage
from tests.support.database import execute, unlike
from tests.support.reports import newest_report
from tests.support.restores import plan, restore
from tests.support.world import World

LOST_TO_OTHERS = "others' key lost"
QUICK = ("an outbound key dropped", "all triggers off", "a default")


def damage(world: World, damages: tuple[Damage, ...]) -> Any:
    """Back up, then damage; return the state before."""
    execute(world, *OTHERS)
    before = world.state()
    world.backup()
    execute(world, *(statement for one in damages for statement in one.statements))
    return before


def restored(world: World, damages: tuple[Damage, ...], **parameters: Any) -> tuple[str, str]:
    """Plan and restore; return verdict and report. No damage is denied by the plan."""
    planned = plan(world, **parameters)
    assert "nothing differs" not in planned
    text = newest_report(world, "bc-004-restore-plan")
    assert [one.name for one in damages if one.named not in text] == []
    return restore(world, **parameters), newest_report(world)


def judge(world: World, before: Any, damages: tuple[Damage, ...], objects: str) -> None:
    """Restore; what the oracle still sees is denied by neither verdict nor report, and nothing else is called left."""
    verdict, report = restored(world, damages, objects=objects)
    left = unlike(before, world.state())
    still = [one for one in damages if not (one.back or (objects == "restore" and one.back_with_objects))]
    assert (left != []) is any(one.name != LOST_TO_OTHERS for one in still), left
    assert verdict.startswith("RESTORED, BUT OBJECTS DIFFER: " if still else "RESTORED: ")
    told = report.partition("Still to do")[2]
    assert [one.name for one in damages if (one.named in told) is not (one in still)] == []


def test_a_few_damages(world: World) -> None:
    few = tuple(one for one in DAMAGES if one.name in QUICK)
    before = damage(world, few)
    judge(world, before, few, "plan")
    judge(world, before, tuple(one for one in few if not one.back), "restore")


@pytest.mark.long
@pytest.mark.parametrize("objects", ["plan", "restore"])
@pytest.mark.parametrize("one", DAMAGES, ids=str)
def test_no_difference_is_denied(world: World, one: Damage, objects: str) -> None:
    judge(world, damage(world, (one,)), (one,), objects)
