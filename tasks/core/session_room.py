"""How many sessions a login may have: asked before anything is touched, for what works on several relations at once."""

from tasks.core import sql
from tasks.core.errors import BadInput
from tasks.core.servers import Connection


def require_sessions(connection: Connection, needed: int, *, in_database: bool) -> None:
    """Make sure that this login may open so many sessions besides those that are open; `in_database`, in this one's database.

    Raises:
        BadInput: a CONNECTION LIMIT forbids it.
    """
    login, of_login, taken, database, of_database, taken_there = connection.execute(sql.CONNECTION_LIMITS).fetchall()[0]
    places = [(f'ROLE "{login}"', of_login, taken)]
    if in_database:
        places.append((f'DATABASE "{database}"', of_database, taken_there))
    for place, limit, used in places:
        if 0 <= limit < used + needed:
            raise BadInput(
                f"{place} has CONNECTION LIMIT {limit}, {used} are in use, and this run takes {needed} more; run: "
                f"ALTER {place} CONNECTION LIMIT {used + needed} (or more), or let fewer work at once with BACKUP_JOBS"
            )
