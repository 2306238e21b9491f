"""Addresses of PostgreSQL servers, and sessions on them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composed

from tasks.core import sql
from tasks.core.errors import BadInput, OperationError, ServerUnavailable
from tasks.core.postgres.messages import forget_rows, is_temporary_limit, message_of

KEEPALIVE = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "6"}
# Every session begins with these, programs' too: options of the client override ALTER ROLE, ALTER
# DATABASE and PGOPTIONS. Another schema in the search_path could have a better match than a
# built-in function (https://wiki.postgresql.org/wiki/A_Guide_to_CVE-2018-1058); JIT is slower for
# catalog queries.
SESSION_OPTIONS = {
    "search_path": "pg_catalog,pg_temp", "jit": "off", "role": "none", "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed", "default_transaction_deferrable": "off", "statement_timeout": "0",
    "lock_timeout": "0", "idle_in_transaction_session_timeout": "0", "idle_session_timeout": "0", "DateStyle": "ISO,YMD",
    "IntervalStyle": "postgres",
    # Policies are code of the table's owner: raise an error instead of running them.
    "row_security": "off", "bytea_output": "hex", "quote_all_identifiers": "off", "standard_conforming_strings": "on",
}  # fmt: skip
# Parameters that this module sets itself; values from the environment or a service file are
# dropped.
OWN_PARAMETERS = frozenset({"options", "client_encoding", "application_name", "fallback_application_name"})
# If another server is given, the environment must not complete its address: empty means libpq's
# default.
ADDRESS = {"host": "", "hostaddr": "", "port": ""}
SERVICE = frozenset({"service", "servicefile"})
# Variables for the location of programs and files, irrelevant to sessions.
PROGRAMS_OWN = frozenset({"PG_BIN", "PGSYSCONFDIR", "PGLOCALEDIR", "PG_COLOR"})

# Messages of a server that is starting or stopping; libpq passes on no error code for these.
NOT_YET = re.compile(r"the database system is |server closed the connection|Connection reset|terminating connection")

Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True)
class Server:
    """A server as libpq connection parameters; missing ones come from libpq's environment.

    `parameters` is not in the repr, as it has the password. `block` names the connector block that
    the parameters come from.
    """

    parameters: dict[str, str] = field(default_factory=dict, repr=False)
    name: str = "libpq's environment"
    block: str | None = None

    @property
    def user(self) -> str:
        """The login, as libpq resolves it."""
        chosen = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.get_defaults() if o.val} | self.parameters
        return chosen.get("user", "")

    @property
    def password(self) -> str | None:
        """The password given in the parameters or the environment, not one from a passfile."""
        return self.conninfo("").get("password")

    def as_login(self, user: str, password: str | None) -> "Server":
        """Return the same address for another login; without a password libpq uses its passfile."""
        environment = {key: value for key, value in self._environment.items() if key in ADDRESS}
        # To libpq an empty password means none, and overrides PGPASSWORD.
        return replace(
            self,
            parameters=environment | self.parameters | {"user": user, "password": password or ""},
            name=f'{self.name}, login "{user}"',
        )

    @property
    def address(self) -> str:
        """Host and port, for messages."""
        chosen = self.conninfo("")
        return f"{chosen.get('host') or 'local socket'}:{chosen.get('port') or '5432'}"

    def conninfo(self, database: str, **options: str) -> dict[str, str]:
        """Return the connection parameters for a database; `options` are more session settings."""
        began = SESSION_OPTIONS | options
        return {
            "connect_timeout": "10", **self._environment, **self.parameters, **KEEPALIVE, "dbname": database,
            "options": " ".join(session_option(name, value) for name, value in began.items()),
        }  # fmt: skip

    def environment(self, database: str, **options: str) -> dict[str, str | None]:
        """Return the PG* variables, with the password, for libpq programs to open the same session.

        All other libpq variables are None, to be removed: a service file would override PGDATABASE.
        """
        # The `options` of a service would override those of the environment.
        given = {name: value for name, value in self.conninfo(database, **options).items() if value and name not in SERVICE}
        variable = {o.envvar.decode(): o.keyword.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
        others = {name: None for name in os.environ if name.startswith("PG") and name not in PROGRAMS_OWN}
        return others | {name: given.get(keyword) for name, keyword in variable.items()}

    @property
    def _environment(self) -> dict[str, str]:
        """Parameters from the environment and its service file, without address if one is given."""
        defaults = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.get_defaults() if o.val and o.val != o.compiled}
        others = {keyword: value for keyword, value in defaults.items() if keyword not in OWN_PARAMETERS}
        if self.parameters.keys().isdisjoint(ADDRESS):
            return others
        # Empty, or libpq would complete the address from the environment.
        return {keyword: value for keyword, value in others.items() if keyword not in SERVICE} | ADDRESS


def session_option(name: str, value: str) -> str:
    """Return the libpq option that sets a parameter at the session's start."""
    escaped = value.replace("\\", "\\\\").replace(" ", "\\ ")
    return f"-c {name}={escaped}"


@contextmanager
def connect(server: Server, database: str, application_name: str) -> Iterator[Connection]:
    """Open an autocommit session with our settings instead of the server's, database's or role's.

    Raises:
        BadInput: the server cannot be reached, or refuses the login or the database.
        ServerUnavailable: the server is starting or stopping, or the session was lost during the
            block.
        OperationError: a statement needed more temporary files than the login may have.
    """
    try:
        session = {"client_encoding": "UTF8", "application_name": application_name[:63]}
        connection = psycopg.connect(make_conninfo(**server.conninfo(database) | session), autocommit=True)
    except psycopg.OperationalError as error:
        raise (ServerUnavailable if NOT_YET.search(str(error)) else BadInput)(
            f'cannot connect to database "{database}" on the server of {server.name} '
            f"({server.address}): "
            f"{' '.join(str(error).split())}; "
            "check that the server runs, its address, the login and its rights (GRANT CONNECT)"
        ) from error
    with connection:
        try:
            connection.execute(sql.session.SESSION_SETTINGS)
            yield connection
        except psycopg.OperationalError as error:
            if is_temporary_limit(error):
                login = f'login "{connection.info.user}" in database "{database}"'
                raise OperationError(f"{login}: {message_of(error, connection.info.user)}") from None
            if not connection.broken:
                raise
            place = f'in database "{database}" on the server of {server.name}'
            forget_rows(error)
            raise ServerUnavailable(f"a session {place} was lost: {' '.join(str(error).split())}; run again") from error


@contextmanager
def read_only(connection: Connection) -> Iterator[None]:
    """Open a read-only transaction that is rolled back."""
    connection.read_only = True
    try:
        with connection.transaction(force_rollback=True):
            yield
    finally:
        if not connection.closed:
            connection.read_only = None


def complaint_of(
    connection: Connection, statement: SQL | Composed | bytes, *, prepare: bool | None = None,
    but: tuple[type[psycopg.Error], ...] = (),
) -> str:  # fmt: skip
    """Execute a statement in its own transaction or savepoint; return the error message, or "".

    As it is prepared, PostgreSQL accepts one statement only: nothing in it can end the transaction.
    Errors in `but` are ignored.
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
