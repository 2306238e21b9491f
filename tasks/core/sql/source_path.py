"""Statements that run with the source's search_path, and how that is read and set.

Our sessions have no user schema in their search_path. Only statements that run users' code get the
source's, and these qualify every function, operator and type, and avoid what cannot be qualified:
IN, BETWEEN, CASE x WHEN, NULLIF, IS DISTINCT FROM, USING
(https://wiki.postgresql.org/wiki/A_Guide_to_CVE-2018-1058). Their builders are marked here, for a
test.
"""

from collections.abc import Callable
from typing import TypeVar

from psycopg.sql import SQL, Composable, Composed, Literal

Builder = TypeVar("Builder", bound=Callable[..., Composable])
BUILDERS = list[Callable[..., Composable]]()
OWN_PATH = SQL("SET LOCAL search_path = pg_catalog, pg_temp")


def under_source_path(builder: Builder) -> Builder:
    """Mark a function that builds a statement for the source's search_path."""
    BUILDERS.append(builder)
    return builder


def set_path(path: str) -> Composed:
    """Set this transaction's search_path."""
    return SQL("SELECT pg_catalog.set_config('search_path', {}, true)").format(Literal(path))
