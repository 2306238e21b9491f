"""Decoys: functions, aggregates and operators that PostgreSQL takes before its own, wherever a statement leaves it a choice.

One that fits its arguments exactly is taken, wherever on the path it is, before one that needs a cast; of two that fit alike, the
one whose schema comes first (https://www.postgresql.org/docs/current/typeconv-func.html). Here is one for each list of types that
PostgreSQL's own can be called with, in a schema that comes first for whoever says nothing of the path.

Called by a statement of a flow each fails, and writes into the server's log that it was called: that survives a rollback, a READ
ONLY transaction, a dropped database, and whoever catches the error. Called by a function each does what PostgreSQL's own does, so
that code of the tables' owner works among them.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import psycopg

from deployments.local import LocalServer
from tests.support import PROJECT

# Every word that stands before a bracket, as what a statement calls does.
CALLED = re.compile(r"\b([a-z_][a-z_0-9]*) ?\(")
# Every run of what an operator's name is of, and how LIKE is called.
SIGNS, LIKE = re.compile(r"[-+*/<>=~!@#%^&|?]+"), {"~~", "!~~"}
# What is tried where PostgreSQL would cast, or takes any type.
TYPES = ("text", "character varying", "name", '"char"', "boolean", "integer", "bigint", "oid")
OPERANDS = {
    *TYPES, *(f"{one}[]" for one in TYPES), "smallint", "numeric", "uuid", "timestamp without time zone",
    "timestamp with time zone", "interval", "jsonb", "bytea", "pg_lsn", "tid", "xid", "xid8", "regclass",
}  # fmt: skip
ANY = {'"any"', "anyelement", "anynonarray", "anycompatible", "anycompatiblenonarray"}
ANY_ARRAY = {"anyarray", "anycompatiblearray"}
VARIADIC = "VARIADIC "
# How many arguments of several types are tried where any number is taken.
MANY = 2

FUNCTIONS = """
SELECT proname, prokind = 'a', proretset, provariadic::regtype::text, proargtypes::regtype[]::text[] FROM pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY (%s) AND pronargs > 0 AND prokind IN ('f', 'a') ORDER BY oid"""
OPERATORS = """
SELECT oprname, CASE WHEN oprleft <> 0 THEN ARRAY[oprleft::regtype::text] ELSE '{}' END || oprright::regtype::text FROM pg_operator
WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprcode <> 0 AND oprname = ANY (%s) ORDER BY oid"""
CASTS = "SELECT casttarget::regtype::text, array_agg(castsource::regtype::text) FROM pg_cast WHERE castcontext = 'i' GROUP BY 1"
TYPE_NAMES = "SELECT oid::int8, oid::regtype::text FROM pg_type WHERE typtype <> 'p' OR typname IN ('record', 'void')"
# What a function gives, but no argument can be.
NO_VALUES = {"record", "void"}

# A statement calls the first function on the stack; what functions of the owner call by bare names is his affair. The sessions of
# the tests say no name.
BODY = """LANGUAGE plpgsql AS $decoy$
DECLARE stack pg_catalog.text;
BEGIN
  GET DIAGNOSTICS stack = PG_CONTEXT;
  IF pg_catalog.strpos(pg_catalog.substr(stack, 2), 'PL/pgSQL function') OPERATOR(pg_catalog.=) 0
     AND pg_catalog.current_setting('application_name') OPERATOR(pg_catalog.<>) '' THEN
    RAISE LOG 'DECOY %', stack;
    RAISE EXCEPTION 'a decoy was called';
  END IF;
  {};
END $decoy$"""
NAMES = """
SELECT string_agg(DISTINCT proname, ' ') FROM pg_proc
WHERE pronamespace = 'public'::regnamespace AND (prosrc LIKE '%DECOY%' OR prokind = 'a')"""
USES = """
SELECT string_agg(concat(CASE WHEN oprleft <> 0 THEN format('NULL::%s', oprleft::regtype) END,
                         format(' OPERATOR(public.%s) NULL::%s', oprname, oprright::regtype)), ', ')
FROM pg_operator WHERE oprnamespace = 'public'::regnamespace"""


def make_decoys(server: LocalServer, database: str, owner: str) -> None:
    """Make the decoys in a database, as the objects of somebody, and let its sessions have them first."""
    with server.connect(database) as connection:
        connection.execute("SET search_path = pg_catalog; SET check_function_bodies = off")
        built_in = _BuiltIn(connection)
        statements = [*built_in.functions(), *built_in.operators()]
        connection.execute(f"SET ROLE {owner}".encode())
        with connection.transaction():
            for statement in statements:
                connection.execute(statement.encode())
        connection.execute(f"RESET ROLE; ALTER DATABASE {database} SET search_path = public, pg_catalog".encode())


def need_decoys(server: LocalServer, database: str, owner: str, *tables: str) -> None:
    """Let a trigger of each table name the functions, and need the operators, so that a backup of it takes them along."""
    with server.connect(database) as connection:
        connection.execute("SET search_path = pg_catalog")
        ((names, uses),) = connection.execute(f"SELECT ({NAMES}), ({USES})".encode()).fetchall()
        connection.execute(f"SET ROLE {owner}".encode())
        connection.execute(f"CREATE FUNCTION public.use_operators() RETURNS record BEGIN ATOMIC SELECT ROW({uses}); END".encode())
        connection.execute(
            f"CREATE FUNCTION public.name_decoys() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN /* use_operators {names} */ RETURN coalesce(NEW, OLD); END $$".encode()
        )
        for table in tables:
            connection.execute(
                f"CREATE TRIGGER name_decoys BEFORE UPDATE ON public.{table} "
                "FOR EACH ROW EXECUTE FUNCTION public.name_decoys()".encode()
            )


def calls(log: str) -> set[str]:
    """Return which decoys statements called, and where they begin, as the server's log has it."""
    told = re.findall(r"DECOY PL/pgSQL function (.+?) line .*?STATEMENT:\s*([^\n]*(?:\n\t[^\n]*){0,2})", log, re.DOTALL)
    return {f"{function}: {' '.join(statement.split())[:200]}" for function, statement in told}


def _statements() -> str:
    """Return the text of every module that has SQL."""
    texts = [file.read_text("utf-8") for file in sorted((PROJECT / "tasks").rglob("*.py"))]
    return "\n".join(text for text in texts if "SQL(" in text)


class _BuiltIn:
    """What a server has of its own, and the types that it may be called with."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._casts = dict(connection.execute(CASTS).fetchall())
        self._types = dict(connection.execute(TYPE_NAMES).fetchall())
        self._values = {*self._types.values()} - NO_VALUES

    def functions(self) -> Iterator[str]:
        """Yield what makes the functions and aggregates: of each name that some module may call."""
        made, words = set[tuple[str, ...]](), sorted(set(CALLED.findall(_statements())))
        for name, is_aggregate, returns_set, variadic, types in self._connection.execute(FUNCTIONS, [words]).fetchall():
            for arguments in self._lists(types, variadic):
                call = _call(name, arguments, [f"NULL::{one.removeprefix(VARIADIC)}" for one in arguments])
                if (name, *arguments) in made or not (result := self._result(call)):
                    continue
                made.add((name, *arguments))
                if is_aggregate:
                    yield from _aggregate(name, arguments, result)
                else:
                    yield _function(name, arguments, result, returns_set=returns_set)

    def operators(self) -> Iterator[str]:
        """Yield what makes the operators."""
        made, names = set[tuple[str, ...]](), [*LIKE.union(SIGNS.findall(_statements()))]
        for name, types in self._connection.execute(OPERATORS, [names]).fetchall():
            for operands in self._lists(types):
                call = " ".join([*(f"NULL::{one}" for one in operands[:-1]), f"OPERATOR(pg_catalog.{name}) NULL::{operands[-1]}"])
                if not OPERANDS.issuperset(operands) or (name, *operands) in made or not (result := self._result(call)):
                    continue
                made.add((name, *operands))
                yield from _operator(name, operands, result)

    def _lists(self, declared: Sequence[str], variadic: str = "-") -> Iterator[tuple[str, ...]]:
        """Yield the lists of types that a declared list can stand for; of long ones, those where one differs, or all that can."""
        for number in range(1, MANY + 1) if variadic != "-" else [1]:
            types = [*declared[:-1], *[variadic if variadic != "-" else declared[-1]] * number]
            choices = [*map(self._alternatives, types)]
            lists = [*product(*choices)] if len(types) <= 2 else _some_of(choices)
            yield from (one for one in lists if self._values.issuperset(one))
        if variadic == '"any"':
            yield from ((*declared[:-1], f"{VARIADIC}{one}[]") for one in TYPES)

    def _alternatives(self, declared: str) -> Sequence[str]:
        if declared in ANY:
            return TYPES
        if declared in ANY_ARRAY:
            return [f"{one}[]" for one in TYPES]
        return [declared, *(one for one in self._casts.get(declared, ()) if one in TYPES and one != declared)]

    def _result(self, call: str) -> str:
        """Return the type of what a call gives; nothing, where PostgreSQL does not know what to call, or that has no type."""
        try:
            (column,) = self._connection.execute(f"SELECT {call} LIMIT 0".encode()).description or ()
        except psycopg.Error:
            return ""
        return self._types.get(column.type_code, "")


def _some_of(choices: Sequence[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    first = tuple(choice[0] for choice in choices)
    for place, choice in enumerate(choices):
        yield from ((*first[:place], one, *first[place + 1 :]) for one in choice)
    for one in TYPES:
        yield tuple(one if one in choice else choice[0] for choice in choices)


def _call(name: str, arguments: Sequence[str], values: Sequence[str]) -> str:
    given = (VARIADIC + value if one.startswith(VARIADIC) else value for one, value in zip(arguments, values, strict=True))
    return f"pg_catalog.{name}({', '.join(given)})"


def _function(name: str, arguments: Sequence[str], result: str, *, returns_set: bool) -> str:
    call = _call(name, arguments, [f"${number + 1}" for number in range(len(arguments))])
    action = f"RETURN QUERY SELECT * FROM {call}" if returns_set else f"PERFORM {call}" if result == "void" else f"RETURN {call}"
    returns = f"SETOF {result}" if returns_set else result
    return f"CREATE FUNCTION public.{name}({', '.join(arguments)}) RETURNS {returns} {BODY.format(action)}"


def _aggregate(name: str, arguments: Sequence[str], result: str) -> Iterator[str]:
    """Yield what makes an aggregate that keeps the text of all its arguments, and gives them to PostgreSQL's own at the end."""
    count, types = len(arguments), ", ".join(arguments)
    step, final = f'public."step of {name}"', f'public."result of {name}"'
    texts = ", ".join(f"${place + 2}::text" for place in range(count))
    values = ", ".join(f"$1[{count} * number - {count - 1 - place}]::{one}" for place, one in enumerate(arguments))
    action = f"RETURN (SELECT {name}({values} ORDER BY number) FROM generate_series(1, cardinality($1) / {count}) AS number)"
    own_path = "SET search_path = pg_catalog, pg_temp"
    yield f"CREATE FUNCTION {step}(text[], {types}) RETURNS text[] LANGUAGE sql {own_path} AS 'SELECT $1 || ARRAY[{texts}]'"
    yield f"CREATE FUNCTION {final}(text[], {types}) RETURNS {result} {own_path} {BODY.format(action)}"
    yield (
        f"CREATE AGGREGATE public.{name}({types}) "
        f"(SFUNC = {step}, STYPE = text[], FINALFUNC = {final}, FINALFUNC_EXTRA, INITCOND = '{{}}')"
    )


def _operator(name: str, operands: Sequence[str], result: str) -> Iterator[str]:
    function = f'public."operator {name}"'
    action = f"RETURN {'$1' if len(operands) == 2 else ''} OPERATOR(pg_catalog.{name}) ${len(operands)}"
    yield f"CREATE FUNCTION {function}({', '.join(operands)}) RETURNS {result} {BODY.format(action)}"
    left = f"LEFTARG = {operands[0]}, " if len(operands) == 2 else ""
    yield f"CREATE OPERATOR public.{name} ({left}RIGHTARG = {operands[-1]}, FUNCTION = {function})"
