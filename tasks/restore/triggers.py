"""Test writes to a restored database, rolled back: INSERTs, and events on which triggers fire.

The catalog pg_depend does not record which objects functions use, so only running them shows that
nothing is missing.
"""

import re
from collections import defaultdict, deque
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

# A constraint or trigger that refuses one row may accept another row, so this many are tried.
ROWS_TRIED = 20
STATEMENT_SECONDS = 120
# Integrity constraint violations, RAISE and ASSERT: the code ran, and refused the row.
REFUSALS = ("23", "P0001", "P0004")
# A policy of the table; a setting that applications make.
REFUSED_BY = {"ExecWithCheckOptions": "a policy", "find_option": "a missing setting"}
# Timeout, lock conflict, or lack of resources.
UNKNOWN = ("57014", "55P03", "40", "53")
# Policies forced on the owner: our sessions see all or no rows, not those that applications see.
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
    # Tables of the context on which the owner lacks privileges, as in the backup.
    lacked_by_owners: list[str]

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class _Way:
    """Statements whose last one causes an event for a row; `removes` if a row is deleted first."""

    statements: list[Composed]
    removes: bool = False


@step
def exercise_triggers(server: Server, database: str, run: Run, context: Context) -> list[Exercise]:
    """Write to each table once per relevant event, and roll back; return the results.

    Tables whose code may act outside the database are not tried. Sequences keep their new values.
    If a row must be deleted, foreign keys are deferred, which requires ownership and locks.
    """
    with connect(server, database, run.title) as connection:
        oids = catalog.read_members(connection, context).oids
        path, tables = read_source_path(connection, context.namespace), _tables(connection, oids)
        asked = {"oids": oids, "names": sql.triggers.ACTING_OUTSIDE}
        outside = {(row[0], row[1]): row[2] for row in connection.execute(sql.triggers.REACHING_OUTSIDE, asked)}
    done, pending = list[Exercise](), deque[tuple[_Table, str]]()
    for table in tables:
        for event, triggers in table.triggers.items():
            if called := outside.get((table.schema, table.name)):
                why = f"code of this table may call {called}, which acts outside the database"
                done.append(Exercise(table.qualified, event, triggers, Outcome.NOT_TRIED, why))
            else:
                pending.append((table, event))
    while pending:
        try:
            # A function may terminate its session: the rest is tried in another.
            with connect(server, database, run.title) as connection:
                connection.execute(sql.session.set_lock_timeout(LOCK_WAIT_SECONDS))
                connection.execute(sql.session.set_statement_timeout(STATEMENT_SECONDS))
                while pending:
                    done += _write(connection, context, *pending[0], path)
                    pending.popleft()
        except OperationError as error:
            table, event = pending.popleft()
            done.append(Exercise(table.qualified, event, table.triggers[event], Outcome.FAILED, str(error)))
    outcomes = [exercise.outcome for exercise in done]
    get_run_logger().info(
        "writes: %s", ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in Outcome if outcome in outcomes) or "none"
    )
    return done


def _tables(connection: Connection, oids: list[int]) -> list[_Table]:
    events = defaultdict[tuple[str, str], dict[str, list[str]]](dict)
    columns = dict[tuple[str, str], tuple[list[str], list[str], list[str], list[str]]]()
    for schema, name, *facts, trigger, fires_on in connection.execute(sql.triggers.WRITTEN_TABLES, {"oids": oids}):
        columns[schema, name] = facts[0], facts[1], facts[2], facts[3]
        events[schema, name].setdefault("INSERT", [])
        for event in fires_on:
            events[schema, name].setdefault(event, []).append(trigger)
    lacked = [row[0] for row in connection.execute(sql.triggers.LACKED_BY_OWNERS, {"oids": oids})]
    return [_Table(*key, *columns[key], triggers, lacked) for key, triggers in events.items()]


def _write(connection: Connection, context: Context, table: _Table, event: str, path: str) -> list[Exercise]:
    """Try an event in a transaction that is rolled back; currval() values are discarded too."""
    with connection.transaction(force_rollback=True):
        connection.execute(sql.session.set_zone(context.timestamps))
        place = {"schema": table.schema, "name": table.name}
        for schema, trigger in connection.execute(sql.triggers.DEFERRED_TRIGGERS, place).fetchall():
            connection.execute(sql.triggers.fire_at_once(schema, trigger))
        exercises = [*_exercise(connection, table, event, path)]
    connection.execute(sql.triggers.FORGET_SEQUENCES)
    return exercises


def _exercise(connection: Connection, table: _Table, event: str, path: str) -> Iterator[Exercise]:
    place = {"schema": table.schema, "name": table.name}
    holding = connection.execute(sql.triggers.WITH_ROWS, place).fetchall()
    triggers = table.triggers[event]
    try:
        # Planning may already run index expressions.
        with source_path(connection, path):
            rows = [
                (schema, name, *row)
                for schema, name in holding
                for row in connection.execute(sql.triggers.some_rows(schema, name, ROWS_TRIED)).fetchall()
            ]
    except psycopg.Error as error:
        if connection.broken:
            raise
        # For example with forced policies. The transaction ends here.
        yield Exercise(table.qualified, event, triggers, Outcome.NOT_TRIED, f"the table's rows cannot be read: {message_of(error)}")
        return
    ways: Iterable[_Way] = (way for row in rows for way in _ways(table, event, *row))
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
        why = "the trigger's condition was not met by the rows tried" if rows else "the table has no row to try the write with"
        yield Exercise(table.qualified, event, rest, Outcome.NOT_FIRED, why)


def _ways(table: _Table, event: str, schema: str, name: str, leaf: str, row: str) -> list[_Way]:
    """Return the ways to cause an event for a row of the table or partition, easiest first."""
    place = (table.schema, table.name)
    delete, remember = sql.triggers.delete_row(*place, leaf, row), sql.triggers.remember_row(schema, name, leaf, row)
    if event == "DELETE":
        return [_Way([delete], removes=True)]
    if event == "UPDATE":
        # A GENERATED ALWAYS identity accepts no value.
        own = [name for name in table.columns if name not in table.always_generated]
        return [_Way([sql.triggers.touch_row(*place, own, leaf, row)])] if own else []

    def insert(columns: list[str], new: list[str]) -> Composed:
        # A table may have no columns, or only generated ones.
        return sql.triggers.insert_remembered(*place, columns, new) if columns else sql.triggers.insert_defaults(*place)

    # Like an application, which leaves columns with defaults to these.
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
    """Try rows until every trigger fired; a function that fails on its own ends the search."""
    tried, let_go = _Tried(), False
    for way in ways:
        if way.removes and not let_go:
            _let_rows_go(connection, table)
            let_go = True
        *before, statement = way.statements
        is_ready = False
        try:
            with connection.transaction(force_rollback=True), source_path(connection, path):
                for preparation in before:
                    connection.execute(preparation)
                is_ready = True
                # EXPLAIN ANALYZE executes the statement and shows which triggers fired.
                plan = connection.execute(sql.triggers.explain_analyze(statement)).fetchall()[0][0]
        except psycopg.Error as error:
            if connection.broken:
                raise
            if is_ready:
                _judge(tried, error, table)
            else:
                tried.obstacle = f"no row to try: {message_of(error)}"
            if tried.failure or tried.unknown:
                return tried
        else:
            tried.ran = True
            # Of what a rule adds that is no query, such as NOTIFY, there is a word instead of a
            # plan.
            plans = [part for part in plan if isinstance(part, dict)]
            tried.fired |= {trigger["Trigger Name"] for part in plans for trigger in part.get("Triggers", []) if trigger["Calls"]}
            if wanted <= tried.fired:
                break
    return tried


def _judge(tried: _Tried, error: psycopg.Error, table: _Table) -> None:
    """Record whether the row was refused, the test write inconclusive, or the code broken."""
    state, function = error.sqlstate or "", error.diag.source_function or ""
    by = REFUSED_BY.get(function)
    # A privilege that the owner lacks in the backup, too, is missing for all code run in its name;
    # one on another object was lost.
    message = error.diag.message_primary or ""
    is_denied = function == "aclcheck_error" and any(
        re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message) for name in table.lacked_by_owners
    )
    if state.startswith(UNKNOWN) or function in UNKNOWN_BY or is_denied:
        tried.unknown = f"{message_of(error)} ({state})"
    elif state.startswith(REFUSALS) or by:
        tried.refusal = f"by {by or 'a constraint or trigger'} ({type(error).__name__})"
    else:
        tried.failure = f"{message_of(error)} ({state})"


def _let_rows_go(connection: Connection, table: _Table) -> None:
    """Defer foreign keys around a table: a referenced row can be deleted and re-inserted."""
    place = {"schema": table.schema, "name": table.name}
    for owner_schema, owner, key in connection.execute(sql.triggers.KEYS_AROUND, place).fetchall():
        complaint_of(connection, sql.triggers.defer_key(owner_schema, owner, key))


def try_triggers(staged: StagedSet, target: Target, run: Run, phases: Phases) -> list[Exercise]:
    """Test writes to each table of a restored database; reset the sequences if it is a new one.

    Skipped for a set of some tables, as triggers may need the other tables.
    """
    if staged.manifest.only:
        return []
    with phases.phase("triggers"):
        done = exercise_triggers(target.loader, target.working_name, run, staged_context(staged))
        if not target.exists:
            set_sequences(target.loader, target.working_name, run, staged.manifest)
    return done
