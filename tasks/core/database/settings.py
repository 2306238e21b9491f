"""What ALTER DATABASE and ALTER ROLE … IN DATABASE have set, as objects that compare."""

from tasks.core.database.objects import DatabaseProperties, InventoryItem

SETTING, ROLE_SETTINGS = "setting of the database", "settings of a role in the database"
# With these set, triggers and keys do not act, names mean other objects, or nothing can be written.
GRAVE = frozenset({"search_path", "session_replication_role", "row_security", "default_transaction_read_only"})


def settings_of(database: DatabaseProperties, name: str) -> list[InventoryItem]:
    """Return the settings that a database gives to sessions, as if it were called `name`: each of its own, and all of each role."""
    alone = [one.partition("=")[::2] for one in database.settings]
    of_roles = [one.partition(": ")[::2] for one in database.role_settings]
    return [
        *(InventoryItem(kind=SETTING, name=setting, parent="", columns=name, state=value) for setting, value in alone),
        *(InventoryItem(kind=ROLE_SETTINGS, name=role, parent="", columns=name, state=values) for role, values in of_roles),
    ]
