"""Counting rows of other contexts' tables that refer to this context.

The run's own login is used, because it may read tables that the owner's login may not read. Values
are passed as text in a TEMP table of built-in types, so that no owner's code is called.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from tasks.core import sql
from tasks.core.postgres.connection import Connection, Server, connect
from tasks.run.run import Run
from tasks.run.site import Site

# Tables locked by others are not waited for.
LOCK_SECONDS = 1
Values = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Neighbours:
    """The server, with the run's own login, on which rows of other contexts are counted."""

    server: Server
    database: str
    title: str

    @classmethod
    def of(cls, site: Site, run: Run) -> "Neighbours":
        """Return the object for a run on a site."""
        return cls(site.server, site.database, run.title)

    def is_empty(self, table: str) -> bool | None:
        """Return whether another context's table is empty; None if this login cannot read it."""
        with connect(self.server, self.database, self.title) as connection:
            connection.execute(sql.session.FIXED_SETTINGS)
            connection.execute(sql.session.set_lock_timeout(LOCK_SECONDS))
            try:
                if connection.execute(sql.logins.CODE_WHEN_PLANNED, {"name": table}).fetchall()[0][0]:
                    return None
                return not connection.execute(sql.neighbours.some_row(table)).fetchall()
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable):
                return None

    def count_referring(self, key: Mapping[str, Any], values: Values) -> dict[int, int] | None:
        """Count, for each value, the rows that refer to it by another context's foreign key.

        None if this login may not read them.

        Args:
            key: a row of sql.in_place.INBOUND_KEYS.
            values: for each referenced row, its referenced columns as text.
        """
        if not values:
            return {}
        with connect(self.server, self.database, self.title) as connection:
            connection.execute(sql.session.FIXED_SETTINGS)
            try:
                with connection.transaction(force_rollback=True):
                    return _count(connection, key, values)
            except psycopg.errors.InsufficientPrivilege:
                return None


def _count(connection: Connection, key: Mapping[str, Any], values: Values) -> dict[int, int] | None:
    asked = {"parent": key["parent"], "names": key["referenced"]}
    types = connection.execute(sql.neighbours.BASE_TYPES, asked).fetchall()
    runs_code = connection.execute(sql.logins.CODE_WHEN_PLANNED, {"name": key["table"]}).fetchall()[0][0]
    if runs_code or not all(is_plain for _, is_plain in types):
        return None
    connection.execute(sql.neighbours.create_values([name for name, _ in types]))
    with connection.cursor() as cursor, cursor.copy(sql.neighbours.COPY_VALUES) as copy:
        for number, row in enumerate(values):
            copy.write_row([str(number), *row])
    return dict(connection.execute(sql.neighbours.count_by_value(key["table"], key["columns"], key["operators"])).fetchall())
