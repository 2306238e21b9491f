"""Results of test writes to restored tables, which execute their defaults, triggers and rules."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tasks.core.sets.manifest import Manifest


class Outcome(StrEnum):
    """Whether the code that a write executes works in the restored database."""

    RAN = "ran"
    REFUSED = "refused every row"
    NOT_FIRED = "did not fire"
    NOT_TRIED = "NOT TRIED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Exercise:
    """A test write: the event, the table, and the triggers that fire, if any."""

    table: str
    event: str
    triggers: list[str]
    outcome: Outcome
    note: str

    @property
    def line(self) -> str:
        """The result of the test write as a sentence."""
        fired = f" ({', '.join(self.triggers)})" if self.triggers else ""
        return f"{self.event} on {self.table}{fired}: {self.note}"


WORD = re.compile(r"\w[\w$]*")


def writes_to_do(exercises: Iterable[Exercise], manifest: Manifest) -> list[str]:
    """Return what has to be done so that the failing writes succeed."""
    return [f"{exercise.line}; {_remedy(exercise.note, manifest)}" for exercise in exercises if exercise.outcome is Outcome.FAILED]


def _remedy(note: str, manifest: Manifest) -> str:
    """Return the remedy for a missing object: left out of the set, or of another context."""
    words = {*WORD.findall(note)}
    others = {key.references for key in manifest.outbound_keys}
    theirs = sorted(name for name in others if name.rpartition(".")[2].strip('"') in words)
    named = [entry.name for entry in manifest.by_hand if not words.isdisjoint(WORD.findall(entry.name)[1:])]
    # An error names a function, not its extension.
    by_hand = named or [entry.name for entry in manifest.by_hand if entry.why.startswith("the code of ")]
    if theirs:
        return f"{', '.join(theirs)} belongs to another context: recover that context too; until then such writes fail"
    if by_hand:
        return f"create the objects that are not in the backup (see below): {', '.join(by_hand)}; until then such writes fail"
    return (
        "create the missing object, or grant the missing privilege, that the error names: an "
        "extension, or an object of another context, which has to be recovered too; until then "
        "such writes fail"
    )
