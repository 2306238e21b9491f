"""Which partitions an integrity check compares first, where its time is not enough for all: those tried longest ago."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from tasks.core.values import Instant, Label

T = TypeVar("T")
# Each partition is compared as often as this, or the report says that the time is not enough.
TURN = timedelta(days=7)
NEVER = datetime.min.replace(tzinfo=UTC)


class Rotation(BaseModel):
    """When each partition was last tried, and last compared to its end; kept in the record of each check.

    `agreed` is the set with which it was equal then; nothing if it was not.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    tried: dict[Label, Instant] = {}
    compared: dict[Label, Instant] = {}
    agreed: dict[Label, Label] = {}

    def ordered(self, names: Collection[str], now: datetime) -> list[str]:
        """Return names, those tried longest ago first; where nothing is known, a check of another day begins with another one."""
        listed = sorted(names)
        day = now.toordinal() % len(listed) if listed else 0
        return sorted([*listed[day:], *listed[:day]], key=lambda name: _known(self.tried, name, now))

    def overdue(self, names: Collection[str], now: datetime) -> list[str]:
        """Return those that were not compared within a turn."""
        return [name for name in names if now - _known(self.compared, name, now) > TURN]

    def last(self, name: str) -> str:
        """Return when a partition was last compared, for people."""
        return f"{self.compared[name]:%Y-%m-%d}" if name in self.compared else "never"

    def after(
        self, names: Collection[str], tried: Collection[str], compared: Collection[str], agreed: Mapping[str, str], now: datetime
    ) -> "Rotation":  # fmt: skip
        """Return the rotation after a check; of partitions that are not there any more nothing is kept."""
        stayed = {name: set_id for name, set_id in self.agreed.items() if name not in compared}
        return Rotation(
            tried=_of(names, self.tried | dict.fromkeys(tried, now)),
            compared=_of(names, self.compared | dict.fromkeys(compared, now)),
            agreed=_of(names, stayed | dict(agreed)),
        )


def _of(names: Collection[str], facts: Mapping[str, T]) -> dict[str, T]:
    return {name: fact for name, fact in facts.items() if name in names}


def _known(instants: Mapping[str, datetime], name: str, now: datetime) -> datetime:
    """Return when that was; an instant to come is a clock's mistake, or somebody's."""
    instant = instants.get(name, NEVER)
    return instant if instant <= now else NEVER
