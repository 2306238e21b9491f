"""Grants made by roles other than the owner, by a privilege that they hold WITH GRANT OPTION."""

from collections.abc import Iterable

import psycopg
from prefect import get_run_logger

from tasks.core import sql
from tasks.core.postgres.connection import Connection, complaint_of, major_of
from tasks.core.postgres.grants import Grant
from tasks.core.postgres.messages import message_of


def make_grants(connection: Connection, grants: Iterable[Grant]) -> list[str]:
    """Repeat grants as the original grantor if this login is a member of that role, else as owner.

    Returns notes about grants by the owner instead: the privilege exists, but does not depend on
    the grantor's.
    """
    to_do = list[str]()
    for grant in grants:
        if not _made_as_grantor(connection, grant):
            complaint = complaint_of(connection, sql.staging.as_written(grant.statement), prepare=True)
            lacks = f"which could not be made ({complaint})" if complaint else "which the owner granted instead"
            to_do.append(f'a grant by "{grant.grantor}", {lacks}; as a superuser, run: {grant.by_hand}')
    return to_do


def may_grant_as(connection: Connection, grantor: str) -> bool:
    """Return whether this session's login may become a role."""
    question = sql.databases.MAY_BECOME_16 if major_of(connection) >= 16 else sql.databases.MAY_BECOME
    return bool(connection.execute(question, {"names": [grantor]}).fetchall())


def _made_as_grantor(connection: Connection, grant: Grant) -> bool:
    if not may_grant_as(connection, grant.grantor):
        return False
    try:
        with connection.transaction():
            connection.execute(sql.logins.become(grant.grantor))
            connection.execute(sql.staging.as_written(grant.statement), prepare=True)
            connection.execute(sql.logins.BE_ONESELF)
    except psycopg.Error as error:
        if connection.broken:
            raise
        get_run_logger().info('not granted as "%s": %s', grant.grantor, message_of(error))
        return False
    return True
