"""The box of damages: what integrity checks and restores in place make of each is what docs/reliability.md says of it."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from psycopg import sql

from deployments import local
from tasks.checks.integrity import WITNESSES
from tasks.core.checks.definition import Finding
from tasks.core.checks.partitions import PARTITIONS
from tasks.core.errors import BadInput, OperationError
from tests.support.contexts import edit_context
from tests.support.damages import DAMAGES, FURNISHED, FURNITURE, OTHERS, VIEWS, Damage
from tests.support.database import execute, unlike
from tests.support.example import DATABASE, make_template
from tests.support.findings import check
from tests.support.oracle import State, capture
from tests.support.reliability import (
    DOCUMENT,
    EQUAL,
    IS_WRITTEN,
    LISTED,
    NOTHING,
    REFUSED,
    Row,
    in_short,
    items_of,
    made_of,
    read_rows,
    write_row,
)
from tests.support.reports import newest_report
from tests.support.restores import restore
from tests.support.servers import CONTRIB, bin_of, prepare
from tests.support.world import World, new_world

HEALTHY = "healthy"
QUICK = "a foreign key dropped"
TOGETHER = (
    "a column overwritten", "a key to another context dropped", "another check, not proven", "another index of that name",
    "a trigger off", "a view with another text", "a default dropped", "a column's storage", "a sequence set back", "grants lost",
)  # fmt: skip


@dataclass(frozen=True)
class Box:
    """A furnished context, healthy, with one backup, and what the checks say of it all the same: tests damage copies."""

    world: World
    before: State
    said: frozenset[tuple[str, bool]]


def state(world: World) -> State:
    where = world.source.conninfo(world.database)
    return capture(where, bin_dir=world.source.bin, tables=FURNISHED, views=VIEWS, surroundings=True)


def remarkable(findings: list[Finding]) -> frozenset[tuple[str, bool]]:
    return frozenset((one.check, one.fails) for one in findings if one.is_remarkable)


@pytest.fixture(scope="module")
def box(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with pytest.MonkeyPatch.context() as patch, local.postgres(bin_of(CONTRIB)) as server:
        make_template(prepare(server), scale=0.02, violations_per_year=100)
        world = new_world(server, server, prefect_api, tmp_path_factory.mktemp("box"))
        edit_context(world, patch, views=VIEWS, tables=FURNISHED)
        execute(world, *FURNITURE, *OTHERS)
        world.backup()
        found = Box(world, state(world), remarkable(check(world)))
        # It keeps its name only in the copies, which are restored into.
        with server.connect() as connection:
            connection.execute(f"ALTER DATABASE {DATABASE} RENAME TO {HEALTHY}".encode())
        yield found


@pytest.fixture
def copy(box: Box, folder: Path) -> Iterator[World]:
    with box.world.source.connect() as connection:
        made = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER consulting_owner")
        connection.execute(made.format(sql.Identifier(DATABASE), sql.Identifier(HEALTHY)))
    store = shutil.copytree(box.world.store_folder, folder / "store")
    yield replace(box.world, folder=folder, store={"BACKUP_STORE": str(store)})
    with box.world.source.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(DATABASE)))


def checks_that_tell(box: Box, world: World) -> tuple[str, str]:
    """Name the checks that say something that they did not say before, those that need no set and those that do."""
    try:
        findings = check(world)
    except BadInput:
        return "the run fails", "the run fails"
    found = sorted(remarkable(findings) - box.said, key=lambda one: (not one[1], one[0]))
    short = {name: name.partition(" ")[0] for name in (*WITNESSES, PARTITIONS)}
    told = [(name in short, f"{short.get(name, name)}{'' if fails else ' warns'}") for name, fails in found]
    alone, with_set = (", ".join(words for needs_set, words in told if needs_set is wanted) for wanted in (False, True))
    return alone or NOTHING, with_set or NOTHING


def restored(world: World, before: State, objects: str) -> tuple[str, str]:
    """Restore; return what came of it, and what is left or why. No verdict denies what the oracle sees, or says more than that."""
    try:
        verdict = restore(world, objects=objects)
    except (BadInput, OperationError) as refusal:
        assert unlike(before, state(world)) != []
        # Beforehand: what the plan promises does not fail later.
        assert " is unchanged: " not in str(refusal)
        assert "permission denied" not in str(refusal)
        return REFUSED, in_short([str(refusal).removeprefix("REFUSED, nothing touched: ")])
    left, report = unlike(before, state(world)), newest_report(world)
    to_do = items_of(report.partition("Still to do: ")[2].partition("\n## ")[0])
    to_do += items_of(report.partition("not restored\n")[2].partition("\n## ")[0])
    assert bool(left) is bool(to_do), (left, verdict)
    said = verdict.startswith("RESTORED, BUT ") or "; not restored: " in verdict
    assert said is bool(left), (left, verdict)
    return (LISTED if left else EQUAL), in_short(to_do)


@pytest.mark.parametrize(
    "one", [pytest.param(one, id=one.name, marks=() if one.name == QUICK else pytest.mark.long) for one in DAMAGES]
)
def test_what_becomes_of_a_damage(box: Box, copy: World, one: Damage) -> None:
    execute(copy, *one.statements)
    assert unlike(box.before, state(copy)) != [], "the oracle sees it"
    alone, with_set = checks_that_tell(box, copy)
    planned, left = restored(copy, box.before, "plan")
    again, left = (NOTHING, left) if planned == EQUAL else restored(copy, box.before, "restore")
    row = Row(one.kind, one.name, alone, with_set, planned, again, left)
    if IS_WRITTEN:
        write_row(row)
    assert read_rows().get(one.name) == row, "run `make reliability`, and read what changed"


def test_the_document_is_as_it_is_made() -> None:
    assert [*read_rows()] == [one.name for one in DAMAGES]
    assert DOCUMENT.read_text("utf-8") == made_of(read_rows().values())
    assert len({one.name for one in DAMAGES}) == len(DAMAGES) >= 60


@pytest.mark.long
def test_several_at_once(box: Box, copy: World) -> None:
    execute(copy, *(statement for one in DAMAGES if one.name in TOGETHER for statement in one.statements))
    assert restored(copy, box.before, "restore") == (EQUAL, NOTHING)
