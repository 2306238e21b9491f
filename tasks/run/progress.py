"""Progress of long work: an artifact in Prefect's UI, and a bar on a terminal.

Short phases show neither. A separate thread updates both, so that a slow or dead Prefect server
delays the work only at the phase's end.
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
# The limit of a request to Prefect, and of the wait for the last one at the end of a phase.
PATIENCE_SECONDS = 5.0
BAR_COLUMNS = 20
FAILURE_CHARACTERS = 300


@dataclass
class _Phase:
    """A phase as it is shown. `about` is whether its total is an estimate."""

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
        """The share in percent, for the artifact."""
        return 100 * (self.tally.look(time.monotonic()).share or 0.0)

    @property
    def sentence(self) -> str:
        """The current state, in one line."""
        seen, tally = self.tally.look(time.monotonic()), self.tally
        if tally.done or tally.failure is not None:
            return f"{self.title}: {progress_outcome(seen, tally.failure)}"
        return f"{self.title}: {progress_line(seen, now(), self.zone, about=self.about)}"

    def _drawn(self) -> ProgressBar:
        # Prefect's console has no theme with rich's style names for bars.
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
    """Show progress while the `with` block runs.

    Yields an item for each expected name; the block updates the items. Without items, only the
    phase's title and the elapsed time are shown. With `about`, the expected bytes are estimates
    that are corrected as the work goes on.
    """
    items = {name: Item(expected) for name, expected in expected_bytes.items()}
    shown = _Phase(f"{run.flow}, {phase}", f"{run.context}-progress", Tally(items, time.monotonic()), zone, about)
    thread = Thread(target=copy_context().run, args=(_show, shown), name=f"progress of {phase}", daemon=True)
    thread.start()
    try:
        yield items
        shown.tally.done = True
    except BaseException as error:
        shown.tally.failure = _reason(error)
        raise
    finally:
        shown.ended.set()
        thread.join(PATIENCE_SECONDS)


def _reason(error: BaseException) -> str:
    """Return why a phase stopped; of foreign errors only the type, as messages may quote rows."""
    message = f": {' '.join(str(error).split())}" if isinstance(error, OperationError) else ""
    return f"{type(error).__name__}{message}"[:FAILURE_CHARACTERS]


def _bar(phase: _Phase) -> AbstractContextManager[object]:
    """Return a bar below a terminal's log lines, removed at the end; none without a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    # On Prefect's own console, log lines are printed above the bar, not into it.
    handlers = logging.getLogger().handlers
    consoles = (handler.console for handler in handlers if isinstance(handler, PrefectConsoleHandler))
    console = next(consoles, Console(stderr=True))
    return Live(get_renderable=phase.bar, console=console, transient=True, refresh_per_second=2)


def _show(phase: _Phase) -> None:
    """Show a long phase until it has ended, and then its outcome."""
    if phase.ended.wait(FIRST_SECONDS):
        return
    # create_progress_artifact would use the run's own client, which retries for minutes.
    impatient = {"timeout": PATIENCE_SECONDS}
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True, httpx_settings=impatient) as client:
        with _bar(phase):
            while not phase.ended.is_set():
                _publish(phase, client)
                phase.ended.wait(EVERY_SECONDS)
        _publish(phase, client)


def _publish(phase: _Phase, client: SyncPrefectClient) -> None:
    """Create or update the artifact; a failure does not stop the work."""
    content: dict[str, Any] = {"data": phase.percent, "description": phase.sentence}
    try:
        if phase.artifact is None:
            new = ArtifactCreate(key=phase.key, type="progress", flow_run_id=get_flow_run_id(), **content)
            phase.artifact = client.create_artifact(new).id
        else:
            client.update_artifact(phase.artifact, ArtifactUpdate(**content))
    except (httpx.HTTPError, PrefectException) as error:
        if not phase.complained:
            phase.complained = True
            get_run_logger().warning("progress cannot be shown in Prefect's UI: %s", error)
