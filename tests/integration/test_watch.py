"""The watch over the recovery point: it looks, takes a differential in time, and is red before too much could be lost."""

import shutil
from datetime import timedelta
from typing import Any

import httpx
import pytest

from flows.backup import list_backups
from flows.watch import watch_recovery_point
from tasks.core.errors import OperationError
from tasks.core.run.clock import now
from tests.support.faults import wait_for
from tests.support.moments import SECONDS
from tests.support.world import World


def watch(world: World, hours: float = 0.0, **parameters: Any) -> str:
    """Run the watch, or as if it were so many hours later."""
    as_of = {"as_of": (now() + timedelta(hours=hours)).isoformat()} if hours else {}
    return str(world.run(watch_recovery_point, "backup_reader", **as_of, **parameters))


def kinds(world: World) -> list[object]:
    return [row["kind"] for row in world.run(list_backups, "backup_reader")]


def events(world: World) -> list[dict[str, Any]]:
    asked = {"filter": {"event": {"prefix": ["recovery-point."]}, "order": "DESC"}, "limit": 5}
    return list(httpx.post(f"{world.api}/events/filter", json=asked).raise_for_status().json()["events"])


def test_a_differential_is_taken_in_time(world: World) -> None:
    world.backup()
    assert watch(world).startswith("PASS: bc-004_full_")
    assert watch(world, 3.4).startswith("PASS: bc-004_full_")
    assert kinds(world) == ["full"]
    said = watch(world, 3.6)
    assert said.startswith("PASS: bc-004_differential_")
    assert ", not off-host; a differential was due: STORED: bc-004_differential_" in said
    assert kinds(world) == ["differential", "full"]
    assert watch(world, 3.4, every_minutes=5).startswith("PASS: bc-004_differential_")
    assert kinds(world) == ["differential", "full"]


@pytest.mark.long
def test_without_the_database_it_is_red_before_the_objective_is_missed(world: World) -> None:
    world.backup()
    world.extra["PGPORT"] = "1"
    assert watch(world, 3.4).startswith("PASS")
    with pytest.raises(
        OperationError, match=r"the age will exceed the RPO before the next run.*a differential was due, and failed: "
    ):
        watch(world, 3.9)
    with pytest.raises(OperationError, match=r"FAIL: .*: a disaster now would lose more than the RPO allows"):
        watch(world, 4.1)
    seen = wait_for(lambda: [one for one in events(world) if one["event"] == "recovery-point.missed"], SECONDS, "the event")[0]
    assert seen["resource"]["prefect.resource.id"] == "bounded-context.bc-004"
    assert seen["payload"]["rpo_seconds"] == 4 * 3600
    assert seen["payload"]["age_seconds"] > 4 * 3600


@pytest.mark.long
def test_a_base_that_is_gone_is_noticed(world: World) -> None:
    world.backup()
    world.differential()
    shutil.rmtree(world.set_folders()[0])
    with pytest.raises(OperationError, match="FAIL: no set can be restored"):
        watch(world, refresh=False)
    assert watch(world).startswith("PASS: bc-004_full_")


@pytest.mark.long
def test_an_empty_store_is_filled(world: World) -> None:
    assert watch(world).startswith("PASS: bc-004_full_")


@pytest.mark.long
def test_a_suspect_state_is_red(world: World) -> None:
    world.backup()
    with world.connect() as connection:
        connection.execute("TRUNCATE policy_scopes")
    with pytest.raises(OperationError, match=r"FAIL: .* is SUSPECT: .*; a differential was due, and failed: SUSPECT"):
        watch(world, 3.6)


@pytest.mark.long
def test_what_was_known_at_an_instant_of_the_past(world: World) -> None:
    world.backup()
    between = now()
    world.differential()
    said = str(world.run(watch_recovery_point, "backup_reader", as_of=between.isoformat()))
    assert said.startswith("PASS: bc-004_full_")
    with pytest.raises(OperationError, match="FAIL: no set can be restored"):
        world.run(watch_recovery_point, "backup_reader", as_of="2001-01-01")
    # Of what is past nothing can be made good.
    assert kinds(world) == ["differential", "full"]


@pytest.mark.long
def test_a_store_that_cannot_be_asked_is_told(world: World) -> None:
    world.store["BACKUP_STORE"] = str(world.folder / "absent")
    with pytest.raises(OperationError, match="does not exist; mount or create it"):
        watch(world)
    wait_for(lambda: [one for one in events(world) if one["event"] == "recovery-point.unknown"], SECONDS, "the event")
