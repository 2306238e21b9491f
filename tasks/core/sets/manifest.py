"""The manifest of a backup set: everything about it except the data; its presence commits the set.

It is one long module because it is one format.
"""

from typing import Literal, Self
from zoneinfo import ZoneInfo

from pydantic import ConfigDict, Field, field_validator, model_validator

from tasks.core.database.objects import DatabaseProperties, ForeignKey, InventoryItem, LeftOut, Role, Sequence, View
from tasks.core.run.clock import RUN_ID
from tasks.core.sets.large_objects import INDEX, PAGES, LargeObjects
from tasks.core.sets.name import CONTEXT_NAME, SET_ID, Kind, SetName, parse_set_folder
from tasks.core.values import (
    MOST,
    Count,
    Digest,
    Duration,
    Instant,
    Label,
    Lsn,
    Major,
    Name,
    Oid,
    QualifiedName,
    StoredModel,
    TransactionId,
    TypeName,
    Zone,
)

# Where the objects of a set are in its folder; rows are in data/, the context's files in context/.
SCHEMA_ARCHIVE, SCHEMA_LIST, RESTORE_SCRIPT, BLOCK_ROWS = "schema.dump.zst", "schema.list", "restore.sh", "block-rows.json.zst"

# PostgreSQL's limit is 1,600 (https://www.postgresql.org/docs/current/limits.html).
MOST_COLUMNS = 1600
# If the manifest does not state the unpacked size of an object, it is limited to this multiple:
# rows and catalogs compress less.
MOST_TIMES_PACKED, MOST_MORE_BYTES = 1000, 64 << 20

# Without control characters, which would move a terminal's cursor or end a line of a report.
_NAME_IN_SET = r"[^/\\.\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*"


class StoredObject(StoredModel):
    """One object of a set: path below the set's folder, size and SHA-256 of the stored bytes."""

    path: str = Field(
        pattern=rf"^{_NAME_IN_SET}(/{_NAME_IN_SET})?$", max_length=1000, description="never leads out of the set's folder"
    )
    bytes: Count
    sha256: Digest
    plain_bytes: Count | None = Field(default=None, description="the size of a compressed text when unpacked")

    @property
    def staged_name(self) -> str:
        """The object's file name in a staging folder, which has no subfolders."""
        return self.path.replace("/", "-")

    @property
    def most_plain_bytes(self) -> int:
        """The object's maximum size when unpacked, which older manifests do not state."""
        return MOST_TIMES_PACKED * self.bytes + MOST_MORE_BYTES if self.plain_bytes is None else self.plain_bytes


class Inherited(StoredModel):
    """Rows of the same relation in the base set, which a differential does not store again."""

    rows: Count
    left_out: StoredObject | None = Field(default=None, description="the lines of the base that are not inherited")


class Relation(StoredModel):
    """A table or leaf partition and its rows: inherited from a full backup, then the parts'."""

    namespace: Name = Field(alias="schema")
    name: Name
    parent: Label | None = None
    oid: Oid
    relfilenode: Oid
    columns: list[Name] = Field(max_length=MOST_COLUMNS)
    types: list[TypeName] = Field(
        default=[], max_length=MOST_COLUMNS, description="the type of each column, qualified; older sets: none"
    )
    layout: Label = Field(
        default="",
        description="the settings that determine how stored values are printed as text; empty if that depends on other objects too",
    )
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
        """The objects of the relation in this set."""
        return [*self.parts, *([self.inherited.left_out] if self.inherited and self.inherited.left_out else [])]


class Incarnation(StoredModel):
    """One uninterrupted run of a server at one address, as the server reports it."""

    started: Label = Field(description="when the server's postmaster started: UTC, to the microsecond")
    address: Label = Field(description="where the server was reached: its own address, or `local socket`, and its port")


class Snapshot(StoredModel):
    """When and where the rows were read; older sets do not state the server's incarnation."""

    instant: Instant
    xmin: TransactionId
    lsn: Lsn
    timeline: int = Field(ge=0, lt=1 << 32, description="0 if a standby does not report which one it follows")
    system_identifier: str = Field(pattern=r"^[0-9]{1,20}$")
    standby: bool
    incarnation: Incarnation | None = None


class SetAside(StoredModel):
    """Sets, by number, that are neither `latest` nor a base: a backup proved a second history.

    Without `before`, future sets are set aside too, until an operator decides which server is
    right.
    """

    why: str
    since: Count
    before: Count | None = None
    by_start: bool = Field(default=True, description="whether sets are told apart by the starts of their servers")

    def holds(self, number: int) -> bool:
        """Return whether the set with this number is set aside."""
        return self.since <= number and (self.before is None or number < self.before)


class Versions(StoredModel):
    """The versions of the programs that took the set."""

    server: Label
    server_major: Major
    pg_dump: Label
    pg_dump_major: Major
    project: Label


class Scope(StoredModel):
    """Some tables of a context; of a partitioned one only the partitions named (schema.name)."""

    namespace: Name = Field(alias="schema")
    tables: list[Name] = Field(min_length=1)
    partitions: list[Label] | None = None

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Manifest(StoredModel):
    """The manifest of a backup set, in version 1 of its format."""

    version: Literal[1] = 1
    context: str = Field(pattern=rf"^{CONTEXT_NAME.pattern}$")
    kind: Kind
    id: str
    base: str | None = Field(default=None, description="the id of a full backup of the same context")
    instead: str | None = Field(default=None, description="why this is a full backup although a differential was requested")
    label: str | None = Field(default=None, description="the name that an operator gave it")
    keep_until: Instant | None = Field(default=None, description="never pruned before")
    only: Scope | None = Field(
        default=None, description="the tables and partitions that the set has, if it is not the whole context"
    )
    number: Count | None = Field(
        default=None, ge=1, description="the set's number: 1 + the highest of the context when the set was taken; older sets: none"
    )
    aside: SetAside | None = Field(default=None, description="the sets of another history, as this backup found")
    losses: list[str] = Field(default=[], description="why it is suspect: tables that lost too many rows since a good full")
    run: str = Field(pattern=rf"^{RUN_ID.pattern}$")
    time_zone: Zone
    transforms: list[Literal["zstd"]] = Field(default=["zstd"])
    snapshot: Snapshot
    finished: Instant
    versions: Versions
    database: DatabaseProperties
    fingerprint: str
    schema_fingerprint: Digest | None = Field(
        default=None, description="SHA-256 of all that a restore creates besides rows; sets of some tables and older sets: none"
    )
    relations: list[Relation]
    views: list[View]
    sequences: list[Sequence]
    roles: list[Role]
    extensions: list[str]
    outbound_keys: list[ForeignKey]
    inbound_keys: list[ForeignKey]
    referring_tables: list[QualifiedName] = Field(
        default=[], description="tables of other contexts that refer here and had rows; older sets have none"
    )
    disabled_keys: list[str] = Field(
        default=[], description="table.key of each foreign key with a disabled trigger; restores enable it; older sets: none"
    )
    left_out: list[str]
    by_hand: list[LeftOut] = Field(
        default=[], description="the objects that are not in the set and have to be created by hand; older sets: none"
    )
    only_superusers: dict[str, str] = Field(
        default={}, description="the objects that only a superuser can create, with the statements; older sets: none"
    )
    forgotten_tables: list[str]
    inventory: list[InventoryItem]
    inventory_version: Literal[1, 2, 3] = Field(
        default=1,
        description="version of the inventory; 2 also has properties of columns (storage, statistics targets …), 3 tablespaces, "
        "comments and grants of all kinds of objects; older sets: 1",
    )
    extension_versions: dict[Name, Label] = Field(default={}, description="older sets have none")
    made: list[InventoryItem] = Field(
        default=[], description="of a safety set: the objects that its restore created, and that undoing drops"
    )
    schema_archive: StoredObject
    schema_list: StoredObject
    context_files: list[StoredObject]
    warnings: list[str]
    restore_script: StoredObject | None = None
    block_rows: StoredObject | None = Field(
        default=None, description="row counts by block of each relation, for later differentials"
    )
    large_objects: LargeObjects | None = Field(default=None, description="the large objects that rows name; older sets have none")
    large_object_index: StoredObject | None = None
    large_object_pages: StoredObject | None = None

    @field_validator("id")
    @classmethod
    def _is_an_id(cls, text: str) -> str:
        if not SET_ID.fullmatch(text):
            raise ValueError(f"{text[:200]!r} is not the id of a set")
        return text

    @field_validator("base")
    @classmethod
    def _is_a_full(cls, text: str | None) -> str | None:
        # A folder is built from it.
        if text is not None and not ((match := SET_ID.fullmatch(text)) and match["sort"] == Kind.FULL):
            raise ValueError(f"{text[:200]!r} is not the id of a full backup")
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        name = SetName(self.context, self.kind, self.id)
        if parse_set_folder(name.folder) != name:
            raise ValueError(f"id {self.id} is not the id of a {self.kind} set of {self.context}")
        if self.base is not None and (self.kind is not Kind.DIFFERENTIAL or not self.base.startswith(f"{self.context}_")):
            raise ValueError(f"base {self.base} cannot be the base of a {self.kind} set of {self.context}")
        if self.made and self.kind is not Kind.SAFETY:
            raise ValueError(f"a {self.kind} set names objects that a restore created, which only safety sets do")
        if max(self.rows, self.bytes, sum(self.plain_bytes.values())) > MOST:
            raise ValueError("rows, bytes or plain_bytes add up to more than any set has")
        if bool(self.large_objects and self.large_objects.objects) != bool(self.large_object_index):
            raise ValueError("large objects without their index, or the reverse")
        return self

    @model_validator(mode="after")
    def _one_object_a_path(self) -> Self:
        names = [stored.staged_name for stored in self.objects]
        if len(names) != len(set(names)):
            raise ValueError("an object is named twice")
        return self

    @model_validator(mode="after")
    def _objects_in_their_places(self) -> Self:
        """Make sure that no object is staged where another is unpacked."""
        fixed = [(SCHEMA_ARCHIVE, self.schema_archive), (SCHEMA_LIST, self.schema_list), (RESTORE_SCRIPT, self.restore_script)]
        large = [(INDEX, self.large_object_index), (PAGES, self.large_object_pages)]
        fixed_or_absent = [*fixed, (BLOCK_ROWS, self.block_rows), *large]
        data = [("data/", stored) for relation in self.relations for stored in relation.objects]
        below = [*data, *(("context/", stored) for stored in self.context_files)]
        misplaced = [stored.path for place, stored in fixed_or_absent if stored and stored.path != place]
        misplaced += [stored.path for place, stored in below if not stored.path.startswith(place)]
        if misplaced:
            raise ValueError(f"{misplaced[0]} is not where a backup puts it")
        return self

    @property
    def objects(self) -> list[StoredObject]:
        """Every object of the set except the manifest."""
        optional = [stored for stored in (self.restore_script, self.block_rows, self.large_object_index) if stored]
        return [*self.data, self.schema_archive, self.schema_list, *self.context_files, *optional]

    @property
    def data(self) -> list[StoredObject]:
        """The objects with rows and large objects."""
        rows = [stored for relation in self.relations for stored in relation.objects]
        return [*rows, *([self.large_object_pages] if self.large_object_pages else [])]

    @property
    def cleaned_table(self) -> str | None:
        """The table of a clean-up set's rule; the set has some of its rows, and dependent ones."""
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
