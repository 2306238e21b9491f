"""Running flows by hand: `python -m flows.<module> <flow> [--parameter value …]`, also without Prefect's server."""

import inspect
import logging
import os
import signal
import sys
from argparse import ArgumentParser
from concurrent.futures import Future
from functools import wraps
from http import HTTPStatus
from threading import Event
from typing import Any

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ParameterTypeError, PrefectException
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks.core.errors import OperationError
from tasks.run.own_server import ALONE, own_server

AnyFlow = Flow[..., Any]
INTERRUPTED = 128 + signal.SIGINT
ANSWER_SECONDS = 10.0
REFUSED_LOGIN = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
REASON_CHARACTERS = 200
# Set when Prefect's server was lost during the run.
server_lost = Event()


def run_from_command_line(*flows: AnyFlow) -> None:
    """Run a flow by the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = _parse(flows, sys.argv[1:])
    named = arguments.pop("flow")
    try:
        run_by_hand(next(flow for flow in flows if flow.fn.__name__ == named), arguments)
    except SystemExit as end:
        _leave_at_once(end.code)
        raise
    _leave_at_once(0)


def _leave_at_once(code: str | int | None) -> None:
    """End this process at once if the server is lost: Prefect would retry events for minutes."""
    if server_lost.is_set():
        if isinstance(code, str):
            _say(code)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(1 if isinstance(code, str) else code or 0)


def run_by_hand(chosen: AnyFlow, arguments: dict[str, Any]) -> Any:
    """Run a flow and return its result, or exit: 1 failed, 130 interrupted."""
    # SIGTERM is handled as Ctrl-C, so that every `with` cleans up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(chosen, arguments)
    except (OperationError, ParameterTypeError) as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
    except (httpx.HTTPError, PrefectException) as error:
        sys.exit(f"Prefect's server failed during the run ({_reason(error)}); run again")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _run(chosen: AnyFlow, arguments: dict[str, Any]) -> Any:
    _hide_tracebacks_of_expected_errors()
    url = "" if ALONE in os.environ else PREFECT_API_URL.value() or ""
    reason = _why_unusable(url, chosen) if url else ""
    if url and not reason:
        try:
            return _recorded(url, chosen, arguments)
        except _NeverBegun as error:
            reason = str(error)
    if url:
        _say(f"no Prefect server at {url} ({reason}); this run is recorded on this machine only")
    with own_server(as_configured=not url) as warning:
        _say(warning)
        return chosen(**arguments)


class _NeverBegun(Exception):
    """Raised, with the reason, if Prefect's server failed before the flow's function was called."""


def _recorded(url: str, chosen: AnyFlow, arguments: dict[str, Any]) -> Any:
    """Run a flow that a server records.

    If the server is lost meanwhile, the flow's own outcome counts.

    Raises:
        _NeverBegun: the server failed before anything was done.
    """
    procedure, watched = chosen.fn, chosen.with_options()
    outcome = Future[Any]()

    @wraps(procedure)
    def watch(*words: Any, **named: Any) -> Any:
        outcome.set_running_or_notify_cancel()
        try:
            done = procedure(*words, **named)
        except Exception as error:
            outcome.set_exception(error)
            raise
        outcome.set_result(done)
        return done

    watched.fn = watch
    try:
        return watched(**arguments)
    except (httpx.HTTPError, PrefectException) as error:
        if isinstance(error, ParameterTypeError) or outcome.running():
            raise
        if not outcome.done():
            raise _NeverBegun(_reason(error)) from error
        _say(f"Prefect's server at {url} is gone ({_reason(error)}): it did not record how this run ended")
        server_lost.set()
        done = outcome.result()
        return done.data if isinstance(done, State) else done


def _say(sentence: str) -> None:
    if sentence:
        print(sentence, file=sys.stderr)  # noqa: T201


def _parse(flows: tuple[AnyFlow, ...], words: list[str]) -> dict[str, str]:
    parser = ArgumentParser(description="Run one flow by hand.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="flow", required=True)
    for flow in flows:
        about = (flow.description or "").partition("\n\nArgs:")[0]
        name, summary = flow.fn.__name__, about.split("\n")[0]
        command = commands.add_parser(name, help=summary, description=about, allow_abbrev=False)
        for option, parameter in inspect.signature(flow.fn).parameters.items():
            several = "+" if parameter.annotation in (list[str], list[str] | None) else None
            is_needed = parameter.default is parameter.empty
            description = flow.parameters.properties[option].get("description", "")
            text = description + ("" if is_needed else f" (default: {parameter.default})")
            spelling, text = f"--{option.replace('_', '-')}", text.replace("%", "%%")
            command.add_argument(spelling, dest=option, nargs=several, required=is_needed, help=text)
    return {name: value for name, value in vars(parser.parse_args(words)).items() if value is not None}


def _why_unusable(url: str, chosen: AnyFlow) -> str:
    """Return why an address cannot record runs: no answer, no Prefect API, or no database."""
    impatient = {"timeout": ANSWER_SECONDS}
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(httpx_settings=impatient, sync_client=True) as client:
            if error := client.api_healthcheck():
                return _reason(error)
        # The first request of every run, which writes to the database; retried, as it may be busy.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 2}), get_client(httpx_settings=impatient, sync_client=True) as client:
            client.create_flow(chosen)
    except Exception as error:  # noqa: BLE001 - anything may answer at that address
        return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    """Return in a few words why a server cannot be used."""
    if isinstance(error, httpx.HTTPStatusError):
        code = error.response.status_code
        login = ": PREFECT_API_AUTH_STRING or PREFECT_API_KEY is missing or wrong" if code in REFUSED_LOGIN else ""
        return f"it answers {f'{code} {error.response.reason_phrase}'.strip()}{login}"
    if isinstance(error, ValueError | LookupError | TypeError | AttributeError):
        return "what answers there is no Prefect API"
    return (" ".join(str(error).split()) or type(error).__name__)[:REASON_CHARACTERS]


class _ExpectedErrors(logging.Filter):
    """Log filter that drops the traceback of expected errors: their messages are sufficient."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        if record.exc_info and isinstance(record.exc_info[1], OperationError | httpx.HTTPError | PrefectException):
            record.exc_info = None
        return True


class _LostEvents(logging.Filter):
    """Log filter that drops errors about events for a lost server: its loss is reported once."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep all other records."""
        message = record.getMessage()
        return not ("EventsWorker" in message or "/events/in" in message)


def _hide_tracebacks_of_expected_errors() -> None:
    for name in ("prefect.events.clients", "prefect._internal.concurrency", "prefect.EventsWorker"):
        logging.getLogger(name).addFilter(_LostEvents())
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_ExpectedErrors())
