"""What stands in the way of a restore: found out before anything is made, and told all at once."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tasks.core.errors import BadInput


@dataclass(frozen=True)
class Obstacle:
    """An object of the target, what it is or lacks, and what to run or to say instead."""

    subject: str
    fact: str
    remedy: str

    def __str__(self) -> str:
        """Return it as one sentence."""
        return f"{self.subject} {self.fact}; {self.remedy}"


@contextmanager
def gathered(found: list[str]) -> Iterator[None]:
    """Add what the block refuses to what was found already, and go on."""
    try:
        yield
    except BadInput as error:
        found.append(str(error))


def refuse(found: Iterable[object]) -> None:
    """Refuse a restore for all that was found.

    Raises:
        BadInput: something was.
    """
    if said := list(dict.fromkeys(map(str, found))):
        raise BadInput("; ".join(said))
