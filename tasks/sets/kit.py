"""The mark of a recovery kit in the store."""

from tasks.core.sets.kit import KIT_FILE, Kit, parse_kit, render_kit
from tasks.run.retries import persistent
from tasks.sets.marks import WARM_CLASS
from tasks.store.address import StoreAddress


@persistent
def read_kit(address: StoreAddress, context: str) -> Kit | None:
    """Return the store's mark of the newest kit, or None if it is missing or unreadable."""
    store, key = address.opened, f"{context}/{KIT_FILE}"
    return parse_kit(store.read(key)) if store.head(key) else None


@persistent
def keep_kit(address: StoreAddress, kit: Kit) -> str:
    """Store the mark of a kit; return its path."""
    key = f"{kit.context}/{KIT_FILE}"
    address.opened.replace(key, render_kit(kit), WARM_CLASS)
    return address.path(key)
