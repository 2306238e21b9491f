"""Staging: what a dead run left is removed, and nothing that is not provably a run's."""

import fcntl
import os
from pathlib import Path

import pytest

from tasks.core.run.folders import MARKER, private_folder, sweep
from tasks.run.run import FOLDERS

NAME = "bc-004-20251103020000-3f9c"
OTHER = "bc-004-20251103020000-aaaa"


def left_by_a_dead_run(base: Path, name: str = NAME, marker: str | None = None) -> Path:
    folder = base / name
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "rows").write_text("x")
    (folder / MARKER).write_text(name if marker is None else marker)
    return folder


def names(base: Path) -> set[str]:
    return {path.relative_to(base).as_posix() for path in base.rglob("*")}


def test_a_folder_is_private_and_gone_at_the_end(tmp_path: Path) -> None:
    dead = left_by_a_dead_run(tmp_path, OTHER)
    with private_folder(tmp_path, NAME, FOLDERS) as folder:
        assert not dead.exists()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / MARKER).stat().st_mode & 0o777 == 0o600
        (folder / "data").mkdir()
        (folder / "data" / "rows").write_text("x")
        # Its owner lives.
        assert sweep(tmp_path, FOLDERS) == []
        assert (folder / "data" / "rows").exists()
    assert names(tmp_path) == set()


def test_what_is_others_is_left_alone(tmp_path: Path) -> None:
    elsewhere = left_by_a_dead_run(tmp_path / "elsewhere")
    base = tmp_path / "base"
    base.mkdir()
    for folder in (
        "uv",
        "notes",
        f"{NAME}.x",
        "BC-004-20251103020000-3f9c",
        "bc-004-2025110302000-3f9c",
        "bc-004-20251103020000-3F9C",
    ):
        left_by_a_dead_run(base, folder)
    # As older releases had it, and others have it: a lock beside what it stands for.
    (base / "uv.lock").touch()
    (base / f"{NAME}.lock").touch()
    (base / NAME).mkdir()
    left_by_a_dead_run(base, OTHER, marker=NAME)
    left_by_a_dead_run(base, "bc-005-20251103020000-0000", marker="")
    (base / "bc-006-20251103020000-0000").symlink_to(elsewhere)
    linked = left_by_a_dead_run(base, "bc-007-20251103020000-0000")
    (linked / MARKER).unlink()
    (linked / MARKER).symlink_to(elsewhere / MARKER)
    (base / "bc-008-20251103020000-0000").write_text("a file")
    before = names(base)
    with private_folder(base, "bc-004-20251103020000-bbbb", FOLDERS):
        pass
    assert names(base) == before
    assert (elsewhere / "data" / "rows").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another account")
def test_what_another_account_marked_is_left_alone(tmp_path: Path) -> None:
    folder = left_by_a_dead_run(tmp_path)
    os.chown(folder / MARKER, 65534, 65534)
    assert sweep(tmp_path, FOLDERS) == []
    assert (folder / "data" / "rows").exists()


def test_what_lives_is_left_alone(tmp_path: Path) -> None:
    folder = left_by_a_dead_run(tmp_path)
    with (folder / MARKER).open() as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert sweep(tmp_path, FOLDERS) == []
    assert sweep(tmp_path, FOLDERS) == [folder]
    assert names(tmp_path) == set()
