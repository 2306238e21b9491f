"""The owners of a set's objects, whose code may run when an object is loaded, read or changed."""

from tasks.core.sets.manifest import Manifest


def owners(manifest: Manifest) -> set[str]:
    """Return the roles that own objects in the set other than schemas."""
    stated = (item.state for item in manifest.inventory if item.kind != "schema" and item.state.startswith("owner "))
    return {state.removeprefix("owner ").partition(" | ")[0] for state in stated}
