"""The steps that people use by themselves: each block of the page as it stands there, in a running event loop, as in notebooks."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import zstandard
from prefect.settings import PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

from tasks.core.errors import AlreadyExists, BadInput, UnsafeTarget
from tasks.core.rows.digest import RowDigest
from tasks.steps import compress, detach_partition, dump_table, run_check, upload
from tests.support import PROJECT
from tests.support.database import ask, count, execute
from tests.support.example import CONTEXT
from tests.support.prefect_server import Runs
from tests.support.world import World


def blocks_of(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (PROJECT / "docs" / page).read_text(encoding="utf-8"), re.M | re.S)


BLOCKS = blocks_of("notebook.md")
STEPS = "dump_table", "compress", "upload", "refresh_view", "run_check", "detach_partition"


def run_cells(cells: list[str]) -> str:
    """Run the cells of a notebook one after the other; return what they print."""
    printed, names = StringIO(), dict[str, Any]()

    async def run() -> None:
        for cell in cells:
            exec(compile(cell, "a cell", "exec"), names)

    with redirect_stdout(printed):
        asyncio.run(run())
    return printed.getvalue()


@pytest.fixture
def bench(world: World, recorder: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world whose tasks are recorded, in a folder with files."""
    monkeypatch.chdir(folder)
    (folder / "report.csv").write_text("team,rows\n" * 1000)
    (folder / "notes.txt").write_text("what was found")
    world.api = recorder
    with temporary_settings({PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
        yield world


def test_each_step_is_used_in_three_lines() -> None:
    assert [re.findall(r"^from tasks.steps import (\w+)$", cell, re.M) for cell in BLOCKS] == [[name] for name in STEPS] + [[]]
    assert [len(cell.split("\n")) - cell.count("\n\n") - 1 for cell in BLOCKS[:-1]] == [3] * len(STEPS)


def test_the_japanese_page_has_the_same_blocks() -> None:
    assert blocks_of("notebook.ja.md") == BLOCKS


def test_the_cells_of_the_page_do_what_they_say(bench: World, runs: Runs) -> None:
    execute(bench, "UPDATE teams SET name = name || '!'")
    printed = bench.run(run_cells, "backup_restorer", cells=BLOCKS)

    lines = zstandard.decompress((bench.folder / "teams.copy.zst").read_bytes(), 1 << 24).splitlines(keepends=True)
    digest = RowDigest()
    digest.add(lines, sum(map(len, lines)))
    assert len(lines) == count(bench, "teams")
    assert f"{len(lines)} rows," in printed and digest.hex in printed
    assert zstandard.decompress((bench.folder / "report.csv.zst").read_bytes(), 1 << 24) == b"team,rows\n" * 1000
    stored = sorted(path.name for path in (bench.store_folder / CONTEXT / "files").iterdir())
    assert stored == ["notes.txt.zst", "report.csv.zst", "team_leaders.copy.zst", "team_members.copy.zst"]
    assert "rows were stale" in printed and "s, 0 rows" not in printed
    view = bench.state().views["public.mv_team_statistics"]
    assert view.stored == view.recomputed
    assert "ok 0 []" in printed
    attached = "SELECT FROM pg_inherits WHERE inhrelid = 'policy_violations_2021'::regclass"
    assert "public.policy_violations_2021" in printed and ask(bench, attached) == []
    assert count(bench, "policy_violations_2021") > 0
    for name in STEPS:
        assert {run["state_type"] for run in runs.named(f"{name} ")} == {"COMPLETED"}, name


def test_what_is_not_there_is_named(bench: World) -> None:
    for step, words, told in (
        (dump_table, ("policy_violations", "x"), "name one of .*policy_violations_2025"),
        (run_check, ("team_has_a_leader",), "team_has_leader"),
        (detach_partition, ("policy_violations_1999", bench.database), "policy_violations_2021"),
    ):
        with pytest.raises(BadInput, match=told):
            bench.run(lambda step=step, words=words: step(CONTEXT, *words), "backup_restorer")


def test_nothing_is_replaced_or_detached_by_mistake(bench: World) -> None:
    def mistaken() -> None:
        compress("report.csv")
        with pytest.raises(BadInput, match="already exists"):
            compress("report.csv")
        assert upload(CONTEXT, "notes.txt") == upload(CONTEXT, "notes.txt")
        Path("notes.txt").write_text("something else")
        with pytest.raises(AlreadyExists, match="rename the file to upload"):
            upload(CONTEXT, "notes.txt")
        with pytest.raises(UnsafeTarget, match="detach a partition"):
            detach_partition(CONTEXT, "policy_violations_2021")

    bench.run(mistaken, "backup_restorer")
    assert (bench.store_folder / CONTEXT / "files" / "notes.txt").read_text() == "what was found"
    assert ask(bench, "SELECT FROM pg_inherits WHERE inhrelid = 'policy_violations_2021'::regclass") == [()]
