"""What can go wrong, by what a caller does about it; every message says object, fact, remedy."""

import re
from collections.abc import Sequence

# What neither JSON nor PostgreSQL takes, or a terminal obeys: a store and a database may hold any text, and messages quote it.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class OperationError(Exception):
    """Root of every error this project raises on purpose; its message can be printed and stored, whatever it quotes."""

    def __init__(self, message: str = "") -> None:
        super().__init__(UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], message))


class BadInput(OperationError):
    """A parameter, a setting or a privilege is not what the operation needs; nothing was touched."""


class UnsafeTarget(OperationError):
    """The place to restore into holds, or could hold, something that would be lost."""


class PlanChanged(OperationError):
    """What would be done is no longer what was approved; ask again."""


class StoreUnavailable(OperationError):
    """The store did not answer, or refused; worth another try."""


class ServerUnavailable(OperationError):
    """The database's server ended a session, or begins or ends itself; worth another try."""


class AlreadyExists(OperationError):
    """A create-only object is there already and is not ours."""


class ColdObject(OperationError):
    """An object lies in a storage class that cannot be read before it is thawed."""


class TierUnavailable(OperationError):
    """A store cannot thaw as fast as was asked for just now; another tier may do."""


class DamagedSet(OperationError):
    """A backup set is incomplete or its bytes are not those that were stored; an older one may serve."""


class UntrustedSet(DamagedSet):
    """A backup set is not signed as it must be: anybody may have written it, or changed it."""


class MovedSnapshot(OperationError):
    """The schema changed, or a lock was asked for, while the snapshot was being taken; try again."""


class LostLock(OperationError):
    """A run's lock is no longer held: another run may be at work where this one was; what was to come was not done."""


class ProgramFailed(OperationError):
    """A PostgreSQL program ended with an error."""


class BrokenKey(OperationError):
    """Rows refer to rows of another context that are not there; without that key they can be loaded."""


class MisplacedRow(OperationError):
    """A row belongs to another partition than the one that had it; through the table that is divided it can be loaded."""


class RestoreDiffers(OperationError):
    """What was restored is not what was backed up; each difference is named."""

    def __init__(self, message: str, differences: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.differences = differences
