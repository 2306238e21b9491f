"""What came of writing to a restored table, which lets its defaults, triggers and rules run."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from tasks.core.sets.manifest import Manifest


class Outcome(StrEnum):
    """Whether what a write lets run does run in the restored database."""

    RAN = "ran"
    REFUSED = "refused every row"
    NOT_FIRED = "did not fire"
    NOT_TRIED = "NOT TRIED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Exercise:
    """One event on one table, and the triggers that it fires, if there are any."""

    table: str
    event: str
    triggers: list[str]
    outcome: Outcome
    note: str

    @property
    def line(self) -> str:
        """What came of it, for people."""
        fired = f" ({', '.join(self.triggers)})" if self.triggers else ""
        return f"{self.event} on {self.table}{fired}: {self.note}"


WORD = re.compile(r"\w[\w$]*")


def writes_to_do(exercises: Iterable[Exercise], manifest: Manifest) -> list[str]:
    """Return what a human still has to do so that tables take writes."""
    return [f"{one.line}; {_remedy(one.note, manifest)}" for one in exercises if one.outcome is Outcome.FAILED]


def _remedy(note: str, manifest: Manifest) -> str:
    """Say what brings back what an error names: it is left out of the set, or another context's."""
    words = {*WORD.findall(note)}
    others = {key.references for key in manifest.outbound_keys}
    theirs = sorted(name for name in others if name.rpartition(".")[2].strip('"') in words)
    named = [one.name for one in manifest.by_hand if not words.isdisjoint(WORD.findall(one.name)[1:])]
    # An error names a function, not the extension that brings it.
    by_hand = named or [one.name for one in manifest.by_hand if one.why.startswith("the code of ")]
    if theirs:
        return f"{', '.join(theirs)} of another context comes with that context's own recovery; until then such writes fail"
    if by_hand:
        return f"make what is left out of the backup, see below: {', '.join(by_hand)}; until then such writes fail"
    return (
        "make, or grant, what it names: an extension, or another context's object that comes with that context's own recovery; "
        "until then such writes fail"
    )
