"""What travels in clear, and what stays on this machine."""

from collections.abc import Mapping

import pytest

from deployments.exposure import is_loopback, of_database, of_store


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "10.0.0.1", "0.0.0.0", "::", "db.example.org", "localhost.example.org", "127.0.0.1.example.org"]
)
def test_beyond(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"host": "/var/run/postgresql"},
        {"host": "localhost", "sslmode": "disable"},
        {"host": "db.example.org", "sslmode": "require"},
        {"host": "db.example.org", "sslmode": "verify-full"},
        {"host": "db.example.org", "hostaddr": "127.0.0.1"},
    ],
)
def test_a_database_that_nothing_is_said_of(parameters: Mapping[str, str]) -> None:
    assert list(of_database(parameters)) == []


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"host": "db.example.org"}, "connections to PostgreSQL on db.example.org may be without TLS unnoticed (sslmode=prefer)"),
        ({"host": "localhost,db.example.org", "sslmode": "allow"}, "PostgreSQL on db.example.org may"),
        ({"host": "localhost", "hostaddr": "10.0.0.7"}, "10.0.0.7"),
    ],
)
def test_a_database_without_tls(parameters: Mapping[str, str], said: str) -> None:
    (warning,) = of_database(parameters)
    assert said in warning and "PGSSLMODE=verify-full" in warning


@pytest.mark.parametrize(
    ("endpoint", "warned"),
    [("", 0), ("http://127.0.0.1:9000", 0), ("https://s3.example.org", 0), ("http://s3.example.org:9000", 1)],
)
def test_a_store_in_clear(endpoint: str, warned: int) -> None:
    assert len(list(of_store({"BACKUP_STORE": "s3://bucket", "AWS_ENDPOINT_URL": endpoint}))) == warned
    assert len(list(of_store({"BACKUP_STORE": "s3://bucket", "AWS_ENDPOINT_URL_S3": endpoint}))) == warned
    assert list(of_store({"BACKUP_STORE": "/backups", "AWS_ENDPOINT_URL": endpoint})) == []
