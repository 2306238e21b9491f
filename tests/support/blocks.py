"""Prefect's blocks of the example, and runs that are told everything by them."""

import os
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client

from deployments.login_blocks import LOGINS
from tests.support.world import World

NAMES = ("bounded-context/bc-004", "sqlalchemy-connector/bc-004", "sqlalchemy-connector/drill", "s3-bucket/bc-004",
         "local-file-system/bc-004", "aws-credentials/bc-004")  # fmt: skip


def delete_blocks(*names: str) -> None:
    """Delete what a test registered, given as kind/name, connectors with those of their logins; what it did not is passed over."""
    logins = [f"{name}-{login}" for name in names if name.startswith("sqlalchemy-connector/") for login in LOGINS]
    with get_client(sync_client=True) as client:
        for name in (*names, *logins):
            try:
                document = Block.load(name)._block_document_id
            except ValueError:
                continue
            assert document
            # Prefect's client asks again where its server on SQLite is busy.
            client.delete_block_document(document)


def run_told_nothing(world: World, flow: Any, **parameters: Any) -> Any:
    """Run a flow whose environment names neither server nor store."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("PG", "AWS_", "BACKUP_"))]:
            patch.delenv(name)
        patch.setenv("BACKUP_STAGING", str(world.folder / "staging"))
        return flow(**parameters)
