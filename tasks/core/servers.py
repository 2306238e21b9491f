"""Addresses of PostgreSQL servers, and sessions on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg.sql import Composed

from tasks.core import sql
from tasks.core.complaints import forget_rows, message_of
from tasks.core.errors import BadInput, OperationError

KEEPALIVE = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "6"}

Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True)
class Server:
    """A server as libpq's connection parameters; what is absent libpq takes from its environment.

    `parameters` never shows in a repr, because the password is one of them.
    """

    parameters: dict[str, str] = field(default_factory=dict, repr=False)
    name: str = "libpq's environment"

    @property
    def address(self) -> str:
        """Host and port, for people."""
        chosen = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.get_defaults() if o.val} | self.parameters
        return f"{chosen.get('host', 'local socket')}:{chosen.get('port', '5432')}"

    def conninfo(self, database: str) -> dict[str, str]:
        """Return the parameters of a connection to one database."""
        return {"connect_timeout": "10", **_environment_defaults(), **self.parameters, "dbname": database}

    def environment(self, database: str) -> dict[str, str]:
        """Return the PG* variables that lead libpq's programs there, the password among them (never argv)."""
        variable = {o.keyword.decode(): o.envvar.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
        return {variable[key]: value for key, value in self.conninfo(database).items() if key in variable}


def _environment_defaults() -> dict[str, str]:
    """Return what the environment says about connecting in time, so that a default does not hide it."""
    defaults = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.get_defaults() if o.val}
    return {"connect_timeout": defaults["connect_timeout"]} if "connect_timeout" in defaults else {}


@contextmanager
def connect(server: Server, database: str, application_name: str) -> Iterator[Connection]:
    """Open an autocommit session without time limits or formats of the server's, the database's or the role's making.

    Raises:
        BadInput: the server cannot be reached, or refuses the login or the database.
        OperationError: the session was lost while it was used.
    """
    try:
        session = {"client_encoding": "UTF8", "application_name": application_name[:63], **KEEPALIVE}
        connection = psycopg.connect(make_conninfo(**server.conninfo(database) | session), autocommit=True)
    except psycopg.OperationalError as error:
        raise BadInput(
            f'cannot connect to database "{database}" on the server of {server.name} ({server.address}): '
            f"{' '.join(str(error).split())}; "
            "check that the server runs, its address, the login and its rights (GRANT CONNECT)"
        ) from error
    with connection:
        try:
            # By itself first: where a database allows a statement a tenth of a second, the settings may not fit into it.
            connection.execute(sql.NO_STATEMENT_TIMEOUT)
            connection.execute(sql.SESSION_SETTINGS)
            yield connection
        except psycopg.OperationalError as error:
            if not connection.broken:
                raise
            place = f'in database "{database}" on the server of {server.name}'
            forget_rows(error)
            raise OperationError(f"a session {place} was lost: {' '.join(str(error).split())}; run again") from error


def complaint_of(
    connection: Connection, statement: Composed | bytes, *, prepare: bool | None = None, but: tuple[type[psycopg.Error], ...] = ()
) -> str:  # fmt: skip
    """Execute what may be refused, in a transaction or savepoint of its own; return what PostgreSQL says against it, or nothing.

    Prepared, PostgreSQL takes one statement only: nothing can end the transaction. The errors `but` are as good as done.
    """
    try:
        with connection.transaction():
            connection.execute(statement, prepare=prepare)
    except but:
        return ""
    except psycopg.Error as error:
        if connection.broken:
            raise
        return message_of(error)
    return ""


def encoding_of(connection: Connection) -> str:
    """Return the server encoding under PostgreSQL's own name, for example UTF8."""
    return connection.info.parameter_status("server_encoding") or "UTF8"


def major_of(connection: Connection) -> int:
    """Return the server's major version, for example 18."""
    return connection.info.server_version // 10000
