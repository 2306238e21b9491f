"""What rows of one table no longer agree with when they are restored alone: counters, and rows that triggers derive.

The context's checks say what has to agree, and how it is mended: where a check finds rows that it did not find before, its
repair is run on these. What nobody wrote a repair for is told.
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

# As long as a check may keep writers waiting.
CHECK_SECONDS = 60


@dataclass(frozen=True)
class Broken:
    """A check that finds rows which it did not find before, or that cannot be run any more."""

    number: int
    check: Check
    rows: int
    why: str = ""

    @property
    def line(self) -> str:
        """What it is, as a sentence."""
        if self.why:
            return f"check {self.check.name} cannot be run: {self.why}"
        return f"check {self.check.name} finds {self.rows:,} rows more than before: {self.check.about}"


class Watch:
    """The checks that read what a restore of one table writes; each remembers what it found before.

    Of a restore of the whole context nothing is watched: it is to be what the set is.

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
        """Return the checks that find more than before."""
        with self._settings():
            found = [self._find(number, check) for number, check in self._checks.items()]
        return [one for one in found if one.rows or one.why]

    def repair(self, broken: list[Broken]) -> list[str]:
        """Run the repairs of checks; return what each was for.

        Raises:
            OperationError: one failed.
        """
        # Of what could not be noted, rows may be broken that this restore has nothing to do with.
        mendable = [
            one for one in broken if one.check.repair and one.rows and (one.number in self._noted or self._merge.absent)
        ]  # fmt: skip
        with self._settings():
            for one in mendable:
                self._find(one.number, one.check)
                if said := self._complaint(sql.staging.as_written(one.check.repair)):
                    database = self._merge.site.database
                    raise OperationError(f'database "{database}" is as it was: the repair of check {one.check.name} failed: {said}')
        return [f"{one.check.name}: {one.rows:,} rows" for one in mendable]

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
        """Let checks know the time as an application does, and take no longer than they may."""
        connection, context = self._merge.connection, self._merge.site.context
        connection.execute(sql.session.check_settings(context.timestamps, CHECK_SECONDS))
        yield
        connection.execute(sql.session.FIXED_SETTINGS)
        connection.execute(sql.session.NO_STATEMENT_TIMEOUT)


def concerned_checks(merge: Merge) -> list[Check]:
    """Return the checks of the context's file that name a written table, and whose other contexts' tables are there."""
    if merge.request.table is None:
        return []
    written = merge.names | {name for one in merge.tables for name in lineage(merge.members, one.member)}
    words = re.compile(rf"\b(?:{'|'.join(re.escape(name.partition('.')[2]) for name in written)})\b")
    checks = parse_checks(merge.site.files.get(CHECKS_FILE, ""), f"{merge.site.context.name}/{CHECKS_FILE}")
    path = read_source_path(merge.connection, merge.site.context.namespace)
    return [
        one for one in checks
        if words.search(one.query) and all(is_there(merge.connection, needed, path) for needed in one.needs)
    ]  # fmt: skip
