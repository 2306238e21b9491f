"""A backup from which too many rows are gone is stored, called suspect, and fails the run; labels and terms are kept."""

import re

import pytest

from flows.backup import daily_backup, list_backups
from flows.checks import integrity_check
from flows.recovery import recovery_drill
from tasks.core.errors import BadInput, OperationError
from tests.support.database import execute
from tests.support.world import World

EMPTIED = "TRUNCATE policy_scopes"
SHRUNK = "DELETE FROM policy_violations WHERE detected_at < '2023-05-01'"


def states(world: World) -> list[str]:
    return [str(row["state"]) for row in world.run(list_backups, "backup_reader")]


def notes(world: World) -> list[str]:
    return [str(row["note"]) for row in world.run(list_backups, "backup_reader")]


@pytest.mark.long
def test_an_emptied_table_makes_a_set_suspect_until_it_is_accepted(world: World) -> None:
    world.backup()
    execute(world, EMPTIED)
    for _ in range(2):
        # The second night is measured against the last good set, not against the first suspect one.
        with pytest.raises(OperationError, match=r"^SUSPECT: .* lost rows .*: public.policy_scopes: 0 of 100 rows left; find out"):
            world.backup()
    assert states(world) == ["suspect", "suspect", "stored"]
    assert notes(world)[0] == "lost since the last good full backup: public.policy_scopes: 0 of 100 rows left"
    assert re.match(r"PASS: RTO .*; the set is SUSPECT$", world.recover())

    assert world.run(daily_backup, "backup_reader", accept_losses=True).startswith("STORED")
    assert world.backup().startswith("STORED")
    assert states(world) == ["stored", "stored", "suspect", "suspect", "stored"]


@pytest.mark.long
def test_a_backup_of_the_damage_does_not_make_the_check_green(world: World) -> None:
    world.backup()
    execute(world, EMPTIED)
    with pytest.raises(OperationError, match=r"^SUSPECT"):
        world.backup()
    with pytest.raises(OperationError, match="rows of the newest backup: 1 offending"):
        world.run(integrity_check, "backup_reader")
    with pytest.raises(OperationError, match=r"^FAIL: the set is SUSPECT, RTO"):
        world.run(recovery_drill, "backup_restorer", world.target)


@pytest.mark.long
def test_a_partitioned_table_is_measured_whole_and_by_partition(world: World) -> None:
    world.backup()
    execute(world, SHRUNK)
    with pytest.raises(OperationError) as error:
        world.backup()
    lost = re.findall(r"public\.policy_violations\w*: [\d,]+ of [\d,]+ rows", str(error.value))
    assert [one.partition(":")[0] for one in lost] == [
        "public.policy_violations_2021", "public.policy_violations", "public.policy_violations_2022",
    ]  # fmt: skip


@pytest.mark.long
def test_ordinary_days_are_not_suspect(world: World) -> None:
    world.backup()
    execute(world, "DELETE FROM policy_scopes WHERE id IN (SELECT id FROM policy_scopes LIMIT 20)")
    assert world.backup().startswith("STORED")


def test_a_label_and_a_term_are_kept(world: World) -> None:
    world.run(daily_backup, "backup_reader", label="before release 12", keep_until="2099-12-31")
    assert notes(world) == ["before release 12, keep until 2099-12-31 00:00:00 JST"]


@pytest.mark.parametrize(
    ("keep_until", "said"), [("2001-01-01", "is in the past; pass a later one"), ("soon", "is not a valid timestamp")]
)
def test_a_term_that_is_none(world: World, keep_until: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        world.run(daily_backup, "backup_reader", keep_until=keep_until)
    assert world.set_folders() == []
