"""The plan of a clean-up: which rows every rule would delete.

All old rows are deleted for a try, in batches, in transactions that are rolled back; other sessions
wait no longer than for a clean-up. After the rollback the rows exist again, so the keys of rows
that would be deleted are stored: if such a row references rows that are tried later, it is deleted
with them again. Rows of which this cannot show whether they would be deleted are reported as not
known.
"""

import time
from contextlib import ExitStack

from prefect import get_run_logger
from psycopg.sql import Identifier

from tasks.clean_up import rules
from tasks.clean_up.delete import sweep
from tasks.clean_up.subject import Subject, read_subject
from tasks.core import sql
from tasks.core.clean_up.outcome import CleanUp, Key, Removed, counted
from tasks.core.postgres.connection import Connection
from tasks.core.postgres.source_path import execute_written
from tasks.core.sql.clean_up import Table
from tasks.database.locks import context_lock
from tasks.database.logins import require_temporary
from tasks.database.neighbours import Neighbours
from tasks.partitions.transaction import session
from tasks.run.run import Run, step
from tasks.run.site import Site


class Trial:
    """A plan's transactions, rolled back after `rules.TRIAL_SECONDS`, and keys of deleted rows."""

    def __init__(self, site: Site, run: Run, connection: Connection) -> None:
        self.site, self.run, self.connection = site, run, connection
        self.keys = dict[str, set[Key]]()
        self._going = dict[str, Identifier]()
        self._new = dict[str, tuple[Table, list[Key]]]()
        self._transaction, self._deadline = ExitStack(), 0.0

    def begin(self) -> None:
        """Begin a transaction. Between two transactions, other runs can lock the context."""
        self._transaction.enter_context(context_lock(self.site.server, self.site.context.name, self.run.title))
        self._transaction.enter_context(self.connection.transaction(force_rollback=True))
        self._deadline = time.monotonic() + rules.TRIAL_SECONDS

    def end(self) -> None:
        """Roll back, and store keys of deleted rows in TEMP tables for the next transactions."""
        self._transaction.close()
        for name, (table, keys) in self._new.items():
            if name not in self._going:
                going = Identifier("pg_temp", f"going {len(self._going)}")
                self.connection.execute(sql.clean_up.create_going(going, table))
                self._going[name] = going
            with self.connection.cursor() as cursor, cursor.copy(sql.clean_up.copy_going(self._going[name])) as copy:
                for key in keys:
                    copy.write_row(key)
            self.connection.execute(sql.clean_up.analyze_going(self._going[name]))
        self._new = {}

    def renew(self) -> bool:
        """Begin another transaction if this one has lasted long enough; return whether it has."""
        if time.monotonic() <= self._deadline:
            return False
        self.end()
        self.begin()
        return True

    def read(self, clean_up: CleanUp) -> Subject:
        """Return a rule's subject, with the tables from which earlier rules would delete rows."""
        self.connection.execute(sql.session.FIXED_SETTINGS)
        neighbours, instant = Neighbours.of(self.site, self.run), self.run.started
        return read_subject(self.connection, self.site.context, clean_up.rule, instant, neighbours, self._going, self.keys)

    def note(self, subject: Subject, removed: Removed) -> dict[str, list[Key]]:
        """Remember the keys of deleted rows.

        Return, by relation, the keys of the rows deleted for the first time, without those that an
        earlier transaction had deleted.
        """
        tables = {leaf.qualified: subject.tables[subject.tops[oid]] for oid, leaf in subject.leaves.items()}
        new_keys = dict[str, list[Key]]()
        for name, keys in removed.deleted.items():
            table = tables[name]
            known_keys = self.keys.setdefault(table.name, set())
            if new := [key for key in dict.fromkeys(keys) if key not in known_keys]:
                new_keys[name] = new
                known_keys.update(new)
                self._new.setdefault(table.name, (table, []))[1].extend(new)
        return new_keys


@step
def plan(site: Site, run: Run) -> list[CleanUp]:
    """Find out, rule after rule, which rows would be deleted; all deletions are rolled back."""
    clean_ups = rules.rules_in_order(site, run)
    with session(site, run) as connection:
        require_temporary(connection)
        trial = Trial(site, run, connection)
        trial.begin()
        for clean_up in clean_ups:
            with rules.explained(clean_up):
                _try_rule(trial, clean_up)
            if clean_up.problem:
                trial.end()
                trial.begin()
        trial.end()
    return clean_ups


def _try_rule(trial: Trial, clean_up: CleanUp) -> None:
    """Try a rule's old rows; those that stay again, while rows referencing them are deleted."""
    subject = trial.read(clean_up)
    clean_up.cutoff = subject.cutoff
    went = may_go = True
    while went and may_go:
        went = may_go = False
        clean_up.forget_reasons()
        for removed in sweep(trial.connection, subject):
            new_keys = trial.note(subject, removed)
            clean_up.record(Removed(deleted=new_keys, stays=removed.stays, unsure=removed.unsure))
            went, may_go = went or counted(new_keys) > 0, may_go or removed.may_go
            if trial.renew():
                get_run_logger().info(
                    "%s: %d rows would be deleted, %d stay, so far",
                    clean_up.rule.table,
                    sum(clean_up.rows.values()),
                    clean_up.staying,
                )
    tried = clean_up.staying + sum(len(keys) for keys in clean_up.unsure.values())
    trial.connection.execute(sql.session.set_zone(subject.context.timestamps))
    statement = sql.clean_up.count_old(subject.root, subject.old)
    clean_up.untried = max(0, execute_written(trial.connection, statement, subject.path).fetchall()[0][0] - tried)
