"""A manifest is what was written, to the bit, or it is refused."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.core.errors import DamagedSet
from tasks.core.sets.manifest import Manifest, StoredObject
from tasks.core.sets.manifest_file import parse_manifest, render_manifest
from tests.support.samples import manifest, relation, snapshot, stored

WRITTEN = render_manifest(manifest())
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
INSTANTS = st.datetimes(datetime(1900, 1, 2), datetime(8999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


def parse(data: bytes) -> Manifest:
    return parse_manifest(data, "s3://b/set")


@given(
    rows=st.integers(min_value=0, max_value=2**62), columns=st.lists(TEXT.filter(bool)), warnings=st.lists(TEXT), state=TEXT,
    instant=INSTANTS,
)  # fmt: skip
def test_round_trip(rows: int, columns: list[str], warnings: list[str], state: str, instant: Any) -> None:
    item = manifest().inventory[0].model_copy(update={"state": state})
    one = manifest(
        relations=[relation(rows=rows, columns=columns)], warnings=warnings, inventory=[item], snapshot=snapshot(instant=instant)
    )
    assert parse(render_manifest(one)) == one
    assert render_manifest(parse(render_manifest(one))) == render_manifest(one)


@given(st.integers(min_value=0, max_value=len(WRITTEN) * 8 - 1))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    data = bytearray(WRITTEN)
    data[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(DamagedSet, match=r"^s3://b/set: .*restore another set"):
        parse(bytes(data))


@given(st.integers(min_value=0, max_value=len(WRITTEN) - 1))
def test_cut_short_anywhere_is_refused(length: int) -> None:
    with pytest.raises(DamagedSet, match="restore another set"):
        parse(WRITTEN[:length])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedSet):
        parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000, b"{}", b"null", b'{"manifest": 1, "sha256": 2}', b'"text"', WRITTEN + b"\n", b" " + WRITTEN, WRITTEN[:-1],
        WRITTEN.replace(b'"sha256"', b'"sha256": "x", "sha256"', 1), b'{"manifest": "\\ud800", "sha256": ""}',
    ],
)  # fmt: skip
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(DamagedSet, match="restore another set"):
        parse(data)


def rewritten(**changes: Any) -> bytes:
    """Return a manifest with changed keys and the right checksum."""
    body = json.loads(WRITTEN)["manifest"] | changes
    return canonical({"manifest": body, "sha256": hashlib.sha256(canonical(body)).hexdigest()})


def canonical(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode()


def test_another_version_is_refused_with_the_remedy() -> None:
    assert parse(rewritten()) == manifest()
    with pytest.raises(DamagedSet, match=r"^s3://b/set: the manifest has version 2, this release reads only 1; use a newer one"):
        parse(rewritten(version=2))


# Only what was taken before a restore says what that made, which its undo drops.
MADE = {"made": [{"kind": "table", "name": "public.teams", "parent": "", "columns": "", "state": ""}]}


@pytest.mark.parametrize("changes", [{"unknown": 1}, {"relations": None}, {"kind": "weekly"}, {"transforms": ["gzip"]}, MADE])
def test_the_right_checksum_is_not_enough(changes: dict[str, Any]) -> None:
    with pytest.raises(DamagedSet, match="the manifest is not valid"):
        parse(rewritten(**changes))


@pytest.mark.parametrize("path", ["../x", "/x", "a/../x", "a/b/c", "", ".x", "a/", "a/.x", "a\\b"])
def test_a_path_never_leads_out_of_its_set(path: str) -> None:
    with pytest.raises(ValidationError):
        StoredObject(path=path, bytes=1, sha256="0" * 64)


def test_an_object_is_named_once() -> None:
    with pytest.raises(ValidationError, match="named twice"):
        manifest(schema_list=stored("schema.dump.zst"))


def test_sums() -> None:
    assert manifest().rows == 1_000_003
    assert manifest().bytes == 1500 * 2 + 10 * 3
