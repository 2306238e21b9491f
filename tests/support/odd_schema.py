"""A schema named odd, for tables of a test's own."""

from typing import Any

import pytest

from tasks.run import site
from tests.support.contexts import write_context
from tests.support.database import ask
from tests.support.example import DATABASE
from tests.support.world import World

SET_UP = ["CREATE SCHEMA odd AUTHORIZATION consulting_owner", "SET ROLE consulting_owner", "SET search_path = odd"]


def rows(world: World) -> list[tuple[Any, ...]]:
    tables = ask(world, "SELECT relname FROM pg_class WHERE relnamespace = 'odd'::regnamespace AND relkind = 'r' ORDER BY 1")
    found = [ask(world, f"SELECT x::text FROM ONLY odd.{name} AS x ORDER BY 1") for (name,) in tables]
    return [(name, one) for (name,), one in zip(tables, found, strict=True) if one]


def context(world: World, monkeypatch: pytest.MonkeyPatch, tables: list[str], **more: Any) -> None:
    monkeypatch.setattr(site, "CONTEXTS", world.folder / f"contexts-{'-'.join(tables)}")
    write_context(site.CONTEXTS, **({"name": "bc-901", "database": DATABASE, "schema": "odd", "tables": tables} | more))
