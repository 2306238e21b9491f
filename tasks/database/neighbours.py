"""Rows of other contexts' tables that refer to ours, where the login of our owner may not look: the run's own login counts them.

Values of ours go there as text, into a TEMP table of built-in types: nothing of an owner's is called.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from tasks.core import sql
from tasks.core.postgres.connection import Connection, Server, connect
from tasks.run.run import Run
from tasks.run.site import Site

# What others have locked is not waited for.
LOCK_SECONDS = 1
Values = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Neighbours:
    """Where the run's own login looks."""

    server: Server
    database: str
    title: str

    @classmethod
    def of(cls, site: Site, run: Run) -> "Neighbours":
        """Return where a run on a site looks."""
        return cls(site.server, site.database, run.title)

    def is_empty(self, table: str) -> bool | None:
        """Say whether a table of another context, named as the catalogue does, has no rows; None if nobody here may look."""
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
        """Count by value the rows that refer to it by a foreign key of another context's table; None if nobody here may look.

        Args:
            key: a row of sql.in_place.INBOUND_KEYS.
            values: of each row referred to, what its referenced columns have, as text.
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
