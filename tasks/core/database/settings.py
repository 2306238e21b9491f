"""Settings of ALTER DATABASE and ALTER ROLE … IN DATABASE, as comparable objects."""

from tasks.core.database.objects import DatabaseProperties, InventoryItem

SETTING, ROLE_SETTINGS = "setting of the database", "settings of a role in the database"
# Settings that disable triggers and keys, change the meaning of names, or forbid writes.
GRAVE = frozenset({"search_path", "session_replication_role", "row_security", "default_transaction_read_only"})


def settings_of(database: DatabaseProperties, name: str) -> list[InventoryItem]:
    """Return the settings of a database named `name`: its own, and those of each role."""
    alone = [setting.partition("=")[::2] for setting in database.settings]
    of_roles = [setting.partition(": ")[::2] for setting in database.role_settings]
    return [
        *(InventoryItem(kind=SETTING, name=setting, parent="", columns=name, state=value) for setting, value in alone),
        *(InventoryItem(kind=ROLE_SETTINGS, name=role, parent="", columns=name, state=values) for role, values in of_roles),
    ]
