"""Writes to a restored database, all rolled back: an insert into each table, and what else its triggers fire on.

What a function calls is in no pg_depend, so nothing but running it shows that everything it needs came back.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import psycopg
from prefect import get_run_logger
from psycopg.sql import Composed

from tasks.core import sql
from tasks.core.context import Context
from tasks.core.errors import OperationError
from tasks.core.postgres.connection import Connection, Server, complaint_of, connect
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import read_source_path, source_path
from tasks.core.restore.trigger_result import Exercise, Outcome
from tasks.core.run.phases import Phases
from tasks.database import catalog
from tasks.database.locks import LOCK_WAIT_SECONDS
from tasks.restore.fill import set_sequences
from tasks.restore.target import Target
from tasks.run.run import Run, step
from tasks.sets.stage import StagedSet, staged_context

# A rule of the database that refuses one row may let the next one pass.
ROWS_TRIED = 20
STATEMENT_SECONDS = 120
# Integrity constraint violations, and what RAISE and ASSERT of a trigger function say: it ran, and refused the row.
REFUSALS = ("23", "P0001", "P0004")
# A policy of the table; a setting that applications make.
REFUSED_BY = {"ExecWithCheckOptions": "a policy", "find_option": "a setting that it wants"}
# Too long, in the way of others, or more than this server has room for.
UNKNOWN = ("57014", "55P03", "40", "53")
# Policies that hold for the owner too: applications see the rows that these let them see, our sessions all or none.
UNKNOWN_BY = {"check_enable_rls"}


@dataclass(frozen=True)
class _Table:
    schema: str
    name: str
    columns: list[str]
    always_generated: list[str]
    key_columns: list[str]
    defaults: list[str]
    triggers: dict[str, list[str]]
    owners_lack_rights: bool

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class _Way:
    """Statements of which the last one lets a row meet with an event; whether a row has to go for that."""

    statements: list[Composed]
    removes: bool = False


@step
def exercise_triggers(server: Server, database: str, run: Run, context: Context) -> list[Exercise]:
    """Write to each table once for each event that matters, and roll everything back; return what came of it.

    Where code would act outside of the database nothing is written. Values of sequences are not given back. Where a row has to go,
    foreign keys are deferred meanwhile, which takes ownership and locks.
    """
    with connect(server, database, run.title) as connection:
        oids = catalog.read_members(connection, context).oids
        path, tables = read_source_path(connection, context.namespace), _tables(connection, oids)
        asked = {"oids": oids, "names": sql.triggers.ACTING_OUTSIDE}
        outside = {(row[0], row[1]): row[2] for row in connection.execute(sql.triggers.REACHING_OUTSIDE, asked)}
    done = list[Exercise]()
    for table in tables:
        for event, triggers in table.triggers.items():
            if called := outside.get((table.schema, table.name)):
                why = f"its code may call {called}, which acts outside of the database"
                done.append(Exercise(table.qualified, event, triggers, Outcome.NOT_TRIED, why))
                continue
            try:
                done += _write(server, database, run, context, table, event, path)
            except OperationError as error:
                done.append(Exercise(table.qualified, event, triggers, Outcome.FAILED, str(error)))
    outcomes = [one.outcome for one in done]
    get_run_logger().info("writes: %s", ", ".join(f"{outcomes.count(one)} {one}" for one in Outcome if one in outcomes) or "none")
    return done


def _tables(connection: Connection, oids: list[int]) -> list[_Table]:
    events = defaultdict[tuple[str, str], dict[str, list[str]]](dict)
    columns = dict[tuple[str, str], tuple[list[str], list[str], list[str], list[str]]]()
    for schema, name, *facts, trigger, fires_on in connection.execute(sql.triggers.WRITTEN_TABLES, {"oids": oids}):
        columns[schema, name] = facts[0], facts[1], facts[2], facts[3]
        events[schema, name].setdefault("INSERT", [])
        for event in fires_on:
            events[schema, name].setdefault(event, []).append(trigger)
    (owners_lack_rights,) = connection.execute(sql.triggers.OWNERS_LACK_RIGHTS, {"oids": oids}).fetchall()[0]
    return [_Table(*key, *columns[key], triggers, owners_lack_rights) for key, triggers in events.items()]


def _write(
    server: Server, database: str, run: Run, context: Context, table: _Table, event: str, path: str
) -> list[Exercise]:  # fmt: skip
    """Try an event in a session of its own, which a function may end."""
    with connect(server, database, run.title) as connection:
        connection.execute(sql.session.set_lock_timeout(LOCK_WAIT_SECONDS))
        connection.execute(sql.session.set_statement_timeout(STATEMENT_SECONDS))
        with connection.transaction(force_rollback=True):
            connection.execute(sql.session.set_zone(context.timestamps))
            place = {"schema": table.schema, "name": table.name}
            for schema, trigger in connection.execute(sql.triggers.DEFERRED_TRIGGERS, place).fetchall():
                connection.execute(sql.triggers.fire_at_once(schema, trigger))
            return [*_exercise(connection, table, event, path)]


def _exercise(connection: Connection, table: _Table, event: str, path: str) -> Iterator[Exercise]:
    place = {"schema": table.schema, "name": table.name}
    holding = connection.execute(sql.triggers.WITH_ROWS, place).fetchall()
    triggers = table.triggers[event]
    try:
        # Planning alone may run what an index is on.
        with source_path(connection, path):
            rows = [
                (schema, name, *row)
                for schema, name in holding
                for row in connection.execute(sql.triggers.some_rows(schema, name, ROWS_TRIED)).fetchall()
            ]
    except psycopg.Error as error:
        if connection.broken:
            raise
        # As where policies hold for the owner too. The transaction ends here.
        yield Exercise(table.qualified, event, triggers, Outcome.NOT_TRIED, f"its rows cannot be read: {message_of(error)}")
        return
    ways = [way for row in rows for way in _ways(table, event, *row)]
    if event == "INSERT" and not rows:
        ways = [_Way([sql.triggers.insert_defaults(table.schema, table.name)])]
    tried = _try_ways(connection, table, path, set(triggers), ways)
    unknown = tried.unknown or ("" if tried.ran or tried.refusal else tried.obstacle)
    if tried.failure or unknown:
        outcome = Outcome.FAILED if tried.failure else Outcome.NOT_TRIED
        yield Exercise(table.qualified, event, triggers, outcome, tried.failure or unknown)
        return
    fired, rest = [[name for name in triggers if (name in tried.fired) is yes] for yes in (True, False)]
    if fired or (tried.ran and not triggers):
        yield Exercise(table.qualified, event, fired, Outcome.RAN, "")
    elif tried.refusal and rows:
        yield Exercise(table.qualified, event, rest, Outcome.REFUSED, tried.refusal)
        return
    if rest or not (triggers or tried.ran):
        why = "its condition was not met" if rows else "the table holds no row to try it with"
        yield Exercise(table.qualified, event, rest, Outcome.NOT_FIRED, why)


def _ways(table: _Table, event: str, schema: str, name: str, leaf: str, row: str) -> list[_Way]:
    """Return the ways to let a row of the table, or of a partition of it, meet with an event, the easiest first."""
    place = (table.schema, table.name)
    delete, remember = sql.triggers.delete_row(*place, leaf, row), sql.triggers.remember_row(schema, name, leaf, row)
    if event == "DELETE":
        return [_Way([delete], removes=True)]
    if event == "UPDATE":
        # An identity column that is GENERATED ALWAYS takes no value of ours.
        own = [name for name in table.columns if name not in table.always_generated]
        return [_Way([sql.triggers.touch_row(*place, own, leaf, row)])] if own else []

    def insert(columns: list[str], new: list[str]) -> Composed:
        # A table may have no column, or only generated ones.
        return sql.triggers.insert_remembered(*place, columns, new) if columns else sql.triggers.insert_defaults(*place)

    # As an application would, which leaves to defaults what has any.
    usual = [name for name in table.columns if name not in table.defaults]
    ways = [_Way([remember, insert(usual, [])])] if table.defaults or not usual else []
    ways += [_Way([remember, insert(table.columns, table.key_columns)])] if table.key_columns else []
    return [*ways, _Way([remember, delete, insert(table.columns, [])], removes=True)]


@dataclass
class _Tried:
    ran: bool = False
    fired: set[str] = field(default_factory=set)
    refusal: str = ""
    unknown: str = ""
    failure: str = ""
    obstacle: str = ""


def _try_ways(connection: Connection, table: _Table, path: str, wanted: set[str], ways: Iterable[_Way]) -> _Tried:
    """Try row after row until every trigger fired; a function that fails by itself ends the search at once."""
    tried, let_go = _Tried(), False
    for way in ways:
        if way.removes and not let_go:
            _let_rows_go(connection, table)
            let_go = True
        *before, statement = way.statements
        is_ready = False
        try:
            with connection.transaction(force_rollback=True), source_path(connection, path):
                for one in before:
                    connection.execute(one)
                is_ready = True
                # EXPLAIN ANALYZE runs the statement and says which triggers were called.
                plan = connection.execute(sql.triggers.explain_analyze(statement)).fetchall()[0][0]
        except psycopg.Error as error:
            if connection.broken:
                raise
            if is_ready:
                _judge(tried, error, table)
            else:
                tried.obstacle = f"the row cannot be had: {message_of(error)}"
            if tried.failure or tried.unknown:
                return tried
        else:
            tried.ran = True
            tried.fired |= {one["Trigger Name"] for part in plan for one in part.get("Triggers", []) if one["Calls"]}
            if wanted <= tried.fired:
                break
    return tried


def _judge(tried: _Tried, error: psycopg.Error, table: _Table) -> None:
    """Note whether a rule refused the row, the try was given up, or what was to run cannot."""
    state, function = error.sqlstate or "", error.diag.source_function or ""
    by = REFUSED_BY.get(function)
    # A right that an owner lacks, as in the backup, lacks whoever writes in his name, and the keys that act in it.
    is_denied = function == "aclcheck_error" and table.owners_lack_rights
    if state.startswith(UNKNOWN) or function in UNKNOWN_BY or is_denied:
        tried.unknown = f"{message_of(error)} ({state})"
    elif state.startswith(REFUSALS) or by:
        tried.refusal = f"by {by or 'a rule of the database'} ({type(error).__name__})"
    else:
        tried.failure = f"{message_of(error)} ({state})"


def _let_rows_go(connection: Connection, table: _Table) -> None:
    """Let a row go and come back although others refer to it; a key that cannot be deferred may refuse that."""
    place = {"schema": table.schema, "name": table.name}
    for owner_schema, owner, key in connection.execute(sql.triggers.KEYS_AROUND, place).fetchall():
        complaint_of(connection, sql.triggers.defer_key(owner_schema, owner, key))


def try_triggers(staged: StagedSet, target: Target, run: Run, phases: Phases) -> list[Exercise]:
    """Write to each table of a restored database, rolled back; where nobody uses it yet, its sequences are set once more.

    Of a part of a context nothing is written: what its tables need is in the rest.
    """
    if staged.manifest.only:
        return []
    with phases.phase("triggers"):
        done = exercise_triggers(target.loader, target.working_name, run, staged_context(staged))
        if not target.exists:
            set_sequences(target.loader, target.working_name, run, staged.manifest)
    return done
