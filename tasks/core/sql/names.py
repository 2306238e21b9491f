"""Names as statements spell them."""

import re
from collections.abc import Sequence

from psycopg.sql import SQL, Composed, Identifier

QUOTED = re.compile(r'"((?:[^"]|"")+)"')
LAST_NAME = re.compile(r'\.(?:"(?:[^"]|"")+"|[^".]+)\Z')
QUALIFIED = re.compile(r'(?P<schema>"(?:[^"]|"")+"|[^".(]+)\.(?P<name>.*)', re.DOTALL)


def column_list(columns: Sequence[str]) -> Composed:
    """Return columns in brackets, as what COPY and INSERT take; nothing for no columns."""
    return SQL(" ({})").format(SQL(", ").join(map(Identifier, columns))) if columns else SQL("").format()


def quoted(name: str) -> str:
    """Return a name as an identifier, quoted."""
    return Identifier(name).as_string()


def quoted_name(schema: str, name: str) -> str:
    """Return the name of a relation as SQL writes it, quoted."""
    return Identifier(schema, name).as_string()


def plain_name(qualified: str) -> str:
    """Return schema.name without the quotes of SQL, as a manifest names relations."""
    return ".".join(split_name(qualified))


def table_of_column(qualified: str) -> str:
    """Return the table of schema.table.column, all as SQL writes them."""
    return LAST_NAME.sub("", qualified)


def split_name(qualified: str) -> tuple[str, str]:
    """Return schema and name, without the quotes of SQL; a name that PostgreSQL prints bare has no schema."""
    found = QUALIFIED.fullmatch(qualified)
    if found is None:
        return "", unquoted(qualified)
    return unquoted(found["schema"]), unquoted(found["name"])


def unquoted(name: str) -> str:
    """Return a name without the quotes of SQL, of an identifier or of each one in it."""
    return QUOTED.sub(lambda quoted: quoted[1].replace('""', '"'), name)
