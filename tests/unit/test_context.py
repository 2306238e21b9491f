"""A context file is understood, or the message names file, key and remedy."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.core.context import parse_context, read_context_folder
from tasks.core.errors import BadInput

FOLDER = Path(__file__).parents[2] / "deployments" / "contexts" / "bc-004"
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
        ({"retention": {"daily": "a while"}}, "key 'retention.daily': 'a while' is no period; write for example \"30 days\""),
        ({"time_zone": "Asia/Tokio"}, "key 'time_zone': 'Asia/Tokio' is no time zone; write one such as Asia/Tokyo"),
        ({"timestamps": "../etc"}, "key 'timestamps': '../etc' is no time zone"),
        ({"time_zone": ""}, "key 'time_zone': '' is no time zone"),
        ({"name": "BC 004"}, "key 'name': "),
        ({"tables": []}, "key 'tables': "),
        ({"tables": "teams"}, "key 'tables': "),
        ({"tables": ["x" * 64]}, "key 'tables.0': "),
        ({"objectives": {"rto": "soon", "rpo": "4 hours"}}, "key 'objectives.rto': "),
        ({"objectives": {"rto": "4 hours"}}, "key 'objectives.rpo' is missing; add it"),
        ({"partitions": [PARTITIONS | {"period": "week"}]}, "key 'partitions.0.period': "),
        ({"partitions": [PARTITIONS | {"name": "v"}]}, "key 'partitions.0': 'v' names several partitions of a year alike"),
        ({"partitions": [PARTITIONS | {"name": "v_{Year}"}]}, "'v_{Year}' has other places than {year}, {month:02} and {quarter}"),
        ({"long_term": {"daily": {"tables": ["teams"], "keep": "7 years"}}}, "'daily' is no name of a long-term job"),
        ({"long_term": {"Books": {"tables": ["teams"], "keep": "7 years"}}}, "'Books' is no name of a long-term job"),
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
        ("tables: [a, b\nname: x\n", "f: not YAML: .*line 2.*mend the line it names"),
        ("a: b: c", "f: not YAML: .*line 1"),
        ("\tx: 1", "f: not YAML"),
        ("", "f: holds no keys; write name, title"),
        ("- a", "f: holds no keys"),
        ("!!python/object/apply:os.system [echo]", "f: not YAML"),
    ],
)
def test_no_yaml(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse_context(text, "f")


def test_a_folder_without_the_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"{tmp_path}: no context.yaml there"):
        read_context_folder(tmp_path)
