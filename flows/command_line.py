"""Flows by hand: `python -m flows.<module> <flow> [--parameter value …]`, with or without a Prefect server."""

import inspect
import logging
import os
import sys
from argparse import ArgumentParser
from typing import Any

import httpx
from prefect import Flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.core.errors import OperationError

AnyFlow = Flow[..., Any]


def run_from_command_line(*flows: AnyFlow) -> None:
    """Run the flow that the command line names and exit: 0 done, 1 failed, 2 wrong usage."""
    arguments = _parse(flows, sys.argv[1:])
    named = arguments.pop("flow")
    chosen = next(one for one in flows if one.fn.__name__ == named)
    _hide_tracebacks_of_expected_errors()
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    with temporary_settings(restore_defaults=_unreachable_api()):
        try:
            chosen(**arguments)
        except OperationError as error:
            sys.exit(f"{type(error).__name__}: {error}")


def _parse(flows: tuple[AnyFlow, ...], words: list[str]) -> dict[str, str]:
    parser = ArgumentParser(description="Run one flow by hand.")
    commands = parser.add_subparsers(dest="flow", required=True)
    for one in flows:
        command = commands.add_parser(one.fn.__name__, help=(one.description or "").split("\n")[0])
        for name, parameter in inspect.signature(one.fn).parameters.items():
            command.add_argument(f"--{name.replace('_', '-')}", dest=name, help=f"default: {parameter.default}")
    return {name: value for name, value in vars(parser.parse_args(words)).items() if value is not None}


def _unreachable_api() -> set[Any]:
    """Return the API address among the settings to forget, if nothing answers there: the server may have died too."""
    url = PREFECT_API_URL.value()
    if not url:
        return set()
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=5).raise_for_status()
    except httpx.HTTPError as error:
        print(f"no Prefect server at {url} ({error}); this run is recorded on this machine only", file=sys.stderr)  # noqa: T201
        return {PREFECT_API_URL}
    return set()


class _ExpectedErrors(logging.Filter):
    """Drops the traceback of errors that say all there is to say."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        if record.exc_info and isinstance(record.exc_info[1], OperationError):
            record.exc_info = None
        return True


def _hide_tracebacks_of_expected_errors() -> None:
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_ExpectedErrors())
