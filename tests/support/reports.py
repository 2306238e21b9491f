"""Reports, as a Prefect server has them."""

from typing import Any

import httpx

from tests.support.example import CONTEXT
from tests.support.world import World


def artifact(world: World, key: str) -> dict[str, Any]:
    asked = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
    found = httpx.post(f"{world.api}/artifacts/filter", json=asked).raise_for_status().json()
    return dict(found[0]) if found else {"id": "", "description": "", "data": ""}


def newest_report(world: World, key: str = f"{CONTEXT}-restore") -> str:
    asked = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
    found = httpx.post(f"{world.api}/artifacts/filter", json=asked).json()
    return str(found[0]["data"])


def report(world: World, key: str = "bc-004-recovery") -> str:
    return str(httpx.get(f"{world.api}/artifacts/{key}/latest").raise_for_status().json()["data"])
