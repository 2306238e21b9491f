"""The facts of a set for reports, and for the record of expired sets."""

from datetime import datetime, timedelta
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from tasks.core.sets.name import RULES, Kind
from tasks.core.sets.records import Record
from tasks.core.values import Instant, Sum


class SetFacts(BaseModel):
    """A set in a few figures.

    Instants are None if the set's manifest cannot be read. `verified` is the time of the last
    verification or drill.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    kind: Kind
    state: str
    instant: Instant | None
    finished: Instant | None
    bytes: Sum
    verified: Instant | None = None
    note: str = ""
    expired: bool = False

    @property
    def took(self) -> timedelta | None:
        """How long the backup took, from its snapshot to its manifest."""
        return self.finished - self.instant if self.instant and self.finished else None

    @property
    def is_damaged(self) -> bool:
        """Whether the set cannot be restored, or could not be restored when it expired."""
        return self.state in ("damaged", "untrusted")

    @property
    def verdict(self) -> str:
        """The state of the set in one word."""
        if self.expired:
            return "expired"
        return self.state if self.state in ("suspect", "damaged", "untrusted", "set aside") else "ok"

    @property
    def recovery_state(self) -> tuple[datetime, datetime] | None:
        """When the set's state was taken and stored; None if the set cannot be `latest`."""
        if self.instant is None or self.finished is None or not RULES[self.kind].may_be_latest:
            return None
        if self.is_damaged or self.state == "set aside":
            return None
        # If the server's clock is ahead, the manifest's time counts: a state is never newer than
        # its manifest.
        return min(self.instant, self.finished), self.finished


class ExpiryRecord(Record):
    """The record of the sets that expired in one pruning."""

    folder: ClassVar[str] = "expired"

    sets: list[SetFacts]
