"""The fingerprint of all that a restore creates besides rows.

Sets with the same fingerprint are restored by the same statements.
"""

import json
from collections.abc import Mapping
from hashlib import sha256

from tasks.core.sets.manifest import Manifest

# Properties of a database that a restore only reports, or that differ each time.
NOT_MADE = {"oid", "role_settings"}


def fingerprint_of(manifest: Manifest, statements: str, extensions: Mapping[str, str]) -> str | None:
    """Return the SHA-256 of all that a restore of a whole context creates besides rows.

    None for a part of a context. That is the digest of the `statements` of the set's part of the
    schema (columns, bounds of partitions, indexes, keys, code, owners, grants, comments …),
    `extensions` with their versions, the names of roles, the database's own properties, keys to
    other contexts, and which materialized views are computed.
    """
    if manifest.only:
        return None
    made = {
        "statements": statements, "extensions": dict(extensions), "roles": sorted(role.name for role in manifest.roles),
        "database": {
            key: sorted(map(str, value)) if isinstance(value, list) else value
            for key, value in manifest.database.model_dump(mode="json", exclude=NOT_MADE).items()
        },
        "keys": sorted([key.table, key.name, key.definition] for key in manifest.outbound_keys),
        "computed": sorted(view.qualified for view in manifest.views if view.materialized and view.populated),
    }  # fmt: skip
    return sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
