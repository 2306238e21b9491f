"""The manifest of a backup set: everything about it but the data, written last; its presence commits the set."""

import hashlib
import json
from datetime import datetime
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.core.errors import DamagedSet
from tasks.core.kinds import Kind

MANIFEST_FILE = "manifest.json"
VERSION = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoredObject(_Record):
    """One object of a set: path below the set's folder, size and SHA-256 of the stored bytes."""

    path: str = Field(pattern=r"^[^/\\.][^/\\]*(/[^/\\.][^/\\]*)?$", description="never leads out of the set's folder")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Inherited(_Record):
    """Rows of the same relation in the base, which a differential does not store again."""

    rows: int = Field(ge=0)
    left_out: StoredObject | None = Field(default=None, description="which lines of the base's are not among them")


class Relation(_Record):
    """A table or leaf partition with its rows, as read under the set's snapshot: inherited ones, then those of the parts."""

    namespace: str = Field(alias="schema")
    name: str
    parent: str | None = None
    oid: int
    relfilenode: int
    columns: list[str]
    types: list[str] = Field(default=[], description="the type of each column, qualified; older sets do not say")
    layout: str = Field(default="", description="what turns stored bytes into rows; empty if that is not the relation's alone")
    rows: int = Field(ge=0)
    digest: str = Field(pattern=r"^[0-9a-f]{32}$", description="sum modulo 2**128 of XXH3-128 of each row's COPY text")
    plain_bytes: int = Field(ge=0)
    seconds: float
    parts: list[StoredObject]
    inherited: Inherited | None = None

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @property
    def qualified(self) -> str:
        """schema.name, for people."""
        return f"{self.namespace}.{self.name}"

    @property
    def bytes(self) -> int:
        """The stored size."""
        return sum(part.bytes for part in self.objects)

    @property
    def objects(self) -> list[StoredObject]:
        """What is stored of it in this set."""
        return [*self.parts, *([self.inherited.left_out] if self.inherited and self.inherited.left_out else [])]


class View(_Record):
    """A materialized or plain view; materialized ones are computed anew by a restore."""

    namespace: str = Field(alias="schema")
    name: str
    populated: bool
    materialized: bool

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @property
    def qualified(self) -> str:
        """schema.name, for people."""
        return f"{self.namespace}.{self.name}"


class Sequence(_Record):
    """A sequence and a position at or above every stored row."""

    namespace: str = Field(alias="schema")
    name: str
    last_value: int
    is_called: bool

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Role(_Record):
    """A role that the objects need; no password."""

    name: str
    superuser: bool
    createdb: bool
    createrole: bool
    login: bool
    inherit: bool
    bypassrls: bool
    member_of: list[str]


class ForeignKey(_Record):
    """A foreign key that crosses the context's border."""

    name: str
    table: str
    references: str
    definition: str
    on_delete: str
    comment: str | None = None


class DatabaseGrant(_Record):
    """A privilege on the database; without a role it is everybody's."""

    privilege: str
    role: str | None
    grantable: bool


class DatabaseProperties(_Record):
    """What CREATE DATABASE and ALTER DATABASE said; `locale` is ICU's or the builtin provider's."""

    oid: int
    name: str
    owner: str
    encoding: str
    collate: str
    ctype: str
    locale_provider: str | None
    locale: str | None
    icu_rules: str | None
    connection_limit: int
    comment: str | None
    settings: list[str]
    role_settings: list[str]
    grants: list[DatabaseGrant]
    restricted: bool = Field(description="whether privileges were ever changed from the default")


TABLES = frozenset({"table", "partitioned table"})
VIEWS = frozenset({"view", "materialized view"})


class InventoryItem(_Record):
    """One object of the context, spelled so that a dump and restore does not change it."""

    kind: str
    name: str
    parent: str
    columns: str
    state: str

    @property
    def identity(self) -> tuple[str, str, str]:
        """What it is called."""
        return (self.kind, self.parent, self.name)


class Incarnation(_Record):
    """One uninterrupted life of one server at one address, as the server itself says it."""

    started: str = Field(description="when its postmaster started: UTC, to the microsecond")
    address: str = Field(description="where it was reached: its own address, or `local socket`, and its port")


class Snapshot(_Record):
    """When and where the rows were read; older sets do not say in which incarnation of the server."""

    instant: datetime
    xmin: int
    lsn: str
    timeline: int = Field(description="0 where a standby does not say which one it follows")
    system_identifier: str
    standby: bool
    incarnation: Incarnation | None = None


class SetAside(_Record):
    """Sets that are neither `latest` nor a base, by their numbers, because a backup found proof of a second history.

    Without `before`, sets to come are among them too, until an operator says which server is right.
    """

    why: str
    since: int
    before: int | None = None
    by_start: bool = Field(default=True, description="whether the starts of the servers tell their sets apart")

    def holds(self, number: int) -> bool:
        """Say whether a set of this number is among them."""
        return self.since <= number and (self.before is None or number < self.before)


class Versions(_Record):
    """What took part."""

    server: str
    server_major: int
    pg_dump: str
    pg_dump_major: int
    project: str


class Scope(_Record):
    """Some tables of a context, and of a partitioned one not all partitions, if some are named (schema.name)."""

    namespace: str = Field(alias="schema")
    tables: list[str]
    partitions: list[str] | None = None

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Manifest(_Record):
    """Version 1 of the manifest."""

    version: Literal[1] = 1
    context: str
    kind: Kind
    id: str
    base: str | None = None
    instead: str | None = Field(default=None, description="why this is a full, where a differential was asked for")
    label: str | None = Field(default=None, description="what an operator called it")
    keep_until: AwareDatetime | None = Field(default=None, description="never pruned before")
    only: Scope | None = Field(default=None, description="what it is of, where that is not the whole context")
    number: int | None = Field(default=None, ge=1, description="1 + the highest of the context when it was taken; older sets: none")
    aside: SetAside | None = Field(default=None, description="which sets this one found to be of another history")
    losses: list[str] = Field(default=[], description="what makes it suspect: tables that lost too many rows since a good full")
    run: str
    time_zone: str
    transforms: list[Literal["zstd"]] = ["zstd"]
    snapshot: Snapshot
    finished: datetime
    versions: Versions
    database: DatabaseProperties
    fingerprint: str
    relations: list[Relation]
    views: list[View]
    sequences: list[Sequence]
    roles: list[Role]
    extensions: list[str]
    outbound_keys: list[ForeignKey]
    inbound_keys: list[ForeignKey]
    left_out: list[str]
    forgotten_tables: list[str]
    inventory: list[InventoryItem]
    schema_archive: StoredObject
    schema_list: StoredObject
    context_files: list[StoredObject]
    warnings: list[str]
    restore_script: StoredObject | None = None
    block_rows: StoredObject | None = Field(default=None, description="rows by block of each relation, for differentials to come")

    @model_validator(mode="after")
    def _one_object_a_path(self) -> Self:
        paths = [stored.path for stored in self.objects]
        if len(paths) != len(set(paths)):
            raise ValueError("an object is named twice")
        return self

    @property
    def objects(self) -> list[StoredObject]:
        """Every object of the set but the manifest."""
        data = [stored for relation in self.relations for stored in relation.objects]
        optional = [stored for stored in (self.restore_script, self.block_rows) if stored]
        return [*data, self.schema_archive, self.schema_list, *self.context_files, *optional]

    @property
    def cleaned_table(self) -> str | None:
        """Of a clean-up set the table of its rule: it has some of its rows, and what hung on them, and says nothing of others."""
        return self.only.tables[0] if self.kind is Kind.CLEAN_UP and self.only else None

    @property
    def zone(self) -> ZoneInfo:
        """The context's zone."""
        return ZoneInfo(self.time_zone)

    @property
    def rows(self) -> int:
        """Rows of all relations."""
        return sum(relation.rows for relation in self.relations)

    @property
    def plain_bytes(self) -> dict[str, int]:
        """Bytes of the rows as COPY text, by relation."""
        return {relation.qualified: relation.plain_bytes for relation in self.relations}

    @property
    def bytes(self) -> int:
        """Stored bytes of all objects but the manifest."""
        return sum(stored.bytes for stored in self.objects)


def render_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as the bytes that are stored: canonical JSON that carries its own SHA-256."""
    body = manifest.model_dump(mode="json", by_alias=True)
    return _canonical({"manifest": body, "sha256": hashlib.sha256(_canonical(body)).hexdigest()})


def _canonical(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Return the manifest that these bytes are.

    Raises:
        DamagedSet: they are not what was written: cut short, altered in any bit, or of a newer version.
    """
    try:
        envelope: dict[str, Any] = json.loads(data)
        body = envelope["manifest"]
        intact = _canonical(envelope) == data and envelope["sha256"] == hashlib.sha256(_canonical(body)).hexdigest()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedSet(f"{where}: the manifest cannot be read ({type(error).__name__}); restore another set") from error
    if not intact:
        raise DamagedSet(f"{where}: the manifest is not as it was written (its checksum differs); restore another set")
    if body.get("version") != VERSION:
        raise DamagedSet(f"{where}: manifest version {body.get('version')}, this project reads {VERSION}; use a newer release")
    try:
        return Manifest.model_validate(body)
    except ValidationError as error:
        raise DamagedSet(f"{where}: the manifest does not hold what it must: {error.errors()[0]['loc']}") from error
