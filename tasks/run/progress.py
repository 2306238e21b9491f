"""Progress of long work: an artifact in Prefect's UI, and a bar where somebody looks at a terminal.

Work that is done in a moment leaves neither. Both are told by one thread, beside the work: a Prefect server that is slow or dead
costs the work nothing but a last wait.
"""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import tzinfo
from threading import Event, Thread
from typing import Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.exceptions import PrefectException
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.utilities.context import get_flow_run_id
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from tasks.core.errors import OperationError
from tasks.core.run.clock import now
from tasks.core.run.progress import Item, Tally, progress_line, progress_outcome
from tasks.run.run import Run

FIRST_SECONDS = 3.0
EVERY_SECONDS = 5.0
# How long a request to Prefect may take, and the end of a phase wait for the last one.
PATIENCE_SECONDS = 5.0
BAR_COLUMNS = 20
FAILURE_CHARACTERS = 300


@dataclass
class _Phase:
    """A phase as it is shown; `about` where its whole is not known before the end."""

    title: str
    key: str
    tally: Tally
    zone: tzinfo
    about: bool
    ended: Event = field(default_factory=Event)
    artifact: UUID | None = None
    complained: bool = False

    @property
    def percent(self) -> float:
        """The share, as the artifact takes it."""
        return 100 * (self.tally.look(time.monotonic()).share or 0.0)

    @property
    def sentence(self) -> str:
        """What is to be said of it now."""
        seen, tally = self.tally.look(time.monotonic()), self.tally
        if tally.done or tally.failure is not None:
            return f"{self.title}: {progress_outcome(seen, tally.failure)}"
        return f"{self.title}: {progress_line(seen, now(), self.zone, about=self.about)}"

    def _drawn(self) -> ProgressBar:
        # Prefect's console knows colours, but not the names that rich gives to those of a bar.
        grey, green = "bright_black", "green"
        return ProgressBar(100, self.percent, width=BAR_COLUMNS, style=grey, complete_style=green, finished_style=green)

    def bar(self) -> Table:
        """Return the line for the terminal."""
        line = Table.grid(padding=(0, 1))
        if self.tally.items:
            line.add_row(self._drawn(), self.sentence)
        else:
            line.add_row(self.sentence)
        return line


@contextmanager
def of(
    run: Run, phase: str, expected_bytes: Mapping[str, float], zone: tzinfo, *, about: bool = False
) -> Iterator[dict[str, Item]]:
    """Show how far the block is; it says so by the items that it is given, one for each that bytes were expected of.

    Without any, the phase is only named. With `about` the numbers of bytes are estimates that are corrected on the way.
    """
    items = {name: Item(expected) for name, expected in expected_bytes.items()}
    shown = _Phase(f"{run.flow}, {phase}", f"{run.context}-progress", Tally(items, time.monotonic()), zone, about)
    teller = Thread(target=copy_context().run, args=(_tell, shown), name=f"progress of {phase}", daemon=True)
    teller.start()
    try:
        yield items
        shown.tally.done = True
    except BaseException as error:
        shown.tally.failure = _reason(error)
        raise
    finally:
        shown.ended.set()
        teller.join(PATIENCE_SECONDS)


def _reason(error: BaseException) -> str:
    """Return why a phase stopped; what others than we say may show rows."""
    said = f": {' '.join(str(error).split())}" if isinstance(error, OperationError) else ""
    return f"{type(error).__name__}{said}"[:FAILURE_CHARACTERS]


def _bar(phase: _Phase) -> AbstractContextManager[object]:
    """Return a bar below the log lines of a terminal, gone when it is left; nobody looks at what a pipe or a worker keeps."""
    if not sys.stderr.isatty():
        return nullcontext()
    # On Prefect's own console its log lines come above the bar, not into it.
    consoles = (one.console for one in logging.getLogger().handlers if isinstance(one, PrefectConsoleHandler))
    console = next(consoles, Console(stderr=True))
    return Live(get_renderable=phase.bar, console=console, transient=True, refresh_per_second=2)


def _tell(phase: _Phase) -> None:
    """Tell of a phase that takes long until it has ended, and then how it did."""
    if phase.ended.wait(FIRST_SECONDS):
        return
    # The run's own client waits for a minute, and asks again; create_progress_artifact takes no other.
    impatient = {"timeout": PATIENCE_SECONDS}
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True, httpx_settings=impatient) as client:
        with _bar(phase):
            while not phase.ended.is_set():
                _publish(phase, client)
                phase.ended.wait(EVERY_SECONDS)
        _publish(phase, client)


def _publish(phase: _Phase, client: SyncPrefectClient) -> None:
    """Make the artifact, or bring it up to date; the work does not depend on it."""
    said: dict[str, Any] = {"data": phase.percent, "description": phase.sentence}
    try:
        if phase.artifact is None:
            new = ArtifactCreate(key=phase.key, type="progress", flow_run_id=get_flow_run_id(), **said)
            phase.artifact = client.create_artifact(new).id
        else:
            client.update_artifact(phase.artifact, ArtifactUpdate(**said))
    except (httpx.HTTPError, PrefectException) as error:
        if not phase.complained:
            phase.complained = True
            get_run_logger().warning("progress cannot be shown in Prefect's UI: %s", error)
