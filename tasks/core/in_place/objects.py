"""What becomes of objects that are not as in a set: how each is set back, or what is left and why."""

from dataclasses import dataclass
from enum import StrEnum

from tasks.core.checks.definition import Severity
from tasks.core.checks.objects import severity
from tasks.core.database.comparison import Difference
from tasks.core.database.objects import InventoryItem
from tasks.core.report.markdown import sql_block

STATES = {"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}


class How(StrEnum):
    """By what an object is set back."""

    ALTER = "altered"
    ANEW = "dropped and made again"
    REPLACE = "replaced"
    SWITCH = "switched"
    REFRESH = "computed again"
    CREATE = "created"
    REBUILD = "built again"
    ADVANCE = "advanced"
    DROP = "dropped"
    NOT = "left"


@dataclass(frozen=True)
class Remedy:
    """How an object is set back, and by which statements, some of them `before` the rows are written; where it is not, why."""

    how: How
    statement: str = ""
    why: str = ""
    before: str = ""

    @property
    def by_hand(self) -> str:
        """All the statements, for a person."""
        return f"{self.before} {self.statement}".strip()


@dataclass(frozen=True)
class ObjectChange:
    """An object that is not as in the set: what is different, how grave that is, and what becomes of it."""

    what: str
    severity: Severity
    remedy: Remedy
    is_done: bool

    @property
    def line(self) -> str:
        """All of it as a sentence, for a report."""
        if self.is_done:
            return f"{self.what}; {self.remedy.how}"
        said = f":\n\n{sql_block(self.remedy.statement)}" if self.remedy.statement else ""
        return f"{self.severity}: {self.what}; left: {self.remedy.why}{said}"


@dataclass(frozen=True)
class Found:
    """How an object is not as in the set, how it is set back, and whether this restore does it."""

    difference: Difference
    remedy: Remedy
    is_done: bool
    # Set back for good: an undo does not make it again what it is now.
    is_lasting: bool = False

    @property
    def item(self) -> InventoryItem:
        """The object, as the set has it if it does."""
        return self.difference.item

    @property
    def change(self) -> ObjectChange:
        """The same, told."""
        why = self.remedy.why or "say objects=restore, or run"
        told = Remedy(self.remedy.how, self.remedy.by_hand, why)
        return ObjectChange(self.difference.line, severity(self.difference), told, self.is_done)
