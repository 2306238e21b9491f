"""A context file is understood, or the message names file, key and remedy."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.core.context import parse_context, read_context_folder
from tasks.core.context_keys import class_key
from tasks.core.errors import BadInput
from tasks.core.report.markdown import promises
from tasks.core.sets.name import Kind
from tests.support import PROJECT

FOLDER = PROJECT / "deployments" / "contexts" / "bc-004"
MINIMAL: dict[str, Any] = {
    "name": "bc-004", "title": "t", "database": "d", "tables": ["a"], "objectives": {"rto": "4 hours", "rpo": "1 hour"},
    "time_zone": "Asia/Tokyo", "timestamps": "UTC",
}  # fmt: skip
PARTITIONS = {"table": "a", "column": "c", "period": "year", "name": "n", "keep": "1 day"}


def refusal(**changes: Any) -> str:
    with pytest.raises(BadInput) as error:
        parse_context(yaml.safe_dump(MINIMAL | changes), "folder/context.yaml")
    said = str(error.value)
    assert said.startswith("folder/context.yaml: ")
    assert "\n" not in said
    return said


def test_the_context_that_is_shipped() -> None:
    files = read_context_folder(FOLDER)
    context = parse_context(files["context.yaml"], "x")
    assert (context.name, len(context.tables), len(context.views)) == ("bc-004", 11, 3)
    assert set(files) == {"context.yaml", "checks.sql"}


def test_defaults() -> None:
    context = parse_context(yaml.safe_dump(MINIMAL), "x")
    assert (context.namespace, context.views, context.retention.daily) == ("public", [], "30 days")
    assert (context.objectives.rto, context.objectives.rpo) == (timedelta(hours=4), timedelta(hours=1))
    assert context.zone.key == "Asia/Tokyo"


GROUPED = {"rto": "4 hours", "rpo": "4 hours"}


def test_the_strictest_objective_rules() -> None:
    groups = [{"tables": ["a"], "rto": "8 hours", "rpo": "1 hour"}, {"tables": ["b"], "rto": "2 hours", "rpo": "24 hours"}]
    found = parse_context(yaml.safe_dump(MINIMAL | {"tables": ["a", "b", "c"], "objectives": GROUPED | {"groups": groups}}), "x")
    assert (found.objectives.rto, found.objectives.rpo) == (timedelta(hours=2), timedelta(hours=1))
    laxer = parse_context(yaml.safe_dump(MINIMAL | {"objectives": GROUPED | {"groups": groups[:1]}}), "x").objectives
    assert (laxer.rto, laxer.rpo) == (timedelta(hours=4), timedelta(hours=1))
    assert promises(found.objectives.group_promises).splitlines()[2:] == [
        "- a: RTO 8:00:00, RPO 1:00:00",
        "- b: RTO 2:00:00, RPO 24:00:00",
    ]


def test_storage_classes() -> None:
    default = parse_context(yaml.safe_dump(MINIMAL), "x").storage_classes
    assert {kind: default.of(kind) for kind in Kind} == {
        Kind.FULL: "STANDARD_IA", Kind.DIFFERENTIAL: "STANDARD", Kind.SAFETY: "STANDARD_IA", Kind.ARCHIVE: "GLACIER",
        Kind.CLEAN_UP: "STANDARD_IA", Kind.LONG_TERM: "GLACIER",
    }  # fmt: skip
    for kind in Kind:
        # As reports name it, and as lists of sets do.
        for key in (class_key(kind), kind.value):
            said = MINIMAL | {"storage_classes": {key: "OWN_class-2"}}
            changed = parse_context(yaml.safe_dump(said), "x").storage_classes
            assert {one: changed.of(one) for one in Kind} == {one: default.of(one) for one in Kind} | {kind: "OWN_class-2"}


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({"daily": "GLACIER"}, "key 'storage_classes.daily': objects in 'GLACIER' have to be thawed first"),
        ({"clean_up": "DEEP_ARCHIVE"}, "key 'storage_classes.clean_up': objects in 'DEEP_ARCHIVE' have to be thawed"),
        ({"weekly": "STANDARD"}, "unknown key 'storage_classes.weekly'"),
        ({"archive": ""}, "key 'storage_classes.archive': "),
        ({"archive": "A B"}, "key 'storage_classes.archive': "),
        ({"archive": None}, "key 'storage_classes.archive': "),
    ],
)
def test_storage_classes_that_are_none(classes: dict[str, Any], said: str) -> None:
    assert said in refusal(storage_classes=classes)


@pytest.mark.parametrize("key", [*MINIMAL])
def test_a_missing_key(key: str) -> None:
    text = yaml.safe_dump({name: value for name, value in MINIMAL.items() if name != key})
    with pytest.raises(BadInput, match=f"^f: key '{key}' is missing; add it$"):
        parse_context(text, "f")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tabels": []}, "unknown key 'tabels'; remove it or correct its spelling (top-level keys: name, title, database, schema"),
        ({"retention": {"dialy": "1 day"}}, "unknown key 'retention.dialy'"),
        ({"retention": {"daily": "a while"}}, "key 'retention.daily': 'a while' is not a valid period; write for"),
        ({"time_zone": "Asia/Tokio"}, "key 'time_zone': 'Asia/Tokio' is not a time zone; write one such as Asia/Tokyo"),
        ({"timestamps": "../etc"}, "key 'timestamps': '../etc' is not a time zone"),
        ({"time_zone": ""}, "key 'time_zone': '' is not a time zone"),
        ({"include": [{"kind": "table", "name": "a"}]}, "key 'include.0.kind': "),
        ({"include": [{"kind": "view"}]}, "key 'include.0.name' is missing; add it"),
        ({"name": "BC 004"}, "key 'name': "),
        ({"tables": []}, "key 'tables': "),
        ({"tables": "teams"}, "key 'tables': "),
        ({"tables": ["x" * 64]}, "key 'tables.0': "),
        ({"objectives": {"rto": "soon", "rpo": "4 hours"}}, "key 'objectives.rto': "),
        ({"objectives": {"rto": "4 hours"}}, "key 'objectives.rpo' is missing; add it"),
        ({"partitions": [PARTITIONS | {"frozen_after": "soon"}]},
         "key 'partitions.0.frozen_after': 'soon' is not a valid period; "),
        ({"partitions": [PARTITIONS | {"name": "n_{year}", "frozen_after": "1 year"}],
          "clean_up": [{"table": "a", "clock": "c", "keep": "1 year"}]},
         "clean_up deletes rows of a, whose partitions must not change by frozen_after; remove either key"),
        ({"comparison_seconds": -1}, "key 'comparison_seconds': "),
        ({"objectives": GROUPED | {"groups": [{"tables": ["b"], "rto": "1 hour", "rpo": "1 hour"}]}},
         "objectives.groups names b, which are not in `tables`; correct the value"),
        ({"objectives": GROUPED | {"groups": [{"tables": ["a"], "rto": "1 hour", "rpo": "1 hour"}] * 2}},
         "objectives.groups names a twice"),
        (
            {"objectives": GROUPED | {"groups": [{"tables": ["a"], "rto": "1 hour"}]}},
            "key 'objectives.groups.0.rpo' is missing; add it",
        ),
        ({"clean_up": [{"table": "a", "clock": {"any": ["x"], "each": ["y"]}, "keep": "1 year"}]},
         "key 'clean_up.0.clock': name one column, or several with `any` or `each`: {any: [ended_at, deleted_at]}"),
        ({"clean_up": [{"table": "a", "clock": {}, "keep": "1 year"}]}, "'clean_up.0.clock': name one column, or several"),
        ({"clean_up": [{"table": "a", "clock": {"each": ["x", "x"]}, "keep": "1 year"}]}, "x and x names a column twice"),
        ({"clean_up": [{"table": "a", "clock": ["x"], "keep": "1 year"}]}, "key 'clean_up.0.clock': "),
        ({"partitions": [PARTITIONS | {"period": "week"}]}, "key 'partitions.0.period': "),
        ({"partitions": [PARTITIONS | {"name": "v"}]}, "key 'partitions.0': 'v' gives partitions of different years the same name"),
        ({"partitions": [PARTITIONS | {"name": "v_{Year}"}]}, "'v_{Year}' has other placeholders than {year}, {month:02}"),
        ({"long_term": {"daily": {"tables": ["teams"], "keep": "7 years"}}}, "'daily' is no valid long-term job name"),
        ({"long_term": {"Books": {"tables": ["teams"], "keep": "7 years"}}}, "'Books' is no valid long-term job name"),
    ],
)  # fmt: skip
def test_a_wrong_key(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(**changes)


def test_every_mistake_is_named_at_once() -> None:
    said = refusal(tabels=[], time_zone="x")
    assert "'tabels'" in said and "'time_zone'" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tables: [a, b\nname: x\n", "f: not valid YAML: .*line 2.*correct the line named there"),
        ("a: b: c", "f: not valid YAML: .*line 1"),
        ("\tx: 1", "f: not valid YAML"),
        ("", "f: the file has no keys; write name, title"),
        ("- a", "f: the file has no keys"),
        ("!!python/object/apply:os.system [echo]", "f: not valid YAML"),
    ],
)
def test_no_yaml(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse_context(text, "f")


def test_a_folder_without_the_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"{tmp_path} has no context.yaml"):
        read_context_folder(tmp_path)


def documented(name: str) -> tuple[list[Any], list[str]]:
    """Return the examples of a document on the keys, and the clocks that its table has."""
    text = (PROJECT / "docs" / name).read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    return blocks, re.findall(r"^\| `([^`]+)` \| ", text, re.MULTILINE)


def test_what_the_documents_show_is_taken_and_both_languages_show_the_same() -> None:
    blocks, clocks = documented("context.md")
    assert documented("context.ja.md") == (blocks, clocks)
    keys = {key: value for block in blocks for key, value in block.items()}
    rules = [{"table": "teams", "clock": yaml.safe_load(clock), "keep": "1 year"} for clock in clocks if clock != "clock"]
    tables = ["policy_violations", "sales", "teams", "team_members"]
    found = parse_context(yaml.safe_dump(MINIMAL | keys | {"tables": tables, "clean_up": rules}), "x")
    assert [one.values for one in found.partitions] == [None, "{year}-{month:02}"]
    assert [one.clock.spelled for one in found.clean_up] == ["left_at", "left_at or deleted_at", "ended_on and last_used_at"]
    assert (found.objectives.rto, found.objectives.rpo) == (timedelta(hours=2), timedelta(hours=1))
