"""Users at work: what they run all the time, and how long it took at worst."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import psycopg


@dataclass
class Traffic:
    """Statements that users run all the time, each in a session of its own; how long the slowest took, and what failed."""

    slowest: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    runs: int = 0


@contextmanager
def traffic(connect: Callable[[], psycopg.Connection], statements: Iterable[str]) -> Iterator[Traffic]:
    """Run each statement every 20 ms, once before the block begins and until it has ended."""
    seen, stop = Traffic(), threading.Event()
    statements = list(statements)
    begun = threading.Barrier(len(statements) + 1, timeout=60)

    def run(statement: str) -> None:
        with connect() as connection:
            connection.execute(statement.encode())
            begun.wait()
            while not stop.wait(0.02):
                started = time.monotonic()
                try:
                    connection.execute(statement.encode())
                except psycopg.Error as error:
                    seen.errors.append(f"{statement}: {error}")
                seen.slowest[statement] = max(seen.slowest.get(statement, 0.0), time.monotonic() - started)
                seen.runs += 1

    with ExitStack() as stack:
        for statement in statements:
            thread = threading.Thread(target=run, args=[statement])
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)
        begun.wait()
        yield seen
