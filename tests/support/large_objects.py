"""A context whose rows name large objects, and what an independent look at these sees."""

import hashlib
from pathlib import Path

import pytest

from deployments.local import LocalServer
from tests.support.database import execute
from tests.support.surroundings import CONTEXT, surround
from tests.support.world import World

TABLES = (
    "CREATE DOMAIN lo AS oid", "CREATE TABLE d (id int PRIMARY KEY, doc oid, old lo, more lo[])",
    "CREATE TABLE p (id int PRIMARY KEY, file oid) PARTITION BY RANGE (id)",
    "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100)", "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200)",
    # Two pages and a half, a hole before one byte, an end of zeros, nothing at all.
    "SELECT lo_from_bytea(71001, decode(repeat('0123456789abcdef', 640), 'hex'))",
    "SELECT lo_create(71002), lo_put(71002, 1000000, '\\x01')",
    "SELECT lo_create(71003), lo_truncate64(lo_open(71003, 131072), 4096)",
    "SELECT lo_create(71004)",
    *(f"SELECT lo_from_bytea({71010 + n}, decode(md5('{n}'), 'hex'))" for n in range(6)),
    # 71099 is a name of nothing.
    "INSERT INTO d VALUES (1, 71001, 71002, '{71003,71004}'), (2, 71010, NULL, '[0:1]={71011,71001}'), (3, 71099, NULL, NULL)",
    "INSERT INTO p VALUES (1, 71012), (101, 71013)",
    "COMMENT ON LARGE OBJECT 71001 IS '契約書 \"inherited\": true}'",
    "GRANT SELECT ON LARGE OBJECT 71001 TO consulting_app WITH GRANT OPTION",
    "GRANT SELECT ON LARGE OBJECT 71010 TO PUBLIC", "REVOKE ALL ON LARGE OBJECT 71011 FROM consulting_owner", "RESET ROLE",
    "ALTER LARGE OBJECT 71012 OWNER TO consulting_app",
    # Nobody's that a row of the context names.
    "SELECT lo_from_bytea(71090, '\\xff')", "CREATE TABLE beside.files (f oid)", "INSERT INTO beside.files VALUES (71090)",
)  # fmt: skip
OWN = [71001, 71002, 71003, 71004, 71010, 71011, 71012, 71013]


def documents(world: World, monkeypatch: pytest.MonkeyPatch, *statements: str, **keys: object) -> None:
    """Make tables `d` and `p` of the context, and large objects that their rows name, and that others' do."""
    neighbours = {"others": ["files"]}
    surround(world, monkeypatch, *TABLES, *statements, **({"tables": ["t", "d", "p"], "neighbours": neighbours} | keys))


def seen(world: World, server: LocalServer | None = None, database: str | None = None) -> dict[int, tuple[object, ...]]:
    """Return owner, privileges, comment, size and sum of every large object of a database, read by a superuser."""
    found = dict[int, tuple[object, ...]]()
    with (server or world.source).connect(database or world.database) as connection:
        for oid, *facts in connection.execute(
            "SELECT oid, pg_get_userbyid(lomowner), CASE WHEN lomacl IS NOT NULL THEN ARRAY(SELECT x::text FROM unnest(lomacl) "
            "AS x ORDER BY 1) END, obj_description(oid, 'pg_largeobject') FROM pg_largeobject_metadata"
        ).fetchall():
            (content,) = connection.execute("SELECT lo_get(%s)", [oid]).fetchone() or (b"",)
            found[oid] = (*facts, len(content), hashlib.sha256(content).hexdigest())
    return found


def own(found: dict[int, tuple[object, ...]]) -> dict[int, tuple[object, ...]]:
    """Return those of the objects that rows of the context name."""
    return {oid: facts for oid, facts in found.items() if oid in OWN}


def pages_of(world: World, kind: str = "daily") -> Path:
    """Return the stored pages of the newest set of a kind."""
    *_, folder = world.set_folders(kind, CONTEXT)
    return folder / "data" / "large-objects.pages.zst"


def put(world: World, oid: int, content: str) -> None:
    """Write the beginning of a large object anew, as an application does."""
    execute(world, f"SELECT lo_put({oid}, 0, '\\x{content}')")
