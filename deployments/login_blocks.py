"""Connector blocks with a login per kind of work: `<context>-reader`, -restorer, -loader, -roles.

They exist beside the context's own block.
"""

from collections.abc import Iterator

from prefect_sqlalchemy import ConnectionComponents, SqlAlchemyConnector
from pydantic import SecretStr

from tasks.core.errors import BadInput
from tasks.core.postgres.connection import Server, connect
from tasks.database.locks import MAINTENANCE_DATABASE
from tasks.database.logins import candidates_of

LOGINS = {"reader": "backup_reader", "restorer": "backup_restorer", "loader": "backup_loader", "roles": "backup_roles"}


def login_connectors(name: str, own: SqlAlchemyConnector) -> Iterator[tuple[str, SqlAlchemyConnector | str]]:
    """Yield, by name, the block of each login that can connect, or why there is none.

    Without it the context's own login does its work. BACKUP_READER_USER and BACKUP_READER_PASSWORD
    name the reader, and so on; the default is the login of roles.sql, with a password from the
    passfile or from this environment.

    Raises:
        BadInput: a login that the environment names cannot connect.
    """
    for kind, default in LOGINS.items():
        candidates, is_named = candidates_of(Server(), kind, default)
        block = f"{name}-{kind}"
        try:
            yield block, _as_login(own, _first_accepted(candidates))
        except BadInput:
            if is_named:
                raise
            yield (
                block,
                f"no block {block} was saved; until it exists, the login of {name} does its work: {_remedy(kind, default)}",
            )


def _remedy(kind: str, login: str) -> str:
    return f"login {login} cannot connect; create it (roles.sql), \\password {login}, and export BACKUP_{kind.upper()}_PASSWORD"


def _first_accepted(candidates: list[Server]) -> Server:
    *preferred, last = candidates
    for login in preferred:
        try:
            return _accepted(login)
        except BadInput:
            continue
    return _accepted(last)


def _accepted(login: Server) -> Server:
    with connect(login, MAINTENANCE_DATABASE, "register"):
        return login


def _as_login(own: SqlAlchemyConnector, login: Server) -> SqlAlchemyConnector:
    components = own.connection_info
    assert isinstance(components, ConnectionComponents)  # noqa: S101
    password = SecretStr(login.password) if login.password else None
    return SqlAlchemyConnector(connection_info=components.model_copy(update={"username": login.user, "password": password}))
