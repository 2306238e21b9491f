"""The table of docs/reliability.md: a row a damage, as a run of it gave it; nobody types in it."""

import fcntl
import os
import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields

from tests.support import PROJECT
from tests.support.damages import DAMAGES

DOCUMENT = PROJECT / "docs" / "reliability.md"
BEGIN, END = "<!-- made by `make reliability`, not by hand -->\n", "<!-- end of what is made -->\n"
TITLES = ("kind", "damage", "checks without a set", "checks with a set", "in place", "with `objects=restore`", "what is left")
NOTHING = "–"
EQUAL, LISTED, REFUSED = "equal", "listed", "refused"
# Whether rows are written anew instead of compared: `make reliability` says so.
IS_WRITTEN = "WRITE_RELIABILITY" in os.environ


@dataclass(frozen=True)
class Row:
    """What became of a damage: which checks tell it, what restores in place make of it, and what the last verdict says is left."""

    kind: str
    name: str
    alone: str
    with_set: str
    planned: str
    restored: str
    left: str

    @property
    def is_caught(self) -> bool:
        return (self.alone, self.with_set) != (NOTHING, NOTHING)

    @property
    def is_equal(self) -> bool:
        return EQUAL in (self.planned, self.restored)

    @property
    def line(self) -> str:
        return f"| {' | '.join(cell.replace('|', '&#124;') for cell in astuple(self))} |\n"


def read_rows() -> dict[str, Row]:
    """Return the rows that the document has, by the damage."""
    lines = _block(DOCUMENT.read_text("utf-8")).splitlines()
    cells = [[cell.replace("&#124;", "|") for cell in line[2:-2].split(" | ")] for line in lines if line.startswith("| ")]
    return {row[1]: Row(*row) for row in cells[1:] if len(row) == len(fields(Row))}


def write_row(row: Row) -> None:
    """Put a row in its place; others may do the same beside this."""
    with DOCUMENT.open(encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        DOCUMENT.write_text(made_of({**read_rows(), row.name: row}.values()), "utf-8")


def made_of(rows: Iterable[Row]) -> str:
    """Return the document with these rows, in the order of the box."""
    before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
    by_name = {row.name: row for row in rows}
    ordered = [by_name[one.name] for one in DAMAGES if one.name in by_name]
    table = [f"| {' | '.join(TITLES)} |\n", f"|{'---|' * len(TITLES)}\n", *(row.line for row in ordered)]
    return "".join([before, BEGIN, "\n", summary(ordered), "\n", *table, "\n", END, rest.partition(END)[2]])


def summary(rows: list[Row]) -> str:
    """Return how many are caught and brought back."""
    alone, caught = sum(row.alone != NOTHING for row in rows), sum(row.is_caught for row in rows)
    at_once, equal = sum(row.planned == EQUAL for row in rows), sum(row.is_equal for row in rows)
    return (
        f"Of {len(rows)} kinds of damage the integrity check finds {alone} without a set and {caught} with one in the store.\n"
        f"A restore in place brings back {at_once}, with `objects=restore` {equal}; of the other {len(rows) - equal} it says what "
        "is left.\n"
    )


def _block(text: str) -> str:
    return text.partition(BEGIN)[2].partition(END)[0]


ITEM = re.compile(r"^- ", re.MULTILINE)
CODE = re.compile(r":?\n+\s*```sql\n(?P<code>.*?)```", re.DOTALL)
SET = re.compile(r"bc-004_\w+_\d{8}_\d{6}_[0-9a-f]{4}")
MOST_ITEMS, MOST_LETTERS = 2, 400


def in_short(items: Iterable[str]) -> str:
    """Return what a report says is left, or why nothing was done, in a cell: the first items, without what is another each run."""
    said = [SET.sub("the set", " ".join(CODE.sub(r": `\g<code>`", one).replace("` `", "").split())) for one in items]
    cut = [one if len(one) <= MOST_LETTERS else f"{one[:MOST_LETTERS].rstrip('`')} …" for one in said[:MOST_ITEMS]]
    more = [f"and {len(said) - MOST_ITEMS} more"] if len(said) > MOST_ITEMS else []
    return "<br>".join([*cut, *more]) or NOTHING


def items_of(section: str) -> list[str]:
    """Return the items of a section of a report."""
    return [one.strip() for one in ITEM.split(section)[1:]]
