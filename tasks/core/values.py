"""Types of values read from a store, with limits that every value written by a backup keeps.

They are checked when a manifest, a mark or a record is read, so that no other code has to.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from tasks.core.spelling import IDENTIFIER, TYPE, is_qualified

M = TypeVar("M", bound=BaseModel)
# With margins, so that a zone's offset and a retention period stay within the range of datetime.
FIRST_INSTANT, LAST_INSTANT = datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def known_zone(name: str) -> str:
    """Return the name of a time zone.

    Raises:
        ValueError: no time zone has this name.
    """
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is not a time zone; write one such as Asia/Tokyo") from error
    return name


def _sane(instant: datetime) -> datetime:
    if not FIRST_INSTANT <= instant <= LAST_INSTANT:
        raise ValueError(f"{instant:%Y-%m-%d} is not a time at which a backup can have been taken")
    return instant


def _spelled(fits: Callable[[str], object], noun: str) -> AfterValidator:
    """Return a validator that accepts texts that fit."""

    def check(text: str) -> str:
        if not fits(text):
            raise ValueError(f"{text!r} is not a {noun}")
        return text

    return AfterValidator(check)


# Within the range of JSON parsers and of a database's bigint.
MOST = 1 << 62
Count = Annotated[int, Field(ge=0, le=MOST)]
Sum = Annotated[int, Field(ge=0, le=2 * MOST - 1)]
Oid = Annotated[int, Field(ge=0, lt=1 << 32)]
TransactionId = Annotated[int, Field(ge=0, lt=1 << 64, description="a transaction id of 64 bits (xid8)")]
Lsn = Annotated[
    str, Field(pattern=r"^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$", description="a log sequence number, such as 16/B374D848")
]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, in hexadecimal")]
Major = Annotated[int, Field(ge=0, le=1000, description="a major version of PostgreSQL")]
Duration = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False, description="seconds")]
Instant = Annotated[AwareDatetime, AfterValidator(_sane)]
Zone = Annotated[str, AfterValidator(known_zone)]
# Longer than PostgreSQL's 63 bytes: servers may be built with longer names.
Name = Annotated[str, Field(min_length=1, max_length=255, description="a name as the catalogue has it, without quotes")]
Label = Annotated[str, Field(max_length=1024)]
SqlName = Annotated[str, _spelled(IDENTIFIER.fullmatch, "name as SQL writes it")]
QualifiedName = Annotated[str, _spelled(is_qualified, "relation name as SQL writes it")]
TypeName = Annotated[str, Field(max_length=1024), _spelled(TYPE.fullmatch, "type name")]


class StoredModel(BaseModel):
    """Base of the models of stored objects: unknown fields and NUL characters are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _without_nul(cls, value: object) -> object:
        # No text of PostgreSQL has one, and libraries fail on it. Plain loops, as a listing checks
        # a million fields.
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str) and "\0" in text:
                raise ValueError("it has a NUL character")
        return value


def parse_or_none(kind: type[M], data: bytes) -> M | None:
    """Return a mark or a record, or None if it is unreadable: none may fail what reads it."""
    try:
        return kind.model_validate_json(data)
    except ValidationError:
        return None


def complaint_about(error: ValidationError) -> str:
    """Return which field is wrong, and why; the first one if there are several."""
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, first["loc"])) or "the whole"
    return f"{place}: {first['msg'].removeprefix('Value error, ')[:500]}"
