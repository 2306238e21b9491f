"""prefect.yaml is what Prefect's own schema says, strictly."""

import yaml

from deployments.deployed import DECLARED
from deployments.schema import complaints


def declared() -> dict[str, object]:
    data: dict[str, object] = yaml.safe_load(DECLARED.read_text(encoding="utf-8"))
    return data


def test_what_is_declared_is_right() -> None:
    assert complaints(declared()) == []


def test_a_key_that_prefect_would_pass_over_is_named_with_its_place() -> None:
    deployment = {"name": "x", "entrypoint": "flows/x.py:x", "concurency_limit": 1, "work_pool": {"nam": "p"}}
    assert complaints({"deployments": [deployment]}) == [
        "$.deployments[0].work_pool: Additional properties are not allowed ('nam' was unexpected)",
        "$.deployments[0]: Additional properties are not allowed ('concurency_limit' was unexpected)",
    ]


def test_a_value_of_another_type_is_named_with_its_place() -> None:
    deployment = {"name": 1, "entrypoint": "flows/x.py:x"}
    assert complaints({"deployments": [deployment]}) == ["$.deployments[0].name: 1 is not valid under any of the given schemas"]
