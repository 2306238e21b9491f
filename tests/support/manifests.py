"""Manifests, as they are written."""

import json

from tasks.core.sets.manifest_file import parse_manifest, render_manifest
from tests.support.world import World


def canonical(value: object) -> bytes:
    """Return JSON as a manifest is written."""
    return (json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode()


def rewrite_manifest(world: World, relation: str, **changes: object) -> None:
    """Let the newest set's manifest say something else of a relation, with a checksum that is right."""
    file = world.set_folders()[-1] / "manifest.json"
    manifest = parse_manifest(file.read_bytes(), str(file))
    changed = [stored.model_copy(update=changes) if stored.name == relation else stored for stored in manifest.relations]
    file.write_bytes(render_manifest(manifest.model_copy(update={"relations": changed})))
