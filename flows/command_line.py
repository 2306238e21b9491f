"""Flows by hand: `python -m flows.<module> <flow> [--parameter value …]`, with or without a Prefect server."""

import inspect
import logging
import os
import signal
import sys
from argparse import ArgumentParser
from typing import Any

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ParameterTypeError
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks.core.errors import OperationError
from tasks.core.programs import run_guarded

AnyFlow = Flow[..., Any]
INTERRUPTED = 128 + signal.SIGINT
ALONE = "BACKUP_WITHOUT_PREFECT_SERVER"
ANSWER_SECONDS = 10.0


def run_from_command_line(*flows: AnyFlow) -> None:
    """Run the flow that the command line names and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = _parse(flows, sys.argv[1:])
    named = arguments.pop("flow")
    run_by_hand(next(one for one in flows if one.fn.__name__ == named), arguments)


def run_by_hand(chosen: AnyFlow, arguments: dict[str, Any]) -> Any:
    """Run a flow and return its result, or exit: 1 failed, 130 interrupted."""
    # SIGTERM is Ctrl-C, so that every `with` gives back what it borrowed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(chosen, arguments)
    except (OperationError, ParameterTypeError) as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _run(chosen: AnyFlow, arguments: dict[str, Any]) -> Any:
    alone = ALONE in os.environ
    if not alone and not _server_answers():
        # Prefect then starts a server of its own as a child that nothing would end if this process were killed.
        sys.exit(run_guarded([sys.executable, *sys.orig_argv[1:]], {ALONE: "1"}))
    _hide_tracebacks_of_expected_errors()
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    with temporary_settings(restore_defaults={PREFECT_API_URL} if alone else set()):
        return chosen(**arguments)


def _parse(flows: tuple[AnyFlow, ...], words: list[str]) -> dict[str, str]:
    parser = ArgumentParser(description="Run one flow by hand.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="flow", required=True)
    for one in flows:
        about = (one.description or "").partition("\n\nArgs:")[0]
        command = commands.add_parser(one.fn.__name__, help=about.split("\n")[0], description=about, allow_abbrev=False)
        for name, parameter in inspect.signature(one.fn).parameters.items():
            several = "+" if parameter.annotation in (list[str], list[str] | None) else None
            is_needed = parameter.default is parameter.empty
            told = one.parameters.properties[name].get("description", "") + (
                "" if is_needed else f" (default: {parameter.default})"
            )
            command.add_argument(
                f"--{name.replace('_', '-')}", dest=name, nargs=several, required=is_needed, help=told.replace("%", "%%")
            )
    return {name: value for name, value in vars(parser.parse_args(words)).items() if value is not None}


def _server_answers() -> bool:
    """Say whether there is a Prefect server to record the run; it may have died too."""
    url = PREFECT_API_URL.value()
    if not url:
        return False
    impatient = {"timeout": ANSWER_SECONDS}
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(httpx_settings=impatient, sync_client=True) as client:
        error = client.api_healthcheck()
    if error:
        print(f"no Prefect server at {url} ({error}); this run is recorded on this machine only", file=sys.stderr)  # noqa: T201
    return error is None


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
