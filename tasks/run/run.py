"""One run of a flow: its id, its instant, its private folder and its child processes, all given back at the end.

The folder is 0700, files in it are 0600; a run that was killed is cleaned up by the next one.
"""

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from functools import partial, wraps
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, ParamSpec, TypeVar, cast, overload

from prefect import Flow, Task, flow, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.annotations import opaque

from tasks.core.errors import BadInput, OperationError
from tasks.core.postgres.messages import forget_rows
from tasks.core.postgres.programs import Program, Running, unsafe_programs
from tasks.core.rows.stream import MORE_SPACE
from tasks.core.run.clock import new_run_id, now
from tasks.core.run.folders import private_folder, require_own
from tasks.core.sets.name import CONTEXT_NAME, require_context_name
from tasks.run import retries
from tasks.run.site import find_context

P = ParamSpec("P")
T = TypeVar("T")
# What a run's folder is called: context, when it began, and its id.
FOLDERS = re.compile(rf"{CONTEXT_NAME.pattern}-\d{{14}}-[0-9a-f]{{4}}")
# Prefect's name for the run, in the environment of a process that a worker started for it.
WORKERS_MARK = "PREFECT__FLOW_RUN_ID"
LOOK_SECONDS = 1.0
watching = Lock()
# Below this a process, or a task, of its own costs more than it gains.
SMALL_BYTES = 8 << 20


@dataclass(frozen=True)
class Run:
    """What every task of a run shares: plain values, and the handle that ends its child processes."""

    flow: str
    context: str
    id: str
    started: datetime
    folder: Path
    running: Running = field(repr=False, compare=False)
    warned: set[str] = field(default_factory=set, repr=False, compare=False)
    # What is borrowed for as long as the run, and given back when its programs are gone.
    until_end: ExitStack = field(default_factory=ExitStack, repr=False, compare=False)

    @property
    def title(self) -> str:
        """Who is at work, as pg_stat_activity shows it (63 bytes at most)."""
        return f"{self.context} {self.flow} {self.started:%Y-%m-%d %H:%M}Z {self.id}"[:63]

    def another(self) -> "Run":
        """Return this run under another id: two sets of one run and one second would have one name."""
        return replace(self, id=new_run_id())


def warn_of_unsafe(run: Run, *programs: Program) -> None:
    """Warn, once a run, of programs of PostgreSQL that a newer minor version should replace."""
    for warning in unsafe_programs(programs):
        if warning not in run.warned:
            run.warned.add(warning)
            get_run_logger().warning("%s", warning)


def operation(pattern: str) -> Callable[[Callable[P, T]], Flow[P, T]]:
    """Make a flow of a procedure: a run is named for what it does and when it was meant, and its state says what came of it.

    Such a name is `daily-backup bc-004 2025-11-03 02:00 JST`; the pattern's fields are the flow's parameters. What the procedure
    returns, if it is text, is the message of the run's state as well.
    """

    def make(procedure: Callable[P, T]) -> Flow[P, T]:
        @wraps(procedure)
        def tell(*words: P.args, **named: P.kwargs) -> T:
            with _telling_no_rows():
                done = procedure(*words, **named)
            # Who calls the flow gets what was returned; Prefect takes it out of the state.
            return cast(T, Completed(message=done, data=done)) if isinstance(done, str) else done

        return flow(flow_run_name=partial(_run_name, pattern), task_runner=task_runner())(tell)

    return make


@contextmanager
def _telling_no_rows() -> Iterator[None]:
    """Let no error that leaves a flow or a task quote rows: Prefect writes it into its log and its database."""
    try:
        yield
    except BaseException as error:
        forget_rows(error)
        raise


def _run_name(pattern: str) -> str:
    parameters: dict[str, Any] = flow_run.parameters
    try:
        zone: tzinfo = find_context(parameters["context"]).zone
    except OperationError:
        # The run itself will say what is wrong with its context.
        zone = UTC
    return f"{pattern.format(**parameters)} {flow_run.scheduled_start_time.astimezone(zone):%Y-%m-%d %H:%M %Z}"


@contextmanager
def begin(flow: str, context: str) -> Iterator[Run]:
    """Begin a run; whatever ends it, its processes are ended and its folder is removed.

    Raises:
        BadInput: the staging folder cannot be made or belongs to somebody else; or this can be no context's name.
    """
    require_context_name(context)
    started, run_id = now(), new_run_id()
    with private_folder(staging_base(), f"{context}-{started:%Y%m%d%H%M%S}-{run_id}", FOLDERS) as folder:
        running = Running()
        with ExitStack() as until_end:
            try:
                with _ended_with_worker():
                    yield Run(flow, context, run_id, started, folder, running, until_end=until_end)
            finally:
                running.stop(final=True)


@contextmanager
def _ended_with_worker() -> Iterator[None]:
    """End the run, in order, when the worker that started its process is gone: nobody else could end it any more."""
    if WORKERS_MARK not in os.environ or not watching.acquire(blocking=False):
        # By hand; or a flow within a flow, whose process is watched already.
        yield
        return
    over, worker = Event(), os.getppid()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            if os.getppid() != worker:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    Thread(target=watch, name="watch of the worker", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        watching.release()


# What submit() and map() take for themselves.
OF_PREFECT = frozenset({"return_state", "wait_for", "deferred"})


def _as_they_are(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if name in OF_PREFECT else opaque(value) for name, value in arguments.items()}


class Step(Task[..., Any]):
    """A task that gets its arguments as they are.

    Prefect would look for what other tasks returned in every column of every relation of a manifest, several times a task.
    """

    def __call__(self, *words: Any, **named: Any) -> Any:
        """Run it here and now."""
        return super().__call__(*map(opaque, words), **_as_they_are(named))

    def submit(self, *words: Any, **named: Any) -> Any:
        """Run it beside others."""
        return super().submit(*map(opaque, words), **_as_they_are(named))

    def map(self, *words: Any, **named: Any) -> Any:
        """Run it once for each item of the lists that are given, beside others; what is no list, or `unmapped`, goes to each."""
        return super().map(*map(opaque, words), **_as_they_are(named))


@overload
def step(procedure: Callable[P, T]) -> Task[P, T]: ...
@overload
def step(*, name: str | None = None, repeatable: bool = False) -> Callable[[Callable[P, T]], Task[P, T]]: ...
def step(procedure: Callable[P, T] | None = None, *, name: str | None = None, repeatable: bool = False) -> Any:
    """Make a task of one step of a procedure; a run of it is named by the pattern, of its parameters.

    `repeatable` is what asks a network and may be asked twice: reading, storing what is the run's own, fetching. Prefect repeats it
    after an error that may pass. What changes a database never is.
    """
    if procedure is None:
        return partial(step, name=name, repeatable=repeatable)
    work = retries.attempt()(procedure) if repeatable else procedure
    return Step(_telling_no_rows()(work), cache_policy=NO_CACHE, task_run_name=name, **(retries.REPEATED if repeatable else {}))


def task_runner() -> TaskRunner[PrefectFuture[Any]]:
    """Return what works on several relations at once."""
    return cast(TaskRunner[PrefectFuture[Any]], ThreadPoolTaskRunner(max_workers=jobs()))


def jobs() -> int:
    """Return how many relations are worked on at once: BACKUP_JOBS, or one a processor, at least 2 and at most 8."""
    return int(os.environ.get("BACKUP_JOBS", "0")) or min(max(os.cpu_count() or 2, 2), 8)


def staging_base() -> Path:
    """Return this account's staging folder: BACKUP_STAGING, or one below the system's temporary folder."""
    named = os.environ.get("BACKUP_STAGING")
    return require_own(Path(named) if named else Path(tempfile.gettempdir()) / f"backup-staging-{os.getuid()}")


@contextmanager
def staging(file: Path) -> Iterator[None]:
    """Say what to do when a staged file cannot be written.

    Raises:
        OperationError: it cannot, mostly because the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise OperationError(f"staged file {file}: {error.strerror}; {MORE_SPACE}") from error


def require_space(run: Run, needed_bytes: int) -> None:
    """Refuse to begin what the staging folder cannot hold.

    Raises:
        BadInput: fewer bytes are free than needed.
    """
    free = shutil.disk_usage(run.folder).free
    if free < needed_bytes:
        raise BadInput(
            f"staging folder {run.folder.parent} has {free:,} bytes free, {needed_bytes:,} are needed; "
            "free some, or set BACKUP_STAGING to a larger disk"
        )
