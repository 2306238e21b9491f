"""A manifest to test with."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from tasks.core.database.objects import DatabaseProperties, ForeignKey, InventoryItem, Role, Sequence, View
from tasks.core.restore.drill import DrillRecord
from tasks.core.rows.digest import RowDigest
from tasks.core.sets.manifest import Manifest, Relation, Snapshot, StoredObject, Versions
from tasks.core.sets.name import Kind

OWNER = Role(
    name="o", superuser=False, createdb=False, createrole=False, login=False, inherit=True, bypassrls=False, member_of=[]
)  # fmt: skip
KEY = ForeignKey(
    name="k", table="public.teams", references="public.users", definition="FOREIGN KEY (owner) REFERENCES public.users(id)",
    on_delete="CASCADE",
)  # fmt: skip
INSTANT = datetime(2025, 11, 2, 17, 0, 0, tzinfo=UTC)


def digest_of(rows: Iterable[bytes], at_once: int = 1 << 20) -> RowDigest:
    """Return count and digest of rows given as lines of COPY text, added some at once."""
    digest, lines = RowDigest(), [*rows]
    for first in range(0, len(lines), at_once):
        some = lines[first : first + at_once]
        digest.add(some, sum(map(len, some)))
    return digest


def stored(path: str, size: int = 10) -> StoredObject:
    return StoredObject(path=path, bytes=size, sha256="ab" * 32)


def relation(name: str = "teams", rows: int = 3, **changes: Any) -> Relation:
    given: dict[str, Any] = {
        "schema": "public", "name": name, "oid": 16400, "relfilenode": 16400, "columns": ["id", "氏名"], "layout": "a layout",
        "rows": rows, "digest": "0f" * 16, "plain_bytes": 2000, "seconds": 0.5, "parts": [stored(f"data/{name}.copy.zst", 1500)],
    }  # fmt: skip
    return Relation(**given | changes)


def snapshot(**changes: Any) -> Snapshot:
    given = {"instant": INSTANT, "xmin": 700, "lsn": "0/1000", "timeline": 1, "system_identifier": "7", "standby": False}
    return Snapshot(**given | changes)


def manifest(**changes: Any) -> Manifest:
    given: dict[str, Any] = {
        "context": "bc-004", "kind": Kind.FULL, "id": "bc-004_full_20251103_020000_3f9c", "run": "3f9c", "time_zone": "Asia/Tokyo",
        "snapshot": snapshot(), "finished": INSTANT, "fingerprint": "f",
        "versions": Versions(server="18.1", server_major=18, pg_dump="18.1", pg_dump_major=18, project="0.1.0"),
        "database": DatabaseProperties(
            oid=1, name="consulting_tool", owner="o", encoding="UTF8", collate="C", ctype="C", locale_provider="c", locale=None,
            icu_rules=None, connection_limit=-1, comment=None, settings=[], role_settings=[], grants=[], restricted=False,
        ),
        "relations": [relation(), relation("policy_violations_2025", 1_000_000)],
        "views": [View(schema="public", name="mv", populated=True, materialized=True)],
        "sequences": [Sequence(schema="public", name="s", last_value=1, is_called=False)],
        "roles": [OWNER],
        "extensions": [],
        "outbound_keys": [KEY],
        "inbound_keys": [], "left_out": [], "forgotten_tables": [],
        "inventory": [InventoryItem(kind="table", name="public.teams", parent="", columns="id uuid", state="owner o")],
        "schema_archive": stored("schema.dump.zst"), "schema_list": stored("schema.list"),
        "context_files": [stored("context/context.yaml")], "warnings": [],
    }  # fmt: skip
    return Manifest(**given | changes)


def drill(**changes: Any) -> DrillRecord:
    given: dict[str, Any] = {
        "instant": INSTANT, "run": "3f9c", "set": "bc-004_full_20251103_020000_3f9c", "verdict": "PASS: RTO 0:00:48 of 4:00:00",
        "passed": True, "proven": True, "rto_seconds": 48.0, "rto_limit_seconds": 14400.0, "rpo_seconds": 751.0,
        "rpo_limit_seconds": 14400.0, "database_bytes": 50_000_000, "rows": 1_000_003, "phases": {"data": 40.0, "keys": 8.0},
    }  # fmt: skip
    return DrillRecord(**given | changes)
