"""What PostgreSQL complains of, told without what the rows hold: messages, details and contexts may quote them."""

import psycopg

# Data exceptions quote the value; RAISE and ASSERT say whatever a function's author wrote.
QUOTING_CLASSES = ("22", "P0")


def message_of(error: psycopg.Error) -> str:
    """Return the message of an error where it names objects only, else its kind and what it was about."""
    state, diag = error.sqlstate or "", error.diag
    if diag.message_primary and not state.startswith(QUOTING_CLASSES):
        return diag.message_primary
    place = [f"{kind} {name}" for kind, name in (("table", diag.table_name), ("column", diag.column_name)) if name]
    return " ".join([type(error).__name__, f"({state})" if state else "", *place]).strip()
