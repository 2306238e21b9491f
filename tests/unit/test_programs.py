"""Which of PostgreSQL's programs is taken, and what is said to it."""

import os
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import BadInput, ProgramFailed
from tasks.core.postgres import programs
from tasks.core.postgres.programs import Program, Running, find_program
from tasks.core.run.phases import Phases


def install(folder: Path, version: str, name: str = "pg_dump") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
    program.chmod(0o755)
    return folder


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The only folders that are looked in."""
    found: list[Path] = []
    monkeypatch.setattr(programs, "program_folders", lambda: found)
    return found


@pytest.mark.parametrize(("server", "taken"), [(14, 15), (15, 15), (16, 16), (17, 18), (18, 18)])
def test_the_lowest_that_is_not_older_is_taken(folders: list[Path], tmp_path: Path, server: int, taken: int) -> None:
    folders += [install(tmp_path / version, version) for version in ("18.1", "15.4 (Debian 15.4-1.pgdg120+1)", "16.0")]
    assert find_program("pg_dump", server).major == taken


def test_of_two_equals_the_better_place_is_taken(folders: list[Path], tmp_path: Path) -> None:
    folders += [install(tmp_path / "first", "18.1"), install(tmp_path / "second", "18.2")]
    assert find_program("pg_dump", 18) == Program(tmp_path / "first" / "pg_dump", 18, "18.1")


def test_beta_and_development_versions_count(folders: list[Path], tmp_path: Path) -> None:
    folders += [install(tmp_path / "beta", "19beta1"), install(tmp_path / "devel", "20devel")]
    assert [one.major for one in programs.installed_programs("pg_dump")] == [19, 20]


def test_none_is_new_enough(folders: list[Path], tmp_path: Path) -> None:
    folders += [install(tmp_path / "old", "15.4")]
    with pytest.raises(
        BadInput,
        match=rf"pg_dump 18 or newer .* installed: 15 \({tmp_path}/old/pg_dump\); install postgresql-client-18 or .* PG_BIN",
    ):
        find_program("pg_dump", 18)
    with pytest.raises(BadInput, match="installed: none"):
        find_program("pg_restore", 15)


def test_what_is_no_program_is_passed_over(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "folder" / "pg_dump").mkdir(parents=True)
    silent = install(tmp_path / "silent", "x")
    (silent / "pg_dump").write_text("#!/bin/sh\nexit 3\n")
    closed = install(tmp_path / "closed", "18.1")
    (closed / "pg_dump").chmod(0o644)
    broken = install(tmp_path / "broken", "x")
    (broken / "pg_dump").write_bytes(b"\x7fELF broken")
    folders += [tmp_path / "none", tmp_path / "folder", silent, closed, broken, install(tmp_path / "good", "16.2")]
    assert [one.major for one in programs.installed_programs("pg_dump")] == [16]


def test_a_program_is_asked_once_until_it_is_replaced(folders: list[Path], tmp_path: Path) -> None:
    folders += [install(tmp_path / "bin", f"17.1'; echo x >> {tmp_path}/asked; echo '")]
    assert [find_program("pg_dump", 17).version for _ in range(2)] == ["17.1", "17.1"]
    assert (tmp_path / "asked").read_text() == "x\n"
    install(tmp_path / "bin", "17.10")
    assert find_program("pg_dump", 17).version == "17.10"


def test_pg_bin_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_BIN", f"{tmp_path}/a{os.pathsep}{tmp_path}/b")
    monkeypatch.setenv("PATH", f"{tmp_path}/c")
    assert programs.program_folders()[:3] == [tmp_path / "a", tmp_path / "b", tmp_path / "c"]


PROGRAM = Program(Path("/bin/pg_restore"), 18, "18.1")


@pytest.mark.parametrize(
    ("database", "spelled"),
    [
        ("plain", "dbname='plain'"),
        ("it's", r"dbname='it\'s'"),
        ("a\\b", r"dbname='a\\b'"),
        ("host=x y", "dbname='host=x y'"),
        ("s3://x", "dbname='s3://x'"),
    ],
)
def test_a_databases_name_is_never_a_connection_string(database: str, spelled: str) -> None:
    restore = programs.restore_command(PROGRAM, Path("a"), database, [], 1, stop=True)
    assert f"--dbname={spelled}" in restore


def test_a_section_is_all_or_nothing_or_goes_on() -> None:
    assert {"--exit-on-error", "--single-transaction"} <= set(programs.restore_command(PROGRAM, Path("a"), "d", [], 1, stop=True))
    several = programs.restore_command(PROGRAM, Path("a"), "d", [], 4, stop=False)
    assert "--jobs=4" in several and not {"--exit-on-error", "--single-transaction"} & set(several)


def test_no_program_asks_for_a_password() -> None:
    for argv in (
        programs.dump_schema_command(PROGRAM, Path("f"), "d", "UTF8", 60),
        programs.restore_command(PROGRAM, Path("a"), "d", [], 1, stop=True),
    ):
        assert "--no-password" in argv
    assert "--lock-wait-timeout=60000" in programs.dump_schema_command(PROGRAM, Path("f"), "d", "UTF8", 60)


def test_a_program_that_fails_says_why() -> None:
    running = Running()
    with pytest.raises(ProgramFailed, match="sh ended with exit code 3: why"):
        running.run(["/bin/sh", "-c", "echo out; echo why >&2; exit 3"], {})
    assert running.run(["/bin/sh", "-c", "echo out; exit 3"], {}, check=False).output == b"out\n"
    running.stop(final=True)
    with pytest.raises(ProgramFailed, match="the run is being stopped"):
        running.run(["/bin/true"], {})


def fixed_clock(*instants: float) -> Callable[[], float]:
    """Return a clock that says these, one after the other."""
    return iter(instants).__next__


def test_phases_count_what_fails_too() -> None:
    phases = Phases(fixed_clock(0, 2, 5, 6))
    with phases.phase("a"):
        pass
    with pytest.raises(ZeroDivisionError), phases.phase("b"):
        raise ZeroDivisionError
    with phases.phase("a"):
        pass
    assert phases.seconds == {"a": 3.0, "b": 3.0}
    assert phases.total == 6.0


def test_phases_have_no_gaps() -> None:
    clock, at = iter([10, 14, 15.5, 20]), {}
    phases = Phases(clock.__next__)
    for name in ("choose", "load", "keys"):
        with phases.phase(name):
            at[name] = dict(phases.seconds)
    assert phases.seconds == {"choose": 4, "load": 1.5, "keys": 4.5}
    assert list(phases.seconds) == ["choose", "load", "keys"]
    assert at["keys"] == {"choose": 4, "load": 1.5}
    assert phases.total == 20 - 10


def test_counting_begins_at_once_and_ends_with_the_last_phase() -> None:
    said = iter([100.0, 103.0])
    phases = Phases(said.__next__)
    assert next(said) == 103.0, "the clock was asked for the beginning and for nothing else"
    assert (phases.seconds, phases.total) == ({}, 0)


def test_a_failed_phase_is_the_last_one() -> None:
    phases = Phases(fixed_clock(0, 1, 4))
    with pytest.raises(KeyboardInterrupt), phases.phase("a"), phases.phase("b"):
        raise KeyboardInterrupt
    assert phases.seconds == {"b": 1.0, "a": 3.0}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(min_value=0, max_value=10**6)), max_size=10))
def test_phases_sum_to_the_time_that_passed(steps: list[tuple[str, int]]) -> None:
    instants = list(accumulate([7, *(taken for _, taken in steps)]))
    phases = Phases(fixed_clock(*instants))
    for name, _ in steps:
        with phases.phase(name):
            pass
    assert phases.total == instants[-1] - instants[0]
