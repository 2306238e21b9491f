"""Changes that nobody waits for longer than LOCK_SECONDS: each in one short transaction, given up if it is not done by then.

Whoever reads or writes waits for it no longer than LOCK_SECONDS: what is not done by then is given up, and asked for again. Only
rows that move out of a DEFAULT partition take as long as they take, for those who read that partition. New partitions are made
as tables by themselves and attached, which keeps nobody from reading or writing the others; CREATE TABLE … PARTITION OF would.
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
# So long, at most, anybody waits because of us: for our waiting for a lock, half of it, and for what is done under it.
LOCK_SECONDS = 5.0
LOCK_TRIES = 4
GIVEN_UP = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.QueryCanceled)


class GaveWay(OperationError):
    """A change was given up, so that nobody waits for it any longer; it may be asked for again."""


@contextmanager
def session(site: Site, run: Run) -> Iterator[Connection]:
    """Open a session in the site's database, of the login that acts for the owner, whose text is spelled as everywhere."""
    with connect(site.owners_login, site.database, run.title) as connection:
        connection.execute(sql.session.FIXED_SETTINGS)
        yield connection


def at_once(
    connection: Connection, lock: ContextLock, what: str, oids: Iterable[int], change: Callable[[], T], *, may_last: bool = False
) -> T:  # fmt: skip
    """Make a change in one transaction that waits for no lock longer than half of LOCK_SECONDS, and is over in LOCK_SECONDS.

    What could not be had is asked for again, so that those who queued behind had their turn. A change that `may_last` has no
    limit but that of its locks.

    Raises:
        OperationError: it was not to be had; nothing changed; who is in the way is named.
        LostLock: the context's lock was lost; nothing changed.
    """
    named = list(oids)

    def change_once() -> T:
        try:
            with _ended_after(connection, None if may_last else LOCK_SECONDS), connection.transaction():
                connection.execute(sql.partitions.limit_waiting(LOCK_SECONDS / 2))
                done = change()
                lock.require_held(f"the commit: {what}", connection)
                return done
        except GIVEN_UP as error:
            took_long = isinstance(error, psycopg.errors.QueryCanceled)
            reason = f"it was not done in {LOCK_SECONDS:g} s" if took_long else f"{message_of(error)}, after {LOCK_SECONDS / 2:g} s"
            holders = "; ".join(row[0] for row in connection.execute(sql.partitions.BLOCKERS, {"oids": named}))
            remedy = f" ({holders}); run again when they are done" if holders else "; run again in a quieter hour"
            raise GaveWay(f"{what}: {reason}; nothing was changed{remedy}") from None

    return again_on(GaveWay, tries=LOCK_TRIES, wait=wait_incrementing(start=1, increment=1))(change_once)()


@contextmanager
def _ended_after(connection: Connection, seconds: float | None) -> Iterator[None]:
    """Cancel what a session does when so many seconds are over: no server before 17 limits a transaction."""
    timer = Timer(seconds or 0, connection.cancel)
    if seconds is not None:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if timer.is_alive():
            timer.join()
