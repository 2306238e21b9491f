"""The clock of this machine, how far others may be from it, and the id of a run."""

import re
import secrets
from datetime import UTC, datetime, timedelta

RUN_ID = re.compile(r"[0-9a-f]{4}")

# Clocks of the database's server and of this machine may differ by as much.
CLOCK_TOLERANCE = timedelta(minutes=5)


def new_run_id() -> str:
    """Return four hexadecimal digits that tell this run from another of the same second."""
    return secrets.token_hex(2)


def now() -> datetime:
    """Return the instant; only flows ask, once."""
    return datetime.now(UTC)
