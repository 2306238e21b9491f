"""Errors, by what a caller does about them; every message has object, fact and remedy."""

import re
from collections.abc import Sequence

# Characters that JSON or PostgreSQL refuses, or that control a terminal; messages may quote any
# text.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class OperationError(Exception):
    """Root of the errors of this project, whose messages can be printed and stored."""

    def __init__(self, message: str = "") -> None:
        super().__init__(UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], message))


class BadInput(OperationError):
    """A parameter, a setting or a privilege is not what is needed; nothing was touched."""


class UnsafeTarget(OperationError):
    """The restore or change is refused: its target has, or could have, data that would be lost."""


class PlanChanged(OperationError):
    """The plan changed since its approval; it has to be reviewed again."""


class StoreUnavailable(OperationError):
    """The store did not answer, or had a temporary error; retry."""


class ServerUnavailable(OperationError):
    """The database server ended a session, or is starting or stopping; retry."""


class AlreadyExists(OperationError):
    """An object that must not be overwritten exists already, and another run wrote it."""


class ColdObject(OperationError):
    """An object is in a storage class that cannot be read before it is thawed."""


class TierUnavailable(OperationError):
    """A retrieval tier is unavailable now; a slower one may be available."""


class DamagedSet(OperationError):
    """A backup set is incomplete or has other bytes than were stored; an older one may be good."""


class UntrustedSet(DamagedSet):
    """A backup set lacks a required signature or has a wrong one: anybody may have written it."""


class MovedSnapshot(OperationError):
    """The schema changed, or a lock was not available, while the snapshot was taken; retry."""


class LostLock(OperationError):
    """A run lost its lock, and another may work on its objects; the remaining steps were left."""


class ProgramFailed(OperationError):
    """A PostgreSQL program ended with an error."""


class BrokenKey(OperationError):
    """Rows refer to missing rows of another context; without that key they can be loaded."""


class MisplacedRow(OperationError):
    """A row belongs to another partition than before: it can be loaded through the table."""


class RestoreDiffers(OperationError):
    """The restored data or objects differ from the backup; each difference is named."""

    def __init__(self, message: str, differences: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.differences = differences
