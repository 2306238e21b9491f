"""Objects that differ from a set: how each is changed back, or why it is left."""

from dataclasses import dataclass
from enum import StrEnum

from tasks.core.checks.definition import Severity
from tasks.core.checks.objects import severity
from tasks.core.database.comparison import Difference
from tasks.core.database.objects import InventoryItem
from tasks.core.report.markdown import sql_block

STATES = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


class How(StrEnum):
    """How an object is changed back to what the set has: the value completes "it is …"."""

    ALTER = "altered"
    ANEW = "dropped and re-created"
    REPLACE = "replaced"
    SWITCH = "switched"
    REFRESH = "refreshed"
    CREATE = "created"
    ATTACH = "attached"
    DETACH = "detached"
    REBUILD = "rebuilt"
    ADVANCE = "advanced"
    DROP = "dropped"
    NOT = "left"


@dataclass(frozen=True)
class Remedy:
    """Statements that change an object back, or why none; `before` runs before rows are written."""

    how: How
    statement: str = ""
    why: str = ""
    before: str = ""

    @property
    def by_hand(self) -> str:
        """All statements, to be run by hand."""
        return f"{self.before} {self.statement}".strip()


@dataclass(frozen=True)
class ObjectChange:
    """An object that differs from the set: the difference, its severity, and the remedy."""

    what: str
    severity: Severity
    remedy: Remedy
    is_done: bool

    @property
    def line(self) -> str:
        """The change as a sentence, for reports."""
        if self.is_done:
            return f"{self.what}; {self.remedy.how}"
        statement = f":\n\n{sql_block(self.remedy.statement)}" if self.remedy.statement else ""
        return f"{self.severity}: {self.what}; left: {self.remedy.why}{statement}"


@dataclass(frozen=True)
class Finding:
    """A difference of an object, its remedy, and whether this restore applies the remedy."""

    difference: Difference
    remedy: Remedy
    is_done: bool
    # An undo does not revert this change.
    is_lasting: bool = False

    @property
    def item(self) -> InventoryItem:
        """The object as in the set, or as in the database if the set lacks it."""
        return self.difference.item

    @property
    def change(self) -> ObjectChange:
        """The difference and its remedy, for reports."""
        why = self.remedy.why or "pass objects=restore to change it back, or run"
        remedy = Remedy(self.remedy.how, self.remedy.by_hand, why)
        return ObjectChange(self.difference.line, severity(self.difference), remedy, self.is_done)
