"""Stores that another server takes over."""

import pytest

from deployments import ownership, register
from deployments.local import LocalServer
from tasks.store.address import StoreAddress
from tests.support.example import CONTEXT
from tests.support.world import World


def adopt(world: World, server: LocalServer | None = None) -> str:
    """Do what `register --adopt` does for a store; return what it said."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.environment(server or world.source, "backup_reader").items():
            patch.setenv(name, value)
        context = register.read_context(CONTEXT)[0]
        return ownership.claim_store(context, StoreAddress(str(world.store_folder)), adopt=True)
