"""What every rule would do: all old rows are tried, some at a time, in transactions that are rolled back.

Nobody waits longer for it than for a clean-up. A row that would go is there again in the next transaction: its key is kept, and
where it refers to others that are tried then, it goes with them once more. What cannot be found out so is called not known.
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
    """Transactions that are rolled back, each after `rules.TRIAL_SECONDS`, and by table the keys of what would go."""

    def __init__(self, site: Site, run: Run, connection: Connection) -> None:
        self.site, self.run, self.connection = site, run, connection
        self.keys = dict[str, set[Key]]()
        self._going = dict[str, Identifier]()
        self._new = dict[str, tuple[Table, list[Key]]]()
        self._transaction, self._deadline = ExitStack(), 0.0

    def begin(self) -> None:
        """Begin a transaction; what locks the context has its turn in between."""
        self._transaction.enter_context(context_lock(self.site.server, self.site.context.name, self.run.title))
        self._transaction.enter_context(self.connection.transaction(force_rollback=True))
        self._deadline = time.monotonic() + rules.TRIAL_SECONDS

    def end(self) -> None:
        """Roll it back, and have the keys of what went where the next transactions see them."""
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
        """End a transaction that had its time, and begin another; return whether that was so."""
        if time.monotonic() <= self._deadline:
            return False
        self.end()
        self.begin()
        return True

    def read(self, one: CleanUp) -> Subject:
        """Return a rule as the database has it, with the tables of which rules before it would take rows."""
        self.connection.execute(sql.session.FIXED_SETTINGS)
        neighbours, instant = Neighbours.of(self.site, self.run), self.run.started
        return read_subject(self.connection, self.site.context, one.rule, instant, neighbours, self._going, self.keys)

    def note(self, subject: Subject, removed: Removed) -> dict[str, list[Key]]:
        """Keep the keys of what went; return by relation those that are new: a row may have gone before, and be there again."""
        tables = {leaf.qualified: subject.tables[subject.tops[oid]] for oid, leaf in subject.leaves.items()}
        found = dict[str, list[Key]]()
        for name, keys in removed.gone.items():
            table = tables[name]
            known = self.keys.setdefault(table.name, set())
            if new := [key for key in dict.fromkeys(keys) if key not in known]:
                found[name] = new
                known.update(new)
                self._new.setdefault(table.name, (table, []))[1].extend(new)
        return found


@step
def plan(site: Site, run: Run) -> list[CleanUp]:
    """Find out what every rule would do, one after the other; nothing is kept of it."""
    found = rules.rules_in_order(site, run)
    with session(site, run) as connection:
        require_temporary(connection)
        trial = Trial(site, run, connection)
        trial.begin()
        for one in found:
            with rules.explained(one):
                _try_rule(trial, one)
            if one.problem:
                trial.end()
                trial.begin()
        trial.end()
    return found


def _try_rule(trial: Trial, one: CleanUp) -> None:
    """Try all old rows of a rule, and again those that stay while rows go to which others referred."""
    subject = trial.read(one)
    one.cutoff = subject.cutoff
    went = may_go = True
    while went and may_go:
        went = may_go = False
        one.look_again()
        for removed in sweep(trial.connection, subject):
            gone = trial.note(subject, removed)
            one.took(Removed(gone=gone, stays=removed.stays, unsure=removed.unsure))
            went, may_go = went or counted(gone) > 0, may_go or removed.may_go
            if trial.renew():
                get_run_logger().info("%s: %d rows would go, %d stay, so far", one.rule.table, sum(one.rows.values()), one.staying)
    looked_at = one.staying + sum(len(keys) for keys in one.unsure.values())
    trial.connection.execute(sql.session.set_zone(subject.context.timestamps))
    asked = sql.clean_up.count_old(subject.root, subject.old)
    one.untried = max(0, execute_written(trial.connection, asked, subject.path).fetchall()[0][0] - looked_at)
