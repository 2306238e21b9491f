"""Which partitions checks compare first, as time may not suffice: those compared longest ago."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from tasks.core.values import Instant, Label

T = TypeVar("T")
# Each partition should be compared this often; the report names those that were not.
TURN = timedelta(days=7)
NEVER = datetime.min.replace(tzinfo=UTC)


class Rotation(BaseModel):
    """When each partition was last tried, and last compared completely.

    Stored in the record of each check. `agreed` has the set that each partition was equal to;
    partitions that differed are not in `agreed`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    tried: dict[Label, Instant] = {}
    compared: dict[Label, Instant] = {}
    agreed: dict[Label, Label] = {}

    def ordered(self, names: Collection[str], now: datetime) -> list[str]:
        """Return the names, tried longest ago first; never tried ones in a daily changing order."""
        listed = sorted(names)
        day = now.toordinal() % len(listed) if listed else 0
        return sorted([*listed[day:], *listed[:day]], key=lambda name: _known(self.tried, name, now))

    def overdue(self, names: Collection[str], now: datetime) -> list[str]:
        """Return the names of partitions that were not compared within the last TURN days."""
        return [name for name in names if now - _known(self.compared, name, now) > TURN]

    def last(self, name: str) -> str:
        """Return when a partition was last compared, as text."""
        return f"{self.compared[name]:%Y-%m-%d}" if name in self.compared else "never"

    def after(
        self, names: Collection[str], tried: Collection[str], compared: Collection[str], agreed: Mapping[str, str], now: datetime
    ) -> "Rotation":
        """Return the rotation as it is after a check, without partitions that no longer exist."""
        stayed = {name: set_id for name, set_id in self.agreed.items() if name not in compared}
        return Rotation(
            tried=_of(names, self.tried | dict.fromkeys(tried, now)),
            compared=_of(names, self.compared | dict.fromkeys(compared, now)),
            agreed=_of(names, stayed | dict(agreed)),
        )


def _of(names: Collection[str], facts: Mapping[str, T]) -> dict[str, T]:
    return {name: fact for name, fact in facts.items() if name in names}


def _known(instants: Mapping[str, datetime], name: str, now: datetime) -> datetime:
    """Return the instant, or NEVER for an instant in the future, which comes from a wrong clock."""
    instant = instants.get(name, NEVER)
    return instant if instant <= now else NEVER
