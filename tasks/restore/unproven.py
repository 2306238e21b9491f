"""Checks that are NOT VALID: rows that were there before them may break them, and so may the rows of a set.

A dump makes such checks of tables and domains after the rows. Where they are there already, they are taken away for as long as rows
are loaded, in the same transaction: whoever writes meanwhile is still asked by them
(https://www.postgresql.org/docs/current/sql-alterdomain.html).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tasks.core import sql
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.source_path import execute_written


@contextmanager
def without_unproven_checks(connection: Connection, oids: Sequence[int], path: str, *, of_tables: bool) -> Iterator[None]:
    """Have no unproven check of the domains that relations use, and `of_tables` none of their own, for the block.

    Nobody waits for that of a domain; to take one from a table locks it.
    """
    questions = {"DOMAIN": sql.prerequisites.UNPROVEN_OF_DOMAINS}
    if of_tables:
        questions["TABLE"] = sql.prerequisites.UNPROVEN_OF_TABLES
    found = [(kind, *row) for kind, asked in questions.items() for row in connection.execute(asked, {"oids": oids}).fetchall()]
    for kind, schema, name, constraint, _, _ in found:
        # In a savepoint: what ALTER DOMAIN … DROP CONSTRAINT leaves to be told to caches, PostgreSQL would begin no later one with.
        with connection.transaction():
            connection.execute(sql.prerequisites.drop_unproven(kind, schema, name, constraint))
    yield
    for one in found:
        execute_written(connection, sql.prerequisites.add_unproven(*one), path)
