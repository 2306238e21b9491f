"""Schemas that a context uses and has its tables elsewhere: what others may do there, and whose they are, is theirs.

Such are `public`, and schemas of others that have only extensions of the context. An archive restores of `public` what is said
about it only for a context whose tables are there. What the context's own roles may do in them comes back by itself, and nothing
else of them is compared.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tasks.core.database.objects import RELATIONS, InventoryItem
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.owners import owners
from tasks.core.sql.names import split_name

PUBLIC = "public"
MADE = RELATIONS | {
    "function", "type", "operator", "collation", "text search configuration", "text search dictionary",
}  # fmt: skip
PRIVILEGES = "CREATE", "USAGE"
SAID_BEFORE = "privileges "
TARGET = re.compile(r" \| statistics \d+\Z")


@dataclass(frozen=True)
class SchemaGrant:
    """A privilege of a role on a schema, which it may grant to others if that is said."""

    schema: str
    role: str
    privilege: str
    grantable: bool = False

    @property
    def words(self) -> str:
        """The same as an inventory spells it."""
        return f"{self.role}={self.privilege}{'*' if self.grantable else ''}"


def schemas_with_objects(manifest: Manifest) -> list[str]:
    """Return the schemas in which a restore makes something."""
    made = {split_name(one.name)[0] for one in manifest.inventory if one.kind in MADE}
    return sorted({one.namespace for one in manifest.relations} | made - {""})


def own_grants(manifest: Manifest) -> list[SchemaGrant]:
    """Return what the context's own roles may do in schemas that are not the context's."""
    return [grant for item in manifest.inventory if is_shared(manifest, item) for grant in _grants(item, owners(manifest))]


def comparable(manifest: Manifest, items: Iterable[InventoryItem]) -> list[InventoryItem]:
    """Return objects, of the set or of a database, as far as the set tells of such.

    That is of a shared schema no more than the context's own roles may do there, and what the version of its inventory has.
    """
    roles = owners(manifest)
    told = items if manifest.inventory_version > 1 else (_as_in_version_1(item) for item in items if item.kind != "column")
    return [_without_others(item, roles) if is_shared(manifest, item) else item for item in told]


def _as_in_version_1(item: InventoryItem) -> InventoryItem:
    return item.model_copy(update={"state": TARGET.sub("", item.state)}) if item.kind == "statistics" else item


def is_shared(manifest: Manifest, item: InventoryItem) -> bool:
    """Say whether an object is a schema that the context uses and that is others'."""
    if item.kind != "schema":
        return False
    if item.name == PUBLIC:
        return all(one.namespace != PUBLIC for one in manifest.relations)
    owner = item.state.removeprefix("owner ").partition(" | ")[0]
    return owner not in owners(manifest) and item.name not in schemas_with_objects(manifest)


def _without_others(item: InventoryItem, roles: Iterable[str]) -> InventoryItem:
    own = " ".join(grant.words for grant in _grants(item, roles))
    return item.model_copy(update={"state": f"{SAID_BEFORE}{own}"})


def _grants(item: InventoryItem, roles: Iterable[str]) -> Iterator[SchemaGrant]:
    said = f" {item.state.rpartition(SAID_BEFORE)[2]} "
    for role in sorted(roles):
        for privilege in PRIVILEGES:
            for grantable in (False, True):
                grant = SchemaGrant(item.name, role, privilege, grantable)
                if f" {grant.words} " in said:
                    yield grant
