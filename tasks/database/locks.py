"""The context's advisory lock: shared for backups, exclusive for changes to its databases.

It is held in the server's `postgres` database, because the context's own may be dropped meanwhile
(https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS). It ends with its
session, which an administrator or the network may end. An exclusive holder therefore checks, right
before each step that cannot be undone, that it is still held: in the transaction of the step, or
else in the lock's session.

Shared locks are not checked: a backup stores the state of its snapshot, which its own session
protects with locks on every table. Discarding such a set would cost a backup and protect nothing.
"""

import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import psycopg

from tasks.core import sql
from tasks.core.errors import BadInput, LostLock, MovedSnapshot, OperationError
from tasks.core.postgres.connection import Connection, Server, connect
from tasks.core.run.clock import now

MAINTENANCE_DATABASE = "postgres"
SPACE = zlib.crc32(b"bounded context backup") & 0x7FFFFFFF
POLL_SECONDS = 0.5
# Limit on unacknowledged data of the lock's session: keepalives detect a dead network only if idle.
UNANSWERED = {"tcp_user_timeout": "90000"}

# How long a lock request, and others queued behind it, may wait.
LOCK_WAIT_SECONDS = 20


@dataclass(frozen=True)
class ContextLock:
    """A held context lock: the context, the session, and the entry in pg_locks."""

    context: str
    connection: Connection = field(repr=False, compare=False)
    pid: int
    began: datetime
    database: int
    key: dict[str, int]
    mode: str

    def require_held(self, before: str, asking: Connection | None = None) -> None:
        """Make sure, right `before` a step, that the lock is still held.

        The step's own session asks, if it is given.

        Raises:
            LostLock: the lock is not held any more; the step must not be done.
        """
        if not self.is_held(asking):
            raise LostLock(
                f'the lock of "{self.context}" was lost: its session {self.pid}, begun '
                f"{_spelled(self.began)}, did not hold it any "
                f"more at {_spelled(now())}, so that another run may have taken it; this run "
                f"stopped before {before}, and did "
                "nothing without the lock; run again"
            )

    def is_held(self, asking: Connection | None = None) -> bool:
        """Return whether the server still shows the lock as held; a lost session holds nothing."""
        asked = self.key | {"database": self.database, "mode": self.mode, "pid": self.pid, "began": self.began}
        try:
            return bool((asking or self.connection).execute(sql.locks.HOLDS_LOCK, asked).fetchall()[0][0])
        except psycopg.OperationalError:
            if asking is not None or not self.connection.broken:
                raise
            return False


def _spelled(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


@contextmanager
def context_lock(
    server: Server, context: str, title: str, *, exclusive: bool = False, wait_seconds: float = 300
) -> Iterator[ContextLock]:
    """Hold the context's lock on a server.

    Raises:
        BadInput: the connection uses a pooler, which would lose the lock. OperationError: other
            sessions, which are named, held the lock for wait_seconds.
    """
    with connect(_noticing(server), MAINTENANCE_DATABASE, title) as connection:
        _refuse_pooler(connection, server)
        key = {"space": SPACE, "key": zlib.crc32(context.encode()) & 0x7FFFFFFF}
        attempt = sql.locks.TRY_LOCK_EXCLUSIVE if exclusive else sql.locks.TRY_LOCK_SHARED
        deadline = time.monotonic() + wait_seconds
        while not connection.execute(attempt, key).fetchall()[0][0]:
            if time.monotonic() > deadline:
                holders = ", ".join(row[0] for row in connection.execute(sql.locks.LOCK_HOLDERS, key))
                by, remedy = (
                    (holders, "wait for it to end, or end it, and run again") if holders
                    else ("a run that has just ended", "run again")
                )  # fmt: skip
                raise OperationError(f'context "{context}" is locked by {by} for more than {wait_seconds:.0f} s; {remedy}')
            # Polled, because a waiting statement would hold a snapshot, which holds back vacuum.
            time.sleep(POLL_SECONDS)
        pid, began, database = connection.execute(sql.locks.LOCK_SESSION).fetchall()[0]
        yield ContextLock(context, connection, pid, began, database, key, "ExclusiveLock" if exclusive else "ShareLock")


def _noticing(server: Server) -> Server:
    """Return the server with a limit on unacknowledged data."""
    return replace(server, parameters=UNANSWERED | server.parameters)


def _refuse_pooler(connection: Connection, server: Server) -> None:
    pid = connection.execute(sql.locks.BACKEND_PID).fetchall()[0][0]
    if connection.info.backend_pid != pid:
        raise BadInput(
            f"the server of {server.name} is reached through a connection pooler, which would lose "
            "locks and snapshots; give the address of PostgreSQL itself"
        )


@contextmanager
def patient() -> Iterator[None]:
    """Turn a lock timeout in the block into MovedSnapshot, after which the caller retries.

    Raises:
        MovedSnapshot: lock timeout.
    """
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        raise MovedSnapshot(
            f"a relation stayed locked for {LOCK_WAIT_SECONDS} s: {error}; pg_locks shows which session holds the lock"
        ) from error
