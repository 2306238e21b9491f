"""Which statements run under the path that code of the source expects, and how that path is read and set.

A session of ours has nobody's schema on its path. Only a statement that runs such code is given the path of the source, and
nothing in it is looked up there that is ours: it names functions, operators and types with their schema, and has nothing that
cannot be named so, as IN, BETWEEN, CASE x WHEN, NULLIF, IS DISTINCT FROM, USING
(https://wiki.postgresql.org/wiki/A_Guide_to_CVE-2018-1058). What makes these statements is marked here, and a test reads them.
"""

from collections.abc import Callable
from typing import TypeVar

from psycopg.sql import SQL, Composable, Composed, Literal

Builder = TypeVar("Builder", bound=Callable[..., Composable])
BUILDERS = list[Callable[..., Composable]]()
OWN_PATH = SQL("SET LOCAL search_path = pg_catalog, pg_temp")


def under_source_path(builder: Builder) -> Builder:
    """Mark what makes a statement that runs under the path of the source."""
    BUILDERS.append(builder)
    return builder


def set_path(path: str) -> Composed:
    """Give this transaction a path."""
    return SQL("SELECT pg_catalog.set_config('search_path', {}, true)").format(Literal(path))
