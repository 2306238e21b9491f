"""The clock of this machine, how far other clocks may differ from it, and the id of a run."""

import re
import secrets
from datetime import UTC, datetime, timedelta

RUN_ID = re.compile(r"[0-9a-f]{4}")

# By how much the clocks of the database server and of this machine may differ.
CLOCK_TOLERANCE = timedelta(minutes=5)


def new_run_id() -> str:
    """Return four hexadecimal digits that distinguish this run from another of the same second."""
    return secrets.token_hex(2)


def now() -> datetime:
    """Return the current time; only flows ask for it, once."""
    return datetime.now(UTC)
