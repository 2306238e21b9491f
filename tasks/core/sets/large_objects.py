"""Large objects of a set: those that rows of its relations name, with what they hold, whose they are, and who may use them.

The index has one line of JSON for each; their pages are lines of COPY text, so that a digest and stock tools know them as rows.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from typing import Literal

from pydantic import Field, ValidationError

from tasks.core.errors import DamagedSet
from tasks.core.report.markdown import several
from tasks.core.rows.digest import MODULUS, RowDigest
from tasks.core.values import Count, Duration, Label, Name, Oid, StoredModel, complaint_about

INDEX, PAGES = "large-objects.jsonl.zst", "data/large-objects.pages.zst"
DIGEST = r"^[0-9a-f]{32}$"
SHOWN = 3


class LargeObjects(StoredModel):
    """What a set has of large objects, in figures; `columns` are those of each relation (schema.name) that name them."""

    columns: dict[Label, list[Name]]
    objects: Count
    inherited: Count = Field(default=0, description="how many of them have their pages in the base")
    plain_bytes: Count = Field(description="of all pages as text, also inherited ones")
    digest: str = Field(pattern=DIGEST, description="sum modulo 2**128 of XXH3-128 of each page's text, as of rows")
    seconds: Duration


class Grant(StoredModel):
    """A privilege on an object; without a role it is everybody's."""

    role: Name | None
    privilege: Literal["SELECT", "UPDATE"]
    grantable: bool


class LargeObject(StoredModel):
    """One large object; `grants` is None where none was ever made."""

    oid: Oid
    owner: Name
    grants: list[Grant] | None
    comment: str | None
    pages: Count
    plain_bytes: Count
    digest: str = Field(pattern=DIGEST)
    inherited: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether it holds no byte: it has no page, or the empty one that lo_truncate leaves."""
        return self.plain_bytes <= len(f"{self.oid}\t0\t\\\\x\n")


def render_index(objects: Iterable[LargeObject]) -> bytes:
    """Return the index as the bytes that are packed."""
    return b"".join(json.dumps(one.model_dump(), ensure_ascii=False).encode() + b"\n" for one in objects)


def parse_index(data: bytes, summary: LargeObjects, where: str) -> list[LargeObject]:
    """Return the objects of an index.

    Raises:
        DamagedSet: the bytes are none, or other ones than the manifest speaks of.
    """
    try:
        found = [LargeObject.model_validate_json(line) for line in data.splitlines()]
    except ValidationError as error:
        raise DamagedSet(f"{where} cannot be read: {complaint_about(error)}; restore another set") from error
    if len({one.oid for one in found}) != summary.objects or total_of(found) != summary.digest:
        raise DamagedSet(f"{where} has other objects than the manifest says; restore another set")
    return found


def total_of(objects: Iterable[LargeObject]) -> str:
    """Return the digest of the pages of all objects."""
    return f"{sum(int(one.digest, 16) for one in objects) % MODULUS:032x}"


def by_object(lines: Sequence[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the oids that pages are of, each with its pages.

    Raises:
        ValueError: a line is no page.
    """
    for oid, pages in groupby(lines, key=lambda line: line.partition(b"\t")[0]):
        yield int(oid), list(pages)


def digest_pages(batches: Iterable[list[bytes]]) -> dict[int, RowDigest]:
    """Return pages and digest of each object of which pages come by.

    Raises:
        ValueError: a line is no page.
    """
    found = dict[int, RowDigest]()
    for batch in batches:
        for oid, pages in by_object(batch):
            found.setdefault(oid, RowDigest()).add(pages, sum(map(len, pages)))
    return found


def content_of(line: bytes) -> tuple[int, bytes]:
    """Return the place of a page's first byte in its object, and the page.

    Raises:
        ValueError: the line is no page.
    """
    _, first, text = line.rstrip(b"\n").split(b"\t")
    if not text.startswith(b"\\\\x"):
        raise ValueError("a page is not spelled in hexadecimal digits")
    return int(first), bytes.fromhex(text[3:].decode("ascii"))


def other_contents(objects: Iterable[LargeObject], read: Mapping[int, RowDigest]) -> list[int]:
    """Return the objects of which other pages were read than they have."""
    none = RowDigest()
    return [
        one.oid for one in objects if (found := read.get(one.oid, none)) and (found.rows, found.hex) != (one.pages, one.digest)
    ]  # fmt: skip


def within_budget(objects: Sequence[LargeObject], set_id: str, most_bytes: int) -> list[LargeObject]:
    """Return as many objects as fit, at least one, in a row that begins elsewhere with each set: in time all have their turn."""
    first = int.from_bytes(sha256(set_id.encode()).digest()) % max(len(objects), 1)
    chosen, total = list[LargeObject](), 0
    for one in (*objects[first:], *objects[:first]):
        total += one.plain_bytes
        if chosen and total > most_bytes:
            break
        chosen.append(one)
    return chosen


def staying(large: LargeObjects | None) -> list[str]:
    """Say what becomes of large objects whose rows left the database: nothing, unless a trigger removed them."""
    if large is None or not large.objects:
        return []
    return [
        f"the set has the {several(large.objects, 'large object')} that its rows name; in the database they stay, unless a trigger "
        "removed them: vacuumlo removes those that no row names any more"
    ]


def named(oids: Sequence[int]) -> str:
    """Return what some objects are called, for people: of many, how many, and the first."""
    first = ", ".join(map(str, oids[:SHOWN]))
    if len(oids) == 1:
        return f"large object {first}"
    return f"{several(len(oids), 'large object')} ({first}{', …' if oids[SHOWN:] else ''})"
