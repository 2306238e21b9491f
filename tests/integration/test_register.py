"""Registered contexts: flows find server and store in their blocks, and one cluster writes a context's sets."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prefect_sqlalchemy import ConnectionComponents, SqlAlchemyConnector

from deployments.register import register, require_block
from flows.backup import daily_backup, list_backups
from flows.recovery import disaster_recovery
from flows.restore import full_restore
from flows.watch import verify_backups
from tasks.core.errors import BadInput
from tests.support.blocks import NAMES, delete_blocks, run_told_nothing
from tests.support.example import CONTEXT, DATABASE
from tests.support.servers import databases
from tests.support.world import World


@pytest.fixture
def bare(s3_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world whose flows are told nothing by their environment but where to stage; its blocks are deleted at the end."""
    yield s3_world
    delete_blocks(*NAMES)


def registered(world: World, **how: Any) -> list[str]:
    """Register with the environment of the source, as its administrator would."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.environment(world.source, "backup_reader").items():
            patch.setenv(name, value)
        return list(register(CONTEXT, **how))


@pytest.mark.long
def test_flows_work_from_blocks_alone(bare: World) -> None:
    before = bare.state()
    assert registered(bare) == registered(bare)
    drill = ConnectionComponents(
        driver="postgresql+psycopg", host="127.0.0.1", port=bare.target.port, username="backup_restorer",
        password=bare.target.password, database="postgres",
    )  # fmt: skip
    SqlAlchemyConnector(connection_info=drill).save("drill", overwrite=True)
    assert run_told_nothing(bare, daily_backup).startswith("STORED")
    assert run_told_nothing(bare, verify_backups).startswith("PASS")
    assert run_told_nothing(bare, list_backups)[0]["state"] == "decoded"
    assert run_told_nothing(bare, disaster_recovery, server="drill").startswith("PASS")
    bare.assert_recovered(before)


@pytest.mark.long
def test_an_alarm_to_nobody(prefect_api: str) -> None:
    with pytest.raises(BadInput, match="no block slack-webhook/nobody; create it"):
        require_block("slack-webhook/nobody")


@pytest.mark.long
def test_what_the_environment_names_comes_before_the_blocks(bare: World) -> None:
    registered(bare)
    bare.backup()
    bare.recover()
    assert DATABASE in databases(bare.target)


def test_blocks_show_no_password(bare: World) -> None:
    registered(bare)
    shown = httpx.post(f"{bare.api}/block_documents/filter", json={"include_secrets": False}).text
    assert "consulting_tool" in shown
    assert bare.source.password not in shown


@pytest.mark.long
def test_restore_beside_the_live_database(bare: World) -> None:
    before = bare.state()
    bare.backup()
    verdict = bare.run(full_restore, "backup_restorer", target_database="consulting_tool_copy")
    assert verdict.startswith("PASS")
    bare.database = "consulting_tool_copy"
    bare.assert_recovered(before, bare.source)


@pytest.mark.long
def test_another_cluster_is_refused_until_it_adopts_the_store(bare: World) -> None:
    bare.backup()
    bare.recover()
    bare.source, bare.target = bare.target, bare.source
    with pytest.raises(BadInput, match="--adopt"):
        bare.backup()
    with pytest.raises(BadInput, match="--adopt"):
        registered(bare)
    registered(bare, adopt=True)
    assert bare.backup().startswith("STORED")
