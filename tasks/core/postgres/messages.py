"""What PostgreSQL complains of, told without what the rows hold: messages, details and contexts may quote them."""

import re
from collections.abc import Iterator

import psycopg

# Data exceptions quote the value; RAISE and ASSERT say whatever a function's author wrote.
QUOTING_CLASSES = ("22", "P0")
# What programs say after the message itself, each up to the next line of their own.
SAID = re.compile(r"^(?:(?:pg_restore|pg_dump|psql|zstd|createdb)\b.*?: |(?:ERROR|FATAL|WARNING|NOTICE): )")
AFTERWARDS = re.compile(r"^(?:\S+: )*(?:DETAIL|CONTEXT|HINT|LINE \d+|STATEMENT|Command was)\b")
# What of a data exception is a value: invalid input syntax for type integer: "…", value "…" is out of range.
QUOTED_VALUE = re.compile(r"""(?P<before>: |\bvalue )"(?:[^"]|"")*"(?=$| is out of range)""")


def message_of(error: psycopg.Error) -> str:
    """Return the message of an error where it names objects only, else its kind and what it was about."""
    state, diag = error.sqlstate or "", error.diag
    if diag.message_primary and not state.startswith(QUOTING_CLASSES):
        return diag.message_primary
    place = [f"{kind} {name}" for kind, name in (("table", diag.table_name), ("column", diag.column_name)) if name]
    return " ".join([type(error).__name__, f"({state})" if state else "", *place]).strip()


def forget_rows(error: BaseException) -> None:
    """Take what may quote rows out of the text of an error, and of those that it came of: Prefect records what they say."""
    for one in _chain(error):
        # What psycopg says without a server (a connection that broke) has no diagnostics, and quotes nothing.
        if isinstance(one, psycopg.Error) and one.diag.message_primary:
            one.args = (message_of(one),)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it came of or was part of, each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [other for other in (one.__cause__, one.__context__) if other]
        waiting += one.exceptions if isinstance(one, BaseExceptionGroup) else []


def without_rows(text: str) -> str:
    """Return what a PostgreSQL program said without details, contexts and statements, which may quote rows."""
    kept, is_kept = list[str](), True
    for line in text.splitlines():
        if AFTERWARDS.match(line):
            is_kept = False
        elif SAID.match(line):
            is_kept = True
        if is_kept:
            kept.append(QUOTED_VALUE.sub(r'\g<before>"…"', line))
    return "\n".join(kept)
