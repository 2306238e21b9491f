"""What a Prefect server is told, and what it posts."""

from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

import httpx

from tests.support.faults import wait_for


def tell_the_rest() -> None:
    """Tell a Prefect server that will stop what this process still has for it; else the exit waits, and the next is not told."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all()


TELLING_SECONDS = 60


class Runs:
    """The runs of tasks of the flows that a block runs, as the API of Prefect's server has them."""

    def __init__(self, api: str) -> None:
        self._api, self._known = api, {run["id"] for run in self._read(api)}

    def _read(self, api: str) -> list[dict[str, Any]]:
        asked = {"sort": "EXPECTED_START_TIME_DESC", "limit": 200}
        return list(httpx.post(f"{api}/task_runs/filter", json=asked).raise_for_status().json())

    def named(self, words: str) -> list[dict[str, Any]]:
        """Return the runs whose name begins so, when they have ended."""
        tell_the_rest()

        def ended() -> list[dict[str, Any]]:
            runs = [run for run in self._read(self._api) if run["id"] not in self._known and run["name"].startswith(words)]
            return runs if all(run["state_type"] in {"COMPLETED", "FAILED"} for run in runs) else []

        return wait_for(ended, TELLING_SECONDS, f"the end of {words}")

    def counts(self, words: str) -> list[int]:
        return sorted(run["run_count"] for run in self.named(words))

    def states(self, run: dict[str, Any]) -> set[str]:
        """Return the names of all states that a run was in."""
        asked = {"task_run_id": run["id"]}
        return {state["name"] for state in httpx.get(f"{self._api}/task_run_states/", params=asked).raise_for_status().json()}


class Hook(BaseHTTPRequestHandler):
    """Notes what is posted to it."""

    said: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.said.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
