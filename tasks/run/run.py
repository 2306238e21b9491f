"""One run of a flow: its id, start time, private folder and child processes.

The folder is 0700, files in it are 0600; the next run removes the folder of a killed one.
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
# The name of a run's folder: context, start time and id.
FOLDERS = re.compile(rf"{CONTEXT_NAME.pattern}-\d{{14}}-[0-9a-f]{{4}}")
# Prefect's name for the run, in the environment of a process that a worker started for it.
WORKERS_MARK = "PREFECT__FLOW_RUN_ID"
LOOK_SECONDS = 1.0
watching = Lock()
# Below this size, a process or task of its own costs more than it gains.
SMALL_BYTES = 8 << 20


@dataclass(frozen=True)
class Run:
    """A run, shared by its tasks: plain values, and the handle that ends its child processes."""

    flow: str
    context: str
    id: str
    started: datetime
    folder: Path
    running: Running = field(repr=False, compare=False)
    warned: set[str] = field(default_factory=set, repr=False, compare=False)
    # Resources of the run, released after its programs have ended.
    until_end: ExitStack = field(default_factory=ExitStack, repr=False, compare=False)

    @property
    def title(self) -> str:
        """The application_name of the run's sessions (63 bytes at most)."""
        return f"{self.context} {self.flow} {self.started:%Y-%m-%d %H:%M}Z {self.id}"[:63]

    def another(self) -> "Run":
        """Return this run under another id: two sets of one second need different names."""
        return replace(self, id=new_run_id())


def warn_of_unsafe(run: Run, *programs: Program) -> None:
    """Warn, once per run, of PostgreSQL programs that need a minor update."""
    for warning in unsafe_programs(programs):
        if warning not in run.warned:
            run.warned.add(warning)
            get_run_logger().warning("%s", warning)


def operation(pattern: str) -> Callable[[Callable[P, T]], Flow[P, T]]:
    """Return a decorator that makes a flow, its runs named by the pattern and scheduled time.

    For example `daily-backup bc-004 2025-11-03 02:00 JST`; the pattern's fields are the flow's
    parameters. A returned text is also the message of the run's state.
    """

    def make(procedure: Callable[P, T]) -> Flow[P, T]:
        @wraps(procedure)
        def run_without_rows(*words: P.args, **named: P.kwargs) -> T:
            with _rows_removed():
                done = procedure(*words, **named)
            # Prefect unpacks the state's data for the caller of the flow.
            return cast(T, Completed(message=done, data=done)) if isinstance(done, str) else done

        return flow(flow_run_name=partial(_run_name, pattern), task_runner=task_runner())(run_without_rows)

    return make


@contextmanager
def _rows_removed() -> Iterator[None]:
    """Remove rows from the texts of errors that leave a flow or task, as Prefect stores them."""
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
        # The run itself reports errors of its context.
        zone = UTC
    return f"{pattern.format(**parameters)} {flow_run.scheduled_start_time.astimezone(zone):%Y-%m-%d %H:%M %Z}"


@contextmanager
def begin(flow: str, context: str) -> Iterator[Run]:
    """Begin a run.

    When it ends, even by an error, its processes are stopped and its folder is removed.

    Raises:
        BadInput: the staging folder cannot be created, other users can write to it, or the context
            name is invalid.
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
    """Interrupt the run when its worker is gone, because nothing else would end it."""
    if WORKERS_MARK not in os.environ or not watching.acquire(blocking=False):
        # Run by hand; or a flow within a flow, whose process is already watched.
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


# Keyword arguments of submit() and map() themselves.
OF_PREFECT = frozenset({"return_state", "wait_for", "deferred"})


def _as_they_are(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if name in OF_PREFECT else opaque(value) for name, value in arguments.items()}


class Step(Task[..., Any]):
    """A Prefect task that gets its arguments unchanged.

    Prefect would search every column of every relation of a manifest for results of other tasks,
    several times per task.
    """

    def __call__(self, *words: Any, **named: Any) -> Any:
        """Run the task in this thread."""
        return super().__call__(*map(opaque, words), **_as_they_are(named))

    def submit(self, *words: Any, **named: Any) -> Any:
        """Run the task in parallel with others; return the future."""
        return super().submit(*map(opaque, words), **_as_they_are(named))

    def map(self, *words: Any, **named: Any) -> Any:
        """Run the task for each item of these lists in parallel; other arguments are the same."""
        return super().map(*map(opaque, words), **_as_they_are(named))


@overload
def step(procedure: Callable[P, T]) -> Task[P, T]: ...
@overload
def step(*, name: str | None = None, repeatable: bool = False) -> Callable[[Callable[P, T]], Task[P, T]]: ...
def step(procedure: Callable[P, T] | None = None, *, name: str | None = None, repeatable: bool = False) -> Any:
    """Return a decorator that makes a task, its runs named by a pattern of its parameters.

    Prefect retries a `repeatable` step after a temporary error: reads, downloads, and uploads of
    the run's own objects. A step that changes a database is never repeatable.
    """
    if procedure is None:
        return partial(step, name=name, repeatable=repeatable)
    work = retries.attempt()(procedure) if repeatable else procedure
    return Step(_rows_removed()(work), cache_policy=NO_CACHE, task_run_name=name, **(retries.REPEATED if repeatable else {}))


def task_runner() -> TaskRunner[PrefectFuture[Any]]:
    """Return the runner of tasks that work on several relations in parallel."""
    return cast(TaskRunner[PrefectFuture[Any]], ThreadPoolTaskRunner(max_workers=jobs()))


def jobs() -> int:
    """Return how many relations to process in parallel: BACKUP_JOBS, or processors, 2 to 8."""
    return int(os.environ.get("BACKUP_JOBS", "0")) or min(max(os.cpu_count() or 2, 2), 8)


def staging_base() -> Path:
    """Return this account's staging folder: BACKUP_STAGING, or one in the temporary folder."""
    named = os.environ.get("BACKUP_STAGING")
    return require_own(Path(named) if named else Path(tempfile.gettempdir()) / f"backup-staging-{os.getuid()}")


@contextmanager
def staging(file: Path) -> Iterator[None]:
    """Turn an error of writing a staged file in the block into an OperationError with the remedy.

    Raises:
        OperationError: the file cannot be written, mostly because the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise OperationError(f"staged file {file}: {error.strerror}; {MORE_SPACE}") from error


def require_space(run: Run, needed_bytes: int) -> None:
    """Check that the staging folder has enough free space.

    Raises:
        BadInput: fewer bytes are free than needed.
    """
    free = shutil.disk_usage(run.folder).free
    if free < needed_bytes:
        raise BadInput(
            f"staging folder {run.folder.parent} has {free:,} bytes free, {needed_bytes:,} are "
            "needed; free space there, or set BACKUP_STAGING to a folder on a larger disk"
        )
