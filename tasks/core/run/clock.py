"""The clock of this machine, the allowed clock difference, and run ids."""

import re
import secrets
from datetime import UTC, datetime, timedelta

RUN_ID = re.compile(r"[0-9a-f]{4}")

# The allowed difference between the clocks of the database server and this machine.
CLOCK_TOLERANCE = timedelta(minutes=5)


def new_run_id() -> str:
    """Return four hexadecimal digits that distinguish runs of the same second."""
    return secrets.token_hex(2)


def now() -> datetime:
    """Return the current time; only flows ask for it, once."""
    return datetime.now(UTC)
