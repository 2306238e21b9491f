"""What came of letting a trigger fire."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """Whether a trigger's function runs in the restored database."""

    RAN = "ran"
    REFUSED = "refused every row"
    NOT_FIRED = "did not fire"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Exercise:
    """One event on one table, and the triggers that it fires."""

    table: str
    event: str
    triggers: list[str]
    outcome: Outcome
    note: str
