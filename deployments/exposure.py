"""Warnings about secrets that others could read: an API without login, connections without TLS."""

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_CLIENT_CUSTOM_HEADERS,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
from psycopg import pq

from tasks.core.errors import UnsafeTarget

ANSWER_SECONDS = 10.0
# The answers to a request without a login; any other error is not about logins.
CLOSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
# https://www.postgresql.org/docs/current/libpq-ssl.html: any other mode allows a server without
# TLS.
SAFE_SSL_MODES = ("require", "verify-ca", "verify-full")
# Nothing is sent there; the kernel returns the source address it would use.
DOCUMENTATION_ADDRESS = ("192.0.2.1", 9)
LOGIN = (
    "give the server a login (PREFECT_SERVER_API_AUTH_STRING='name:password' where it runs, the "
    "same as PREFECT_API_AUTH_STRING for workers and this shell)"
)


def check(*, allow_open_api: bool, only_look: bool) -> None:
    """Print warnings on stderr about secrets of a registration that others could read.

    Raises:
        UnsafeTarget: other machines could read the passwords that would be saved, and
            --allow-open-api was not passed.
    """
    url = PREFECT_API_URL.value() or ""
    is_open = bool(url) and is_open_api(url)
    place = _beyond_this_machine(url) if is_open else ""
    if place and not (allow_open_api or only_look):
        raise UnsafeTarget(
            f"refusing to save passwords: Prefect's API at {place} answers without a login, so "
            f"that anybody who reaches it could read them; {LOGIN}, let it listen on 127.0.0.1 "
            "only, or pass --allow-open-api"
        )
    warnings = [_of_open_api(place or url, bool(place))] if is_open else [*_of_clear_login(url)]
    for warning in [*warnings, *of_database(database_parameters()), *of_store(os.environ)]:
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201


def is_open_api(url: str) -> bool:
    """Return whether a Prefect API returns blocks, which have passwords, without a login.

    Raises:
        httpx.HTTPError: the request failed.
    """
    # Retry a server whose database is busy, but not an address that may have no server.
    retries = {} if url == PREFECT_API_URL.value() else {PREFECT_CLIENT_MAX_RETRIES: 0}
    bare: dict[Any, Any] = {
        **retries,
        PREFECT_API_URL: url,
        PREFECT_API_KEY: None,
        PREFECT_API_AUTH_STRING: None,
        PREFECT_CLIENT_CUSTOM_HEADERS: {},
    }
    with temporary_settings(bare), get_client(httpx_settings={"timeout": ANSWER_SECONDS}, sync_client=True) as client:
        try:
            # Requests the first block, without its secrets.
            answer = client.request("POST", "/block_documents/filter", json={"limit": 1})
        except httpx.HTTPStatusError as error:
            if error.response.status_code in CLOSED:
                return False
            raise
    # A login page is not JSON.
    return str(answer.headers.get("content-type")).startswith("application/json")


def _beyond_this_machine(url: str) -> str:
    """Return the address at which other machines can reach an API without login, or ""."""
    if not is_loopback(_host(url)):
        return url
    elsewhere = _from_outside(url)
    try:
        return elsewhere if elsewhere and is_open_api(elsewhere) else ""
    except httpx.HTTPError:
        return ""


def _from_outside(url: str) -> str:
    """Return this machine's address as another machine would use it; "" without a network."""
    parts = urlsplit(url)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(DOCUMENTATION_ADDRESS)
            address = probe.getsockname()[0]
    except OSError:
        return ""
    return "" if is_loopback(address) else urlunsplit(parts._replace(netloc=f"{address}:{parts.port or 80}"))


def _of_open_api(url: str, is_beyond: bool) -> str:
    reader = "whoever reaches it" if is_beyond else "every account of this machine"
    return f"Prefect's API at {url} answers without a login: {reader} can read the passwords that are saved there; {LOGIN}"


def _of_clear_login(url: str) -> Iterator[str]:
    if _is_clear(url):
        yield (
            f"the login of Prefect's API travels unencrypted to {url}; put the server behind TLS, and https:// in PREFECT_API_URL"
        )


def of_database(parameters: Mapping[str, str]) -> Iterator[str]:
    """Yield the warnings on a connection, given as libpq's parameters."""
    hosts = (parameters.get("hostaddr") or parameters.get("host") or "").split(",")
    beyond = [host for host in hosts if host and not host.startswith(("/", "@")) and not is_loopback(host)]
    mode = parameters.get("sslmode", "prefer")
    if beyond and mode not in SAFE_SSL_MODES:
        yield (
            f"connections to PostgreSQL on {', '.join(beyond)} may be without TLS unnoticed "
            f"(sslmode={mode}); set PGSSLMODE=verify-full and PGSSLROOTCERT"
        )


def database_parameters() -> dict[str, str]:
    """Return libpq's parameters from the environment and the service file."""
    return {option.keyword.decode(): option.val.decode() for option in pq.Conninfo.get_defaults() if option.val}


def of_store(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the warnings on the store."""
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
    if environment.get("BACKUP_STORE", "").startswith("s3://") and _is_clear(endpoint):
        yield (f"backups travel unencrypted to {endpoint}; write https:// in AWS_ENDPOINT_URL (AWS_CA_BUNDLE names a certificate)")


def _is_clear(url: str) -> bool:
    return urlsplit(url).scheme == "http" and not is_loopback(_host(url))


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def is_loopback(host: str) -> bool:
    """Return whether a host is the loopback of this machine: 127.0.0.0/8, ::1, or localhost."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
