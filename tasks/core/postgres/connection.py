"""Addresses of PostgreSQL servers, and sessions on them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composed

from tasks.core import sql
from tasks.core.errors import BadInput, OperationError
from tasks.core.postgres.messages import forget_rows, message_of

KEEPALIVE = {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "6"}
# With these every session of ours begins, programs' too. What a client asks for at its start beats what ALTER ROLE, ALTER DATABASE
# and PGOPTIONS set. A schema of others on the path could give a better match than the built-in function that is meant
# (https://wiki.postgresql.org/wiki/A_Guide_to_CVE-2018-1058); JIT takes longer than the queries of the catalogue do.
SESSION_OPTIONS = {
    "search_path": "pg_catalog,pg_temp", "jit": "off", "role": "none", "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed", "default_transaction_deferrable": "off", "statement_timeout": "0",
    "lock_timeout": "0", "idle_in_transaction_session_timeout": "0", "idle_session_timeout": "0", "DateStyle": "ISO,YMD",
    "IntervalStyle": "postgres",
    # Policies are code of whoever owns the table: an error instead.
    "row_security": "off", "bytea_output": "hex", "quote_all_identifiers": "off", "standard_conforming_strings": "on",
}  # fmt: skip
# Of libpq's parameters these are ours to say; what else the environment or a service file has of them is left behind.
OWN_PARAMETERS = frozenset({"options", "client_encoding", "application_name", "fallback_application_name"})
# Where another server is given, none of the environment's address may fill what that does not say: empty is libpq's own default.
ADDRESS = {"host": "", "hostaddr": "", "port": ""}
SERVICE = frozenset({"service", "servicefile"})
# Variables that say where programs and their files are, and nothing of a session.
PROGRAMS_OWN = frozenset({"PG_BIN", "PGSYSCONFDIR", "PGLOCALEDIR", "PG_COLOR"})

Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True)
class Server:
    """A server as libpq's connection parameters; what is absent libpq takes from its environment.

    `parameters` never shows in a repr, because the password is one of them. `block` names the connector block that they are from.
    """

    parameters: dict[str, str] = field(default_factory=dict, repr=False)
    name: str = "libpq's environment"
    block: str | None = None

    @property
    def user(self) -> str:
        """The login, as libpq understands it."""
        chosen = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.get_defaults() if o.val} | self.parameters
        return chosen.get("user", "")

    @property
    def password(self) -> str | None:
        """The password that is given, not one of a passfile."""
        return self.conninfo("").get("password")

    def as_login(self, user: str, password: str | None) -> "Server":
        """Return the same address for another login; without a password libpq looks into its passfile."""
        environment = {key: value for key, value in self._environment.items() if key in ADDRESS}
        # An empty password is none to libpq, and keeps PGPASSWORD out.
        return replace(
            self, parameters=environment | self.parameters | {"user": user, "password": password or ""},
            name=f'{self.name}, login "{user}"',
        )  # fmt: skip

    @property
    def address(self) -> str:
        """Host and port, for people."""
        chosen = self.conninfo("")
        return f"{chosen.get('host') or 'local socket'}:{chosen.get('port') or '5432'}"

    def conninfo(self, database: str, **options: str) -> dict[str, str]:
        """Return the parameters of a connection to one database; options are settings that the session begins with besides ours."""
        began = SESSION_OPTIONS | options
        return {
            "connect_timeout": "10", **self._environment, **self.parameters, **KEEPALIVE, "dbname": database,
            "options": " ".join(session_option(name, value) for name, value in began.items()),
        }  # fmt: skip

    def environment(self, database: str, **options: str) -> dict[str, str | None]:
        """Return the PG* variables that lead libpq's programs to the same session, the password among them (never argv).

        Every other variable of libpq's is None: it is to be taken away, as a service file would beat PGDATABASE.
        """
        # A program would believe the service's `options` rather than those of its environment.
        given = {name: value for name, value in self.conninfo(database, **options).items() if value and name not in SERVICE}
        variable = {o.envvar.decode(): o.keyword.decode() for o in pq.Conninfo.get_defaults() if o.envvar}
        others = {name: None for name in os.environ if name.startswith("PG") and name not in PROGRAMS_OWN}
        return others | {name: given.get(keyword) for name, keyword in variable.items()}

    @property
    def _environment(self) -> dict[str, str]:
        """What the environment, and the service file that it names, say of the server; not the address, where it is given."""
        said = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.get_defaults() if o.val and o.val != o.compiled}
        others = {keyword: value for keyword, value in said.items() if keyword not in OWN_PARAMETERS}
        if self.parameters.keys().isdisjoint(ADDRESS):
            return others
        # Empty, or libpq would look for the rest of the address itself.
        return {keyword: value for keyword, value in others.items() if keyword not in SERVICE} | ADDRESS


def session_option(name: str, value: str) -> str:
    """Return the word of libpq's `options` with which a session begins with a setting."""
    escaped = value.replace("\\", "\\\\").replace(" ", "\\ ")
    return f"-c {name}={escaped}"


@contextmanager
def connect(server: Server, database: str, application_name: str) -> Iterator[Connection]:
    """Open an autocommit session without time limits or formats of the server's, the database's or the role's making.

    Raises:
        BadInput: the server cannot be reached, or refuses the login or the database.
        OperationError: the session was lost while it was used.
    """
    try:
        session = {"client_encoding": "UTF8", "application_name": application_name[:63]}
        connection = psycopg.connect(make_conninfo(**server.conninfo(database) | session), autocommit=True)
    except psycopg.OperationalError as error:
        raise BadInput(
            f'cannot connect to database "{database}" on the server of {server.name} ({server.address}): '
            f"{' '.join(str(error).split())}; "
            "check that the server runs, its address, the login and its rights (GRANT CONNECT)"
        ) from error
    with connection:
        try:
            connection.execute(sql.session.SESSION_SETTINGS)
            yield connection
        except psycopg.OperationalError as error:
            if not connection.broken:
                raise
            place = f'in database "{database}" on the server of {server.name}'
            forget_rows(error)
            raise OperationError(f"a session {place} was lost: {' '.join(str(error).split())}; run again") from error


@contextmanager
def read_only(connection: Connection) -> Iterator[None]:
    """Open a transaction that can write nothing and is rolled back."""
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
