"""Digests do not depend on the order of rows; inventories are compared object by object."""

import tempfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.database.comparison import compare_inventories, spelled_stably
from tasks.core.database.objects import InventoryItem
from tasks.core.rows.digest import RowDigest
from tasks.core.rows.sources import RowSource, digest_sources
from tests.support.samples import digest_of

ROWS = st.lists(st.binary(max_size=30).map(lambda row: row.replace(b"\n", b"") + b"\n"), max_size=20)


@given(ROWS, st.randoms(use_true_random=False), st.integers(min_value=1, max_value=100))
def test_the_order_of_rows_does_not_matter(rows: list[bytes], random: "object", batch: int) -> None:
    shuffled = rows.copy()
    random.shuffle(shuffled)
    assert digest_of(shuffled, batch) == digest_of(rows)


@given(ROWS, ROWS)
def test_digests_add_up(first: list[bytes], second: list[bytes]) -> None:
    both = digest_of(first)
    both.include(digest_of(second))
    assert both == digest_of(first + second)


@given(ROWS.filter(bool), st.data())
def test_a_lost_a_doubled_and_a_changed_row_are_seen(rows: list[bytes], data: st.DataObject) -> None:
    place = data.draw(st.integers(min_value=0, max_value=len(rows) - 1))
    whole = digest_of(rows).hex
    assert digest_of(rows[:place] + rows[place + 1 :]).hex != whole
    assert digest_of([*rows, rows[place]]).hex != whole
    assert digest_of([*rows, rows[place], rows[place]]).hex != whole
    assert digest_of([*rows[:place], b"x" + rows[place], *rows[place + 1 :]]).hex != whole


def test_values_exchanged_between_rows_are_seen() -> None:
    assert digest_of([b"1\ta\n", b"2\tb\n"]).hex != digest_of([b"1\tb\n", b"2\ta\n"]).hex


def test_no_rows() -> None:
    assert RowDigest().hex == "0" * 32 == digest_of([]).hex


@given(ROWS)
def test_what_is_stored_has_the_digest_of_what_was_read(rows: list[bytes]) -> None:
    packed = b"".join(zstandard.compress(part) for part in (b"".join(rows[:5]), b"".join(rows[5:])))
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(packed)
        assert digest_sources([RowSource([Path(file.name)], sum(map(len, rows)))]) == digest_of(rows)


@pytest.mark.parametrize("data", [b"no zstd at all"])
def test_what_is_no_zstd(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(data)
    with pytest.raises(zstandard.ZstdError):
        digest_sources([RowSource([tmp_path / "part"], 1000)])


# --- inventories ------------------------------------------------------------------------------------------------------------


def item(
    name: str = "public.teams", state: str = "owner o", kind: str = "table", parent: str = "", columns: str = ""
) -> InventoryItem:
    return InventoryItem(kind=kind, name=name, parent=parent, columns=columns, state=state)


INDEX = item("teams_pkey", "USING btree (id)", "index", "public.teams")


def test_the_same_is_the_same_in_any_order() -> None:
    assert compare_inventories([item(), INDEX], [INDEX, item()], same_major=True) == []


def test_missing_and_added_objects() -> None:
    assert compare_inventories([item(), INDEX], [item()], same_major=True) == ["index teams_pkey of public.teams is missing"]
    assert compare_inventories([item()], [item(), INDEX], same_major=False) == [
        "index teams_pkey of public.teams was not in the source"
    ]


def test_a_changed_object_says_what_was_and_what_is() -> None:
    changed = compare_inventories([item(state="owner a | forced")], [item(state="owner b | forced")], same_major=True)
    assert changed == ["table public.teams differs: was [owner a], is [owner b]"]


def test_between_majors_texts_are_not_compared() -> None:
    assert compare_inventories([item(state="a")], [item(state="b")], same_major=False) == []


def test_objects_of_one_name_are_told_apart_by_kind_and_parent() -> None:
    source = [item("x", "1", "trigger", "a"), item("x", "2", "trigger", "b"), item("x", "3", "constraint", "a")]
    assert compare_inventories(source, source[:1], same_major=True) == ["trigger x of b is missing", "constraint x of a is missing"]


@pytest.mark.parametrize(
    ("text", "stable"),
    [
        (
            "CHECK (((status)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])))",
            "CHECK (((status)::text = ANY (ARRAY[('a'::character varying)::text, ('b'::character varying)::text])))",
        ),
        ("= ANY ((ARRAY['it''s'::character varying, 'a, b'::character varying])::text[])",
         "= ANY (ARRAY[('it''s'::character varying)::text, ('a, b'::character varying)::text])"),
        ("= ANY (ARRAY['a'::text, 'b'::text])", "= ANY (ARRAY['a'::text, 'b'::text])"),
        ("owner o", "owner o"),
    ],
)  # fmt: skip
def test_texts_are_spelled_as_after_a_dump_and_restore(text: str, stable: str) -> None:
    assert spelled_stably({"state": text}) == {"state": stable}
    assert spelled_stably({"state": stable}) == {"state": stable}
