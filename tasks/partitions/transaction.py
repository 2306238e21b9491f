"""Changes to partitions in short transactions, which block others for at most LOCK_SECONDS.

A change that takes longer is rolled back and tried again. Only moving rows out of a DEFAULT
partition has no limit; it blocks readers of that partition. New partitions are created as separate
tables and attached, because CREATE TABLE … PARTITION OF would block readers and writers of the
other partitions.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TypeVar

import psycopg
from tenacity import wait_incrementing

from tasks.core import sql
from tasks.core.errors import OperationError
from tasks.core.postgres.connection import Connection, connect
from tasks.core.postgres.messages import message_of
from tasks.database.locks import ContextLock
from tasks.run.retries import again_on
from tasks.run.run import Run
from tasks.run.site import Site

T = TypeVar("T")
# The longest time that other sessions are blocked; the wait for the lock may take half of it.
LOCK_SECONDS = 5.0
LOCK_TRIES = 4
TIMED_OUT = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.QueryCanceled)


class ChangeTimedOut(OperationError):
    """A change took too long and was rolled back; it may be tried again."""


@contextmanager
def session(site: Site, run: Run) -> Iterator[Connection]:
    """Open a session in the site's database, as the login for the owner, with fixed settings."""
    with connect(site.owners_login, site.database, run.title) as connection:
        connection.execute(sql.session.FIXED_SETTINGS)
        yield connection


def at_once(
    connection: Connection, lock: ContextLock, failure: str, oids: Iterable[int], change: Callable[[], T], *, may_last: bool = False
) -> T:
    """Make a change in one transaction that waits half of LOCK_SECONDS, and ends within them.

    After a timeout it is tried again; meanwhile sessions queued behind it proceed. With `may_last`
    only the wait for locks is limited.

    Raises:
        OperationError: the change timed out; nothing was changed; the blocking sessions are named.
        LostLock: the context's lock was lost; nothing was changed.
    """
    named = list(oids)

    def change_once() -> T:
        try:
            with _ended_after(connection, None if may_last else LOCK_SECONDS), connection.transaction():
                connection.execute(sql.partitions.limit_waiting(LOCK_SECONDS / 2))
                result = change()
                lock.require_held(f"the commit: {failure}", connection)
                return result
        except TIMED_OUT as error:
            took_long = isinstance(error, psycopg.errors.QueryCanceled)
            reason = (
                f"the change took longer than {LOCK_SECONDS:g} s"
                if took_long
                else f"{message_of(error)}, after {LOCK_SECONDS / 2:g} s"
            )
            holders = "; ".join(row[0] for row in connection.execute(sql.partitions.BLOCKERS, {"oids": named}))
            remedy = f" ({holders}); run again when they are done" if holders else "; run again at a quieter time"
            raise ChangeTimedOut(f"{failure}: {reason}; nothing was changed{remedy}") from None

    return again_on(ChangeTimedOut, tries=LOCK_TRIES, wait=wait_incrementing(start=1, increment=1))(change_once)()


@contextmanager
def _ended_after(connection: Connection, seconds: float | None) -> Iterator[None]:
    """Cancel the statement after so many seconds: before 17 no setting limits a transaction."""
    timer = Timer(seconds or 0, connection.cancel)
    if seconds is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if timer.is_alive():
            timer.join()
