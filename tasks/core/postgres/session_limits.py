"""Connection limits, checked before a run that opens several sessions at once."""

from tasks.core import sql
from tasks.core.errors import BadInput
from tasks.core.postgres.connection import Connection


def require_sessions(connection: Connection, needed: int, *, in_database: bool) -> None:
    """Make sure that this login may open `needed` more sessions.

    With `in_database`, in this database too.

    Raises:
        BadInput: a CONNECTION LIMIT forbids it.
    """
    login, of_login, taken, database, of_database, taken_there, of_server, taken_at_all = connection.execute(
        sql.session.CONNECTION_LIMITS
    ).fetchall()[0]
    places = [(f'ROLE "{login}"', of_login, taken)]
    if in_database:
        places.append((f'DATABASE "{database}"', of_database, taken_there))
    for place, limit, used in places:
        if 0 <= limit < used + needed:
            raise BadInput(
                f"{place} has CONNECTION LIMIT {limit}, {used} are in use, and this run takes "
                f"{needed} more; run: ALTER {place} CONNECTION LIMIT {used + needed} (or more), or "
                "reduce parallelism with BACKUP_JOBS"
            )
    if of_server < taken_at_all + needed:
        raise BadInput(
            f"the server has {of_server} connections for logins like {login} (max_connections), "
            f"{taken_at_all} are in use, and this run takes {needed} more; end sessions, or run: "
            "ALTER SYSTEM SET max_connections = … (requires a restart), or reduce parallelism with "
            "BACKUP_JOBS"
        )
