"""Obstacles to a restore, found before anything is created, and reported all at once."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tasks.core.errors import BadInput


@dataclass(frozen=True)
class Obstacle:
    """An object of the target, what is wrong with it, and the remedy."""

    subject: str
    fact: str
    remedy: str

    def __str__(self) -> str:
        """Return object, fact and remedy as a sentence."""
        return f"{self.subject} {self.fact}; {self.remedy}"


@contextmanager
def gathered(refusals: list[str]) -> Iterator[None]:
    """If the block raises BadInput, add its message to the obstacles, and continue."""
    try:
        yield
    except BadInput as error:
        refusals.append(str(error))


def refuse(obstacles: Iterable[object]) -> None:
    """Refuse a restore if there are obstacles; the message names all of them.

    Raises:
        BadInput: there are obstacles.
    """
    if sentences := list(dict.fromkeys(map(str, obstacles))):
        raise BadInput("; ".join(sentences))
