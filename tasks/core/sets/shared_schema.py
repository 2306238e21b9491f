"""Shared schemas, which a context uses without having tables there.

Their owner and other roles' privileges do not belong to the context. These are `public`, and other
contexts' schemas that only have extensions of the context. An archive restores the properties of
`public` only for a context with tables in it. In shared schemas only the privileges of the
context's own roles are restored and compared.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tasks.core.database.facts import SINCE_3, TABLESPACE, without_facts
from tasks.core.database.objects import RELATIONS, TABLES, InventoryItem
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.owners import owners
from tasks.core.sql.names import split_name

PUBLIC = "public"
MADE = RELATIONS | {
    "function", "type", "operator", "collation", "text search configuration", "text search "
                                                                              "dictionary",
}  # fmt: skip
# Kinds of objects with files, so that their tablespace is compared.
PLACED = TABLES | {"index", "materialized view"}
PRIVILEGES = "CREATE", "USAGE"
PRIVILEGES_PREFIX = "privileges "
TARGET = re.compile(r" \| statistics \d+\Z")


@dataclass(frozen=True)
class SchemaGrant:
    """A privilege of a role on a schema, with or without grant option."""

    schema: str
    role: str
    privilege: str
    grantable: bool = False

    @property
    def words(self) -> str:
        """The privilege as an inventory spells it."""
        return f"{self.role}={self.privilege}{'*' if self.grantable else ''}"


def schemas_with_objects(manifest: Manifest) -> list[str]:
    """Return the schemas in which a restore creates objects."""
    made = {split_name(item.name)[0] for item in manifest.inventory if item.kind in MADE}
    return sorted({relation.namespace for relation in manifest.relations} | made - {""})


def own_grants(manifest: Manifest) -> list[SchemaGrant]:
    """Return the privileges of the context's own roles on shared schemas."""
    return [grant for item in manifest.inventory if is_shared(manifest, item) for grant in _grants(item, owners(manifest))]


def comparable(manifest: Manifest, items: Iterable[InventoryItem], *, tablespaces: bool = False) -> list[InventoryItem]:
    """Return the objects that the set's inventory can have, as only these can be compared.

    Of shared schemas these are only the privileges of the context's own roles; the rest depends on
    the inventory's version. Tablespaces are compared within one database: in another one the
    default may be another.
    """
    roles, version = owners(manifest), manifest.inventory_version
    recorded = items if version > 1 else (_as_in_version_1(item) for item in items if item.kind != "column")
    known = (_with_known_facts(item, version, tablespaces=tablespaces) for item in recorded)
    return [_without_others(item, roles) if is_shared(manifest, item) else item for item in known]


def not_recorded(manifest: Manifest) -> str:
    """Return which facts cannot be compared, because an earlier release took the set; "" if there are none."""
    if manifest.inventory_version > 2:
        return ""
    return (
        f"{manifest.id} is of an earlier release: tablespaces, comments of sequences, types, rules, policies and statistics, "
        "and grants on types were not compared"
    )


def _with_known_facts(item: InventoryItem, version: int, *, tablespaces: bool) -> InventoryItem:
    unknown = [] if version > 2 else [*SINCE_3.get(item.kind, ())]
    if item.kind in PLACED and not (tablespaces and version > 2):
        unknown.append(TABLESPACE)
    return without_facts(item, unknown) if unknown else item


def _as_in_version_1(item: InventoryItem) -> InventoryItem:
    return item.model_copy(update={"state": TARGET.sub("", item.state)}) if item.kind == "statistics" else item


def is_shared(manifest: Manifest, item: InventoryItem) -> bool:
    """Return whether an object is a schema that the context uses, but does not own."""
    if item.kind != "schema":
        return False
    if item.name == PUBLIC:
        return all(relation.namespace != PUBLIC for relation in manifest.relations)
    owner = item.state.removeprefix("owner ").partition(" | ")[0]
    return owner not in owners(manifest) and item.name not in schemas_with_objects(manifest)


def _without_others(item: InventoryItem, roles: Iterable[str]) -> InventoryItem:
    own = " ".join(grant.words for grant in _grants(item, roles))
    return item.model_copy(update={"state": f"{PRIVILEGES_PREFIX}{own}"})


def _grants(item: InventoryItem, roles: Iterable[str]) -> Iterator[SchemaGrant]:
    privileges = f" {item.state.rpartition(PRIVILEGES_PREFIX)[2]} "
    for role in sorted(roles):
        for privilege in PRIVILEGES:
            for grantable in (False, True):
                grant = SchemaGrant(item.name, role, privilege, grantable)
                if f" {grant.words} " in privileges:
                    yield grant
