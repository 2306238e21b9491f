"""Checks broken by restoring one table alone, such as counters and derived rows, and their repair.

If a check of the context finds rows that it did not find before, its repair is run on these.
Broken checks without a repair are reported.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.sql import Composed

from tasks.core import sql
from tasks.core.checks.definition import CHECKS_FILE, Check, parse_checks
from tasks.core.errors import OperationError
from tasks.core.postgres.messages import message_of
from tasks.core.postgres.source_path import execute_written, read_source_path
from tasks.database.catalog import is_there
from tasks.in_place.session import Merge, lineage

# The time limit of a check, as writers wait meanwhile.
CHECK_SECONDS = 60


@dataclass(frozen=True)
class Broken:
    """A check that finds more rows than before the restore, or can no longer be run."""

    number: int
    check: Check
    rows: int
    why: str = ""

    @property
    def line(self) -> str:
        """The check and its result as a sentence."""
        if self.why:
            return f"check {self.check.name} cannot be run: {self.why}"
        return f"check {self.check.name} finds {self.rows:,} more rows than before the restore: {self.check.about}"


class Watch:
    """The checks that read tables which a restore of one table writes, with results from before.

    A restore of the whole context needs no such checks, because the context becomes equal to the
    set.

    Raises:
        BadInput: the file of checks is wrong.
    """

    def __init__(self, merge: Merge) -> None:
        self._merge = merge
        self._path = read_source_path(merge.connection, merge.site.context.namespace)
        with self._settings():
            self._checks = dict(enumerate(concerned_checks(merge)))
            noting = {number: sql.in_place.note_broken(number, check.query) for number, check in self._checks.items()}
            self._noted = {number for number, statement in noting.items() if not self._complaint(statement)}

    def broken(self) -> list[Broken]:
        """Return the checks that find more rows than before, or fail."""
        with self._settings():
            results = [self._find(number, check) for number, check in self._checks.items()]
        return [result for result in results if result.rows or result.why]

    def repair(self, broken: list[Broken]) -> list[str]:
        """Run the repairs of checks; return for each how many rows it repaired.

        Raises:
            OperationError: a repair failed.
        """
        # If the rows were not noted before the restore, they may have violated the check already.
        repairable = [
            check for check in broken if check.check.repair and check.rows and (check.number in self._noted or self._merge.absent)
        ]
        with self._settings():
            for failed in repairable:
                self._find(failed.number, failed.check)
                if complaint := self._complaint(sql.staging.as_written(failed.check.repair)):
                    database = self._merge.site.database
                    raise OperationError(
                        f'database "{database}" is unchanged: the repair of check {failed.check.name} failed: {complaint}'
                    )
        return [f"{failed.check.name}: {failed.rows:,} rows" for failed in repairable]

    def _find(self, number: int, check: Check) -> Broken:
        self._merge.connection.execute(sql.in_place.DROP_BROKEN)
        why = self._complaint(sql.in_place.find_broken(number, check.query, noted=number in self._noted))
        rows = 0 if why else self._merge.connection.execute(sql.in_place.COUNT_BROKEN).fetchall()[0][0]
        return Broken(number, check, rows, why)

    def _complaint(self, statement: Composed) -> str:
        try:
            execute_written(self._merge.connection, statement, self._path, prepare=True)
        except psycopg.Error as error:
            if self._merge.connection.broken:
                raise
            return message_of(error)
        return ""

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """Run checks with the time zone of applications and a statement timeout."""
        connection, context = self._merge.connection, self._merge.site.context
        connection.execute(sql.session.check_settings(context.timestamps, CHECK_SECONDS))
        yield
        connection.execute(sql.session.FIXED_SETTINGS)
        connection.execute(sql.session.NO_STATEMENT_TIMEOUT)


def concerned_checks(merge: Merge) -> list[Check]:
    """Return the context's checks that name a written table, and whose required tables exist."""
    if merge.request.table is None:
        return []
    written = merge.names | {name for table in merge.tables for name in lineage(merge.members, table.member)}
    words = re.compile(rf"\b(?:{'|'.join(re.escape(name.partition('.')[2]) for name in written)})\b")
    checks = parse_checks(merge.site.files.get(CHECKS_FILE, ""), f"{merge.site.context.name}/{CHECKS_FILE}")
    path = read_source_path(merge.connection, merge.site.context.namespace)
    return [
        check
        for check in checks
        if words.search(check.query) and all(is_there(merge.connection, needed, path) for needed in check.needs)
    ]
