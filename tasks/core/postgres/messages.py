"""PostgreSQL's error messages without row contents, which message, detail and context may quote."""

import re
from collections.abc import Iterator

import psycopg

from tasks.core.sql.names import quoted

# Data exceptions quote values; RAISE and ASSERT have texts of a function's author.
QUOTING_CLASSES = ("22", "P0")
# Lines of programs after the message itself, up to their next message.
MESSAGE = re.compile(r"^(?:(?:pg_restore|pg_dump|psql|zstd|createdb)\b.*?: |(?:ERROR|FATAL|WARNING|NOTICE): )")
AFTERWARDS = re.compile(r"^(?:\S+: )*(?:DETAIL|CONTEXT|HINT|LINE \d+|STATEMENT|Command was)\b")
# Values in data exceptions: invalid input syntax for type integer: "…", value "…" is out of range.
QUOTED_VALUE = re.compile(r"""(?P<before>: |\bvalue )"(?:[^"]|"")*"(?=$| is out of range)""")


# https://www.postgresql.org/docs/current/runtime-config-resource.html#GUC-TEMP-FILE-LIMIT
LIMIT = "temp_file_limit"
MORE_TEMPORARY = f"as a superuser, raise the limit of the login: ALTER ROLE … SET {LIMIT} = -1"


def is_temporary_limit(error: psycopg.Error) -> bool:
    """Return whether a statement needed more temporary files than its login may have."""
    return isinstance(error, psycopg.errors.ConfigurationLimitExceeded) and LIMIT in str(error)


def message_of(error: psycopg.Error, login: str = "") -> str:
    """Return an error's message if it names only objects, else its type and these objects."""
    state, diag = error.sqlstate or "", error.diag
    if is_temporary_limit(error):
        return f"{diag.message_primary}; {MORE_TEMPORARY.replace('…', quoted(login) if login else '…')}"
    if diag.message_primary and not state.startswith(QUOTING_CLASSES):
        return diag.message_primary
    place = [f"{kind} {name}" for kind, name in (("table", diag.table_name), ("column", diag.column_name)) if name]
    return " ".join([type(error).__name__, f"({state})" if state else "", *place]).strip()


def forget_rows(error: BaseException) -> None:
    """Replace texts that may quote rows in an error and its causes: Prefect records errors."""
    for part in _chain(error):
        # Errors of psycopg itself (a lost connection) have no diagnostics, and quote nothing.
        if isinstance(part, psycopg.Error) and part.diag.message_primary:
            part.args = (message_of(part),)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error with all its causes and parts, each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting += [other for other in (part.__cause__, part.__context__) if other]
        waiting += part.exceptions if isinstance(part, BaseExceptionGroup) else []


def without_rows(text: str) -> str:
    """Return a program's messages, with a remedy, without the lines that may quote rows."""
    kept, is_kept = list[str](), True
    for line in text.splitlines():
        if AFTERWARDS.match(line):
            is_kept = False
        elif MESSAGE.match(line):
            is_kept = True
        if is_kept:
            kept.append(QUOTED_VALUE.sub(r'\g<before>"…"', line))
    return "\n".join([*kept, *([MORE_TEMPORARY] if any(LIMIT in line for line in kept) else [])])
