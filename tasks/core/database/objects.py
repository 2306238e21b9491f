"""A database's objects in a manifest: inventory, views, sequences, roles, keys, and properties."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from tasks.core.spelling import COLUMN, PARENTS, foreign_key_of, is_qualified
from tasks.core.values import Label, Name, Oid, QualifiedName, SqlName, StoredModel

# Why tables are not in a set that no context lists.
FORGOTTEN = "no context lists it, and its rows are in no backup"
# Of a member of an extension that CREATE EXTENSION does not create, without which a context cannot be created.
NEEDED_MEMBER = "the context needs it, and "
ACTING = frozenset({"CASCADE", "SET NULL", "SET DEFAULT"})


class View(StoredModel):
    """A materialized or plain view; a restore refreshes materialized ones."""

    namespace: Name = Field(alias="schema")
    name: Name
    populated: bool
    materialized: bool

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @property
    def qualified(self) -> str:
        """schema.name, for messages."""
        return f"{self.namespace}.{self.name}"


class Sequence(StoredModel):
    """A sequence, with a position at or above every stored row."""

    namespace: Name = Field(alias="schema")
    name: Name
    last_value: int = Field(ge=-(1 << 63), lt=1 << 63)
    is_called: bool

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Role(StoredModel):
    """A role that objects need; no password."""

    name: Name
    superuser: bool
    createdb: bool
    createrole: bool
    login: bool
    inherit: bool
    bypassrls: bool
    member_of: list[str]


class ForeignKey(StoredModel):
    """A foreign key between a table of the context and a table of another context."""

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
            raise ValueError(f"{text[:200]!r} is not a foreign key as PostgreSQL spells it")
        return text


class LeftOut(StoredModel):
    """An object that is not in the set, the reason, and its statements, if the dump has them."""

    name: str = Field(description="as pg_describe_object() calls it")
    why: str
    statements: str


class DatabaseGrant(StoredModel):
    """A privilege on the database; without a role it is granted to PUBLIC."""

    privilege: Literal["CONNECT", "CREATE", "TEMPORARY"]
    role: Name | None
    grantable: bool


class DatabaseProperties(StoredModel):
    """Properties for CREATE and ALTER DATABASE; `locale` is of an ICU or builtin provider."""

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


class InventoryItem(StoredModel):
    """An object of the context as text that a dump and restore does not change."""

    kind: Label
    name: str
    parent: str
    columns: str
    state: str

    @model_validator(mode="after")
    def _spelled_as_a_catalogue_does(self) -> Self:
        """Validate names and definitions that become parts of statements."""
        if self.kind in RELATIONS and not is_qualified(self.name):
            raise ValueError(f"name {self.name[:200]!r} is not a relation's name as SQL writes it")
        if self.parent and not (PARENTS.fullmatch(self.parent) or COLUMN.fullmatch(self.parent)):
            raise ValueError(f"parent {self.parent[:200]!r} is not a relation's name as SQL writes it")
        if self.kind == "constraint":
            foreign_key_of(self.state)
        return self

    @property
    def identity(self) -> tuple[str, str, str]:
        """The key of an object: kind, parent, name."""
        return (self.kind, self.parent, self.name)
