"""The manifest of a backup set: everything about it but the data, written last; its presence commits the set."""

import hashlib
import json
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tasks.core.errors import DamagedSet
from tasks.core.kinds import CONTEXT_NAME, RUN_ID, SET_ID, Kind, SetName, parse_set_folder
from tasks.core.spelling import COLUMN, PARENTS, foreign_key_of, is_qualified
from tasks.core.values import (
    MOST,
    Count,
    Duration,
    Instant,
    Label,
    Lsn,
    Major,
    Name,
    Oid,
    QualifiedName,
    SqlName,
    TransactionId,
    TypeName,
    Zone,
)

MANIFEST_FILE = "manifest.json"
# Where the objects of a set are in its folder; rows are in data/, the context's files in context/.
SCHEMA_ARCHIVE, SCHEMA_LIST, RESTORE_SCRIPT, BLOCK_ROWS = "schema.dump.zst", "schema.list", "restore.sh", "block-rows.json.zst"
VERSION = 1
# PostgreSQL's limit is 1,600 (https://www.postgresql.org/docs/current/limits.html).
MOST_COLUMNS = 1600
# What an object of which the manifest does not say how long it is unpacked, may be at most: rows and catalogues shrink less.
MOST_TIMES_PACKED, MOST_MORE_BYTES = 1000, 64 << 20


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _without_nul(cls, value: object) -> object:
        # No text of PostgreSQL's has one, and what takes a text from here would stumble over it.
        if any(isinstance(text, str) and "\0" in text for text in (value if isinstance(value, list) else [value])):
            raise ValueError("it has a character NUL")
        return value


# No character in it is one that moves a cursor, or ends a line of a report.
_NAME_IN_SET = r"[^/\\.\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*"


class StoredObject(_Record):
    """One object of a set: path below the set's folder, size and SHA-256 of the stored bytes."""

    path: str = Field(
        pattern=rf"^{_NAME_IN_SET}(/{_NAME_IN_SET})?$", max_length=1000, description="never leads out of the set's folder"
    )
    bytes: Count
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    plain_bytes: Count | None = Field(default=None, description="the size unpacked, of a text that is stored packed")

    @property
    def staged_name(self) -> str:
        """What it is called in a staging folder, which has no folders."""
        return self.path.replace("/", "-")

    @property
    def most_plain_bytes(self) -> int:
        """How many bytes it may have unpacked; older sets do not say."""
        return MOST_TIMES_PACKED * self.bytes + MOST_MORE_BYTES if self.plain_bytes is None else self.plain_bytes


class Inherited(_Record):
    """Rows of the same relation in the base, which a differential does not store again."""

    rows: Count
    left_out: StoredObject | None = Field(default=None, description="which lines of the base's are not among them")


class Relation(_Record):
    """A table or leaf partition with its rows, as read under the set's snapshot: inherited ones, then those of the parts."""

    namespace: Name = Field(alias="schema")
    name: Name
    parent: Label | None = None
    oid: Oid
    relfilenode: Oid
    columns: list[Name] = Field(max_length=MOST_COLUMNS)
    types: list[TypeName] = Field(
        default=[], max_length=MOST_COLUMNS, description="the type of each column, qualified; older sets do not say"
    )
    layout: Label = Field(default="", description="what turns stored bytes into rows; empty if that is not the relation's alone")
    rows: Count
    digest: str = Field(pattern=r"^[0-9a-f]{32}$", description="sum modulo 2**128 of XXH3-128 of each row's COPY text")
    plain_bytes: Count
    seconds: Duration
    parts: list[StoredObject]
    inherited: Inherited | None = None

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="after")
    def _a_type_a_column(self) -> Self:
        if self.types and len(self.types) != len(self.columns):
            raise ValueError(f"it has {len(self.columns)} columns and {len(self.types)} types")
        return self

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

    namespace: Name = Field(alias="schema")
    name: Name
    populated: bool
    materialized: bool

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @property
    def qualified(self) -> str:
        """schema.name, for people."""
        return f"{self.namespace}.{self.name}"


class Sequence(_Record):
    """A sequence and a position at or above every stored row."""

    namespace: Name = Field(alias="schema")
    name: Name
    last_value: int = Field(ge=-(1 << 63), lt=1 << 63)
    is_called: bool

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Role(_Record):
    """A role that the objects need; no password."""

    name: Name
    superuser: bool
    createdb: bool
    createrole: bool
    login: bool
    inherit: bool
    bypassrls: bool
    member_of: list[str]


class ForeignKey(_Record):
    """A foreign key that crosses the context's border."""

    name: SqlName
    table: QualifiedName
    references: QualifiedName | Literal[""]
    definition: str = Field(description="as pg_get_constraintdef() spells it")
    on_delete: Label
    comment: str | None = None

    @field_validator("definition")
    @classmethod
    def _nothing_else(cls, text: str) -> str:
        if foreign_key_of(text) != text:
            raise ValueError(f"{text[:200]!r} is no foreign key as PostgreSQL spells one")
        return text


class DatabaseGrant(_Record):
    """A privilege on the database; without a role it is everybody's."""

    privilege: Literal["CONNECT", "CREATE", "TEMPORARY"]
    role: Name | None
    grantable: bool


class DatabaseProperties(_Record):
    """What CREATE DATABASE and ALTER DATABASE said; `locale` is ICU's or the builtin provider's."""

    oid: Oid
    name: Name
    owner: Name
    encoding: str = Field(pattern=r"^[A-Za-z0-9_]{1,63}$")
    collate: Label
    ctype: Label
    locale_provider: Label | None
    locale: Label | None
    icu_rules: str | None
    connection_limit: int = Field(ge=-(1 << 31), lt=1 << 31)
    comment: str | None
    settings: list[Annotated[str, Field(pattern=r"^[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*)*=")]]
    role_settings: list[str]
    grants: list[DatabaseGrant]
    restricted: bool = Field(description="whether privileges were ever changed from the default")


TABLES = frozenset({"table", "partitioned table"})
VIEWS = frozenset({"view", "materialized view"})
RELATIONS = TABLES | VIEWS | {"sequence", "index", "foreign table"}


class InventoryItem(_Record):
    """One object of the context, spelled so that a dump and restore does not change it."""

    kind: Label
    name: str
    parent: str
    columns: str
    state: str

    @model_validator(mode="after")
    def _spelled_as_a_catalogue_does(self) -> Self:
        """Of tables, constraints and what they are of, names and definitions get into statements."""
        if self.kind in RELATIONS and not is_qualified(self.name):
            raise ValueError(f"name {self.name[:200]!r} is no name of a relation as SQL writes it")
        if self.parent and not (PARENTS.fullmatch(self.parent) or COLUMN.fullmatch(self.parent)):
            raise ValueError(f"parent {self.parent[:200]!r} is no name of a relation as SQL writes it")
        if self.kind == "constraint":
            foreign_key_of(self.state)
        return self

    @property
    def identity(self) -> tuple[str, str, str]:
        """What it is called."""
        return (self.kind, self.parent, self.name)


class Snapshot(_Record):
    """When and where the rows were read."""

    instant: Instant
    xmin: TransactionId
    lsn: Lsn
    timeline: int = Field(ge=0, lt=1 << 32, description="0 where a standby does not say which one it follows")
    system_identifier: str = Field(pattern=r"^[0-9]{1,20}$")
    standby: bool


class Versions(_Record):
    """What took part."""

    server: Label
    server_major: Major
    pg_dump: Label
    pg_dump_major: Major
    project: Label


class Scope(_Record):
    """Some tables of a context, and of a partitioned one not all partitions, if some are named (schema.name)."""

    namespace: Name = Field(alias="schema")
    tables: list[Name] = Field(min_length=1)
    partitions: list[Label] | None = None

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Manifest(_Record):
    """Version 1 of the manifest."""

    version: Literal[1] = 1
    context: str = Field(pattern=rf"^{CONTEXT_NAME.pattern}$")
    kind: Kind
    id: str
    base: str | None = Field(default=None, description="the id of a full of the same context")
    instead: str | None = Field(default=None, description="why this is a full, where a differential was asked for")
    label: str | None = Field(default=None, description="what an operator called it")
    keep_until: Instant | None = Field(default=None, description="never pruned before")
    only: Scope | None = Field(default=None, description="what it is of, where that is not the whole context")
    losses: list[str] = Field(default=[], description="what makes it suspect: tables that lost too many rows since a good full")
    run: str = Field(pattern=rf"^{RUN_ID.pattern}$")
    time_zone: Zone
    transforms: list[Literal["zstd"]] = ["zstd"]
    snapshot: Snapshot
    finished: Instant
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

    @field_validator("id")
    @classmethod
    def _is_an_id(cls, text: str) -> str:
        if not SET_ID.fullmatch(text):
            raise ValueError(f"{text[:200]!r} is no id of a set")
        return text

    @field_validator("base")
    @classmethod
    def _is_a_full(cls, text: str | None) -> str | None:
        # A folder is made of it.
        if text is not None and not ((found := SET_ID.fullmatch(text)) and found["sort"] == Kind.FULL):
            raise ValueError(f"{text[:200]!r} is no id of a full")
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        name = SetName(self.context, self.kind, self.id)
        if parse_set_folder(name.folder) != name:
            raise ValueError(f"id {self.id} is no id of a {self.kind} set of {self.context}")
        if self.base is not None and (self.kind is not Kind.DIFFERENTIAL or not self.base.startswith(f"{self.context}_")):
            raise ValueError(f"base {self.base} is none of a {self.kind} set of {self.context}")
        if max(self.rows, self.bytes, sum(self.plain_bytes.values())) > MOST:
            raise ValueError("rows, bytes or plain_bytes add up to more than any set has")
        return self

    @model_validator(mode="after")
    def _one_object_a_path(self) -> Self:
        names = [stored.staged_name for stored in self.objects]
        if len(names) != len(set(names)):
            raise ValueError("an object is named twice")
        return self

    @model_validator(mode="after")
    def _objects_in_their_places(self) -> Self:
        """No object may be staged where another is unpacked."""
        fixed = [(SCHEMA_ARCHIVE, self.schema_archive), (SCHEMA_LIST, self.schema_list), (RESTORE_SCRIPT, self.restore_script)]
        fixed_or_absent = [*fixed, (BLOCK_ROWS, self.block_rows)]
        data = [("data/", stored) for relation in self.relations for stored in relation.objects]
        below = [*data, *(("context/", stored) for stored in self.context_files)]
        wrong = [stored.path for place, stored in fixed_or_absent if stored and stored.path != place]
        wrong += [stored.path for place, stored in below if not stored.path.startswith(place)]
        if wrong:
            raise ValueError(f"{wrong[0]} is not where a backup puts it")
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
    if not isinstance(body, dict) or body.get("version") != VERSION:
        body = body if isinstance(body, dict) else {}
        raise DamagedSet(
            f"{where}: manifest version {body.get('version')!r:.40}, this project reads {VERSION}; use a newer release"
        )
    try:
        return Manifest.model_validate(body)
    except ValidationError as error:
        raise DamagedSet(
            f"{where}: the manifest does not hold what it must: {complaint_about(error)}; restore another set"
        ) from error


def complaint_about(error: ValidationError) -> str:
    """Return which field is wrong, and why; of several the first."""
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, first["loc"])) or "the whole"
    return f"{place}: {first['msg'].removeprefix('Value error, ')[:500]}"
