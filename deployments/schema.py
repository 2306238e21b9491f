"""Check prefect.yaml against Prefect's own JSON schema, strictly: Prefect ignores unknown keys.

By hand: python -m deployments.schema
See https://docs.prefect.io/v3/how-to-guides/deployments/prefect-yaml
"""

import sys

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from prefect.cli.deploy._models import PrefectYamlModel

from deployments.deployed import DECLARED


def complaints(declared: object) -> list[str]:
    """Return what is wrong in the data of a prefect.yaml, each problem with its place."""
    schema = PrefectYamlModel.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        part.setdefault("additionalProperties", False)
    # The file's YAML anchors, shared by several deployments.
    schema["properties"]["definitions"] = {}
    nearest = (best_match([error]) for error in Draft202012Validator(schema).iter_errors(declared))
    return sorted(f"{error.json_path}: {error.message}" for error in nearest)


if __name__ == "__main__":
    if wrong := complaints(yaml.safe_load(DECLARED.read_text(encoding="utf-8"))):
        sys.exit("\n".join(f"{DECLARED.name} {complaint}" for complaint in wrong))
