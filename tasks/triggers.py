"""Triggers of a restored database, made to fire: an update, a delete and an insert of rows that are there, all rolled back.

What a trigger function calls is in no pg_depend, so nothing but running it shows that everything it needs came back.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psycopg
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from psycopg.sql import Composed

from tasks import catalogue
from tasks.core import sql
from tasks.core.context import Context
from tasks.core.exercise import Exercise, Outcome
from tasks.core.servers import Connection, Server, connect
from tasks.runs import Run

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
    triggers: dict[str, list[str]]

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"


@task(cache_policy=NO_CACHE)
def exercise_triggers(server: Server, database: str, run: Run, context: Context) -> list[Exercise]:
    """Let every enabled trigger of the context fire once for each event, and roll everything back; return what came of it.

    Only for a database that nobody uses: foreign keys are deferred meanwhile, which takes ownership and locks.
    """
    with connect(server, database, run.title) as connection:
        members = catalogue.read_members(connection, context)
        done = list[Exercise]()
        for table in _tables(connection, members.oids):
            with connection.transaction(force_rollback=True):
                connection.execute(sql.trigger_settings(context.namespace))
                _defer_keys(connection, table)
                done += _exercise(connection, table)
    outcomes = [one.outcome for one in done]
    get_run_logger().info(
        "triggers: %s", ", ".join(f"{outcomes.count(each)} {each}" for each in Outcome if each in outcomes) or "none"
    )
    return done


def _tables(connection: Connection, oids: list[int]) -> list[_Table]:
    events = defaultdict[tuple[str, str], dict[str, list[str]]](dict)
    columns = dict[tuple[str, str], tuple[list[str], list[str]]]()
    for schema, name, names, generated, trigger, fires_on in connection.execute(sql.TRIGGERS, {"oids": oids}):
        columns[schema, name] = names, generated
        for event in fires_on:
            events[schema, name].setdefault(event, []).append(trigger)
    return [_Table(*key, *columns[key], triggers) for key, triggers in events.items()]


def _defer_keys(connection: Connection, table: _Table) -> None:
    """Let a row go and come back although others refer to it."""
    for owner_schema, owner, key in connection.execute(sql.KEYS_AROUND, {"schema": table.schema, "name": table.name}).fetchall():
        connection.execute(sql.defer_key(owner_schema, owner, key))


def _exercise(connection: Connection, table: _Table) -> Iterator[Exercise]:
    rows = connection.execute(sql.some_rows(table.schema, table.name, ROWS_TRIED)).fetchall()
    for event, triggers in table.triggers.items():
        said = _first_that_passes(connection, [_statements(table, event, *row) for row in rows])
        yield Exercise(table.qualified, event, triggers, *said)


def _statements(table: _Table, event: str, leaf: str, row: str) -> list[Composed]:
    place = (table.schema, table.name)
    delete = sql.delete_row(*place, leaf, row)
    # An identity column that is GENERATED ALWAYS takes no value of ours.
    own = [name for name in table.columns if name not in table.always_generated]
    return {
        "UPDATE": [sql.touch_row(*place, own, leaf, row)],
        "DELETE": [delete],
        "INSERT": [sql.remember_row(*place, leaf, row), delete, sql.insert_remembered(*place, table.columns)],
    }[event]


def _first_that_passes(connection: Connection, tries: Iterable[list[Composed]]) -> tuple[Outcome, str]:
    """Try row after row until one passes; a failure of the function itself ends the search at once."""
    said = Outcome.NOT_TRIED, "the table holds no row to try it with"
    for statements in tries:
        try:
            with connection.transaction(force_rollback=True):
                for statement in statements:
                    connection.execute(statement)
        except psycopg.Error as error:
            if connection.broken:
                raise
            state = error.sqlstate or ""
            if not state.startswith(REFUSALS):
                return Outcome.FAILED, f"{error.diag.message_primary} ({state})"
            said = Outcome.REFUSED, f"a rule of the database ({type(error).__name__})"
        else:
            return Outcome.RAN, ""
    return said
