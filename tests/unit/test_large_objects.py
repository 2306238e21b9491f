"""Large objects as they are kept in a set: an index of lines of JSON, pages as lines of COPY text."""

from pathlib import Path
from typing import Any

import pytest
import zstandard

from tasks.core.errors import DamagedSet
from tasks.core.sets.large_objects import (
    INDEX,
    Grant,
    LargeObject,
    LargeObjects,
    content_of,
    digest_pages,
    named,
    other_contents,
    parse_index,
    render_index,
    total_of,
    within_budget,
)
from tasks.core.sets.large_objects import PAGES as PAGES_FILE
from tasks.core.sets.name import SetName
from tasks.database.large_objects import numbers_in
from tasks.sets.large_objects import decode_large_objects
from tasks.sets.stage import StagedSet
from tests.support.samples import digest_of, manifest, stored

PAGES = [b"1\t0\t\\\\x00ff\n", b"1\t2048\t\\\\x\n", b"2\t0\t\\\\x41\n"]


def large_object(oid: int, pages: list[bytes], **more: object) -> LargeObject:
    digest = digest_of(pages)
    said = {"owner": "o", "grants": None, "comment": None} | more
    return LargeObject.model_validate(
        {"oid": oid, "pages": digest.rows, "plain_bytes": digest.plain_bytes, "digest": digest.hex} | said
    )


def summary(objects: list[LargeObject]) -> LargeObjects:
    plain = sum(one.plain_bytes for one in objects)
    return LargeObjects(columns={"a.t": ["doc"]}, objects=len(objects), plain_bytes=plain, digest=total_of(objects), seconds=0)


def test_an_index_is_read_as_it_was_written() -> None:
    grants = [Grant(role=None, privilege="SELECT", grantable=False)]
    objects = [
        large_object(1, PAGES[:2], grants=grants, comment="契約\n\u2028\1\2"),
        large_object(2, PAGES[2:]),
        large_object(3, []),
    ]
    data = render_index(objects)
    assert parse_index(data, summary(objects), "here") == objects
    # restore.sh takes each line for one value, and the numbers of those that lie in the full from how it begins and ends.
    assert data.count(b"\n") == 3 and b"\1" not in data and b"\2" not in data
    inherited = render_index([objects[0].model_copy(update={"inherited": True})])
    assert inherited.startswith(b'{"oid": 1, ') and inherited.endswith(b'"inherited": true}\n')


@pytest.mark.parametrize("cut", [b"", b"{}\n", b"[1]\n", b"\xff\n", b'{"oid": 1}\n'])
def test_another_index_is_refused(cut: bytes) -> None:
    objects = [large_object(1, PAGES[:2]), large_object(2, PAGES[2:])]
    with pytest.raises(DamagedSet, match="restore another set"):
        parse_index(cut, summary(objects), "here")
    twice = [objects[0], objects[0]]
    with pytest.raises(DamagedSet, match="has other objects"):
        parse_index(render_index(twice), summary(objects), "here")


def test_pages_are_digested_by_object_in_any_order() -> None:
    objects = [large_object(1, PAGES[:2]), large_object(2, PAGES[2:]), large_object(3, [])]
    assert other_contents(objects, digest_pages([PAGES])) == []
    assert other_contents(objects, digest_pages([[PAGES[2], PAGES[1]], [PAGES[0]]])) == []
    assert other_contents(objects, digest_pages([PAGES[:1], PAGES[2:]])) == [1]
    assert other_contents(objects, digest_pages([PAGES, [b"3\t0\t\\\\x\n"]])) == [3]


def test_a_page_is_its_bytes() -> None:
    assert [content_of(line) for line in PAGES] == [(0, b"\x00\xff"), (2048, b""), (0, b"A")]
    for line in (b"1\t0\n", b"1\tx\t\\\\x00\n", b"1\t0\tx00\n", b"1\t0\t\\\\x0\n", b"1\t0\t\\\\xzz\n"):
        with pytest.raises(ValueError):
            content_of(line)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (b"5\n", [b"5"]), (b"\\N\t7\n", [b"7"]), (b"{1,NULL,2}\n", [b"1", b"2"]), (b"4 5\n", [b"4", b"5"]),
        (b"[0:1]={3,4}\t[-2:-1][1:1]={{5},{6}}\n", [b"3", b"4", b"5", b"6"]),
    ],
)  # fmt: skip
def test_bounds_of_an_array_are_no_oids(text: bytes, numbers: list[bytes]) -> None:
    assert numbers_in(text) == numbers


def test_many_are_named_by_the_first() -> None:
    assert named([7]) == "large object 7"
    assert named([1, 2]) == "2 large objects (1, 2)"
    assert named([1, 2, 3, 4]) == "4 large objects (1, 2, 3, …)"


def staged(folder: Path, objects: list[LargeObject], pages: list[bytes], base_pages: list[bytes] | None = None) -> StagedSet:
    """Return a set with these objects, and of a full with those pages, as it was downloaded."""
    packed = {
        INDEX: zstandard.compress(render_index(objects)), PAGES_FILE: zstandard.compress(b"".join(pages)),
        "base": zstandard.compress(b"".join(base_pages or [])),
    }  # fmt: skip
    files = {path: folder / path.replace("/", "-") for path in packed}
    for path, file in files.items():
        file.write_bytes(packed[path])
    large = {
        "large_objects": summary(objects), "large_object_index": stored(INDEX), "large_object_pages": stored(PAGES_FILE),
    }  # fmt: skip
    full = manifest(**large)
    name = SetName(full.context, full.kind, full.id)
    return StagedSet(name, full, files, full if base_pages else None, {PAGES_FILE: files["base"]})


def test_pages_that_are_not_those_of_the_index_are_found(tmp_path: Path) -> None:
    objects = [large_object(1, PAGES[:2]), large_object(2, PAGES[2:])]
    assert decode_large_objects(staged(tmp_path, objects, PAGES)) == []
    for pages in (PAGES[:2], PAGES[1:], [*PAGES, PAGES[0]]):
        assert "the stored pages differ from its index" in decode_large_objects(staged(tmp_path, objects, pages))[0]
    assert "cannot be read" in decode_large_objects(staged(tmp_path, objects, [b"x\n"]))[0]


def test_those_that_did_not_change_are_taken_from_the_full(tmp_path: Path) -> None:
    """Of the full's pages only theirs, and of the set's own none of theirs."""
    objects = [large_object(1, PAGES[:2], inherited=True), large_object(2, PAGES[2:])]
    old, foreign = b"2\t0\t\\\\x40\n", b"9\t0\t\\\\x40\n"
    assert decode_large_objects(staged(tmp_path, objects, PAGES[2:], [*PAGES[:2], old, foreign])) == []
    assert decode_large_objects(staged(tmp_path, objects, PAGES[2:], [old, foreign])) != []
    assert decode_large_objects(staged(tmp_path, objects, PAGES, [*PAGES[:2]])) == []


@pytest.mark.parametrize(
    "wrong",
    [{"large_object_index": None}, {"large_objects": None}, {"large_object_pages": stored("data/other.zst")}],
    ids=["no index", "no summary", "in another place"],
)
def test_a_manifest_has_all_of_it_in_its_place(wrong: dict[str, Any]) -> None:
    large = {"large_objects": summary([large_object(1, PAGES[:2])]), "large_object_index": stored(INDEX)}
    assert manifest(**large).objects[-1].path == INDEX
    with pytest.raises(ValueError, match=r"large objects without their index|is not where a backup puts it"):
        manifest(**large | wrong)


def test_in_time_every_object_has_its_turn_within_a_budget() -> None:
    objects = [large_object(oid, [b"%d\t0\t\\\\x00\n" % oid]) for oid in range(1, 6)]
    each = objects[0].plain_bytes
    turns = [within_budget(objects, f"set {number}", 2 * each) for number in range(50)]
    assert {len(one) for one in turns} == {2}
    assert {one.oid for some in turns for one in some} == {1, 2, 3, 4, 5}
    assert len(within_budget(objects, "a set", 0)) == 1
    assert within_budget(objects, "a set", 99 * each) != [] == within_budget([], "a set", 1)


def test_what_holds_no_byte_is_empty() -> None:
    pages: list[list[bytes]] = [[], [b"77\t0\t\\\\x\n"], [b"77\t0\t\\\\x00\n"], [b"77\t0\t\\\\x\n", b"77\t2048\t\\\\x00\n"]]
    assert [large_object(77, some).is_empty for some in pages] == [True, True, False, False]
