"""Whose objects a set has: what belongs to a role may call its code when it is loaded, looked at or changed."""

from tasks.core.sets.manifest import Manifest


def owners(manifest: Manifest) -> set[str]:
    """Return the roles that own something in the set but its schemas."""
    stated = (item.state for item in manifest.inventory if item.kind != "schema" and item.state.startswith("owner "))
    return {state.removeprefix("owner ").partition(" | ")[0] for state in stated}
