"""Which partitions an integrity check compares first, where its time is not enough for all: those tried longest ago."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from tasks.core.values import Instant, Label

# Each partition is compared as often as this, or the report says that the time is not enough.
TURN = timedelta(days=7)
NEVER = datetime.min.replace(tzinfo=UTC)


class Rotation(BaseModel):
    """When each partition was last tried, and last compared to its end; kept in the record of each check."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    tried: dict[Label, Instant] = {}
    compared: dict[Label, Instant] = {}

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

    def after(self, names: Collection[str], tried: Collection[str], compared: Collection[str], now: datetime) -> "Rotation":
        """Return the rotation after a check; of partitions that are not there any more nothing is kept."""
        return Rotation(
            tried={name: instant for name, instant in (self.tried | dict.fromkeys(tried, now)).items() if name in names},
            compared={name: instant for name, instant in (self.compared | dict.fromkeys(compared, now)).items() if name in names},
        )


def _known(instants: Mapping[str, datetime], name: str, now: datetime) -> datetime:
    """Return when that was; an instant to come is a clock's mistake, or somebody's."""
    instant = instants.get(name, NEVER)
    return instant if instant <= now else NEVER
