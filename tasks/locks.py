"""The context's advisory lock: shared by backups, exclusive for whatever changes or makes a database of the context.

It is held in the server's `postgres` database, because the context's own may be dropped meanwhile
(https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS).
"""

import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.core import sql
from tasks.core.errors import BadInput, OperationError
from tasks.core.servers import Connection, Server, connect

MAINTENANCE_DATABASE = "postgres"
SPACE = zlib.crc32(b"bounded context backup") & 0x7FFFFFFF
POLL_SECONDS = 0.5


@contextmanager
def context_lock(
    server: Server, context: str, title: str, *, exclusive: bool = False, wait_seconds: float = 300
) -> Iterator[Connection]:
    """Hold the context's lock on a server, and give the session that holds it.

    Raises:
        BadInput: the connection goes through a pooler, which would lose the lock.
        OperationError: others hold it for longer than wait_seconds; they are named.
    """
    with connect(server, MAINTENANCE_DATABASE, title) as connection:
        _refuse_pooler(connection, server)
        key = {"space": SPACE, "key": zlib.crc32(context.encode()) & 0x7FFFFFFF}
        attempt = sql.TRY_LOCK_EXCLUSIVE if exclusive else sql.TRY_LOCK_SHARED
        deadline = time.monotonic() + wait_seconds
        while not connection.execute(attempt, key).fetchall()[0][0]:
            if time.monotonic() > deadline:
                holders = ", ".join(row[0] for row in connection.execute(sql.LOCK_HOLDERS, key))
                raise OperationError(
                    f'context "{context}" is locked by {holders or "a run that just ended"} for more than {wait_seconds:.0f} s; '
                    "wait for it to end, or end it, and run again"
                )
            # Not waited for in the server: a statement that waits holds a snapshot, which keeps vacuum from its work.
            time.sleep(POLL_SECONDS)
        yield connection


def _refuse_pooler(connection: Connection, server: Server) -> None:
    pid = connection.execute(sql.BACKEND_PID).fetchall()[0][0]
    if connection.info.backend_pid != pid:
        raise BadInput(
            f"the server of {server.name} is reached through a connection pooler, which would lose locks and snapshots; "
            "give the address of PostgreSQL itself"
        )
