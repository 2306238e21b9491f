"""The request of a restore into a live database: mode, tables, rows by key."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tasks.core.errors import BadInput
from tasks.core.sql.names import plain_name


class Drift(StrEnum):
    """What to do if the columns of live tables differ from those in the set."""

    REFUSE = "refuse"
    COMMON_COLUMNS = "common-columns"


class Objects(StrEnum):
    """Whether objects that differ are changed back or only listed; missing ones are created."""

    PLAN = "plan"
    RESTORE = "restore"


class OnConflict(StrEnum):
    """What to do with a row of the set whose unique value a kept live row has: refuse or skip."""

    REFUSE = "refuse"
    SKIP = "skip"


class Mode(StrEnum):
    """Which rows a restore writes: missing, also changed (merge), or exactly the set's."""

    MISSING = "missing"
    MERGE = "merge"
    REPLACE = "replace"

    @property
    def writes(self) -> str:
        """The kinds of difference that the mode writes, as a restore's statements name them."""
        return {Mode.MISSING: "I", Mode.MERGE: "IU", Mode.REPLACE: "IUD"}[self]


KeyValue = str | int | float | bool
# A list of key values, or of objects that name several key columns; or a condition on key columns.
Keys = str | Sequence[KeyValue | Mapping[str, KeyValue]]


@dataclass(frozen=True)
class Request:
    """A requested restore into a live database: of the whole context, or of one table."""

    backup: str
    on_drift: Drift = Drift.REFUSE
    accept_effects: bool = False
    table: str | None = None
    mode: Mode = Mode.REPLACE
    keys: Keys | None = None
    include_parents: bool = False
    # For a clean-up set: with the dependent rows of other tables.
    with_children: bool = False
    objects: Objects = Objects.PLAN
    on_conflict: OnConflict = OnConflict.REFUSE

    def command(self, context: str, database: str) -> str:
        """Return the command that carries out the request."""
        flow, keys = "table_restore" if self.table else "full_restore --in-place true", self.keys
        keys_text = keys if keys is None or isinstance(keys, str) else json.dumps(keys, ensure_ascii=False)
        one_table = self.table if self.table and not self.with_children else None
        words = [
            f"python -m flows.restore {'restore_cleaned_up' if self.with_children else flow} "
            f"--context {context} --backup {shlex.quote(self.backup)}",
            *([f"--table {shlex.quote(one_table)} --mode {self.mode}"] if one_table else []),
            *([f"--keys {shlex.quote(keys_text)}"] if keys_text else []),
            *(["--include-parents true"] if self.include_parents and one_table else []),
            *([f"--on-schema-drift {self.on_drift}"] if self.on_drift is not Drift.REFUSE else []),
            *(["--accept-effects-on-others true"] if self.accept_effects else []),
            *([f"--objects {self.objects}"] if self.objects is not Objects.PLAN else []),
            *([f"--on-conflict {self.on_conflict}"] if self.on_conflict is not OnConflict.REFUSE else []),
            f"--dry-run false --confirm-database {shlex.quote(database)}",
        ]
        return " \\\n    ".join(words)


def tables_named(table: str, namespace: str, parents: Mapping[str, str], where: str) -> frozenset[str]:
    """Return schema.name of the named table and its partitions.

    `parents` maps tables to parents, or "".

    Raises:
        BadInput: there is no table of that name.
    """
    wanted = plain_name(table).removeprefix(".")
    names = {name for name in (wanted, f"{namespace}.{wanted}") if name in parents}
    if not names:
        tops = sorted(name for name, parent in parents.items() if parent not in parents)
        raise BadInput(f'table "{table}" is not {where}; name one of {", ".join(tops)}, or a partition')
    while more := {name for name, parent in parents.items() if parent in names} - names:
        names |= more
    return frozenset(names)


def name_beside(table: str, set_id: str) -> str:
    """Return the name of a table restored beside a live one, with 63 bytes at most."""
    suffix = f"_restored_{'_'.join(set_id.split('_')[-3:-1])}"
    kept = table.encode()[: 63 - len(suffix)].decode(errors="ignore")
    return f"{kept}{suffix}"


def parse_keys(keys: Keys, key: Sequence[str]) -> str | list[dict[str, str]]:
    """Return the condition on key columns, or the list of key values, as text by column.

    A list has values of the first key column, or objects that name key columns: `["6f0c…"]`,
    `[{"id": "6f0c…", "issued_at": "2025-11-03 01:02:03"}]`.

    Raises:
        BadInput: the table has no primary key, or the keys are neither a condition nor such a list.
    """
    listed = _parse_list(keys) if isinstance(keys, str) and keys.lstrip().startswith("[") else keys
    if not key:
        raise BadInput("keys: the table has no primary key to name rows by; omit keys")
    if isinstance(listed, str):
        if not listed.strip():
            raise BadInput("keys is empty; omit it, or name rows by their key")
        return listed
    rows = [dict(value) if isinstance(value, Mapping) else {key[0]: value} for value in listed]
    if not rows or any(row.keys() != rows[0].keys() or not row or not row.keys() <= set(key) for row in rows):
        raise BadInput(
            f"keys: name rows by values of {key[0]}, or by objects, each with the same selection "
            f"of the key columns {', '.join(key)}"
        )
    return [{name: _as_text(value) for name, value in row.items()} for row in rows]


def _parse_list(text: str) -> Sequence[KeyValue | Mapping[str, KeyValue]]:
    try:
        return list(json.loads(text))
    except ValueError as error:
        raise BadInput(f"keys: not a JSON list ({error}); write for example {json.dumps(['a key', 'another'])}") from None


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise BadInput(f"keys: a {type(value).__name__} is not a value of a key column; write a text or a number")
