"""Statements and questions to the database of a world."""

from typing import Any

from tasks.core.postgres.connection import Server
from tests.support.oracle import State
from tests.support.world import World


def execute(world: World, *statements: str) -> None:
    with world.connect() as connection:
        for statement in statements:
            connection.execute(statement.encode())


def ask(world: World, query: str) -> list[tuple[Any, ...]]:
    with world.connect() as connection:
        return connection.execute(query.encode()).fetchall()


def unlike(before: State, after: State) -> list[str]:
    return before.differences(after, views="recomputed")


def count(world: World, table: str, condition: str = "true") -> int:
    return int(ask(world, f"SELECT count(*) FROM {table} WHERE {condition}")[0][0])


def server_of(world: World, user: str) -> Server:
    given = world.source.environment(user)
    return Server({"host": given["PGHOST"], "port": given["PGPORT"], "user": user, "password": given["PGPASSWORD"]}, "the test")
