"""Hostile values, and where in what a store says they can stand; made without any code of the product."""

import copy
from collections.abc import Iterator
from typing import Any

Place = tuple[Any, ...]

STATEMENTS = [
    "x'; CREATE ROLE pwned; --", 'x"; CREATE ROLE pwned; --', "x); CREATE TABLE pwned AS SELECT current_user; SELECT (true",
    "public.x; CREATE TABLE pwned()", "int); CREATE TABLE pwned(a int",
    "FOREIGN KEY (id) REFERENCES public.users(id), ADD COLUMN pwned int",
    "FOREIGN KEY (id) REFERENCES public.users(id); CREATE ROLE pwned", "CHECK (true); CREATE ROLE pwned",
    "public.teams, public.users",
    "session_preload_libraries=/tmp/pwned.so", "pg_sleep(0)",
]  # fmt: skip
SHELL = [
    "$(touch pwned)",
    "`touch pwned`",
    "x; touch pwned;",
    "x\ntouch pwned\n#",
    "' ; touch pwned ; '",
    "--help",
    "| touch pwned",
]
PATHS = ["../../../../outside", "/etc/passwd", "..", ".", "a/../../b", "data/../x", "C:\\x", "data/x\ny", "data/" + "x" * 5000, "~"]
ODD = [
    "",
    "a\0b",
    "\x7f\x1b[2J",
    "\u202e",
    "表",
    "%s%(x)s{0}{year:999999999}",
    "0/zz",
    "9" * 5000,
    "x" * 200_000,
    "=",
    "|",
    " | bound ",
]
VALUES: list[Any] = [-1, 10**30, 1 << 63, 1e308, float("nan"), float("inf"), True, None, [], {}, [[]], {"a": 1}]
HOSTILE: list[Any] = [*STATEMENTS, *SHELL, *PATHS, *ODD, *VALUES]


def leaves(value: Any, place: Place = ()) -> Iterator[Place]:
    """Yield the places of all values in what JSON or YAML says; of lists the first two elements stand for all."""
    if place:
        yield place
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(one, (*place, key))
    if isinstance(value, list):
        for number, one in enumerate(value[:2]):
            yield from leaves(one, (*place, number))


def at(value: Any, place: Place) -> Any:
    """Return what stands at a place."""
    for key in place:
        value = value[key]
    return value


def replaced(value: Any, place: Place, other: Any) -> Any:
    """Return a copy in which another value stands at a place."""
    changed = copy.deepcopy(value)
    at(changed, place[:-1])[place[-1]] = other
    return changed
