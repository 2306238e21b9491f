"""Backup sets: their kinds, ids and folders in the store."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from zoneinfo import ZoneInfo

from tasks.core.errors import BadInput

CONTEXT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
SET_ID = re.compile(r"(?P<context>[a-z0-9][a-z0-9-]*)_(?P<sort>[a-z][a-z0-9-]*)_(?P<stamp>\d{8}_\d{6})_(?P<run>[0-9a-f]{4})")
JOB_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
LEGACY = re.compile(r"\.dump(\.gz)?$")
OWNER_FILE = "owner.json"
COLD_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})


def is_cold(storage_class: str) -> bool:
    """Return whether some data in these classes, joined by / as in a listing, need a thaw."""
    return not COLD_CLASSES.isdisjoint(storage_class.split("/"))


def upload_class(storage_class: str) -> str:
    """Return the class to upload in: data for a cold class are read back first and moved later."""
    return "STANDARD" if is_cold(storage_class) else storage_class


def require_context_name(name: str) -> None:
    """Refuse an invalid context name: folders and keys are built from it.

    Raises:
        BadInput: it is not valid.
    """
    if not CONTEXT_NAME.fullmatch(name):
        raise BadInput(f'invalid context name "{name}"; use lowercase letters, digits and dashes, 41 at most')


class Kind(StrEnum):
    """Kinds of backup sets."""

    FULL = "full"
    DIFFERENTIAL = "differential"
    # Taken before a live database is changed, even if the rows are damaged: this set undoes the
    # change.
    SAFETY = "safety"
    # Of one partition, taken before it is dropped.
    ARCHIVE = "archive"
    # Of old rows with their dependent rows, taken before they are deleted.
    CLEAN_UP = "clean-up"
    # Of the tables of a long-term job of the context; ids and folder have the job's name.
    LONG_TERM = "long-term"


@dataclass(frozen=True)
class KindRule:
    """The folder of a kind of sets, and what they may be used for."""

    folder: str
    may_be_latest: bool


RULES = {
    Kind.FULL: KindRule("daily", may_be_latest=True),
    Kind.DIFFERENTIAL: KindRule("differential", may_be_latest=True),
    Kind.SAFETY: KindRule("safety", may_be_latest=False),
    Kind.ARCHIVE: KindRule("archive", may_be_latest=False),
    Kind.CLEAN_UP: KindRule("clean-up", may_be_latest=False),
    Kind.LONG_TERM: KindRule("", may_be_latest=False),
}
# Names that a long-term job must not have: folders and ids of other sets, and other folders of a
# context.
RESERVED = frozenset({*Kind, *(rule.folder for rule in RULES.values()), "drills", "checks", "expired"})


def new_set_name(context: str, sort: str, instant: datetime, zone: ZoneInfo, run: str) -> "SetName":
    """Return a new set's name, by kind or long-term job: bc-004_full_20251103_020000_3f9c."""
    return SetName(context, _kind(sort), f"{context}_{sort}_{instant.astimezone(zone):%Y%m%d_%H%M%S}_{run}")


def _kind(sort: str) -> Kind:
    return Kind(sort) if sort in {*Kind} else Kind.LONG_TERM


def sort_of(set_id: str) -> str:
    """Return the kind in a set's id; for long-term sets it is the name of the job."""
    return set_id.split("_")[1]


@dataclass(frozen=True)
class SetName:
    """Context, kind and id of a set; its folder in the store follows from them."""

    context: str
    kind: Kind
    id: str

    @property
    def folder(self) -> str:
        """Its folder below the store's root; long-term sets are by job and year."""
        if self.kind is Kind.LONG_TERM:
            return f"{self.context}/{sort_of(self.id)}/{self.id.split('_')[2][:4]}/{self.id}"
        return f"{self.context}/{RULES[self.kind].folder}/{self.id}"

    @property
    def run(self) -> str:
        """The run that wrote it, four hexadecimal digits."""
        return self.id[-4:]


def parse_set_folder(folder: str) -> SetName | None:
    """Return the set of a folder, or None if it is not a folder of a set."""
    match = SET_ID.fullmatch(folder.rpartition("/")[2])
    if not match:
        return None
    name = SetName(match["context"], _kind(match["sort"]), match[0])
    return name if name.folder == folder else None


def split_key(key: str) -> tuple[SetName, str] | None:
    """Return the set of an object, and the path in it; None if it is in none."""
    parts = key.split("/")
    for depth in (3, 4):
        if len(parts) > depth and (name := parse_set_folder("/".join(parts[:depth]))):
            return name, "/".join(parts[depth:])
    return None


def parse_set_reference(reference: str, context: str, root: str) -> SetName | None:
    """Return the set that an operator named, or None for `latest`.

    A set is named by its id, or by the s3:// or folder path of the set or of its manifest.

    Raises:
        BadInput: it is none of these, is not in the store, or belongs to another context.
    """
    if reference == "latest":
        return None
    folder = reference.rstrip("/").removesuffix("/manifest.json")
    if match := SET_ID.fullmatch(folder):
        folder = SetName(match["context"], _kind(match["sort"]), folder).folder
    elif folder.startswith(f"{root.rstrip('/')}/"):
        folder = folder.removeprefix(f"{root.rstrip('/')}/")
    if LEGACY.search(folder):
        raise BadInput(
            f'backup "{reference}" is a file of older scripts; restore it into a new database: '
            f"python -m flows.restore full_restore --context {context} --backup {reference} "
            "--target-database NAME"
        )
    name = parse_set_folder(folder)
    if name is None:
        raise BadInput(
            f'backup "{reference}" is neither "latest", nor a timestamp (such as 2025-11-03 '
            "14:00), nor the id of a set "
            f"(such as {context}_full_20251103_020000_3f9c), "
            f"nor the path of one below {root}; list them with: python -m flows.backup "
            f"list_backups --context {context}"
        )
    if name.context != context:
        raise BadInput(f'backup "{reference}" belongs to context {name.context}, not {context}; name that context')
    return name
