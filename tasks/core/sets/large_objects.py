"""Large objects that rows of a set's relations reference, with content, owner and privileges.

The index has one line of JSON for each; their pages are lines of COPY text, so that digests and
stock tools treat them as rows.
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
    """A set's large objects in figures, and the `columns`, by schema.name, that reference them."""

    columns: dict[Label, list[Name]]
    objects: Count
    inherited: Count = Field(default=0, description="how many of them have their pages in the base set")
    plain_bytes: Count = Field(description="the size of all pages as text, including inherited ones")
    digest: str = Field(pattern=DIGEST, description="sum modulo 2**128 of XXH3-128 of each page's text, as of rows")
    seconds: Duration


class Grant(StoredModel):
    """A privilege on a large object; without a role it is granted to PUBLIC."""

    role: Name | None
    privilege: Literal["SELECT", "UPDATE"]
    grantable: bool


class LargeObject(StoredModel):
    """One large object; `grants` is None if none was ever made."""

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
        """Whether the object has no bytes: no page, or the empty one that lo_truncate leaves."""
        return self.plain_bytes <= len(f"{self.oid}\t0\t\\\\x\n")


def render_index(objects: Iterable[LargeObject]) -> bytes:
    """Return the index as bytes, not compressed."""
    return b"".join(json.dumps(large_object.model_dump(), ensure_ascii=False).encode() + b"\n" for large_object in objects)


def parse_index(data: bytes, summary: LargeObjects, where: str) -> list[LargeObject]:
    """Return the objects of an index.

    Raises:
        DamagedSet: the bytes are not an index, or do not match the manifest.
    """
    try:
        objects = [LargeObject.model_validate_json(line) for line in data.splitlines()]
    except ValidationError as error:
        raise DamagedSet(f"{where} cannot be read: {complaint_about(error)}; restore another set") from error
    if len({large_object.oid for large_object in objects}) != summary.objects or total_of(objects) != summary.digest:
        raise DamagedSet(f"{where} has other objects than the manifest; restore another set")
    return objects


def total_of(objects: Iterable[LargeObject]) -> str:
    """Return the digest of the pages of all objects."""
    return f"{sum(int(large_object.digest, 16) for large_object in objects) % MODULUS:032x}"


def by_object(lines: Sequence[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield each oid in the pages, with its pages.

    Raises:
        ValueError: a line is not a page.
    """
    for oid, pages in groupby(lines, key=lambda line: line.partition(b"\t")[0]):
        yield int(oid), list(pages)


def digest_pages(batches: Iterable[list[bytes]]) -> dict[int, RowDigest]:
    """Return the number of pages and their digest, by object.

    Raises:
        ValueError: a line is not a page.
    """
    digests = dict[int, RowDigest]()
    for batch in batches:
        for oid, pages in by_object(batch):
            digests.setdefault(oid, RowDigest()).add(pages, sum(map(len, pages)))
    return digests


def content_of(line: bytes) -> tuple[int, bytes]:
    """Return the offset of a page in its object, and the page.

    Raises:
        ValueError: the line is not a page.
    """
    _, first, text = line.rstrip(b"\n").split(b"\t")
    if not text.startswith(b"\\\\x"):
        raise ValueError("a page is not in hexadecimal digits")
    return int(first), bytes.fromhex(text[3:].decode("ascii"))


def other_contents(objects: Iterable[LargeObject], read: Mapping[int, RowDigest]) -> list[int]:
    """Return the objects whose pages differ from the index."""
    none = RowDigest()
    return [
        large_object.oid
        for large_object in objects
        if (digest := read.get(large_object.oid, none)) and (digest.rows, digest.hex) != (large_object.pages, large_object.digest)
    ]


def within_budget(objects: Sequence[LargeObject], set_id: str, most_bytes: int) -> list[LargeObject]:
    """Return as many objects as the budget allows, at least one.

    The first one differs with each set, so that all objects are chosen in turn.
    """
    first = int.from_bytes(sha256(set_id.encode()).digest()) % max(len(objects), 1)
    chosen, total = list[LargeObject](), 0
    for large_object in (*objects[first:], *objects[:first]):
        total += large_object.plain_bytes
        if chosen and total > most_bytes:
            break
        chosen.append(large_object)
    return chosen


def staying(large_objects: LargeObjects | None) -> list[str]:
    """Return a note that large objects of deleted rows stay, unless a trigger removed them."""
    if large_objects is None or not large_objects.objects:
        return []
    return [
        f"the set has the {several(large_objects.objects, 'large object')} that its rows "
        "reference; in the database they remain, unless a trigger removed them: run vacuumlo to "
        "remove those that no row references any more"
    ]


def named(oids: Sequence[int]) -> str:
    """Return the oids of some objects for a message: of many their number and the first."""
    first = ", ".join(map(str, oids[:SHOWN]))
    if len(oids) == 1:
        return f"large object {first}"
    return f"{several(len(oids), 'large object')} ({first}{', …' if oids[SHOWN:] else ''})"
