"""NOT VALID checks, which existing rows, and so rows of a set, may violate.

A dump creates such checks after the rows. Existing ones are dropped before the load and re-created
after it, in the same transaction, so that they stay in force for other sessions
(https://www.postgresql.org/docs/current/sql-alterdomain.html).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tasks.core import sql
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.source_path import execute_written


@contextmanager
def without_unproven_checks(connection: Connection, oids: Sequence[int], path: str, *, of_tables: bool) -> Iterator[None]:
    """Drop NOT VALID checks of the relations' domains, and `of_tables` their own, for the block.

    This takes no lock for domains; for a table it locks the table.
    """
    questions = {"DOMAIN": sql.prerequisites.UNPROVEN_OF_DOMAINS}
    if of_tables:
        questions["TABLE"] = sql.prerequisites.UNPROVEN_OF_TABLES
    unproven = [(kind, *row) for kind, asked in questions.items() for row in connection.execute(asked, {"oids": oids}).fetchall()]
    for kind, schema, name, constraint, _, _ in unproven:
        # In a savepoint: the cache invalidations of ALTER DOMAIN … DROP CONSTRAINT allow no later
        # one.
        with connection.transaction():
            connection.execute(sql.prerequisites.drop_unproven(kind, schema, name, constraint))
    yield
    for check in unproven:
        execute_written(connection, sql.prerequisites.add_unproven(*check), path)
