"""Ids of sets, references to them, and their order."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import BadInput
from tasks.core.run.clock import new_run_id
from tasks.core.sets.manifest import Snapshot
from tasks.core.sets.name import Kind, SetName, new_set_name, parse_set_folder, parse_set_reference, require_context_name
from tasks.core.sets.order import lsn_position, newest_first
from tests.support.samples import snapshot

ID = "bc-004_full_20251103_020000_3f9c"
NAME = SetName("bc-004", Kind.FULL, ID)
ROOT = "s3://bucket/team a"


@given(st.integers(min_value=0, max_value=10**11).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)))
def test_an_id_finds_its_folder(instant: datetime) -> None:
    set_id = new_set_name("bc-004", Kind.FULL, instant, ZoneInfo("Asia/Tokyo"), new_run_id()).id
    name = parse_set_reference(set_id, "bc-004", ROOT)
    assert name is not None
    assert name.id == set_id
    assert parse_set_folder(name.folder) == name


def test_an_id_tells_the_time_of_the_contexts_zone() -> None:
    assert new_set_name("bc-004", Kind.FULL, datetime(2025, 11, 2, 17, tzinfo=UTC), ZoneInfo("Asia/Tokyo"), "3f9c").id == ID


@pytest.mark.parametrize(
    "reference",
    [
        ID,
        f"{ROOT}/bc-004/daily/{ID}",
        f"{ROOT}/bc-004/daily/{ID}/",
        f"{ROOT}/bc-004/daily/{ID}/manifest.json",
        f"bc-004/daily/{ID}",
    ],
)
def test_references(reference: str) -> None:
    assert parse_set_reference(reference, "bc-004", ROOT) == NAME
    assert parse_set_reference(reference, "bc-004", f"{ROOT}/") == NAME


def test_latest_names_no_set() -> None:
    assert parse_set_reference("latest", "bc-004", ROOT) is None


@pytest.mark.parametrize(
    "reference",
    [
        "", "Latest", "newest", f"{ID}0", f"x{ID}/y", f"{ID}\n", ID.replace("full", "Weekly"),
        f"s3://bucket/bc-004/daily/{ID}", f"{ROOT}x/bc-004/daily/{ID}", f"../bc-004/daily/{ID}", f"{ROOT}/bc-004/{ID}",
        f"{ROOT}/bc-004/weekly/{ID}", f"{ROOT}/bc-004/daily/../daily/{ID}", f"{ROOT}/bc-003/daily/{ID}",
        f"{ROOT}/bc-004/daily/{ID}/data/teams.copy.zst",
    ],
)  # fmt: skip
def test_what_is_no_reference(reference: str) -> None:
    with pytest.raises(BadInput, match="list them with") as error:
        parse_set_reference(reference, "bc-004", ROOT)
    assert reference in str(error.value)


def test_a_set_of_another_context() -> None:
    with pytest.raises(BadInput, match="belongs to context bc-003, not bc-004; name that context"):
        parse_set_reference(ID.replace("bc-004", "bc-003"), "bc-004", ROOT)


@given(st.text(max_size=60))
def test_no_text_makes_a_set_of_elsewhere(reference: str) -> None:
    try:
        name = parse_set_reference(reference, "bc-004", ROOT)
    except BadInput:
        return
    assert name is None or name.context == "bc-004"


@pytest.mark.parametrize("name", ["bc-004", "a", "0", "x" * 41])
def test_names_of_contexts(name: str) -> None:
    require_context_name(name)


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a/b", "..", "a\n", "x" * 42, "組"])
def test_what_is_no_name_of_a_context(name: str) -> None:
    with pytest.raises(BadInput, match="use lowercase letters"):
        require_context_name(name)


# --- order --------------------------------------------------------------------------------------------------------------

NOON = datetime(2025, 11, 3, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Taken:
    """A set with its snapshot."""

    name: str
    snapshot: Snapshot


def taken(name: str, hours: float = 0, **changes: Any) -> Taken:
    return Taken(name, snapshot(instant=NOON + timedelta(hours=hours), **changes))


def order(*sets: Taken) -> str:
    return "".join(one.name for one in newest_first(sets, lambda one: one.snapshot, lambda _: None))


@pytest.mark.parametrize(
    ("lsn", "position"),
    [("0/0", 0), ("0/1000", 4096), ("1/0", 1 << 32), ("16/B374D848", 0x16B374D848), ("FFFFFFFF/FFFFFFFF", 2**64 - 1)],
)
def test_lsn(lsn: str, position: int) -> None:
    assert lsn_position(lsn) == position


def test_lsn_is_a_number_not_a_text() -> None:
    assert order(taken("a", lsn="9/0"), taken("b", lsn="10/0"), taken("c", lsn="A/FFFFFFFF")) == "bca"


def test_lsn_goes_before_the_clock_within_a_timeline() -> None:
    # The server's clock was set back an hour.
    assert order(taken("a", 1, lsn="0/10"), taken("b", 0, lsn="0/20")) == "ba"


def test_an_idle_server_is_ordered_by_the_clock() -> None:
    assert order(taken("a", 2, lsn="0/10"), taken("b", 3, lsn="0/10"), taken("c", 1, lsn="0/10")) == "bac"


def test_across_clusters_and_timelines_the_instant_decides_of_sets_without_numbers() -> None:
    old = [taken("a", 1, lsn="F/0"), taken("b", 5, lsn="F/9")]
    new = [taken("c", 2, lsn="0/1", system_identifier="8"), taken("d", 6, lsn="0/2", system_identifier="8")]
    later = [taken("e", 3, lsn="0/5", timeline=2)]
    assert order(*old, *new, *later) == "dbeca"
    assert order(*later, *reversed(new), *old) == "dbeca"


@given(st.permutations([(hours, line) for hours in range(4) for line in ("7", "8")]))
def test_the_order_does_not_depend_on_the_listings(pairs: list[tuple[int, str]]) -> None:
    sets = [taken(f"{line}{hours}", hours, lsn=f"0/{hours}", system_identifier=line) for hours, line in pairs]
    ordered = newest_first(sets, lambda one: one.snapshot, lambda _: None)
    assert set(ordered) == set(sets)
    instants = [one.snapshot.instant for one in ordered]
    assert instants == sorted(instants, reverse=True)


@pytest.mark.parametrize("path", ["s3://bucket/bc-004/daily/bc-004_full_20251103_020000.dump.gz", "/backup/bc-004_teams.dump"])
def test_a_file_of_older_scripts_is_told_how_to_be_restored(path: str) -> None:
    with pytest.raises(
        BadInput, match=f"file of older scripts; .* full_restore --context bc-004 --backup {path} --target-database"
    ):
        parse_set_reference(path, "bc-004", ROOT)
