"""Context folders for tests."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.core.context import CONTEXT_FILE
from tasks.run import site
from tests.support.example import CONTEXT
from tests.support.world import World


def write_context(folder: Path, **keys: object) -> None:
    """Write a context folder of the given keys."""
    place = folder / str(keys["name"])
    place.mkdir(parents=True)
    facts = {"title": "a test", "objectives": {"rto": "4 hours", "rpo": "4 hours"}, "time_zone": "UTC", "timestamps": "UTC"}
    (place / "context.yaml").write_text(yaml.safe_dump(facts | keys, allow_unicode=True), encoding="utf-8")


def edit_context(world: World, monkeypatch: pytest.MonkeyPatch, **keys: Any) -> None:
    """Let the flows of a test find the context with other keys than its folder has."""
    place = world.folder / "contexts" / CONTEXT
    if place.parent != site.CONTEXTS:
        shutil.copytree(site.CONTEXTS / CONTEXT, place)
    said = yaml.safe_load((place / CONTEXT_FILE).read_text("utf-8"))
    (place / CONTEXT_FILE).write_text(yaml.safe_dump(said | keys, allow_unicode=True), "utf-8")
    monkeypatch.setattr(site, "CONTEXTS", place.parent)
