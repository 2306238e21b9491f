"""Every flow loads as a deployment's worker loads it, and its docstring is what the UI will show."""

import pytest
from prefect.flows import load_flow_from_entrypoint

ENTRYPOINTS = [
    "flows/backup.py:daily_backup",
    "flows/backup.py:list_backups",
    "flows/recovery.py:disaster_recovery",
    "flows/restore.py:full_restore",
    "flows/watch.py:verify_backups",
]


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_entrypoint_loads(entrypoint: str) -> None:
    loaded = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    assert loaded.fn.__name__ == entrypoint.partition(":")[2]
    assert loaded.description
    assert loaded.parameters.properties["context"]["default"] == "bc-004"
