"""Connector blocks of a login for each kind of work, beside the context's own: `<context>-reader`, -restorer, -loader, -roles."""

from collections.abc import Iterator

from prefect_sqlalchemy import ConnectionComponents, SqlAlchemyConnector
from pydantic import SecretStr

from tasks.core.errors import BadInput
from tasks.core.postgres.connection import Server, connect
from tasks.database.locks import MAINTENANCE_DATABASE
from tasks.database.logins import candidates_of

LOGINS = {"reader": "backup_reader", "restorer": "backup_restorer", "loader": "backup_loader", "roles": "backup_roles"}


def login_connectors(name: str, own: SqlAlchemyConnector) -> Iterator[tuple[str, SqlAlchemyConnector | str]]:
    """Yield by name the block of each login that is let in, or why there is none: its work then takes the context's own login.

    BACKUP_READER_USER and BACKUP_READER_PASSWORD name the reader, and so on; by default it is the login of roles.sql, with a
    password of the passfile or the one of this environment.

    Raises:
        BadInput: a login that was named is not let in.
    """
    for kind, default in LOGINS.items():
        candidates, is_named = candidates_of(Server(), kind, default)
        block = f"{name}-{kind}"
        try:
            yield block, _as_login(own, _first_let_in(candidates))
        except BadInput:
            if is_named:
                raise
            yield block, f"no block {block}, its work takes the login of {name} till then: {_remedy(kind, default)}"


def _remedy(kind: str, login: str) -> str:
    return f"login {login} is not let in; make it (roles.sql), \\password {login}, and say that: BACKUP_{kind.upper()}_PASSWORD"


def _first_let_in(candidates: list[Server]) -> Server:
    *others, last = candidates
    for one in others:
        try:
            return _let_in(one)
        except BadInput:
            continue
    return _let_in(last)


def _let_in(login: Server) -> Server:
    with connect(login, MAINTENANCE_DATABASE, "register"):
        return login


def _as_login(own: SqlAlchemyConnector, login: Server) -> SqlAlchemyConnector:
    components = own.connection_info
    assert isinstance(components, ConnectionComponents)  # noqa: S101
    password = SecretStr(login.password) if login.password else None
    return SqlAlchemyConnector(connection_info=components.model_copy(update={"username": login.user, "password": password}))
