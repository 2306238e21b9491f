"""What a Prefect server is told, and what it posts."""

from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar


def tell_the_rest() -> None:
    """Tell a Prefect server that will stop what this process still has for it; else the exit waits, and the next is not told."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all()


class Hook(BaseHTTPRequestHandler):
    """Notes what is posted to it."""

    said: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.said.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
