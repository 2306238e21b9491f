"""The daily report, on a store of real sets of which copies were taken at other times: what is kept, and what is not, is told."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError

from deployments.local import LocalServer
from flows.backup import long_term_backup
from flows.checks import integrity_check
from flows.recovery import recovery_drill
from flows.retention import prune_backups
from flows.watch import backup_report, verify_backups
from tasks.core.errors import OperationError
from tasks.core.run.clock import new_run_id, now
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.manifest_file import MANIFEST_FILE, parse_manifest, render_manifest
from tasks.core.sets.name import new_set_name, sort_of
from tests.support.clock import later
from tests.support.example import CONTEXT
from tests.support.reports import artifact
from tests.support.servers import drop_databases
from tests.support.world import World, new_world

EVERY = timedelta(hours=3, minutes=50)
TAKES = timedelta(minutes=5)


@dataclass
class Month:
    """A store in which real sets were taken at instants that a test names."""

    world: World
    full: Path
    differential: Path

    def take(self, of: Path, instant: datetime, base: str | None = None, took: timedelta = TAKES) -> Manifest:
        """Copy a set as if it had been taken then."""
        manifest = parse_manifest((of / MANIFEST_FILE).read_bytes(), of.name)
        name = new_set_name(CONTEXT, sort_of(manifest.id), instant, manifest.zone, new_run_id())
        snapshot = manifest.snapshot.model_copy(update={"instant": instant})
        changes = {"id": name.id, "snapshot": snapshot, "finished": instant + took, "base": base}
        folder = shutil.copytree(of, self.world.store_folder / name.folder, copy_function=os.link)
        (folder / MANIFEST_FILE).unlink()
        copy = manifest.model_copy(update=changes)
        (folder / MANIFEST_FILE).write_bytes(render_manifest(copy))
        return copy

    def take_every(self, start: datetime, end: datetime) -> list[Manifest]:
        """Take a differential each few hours, and each sixth time a full."""
        taken, number = list[Manifest](), 0
        while start + number * EVERY < end:
            base = None if number % 6 == 0 else next(one.id for one in reversed(taken) if one.base is None)
            of = self.differential if base else self.full
            taken.append(self.take(of, start + number * EVERY, base))
            number += 1
        return taken


@pytest.fixture(scope="module")
def real(source: LocalServer, target: LocalServer, prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A full, a differential and a long-term set, a drill, and checks of which the second one found something."""
    folder = tmp_path_factory.mktemp("report")
    world = new_world(source, target, prefect_api, folder)
    world.backup()
    world.differential()
    world.run(long_term_backup, "backup_reader")
    world.run(recovery_drill, "backup_restorer", target)
    world.run(integrity_check, "backup_reader")
    with world.connect() as connection:
        connection.execute("ALTER TABLE teams DISABLE TRIGGER USER")
    with pytest.raises(OperationError, match="triggers enabled"):
        world.run(integrity_check, "backup_reader")
    drop_databases(source)
    yield world


@pytest.fixture
def month(real: World, folder: Path) -> Iterator[Month]:
    """A copy of that store, in which the test takes its sets; there is no database."""
    store = Path(shutil.copytree(real.store_folder, folder / "store"))
    world = World(real.source, real.target, folder, real.api, {"BACKUP_STORE": str(store)})
    yield Month(world, world.set_folders()[0], world.set_folders("differential")[0])
    drop_databases(real.target)


def report(world: World, **parameters: Any) -> str:
    return str(world.run(backup_report, "backup_reader", **parameters))


def published(world: World, context: str = CONTEXT) -> str:
    return str(artifact(world, f"{context}-report")["data"])


def rows(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(artifact(world, f"{CONTEXT}-report-sets")["data"])
    return found


def section(world: World, title: str) -> str:
    return published(world).partition(f"## {title}\n")[2].partition("\n## ")[0].strip()


@pytest.mark.long
def test_days_of_which_pruning_left_a_week(month: Month) -> None:
    world, instant = month.world, now()
    taken = month.take_every(instant - timedelta(days=7.8), instant - TAKES)
    for days in (-0.5, 0):
        with later(days=days):
            assert "PRUNED: 0 sets expire" not in str(world.run(prune_backups, "backup_reader", dry_run=False))

    said = report(world, days=8)
    recent = [one for one in taken if one.snapshot.instant > instant - timedelta(days=8)]
    fulls = sum(one.base is None for one in recent)
    # And those that were really taken.
    counts = f"8 days: {fulls + 1} fulls, {len(recent) - fulls + 1} differentials, 1 other set, "
    assert said.startswith(counts) and "; RPO kept, worst gap 3:55:00; 1 drill passed; 2 things to look at" in said
    text = published(world)
    assert text.startswith(f"# 8 days\n\n**{said.partition(': ')[2]}**\n")
    assert section(world, "What to look at").count("\n- ") == 1
    assert "triggers enabled: FAILED, " in section(world, "What to look at")
    assert "not off-host" in section(world, "What to look at")
    assert re.search(r"\| triggers enabled \| ok → FAILED, \d+ offending \|", section(world, "Integrity checks"))
    assert "MISSED" not in section(world, "Each day")
    assert text.count("(data:image/svg+xml;base64,") == 3

    told = {row["id"]: row["verdict"] for row in rows(world)}
    assert {one.id: told[one.id] for one in recent if one.base and one.snapshot.instant < instant - timedelta(days=7)} == {
        one.id: "expired" for one in recent if one.base and one.snapshot.instant < instant - timedelta(days=7)
    }
    assert {told[one.id] for one in recent if one.snapshot.instant > instant - timedelta(days=6)} == {"ok"}


@pytest.mark.long
def test_a_gap_a_damaged_set_and_a_drill_that_failed(month: Month) -> None:
    world, instant = month.world, now()
    month.take_every(instant - timedelta(days=6), instant - timedelta(days=4))
    after = month.take_every(instant - timedelta(days=2), instant - timedelta(hours=1))
    bad = world.store_folder / CONTEXT / "daily" / next(one.id for one in after if one.base is None)
    (bad / "data" / "teams.copy.zst").unlink()
    (month.full / "data" / "teams.copy.zst").unlink()
    with pytest.raises(OperationError, match="newer sets passed over"):
        world.run(recovery_drill, "backup_restorer", world.target)

    said = report(world, days=7)
    assert re.match(r"7 days: .*; RPO MISSED \d+ times? since .*, worst gap \d+:\d\d:\d\d; 1 drill passed, 1 drill FAILED; ", said)
    look = section(world, "What to look at")
    # Two fulls and what builds on them.
    assert re.search(r"damaged: \d+ sets", look)
    assert f"- {bad}: data/teams.copy.zst is missing" in look
    assert "more than 4:00:00 would have been lost (RPO)" in look and "no full backup for more than 26:00:00: " in look
    assert "the last drill did not pass" in look
    missed = [line for line in section(world, "Each day").splitlines() if "**MISSED**" in line]
    assert len(missed) >= 3
    assert {row["id"]: row["verdict"] for row in rows(world)}[bad.name] == "damaged"


def test_a_store_of_which_nothing_is_left(month: Month) -> None:
    for one in month.world.store_folder.rglob(MANIFEST_FILE):
        one.write_text("{")
    said = report(month.world)
    assert re.match(r"30 days: 1 full, 1 differential, 1 other set, 0 B; RPO MISSED, nothing can be restored; ", said)


def test_an_empty_store_and_one_that_is_not_there(month: Month, real: World) -> None:
    world = month.world
    store = world.folder / "empty"
    store.mkdir()
    world.store = {"BACKUP_STORE": str(store)}
    said = report(world)
    assert said == f'EMPTY: no backup set of context "{CONTEXT}" in {store}; take one: `daily_backup`'
    assert published(world) == f"# EMPTY\n\n**{said.removeprefix('EMPTY: ')}**\n"
    store.rmdir()
    with pytest.raises(OperationError, match="does not exist; mount or create it"):
        report(world)
    with pytest.raises(ParameterTypeError, match="greater than or equal to 1"):
        report(world, days=0)


@pytest.mark.long
def test_off_host(s3_world: World) -> None:
    s3_world.backup()
    s3_world.run(verify_backups, "backup_reader")
    said = report(s3_world)
    assert re.match(r"30 days: 1 full, 0 differentials, [\d.]+ [KM]B; RPO kept since \S+, worst gap 0:0\S+; no drill; 2", said)
    look = section(s3_world, "What to look at")
    assert "no drill" in look and "no integrity check" in look and "decoded" not in look
