"""Triggers of a restored database, made to fire: an update, a delete and an insert of rows that are there, all rolled back.

What a trigger function calls is in no pg_depend, so nothing but running it shows that everything it needs came back.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import psycopg
from prefect import get_run_logger
from psycopg.sql import Composed

from tasks import catalogue
from tasks.core import sql
from tasks.core.complaints import message_of
from tasks.core.context import Context
from tasks.core.exercise import Exercise, Outcome
from tasks.core.servers import Connection, Server, connect
from tasks.core.source_path import read_source_path, source_path
from tasks.runs import Run, step

# A rule of the database that refuses one row may let the next one pass.
ROWS_TRIED = 20
# Integrity constraint violations, and what RAISE and ASSERT of a trigger function say: it ran, and refused the row.
REFUSALS = ("23", "P0001", "P0004")


@dataclass(frozen=True)
class _Table:
    schema: str
    name: str
    columns: list[str]
    always_generated: list[str]
    key_columns: list[str]
    triggers: dict[str, list[str]]

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"


@step
def exercise_triggers(server: Server, database: str, run: Run, context: Context) -> list[Exercise]:
    """Let every enabled trigger of the context fire once for each event, and roll everything back; return what came of it.

    Only for a database that nobody uses: foreign keys are deferred meanwhile, which takes ownership and locks.
    """
    with connect(server, database, run.title) as connection:
        members = catalogue.read_members(connection, context)
        path, done = read_source_path(connection, context.namespace), list[Exercise]()
        for table in _tables(connection, members.oids):
            with connection.transaction(force_rollback=True):
                connection.execute(sql.set_zone(context.timestamps))
                _prepare(connection, table)
                done += _exercise(connection, table, path)
    outcomes = [one.outcome for one in done]
    get_run_logger().info(
        "triggers: %s", ", ".join(f"{outcomes.count(each)} {each}" for each in Outcome if each in outcomes) or "none"
    )
    return done


def _tables(connection: Connection, oids: list[int]) -> list[_Table]:
    events = defaultdict[tuple[str, str], dict[str, list[str]]](dict)
    columns = dict[tuple[str, str], tuple[list[str], list[str], list[str]]]()
    for schema, name, names, generated, keys, trigger, fires_on in connection.execute(sql.TRIGGERS, {"oids": oids}):
        columns[schema, name] = names, generated, keys
        for event in fires_on:
            events[schema, name].setdefault(event, []).append(trigger)
    return [_Table(*key, *columns[key], triggers) for key, triggers in events.items()]


def _prepare(connection: Connection, table: _Table) -> None:
    """Let a row go and come back although others refer to it, and deferred triggers fire at once."""
    place = {"schema": table.schema, "name": table.name}
    for owner_schema, owner, key in connection.execute(sql.KEYS_AROUND, place).fetchall():
        connection.execute(sql.defer_key(owner_schema, owner, key))
    for schema, trigger in connection.execute(sql.DEFERRED_TRIGGERS, place).fetchall():
        connection.execute(sql.fire_at_once(schema, trigger))


def _exercise(connection: Connection, table: _Table, path: str) -> Iterator[Exercise]:
    rows = connection.execute(sql.some_rows(table.schema, table.name, ROWS_TRIED)).fetchall()
    for event, triggers in table.triggers.items():
        tried = _try_rows(connection, path, set(triggers), [way for row in rows for way in _ways(table, event, *row)])
        if tried.failure:
            yield Exercise(table.qualified, event, triggers, Outcome.FAILED, tried.failure)
            continue
        fired, rest = [[name for name in triggers if (name in tried.fired) is yes] for yes in (True, False)]
        if fired:
            yield Exercise(table.qualified, event, fired, Outcome.RAN, "")
        if rest and tried.refusal and not fired:
            yield Exercise(table.qualified, event, rest, Outcome.REFUSED, tried.refusal)
        elif rest:
            why = "its condition was not met" if rows else "the table holds no row to try it with"
            yield Exercise(table.qualified, event, rest, Outcome.NOT_FIRED, why)


def _ways(table: _Table, event: str, leaf: str, row: str) -> list[list[Composed]]:
    """Return the ways to let a row meet with an event: statements, of which the last one counts."""
    place = (table.schema, table.name)
    delete, remember = sql.delete_row(*place, leaf, row), sql.remember_row(*place, leaf, row)
    if event == "DELETE":
        return [[delete]]
    if event == "UPDATE":
        # An identity column that is GENERATED ALWAYS takes no value of ours.
        own = [name for name in table.columns if name not in table.always_generated]
        return [[sql.touch_row(*place, own, leaf, row)]]
    again = [remember, delete, sql.insert_remembered(*place, table.columns, [])]
    copied = [remember, sql.insert_remembered(*place, table.columns, table.key_columns)]
    return [copied, again] if table.key_columns else [again]


@dataclass
class _Tried:
    fired: set[str] = field(default_factory=set)
    refusal: str = ""
    failure: str = ""


def _try_rows(connection: Connection, path: str, wanted: set[str], ways: Iterable[list[Composed]]) -> _Tried:
    """Try row after row until every trigger fired; a function that fails by itself ends the search at once."""
    tried = _Tried()
    for *before, statement in ways:
        try:
            with connection.transaction(force_rollback=True), source_path(connection, path):
                for one in before:
                    connection.execute(one)
                # EXPLAIN ANALYZE runs the statement and says which triggers were called.
                plan = connection.execute(sql.explain_analyze(statement)).fetchall()[0][0]
        except psycopg.Error as error:
            if connection.broken:
                raise
            state = error.sqlstate or ""
            if not state.startswith(REFUSALS):
                tried.failure = f"{message_of(error)} ({state})"
                return tried
            tried.refusal = f"by a rule of the database ({type(error).__name__})"
        else:
            tried.fired |= {one["Trigger Name"] for part in plan for one in part.get("Triggers", []) if one["Calls"]}
            if wanted <= tried.fired:
                break
    return tried
