"""Clean-up of old rows: the result of a removal, the outcome of each rule, and their report."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo

from tasks.core.calendar import before, start_of_day
from tasks.core.context_keys import CleanUpRule
from tasks.core.partitions.timeline import spell_end
from tasks.core.report import markdown

Key = tuple[str, ...]
SHOWN = 5
NEWLINE = "\n"
MIDNIGHT = " 00:00:00"


def cutoff(rule: CleanUpRule, instant: datetime, kind: str, zone: tzinfo, timestamps: tzinfo) -> str:
    """Return the time before which rows are past retention, as a value of the column for the age.

    It is a midnight in the context's zone. `kind` is the type of the column; `timestamps` is the
    zone of timestamps without time zone.
    """
    midnight = start_of_day(before(instant, rule.keep, zone), zone)
    return spell_end(midnight, kind, timestamps if kind == "timestamp without time zone" else zone)


def groups(tables: Iterable[int], references: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return tables before those that they reference, in groups that reference each other."""
    reach = {table: {table} for table in tables}
    pairs = [pair for pair in references if pair[0] in reach and pair[1] in reach]
    for _ in reach:
        for child, parent in pairs:
            for table in reach:
                if child in reach[table]:
                    reach[table] |= reach[parent]
    # A table that reaches more tables references, directly or not, those that reach fewer.
    ordered = sorted(reach, key=lambda table: (-len(reach[table]), table))
    ordered_groups = list[list[int]]()
    for table in ordered:
        if not any(table in group for group in ordered_groups):
            ordered_groups.append([member for member in ordered if member in reach[table] and table in reach[member]])
    return ordered_groups


@dataclass
class Removed:
    """The result of a removal: keys of deleted rows by relation, and of rows that stay by reason.

    `unsure` are rows that a plan could not delete because rows still existed that a clean-up
    deletes before them. `examined` is the number of rows tried, `last` the age column and key of
    the last one. With `may_go`, some rows stay only because of rows of the rule's own tables, which
    a later pass may delete.
    """

    examined: int = 0
    deleted: dict[str, list[Key]] = field(default_factory=dict)
    stays: dict[str, list[Key]] = field(default_factory=dict)
    unsure: dict[str, list[Key]] = field(default_factory=dict)
    last: Sequence[str] | None = None
    may_go: bool = False

    def add(self, other: "Removed") -> None:
        """Add the result of another removal of the same rule."""
        self.examined += other.examined
        self.last = other.last or self.last
        self.may_go |= other.may_go
        for ours, theirs in ((self.deleted, other.deleted), (self.stays, other.stays), (self.unsure, other.unsure)):
            for name, keys in theirs.items():
                ours.setdefault(name, []).extend(keys)


@dataclass
class CleanUp:
    """A rule, and its plan or outcome; `untried` old rows are those that a plan could not try."""

    rule: CleanUpRule
    cutoff: str = ""
    rows: Counter[str] = field(default_factory=Counter)
    stays: dict[str, list[Key]] = field(default_factory=dict)
    unsure: dict[str, list[Key]] = field(default_factory=dict)
    sets: list[str] = field(default_factory=list)
    untried: int = 0
    problem: str = ""
    notes: list[str] = field(default_factory=list)

    def record(self, removed: Removed) -> None:
        """Add the result of a removal."""
        self.rows.update({name: len(keys) for name, keys in removed.deleted.items()})
        for ours, theirs in ((self.stays, removed.stays), (self.unsure, removed.unsure)):
            for reason, keys in theirs.items():
                ours.setdefault(reason, []).extend(keys)

    def forget_reasons(self) -> None:
        """Forget which rows stayed, because they are tried again."""
        self.stays, self.unsure = {}, {}

    @property
    def too_old(self) -> str:
        """The condition for rows past retention, as text for reports."""
        return f"{self.rule.clock.spelled} before {self.cutoff.removesuffix(MIDNIGHT)}" if self.cutoff else self.rule.keep

    @property
    def not_known(self) -> int:
        """The number of old rows of the rule's table about which the plan could not decide."""
        return self.untried + sum(len(keys) for keys in self.unsure.values())

    def fate(self, *, planned: bool) -> str:
        """Return the number of deleted rows by relation, as text.

        A plan adds the number of rows that are not known; after a failure nothing is known.
        """
        unknown = "not known" if self.problem else f"{self.not_known:,} not known" if self.not_known else ""
        return ", ".join(part for part in (self.rows_by_relation, unknown if planned else "") if part) or "none"

    @property
    def rows_by_relation(self) -> str:
        """The deleted rows, by relation."""
        return ", ".join(f"{count:,} of {name}" for name, count in self.rows.items() if count)

    @property
    def staying(self) -> int:
        """The number of old rows of the rule's table that stay."""
        return sum(len(keys) for keys in self.stays.values())

    @property
    def reason_counts(self) -> list[str]:
        """The reasons why rows stay, each with the number of rows."""
        return _counted(self.rule.table, self.stays)

    @property
    def reasons(self) -> list[str]:
        """Why rows stay, with keys of some: for reports, never for a log, state or error."""
        return _with_keys(self.rule.table, self.stays)

    @property
    def doubt_counts(self) -> list[str]:
        """Why it is not known whether rows would be deleted, with the number of rows for each."""
        return [*_counted(self.rule.table, self.unsure), *self._locked]

    @property
    def doubts(self) -> list[str]:
        """The same reasons with keys of some of these rows: for reports only."""
        return [*_with_keys(self.rule.table, self.unsure), *self._locked]

    @property
    def _locked(self) -> list[str]:
        line = f"{self.untried:,} rows of {self.rule.table}: locked by other sessions; plan again when they are done"
        return [line] if self.untried else []


def _counted(table: str, rows: Mapping[str, Sequence[Key]]) -> list[str]:
    return [f"{len(keys):,} rows of {table}: {reason}" for reason, keys in rows.items()]


def _with_keys(table: str, rows: Mapping[str, Sequence[Key]]) -> list[str]:
    return [
        f"{reason} ({'; '.join(', '.join(key) for key in keys[:SHOWN])}{' …' if len(keys) > SHOWN else ''})"
        for reason, keys in zip(_counted(table, rows), rows.values(), strict=True)
    ]


def verdict(clean_ups: Sequence[CleanUp], *, planned: bool) -> str:
    """Return in one line what a clean-up would do, or did."""
    rows = sum((clean_up.rows for clean_up in clean_ups), Counter[str]())
    parts = [", ".join(f"{count:,} rows of {name}" for name, count in rows.items())] if rows else ["no row"]
    parts[0] += " would be archived and deleted" if planned else " archived and deleted"
    if staying := sum(clean_up.staying for clean_up in clean_ups):
        parts.append(f"{staying:,} old rows stay")
    if unknown := sum(clean_up.not_known for clean_up in clean_ups):
        parts.append(f"{unknown:,} old rows: not known")
    problems = [f"{clean_up.rule.table}: {clean_up.problem}" for clean_up in clean_ups if clean_up.problem]
    if problems:
        return f"FAIL: {'; '.join([*problems, *parts])}"
    return f"{'PLANNED, nothing touched' if planned else 'CLEANED UP'}: {'; '.join(parts)}"


def clean_up_report(verdict: str, clean_ups: Sequence[CleanUp], commands: Sequence[str], *, planned: bool) -> str:
    """Return the report of a plan or of its outcome."""
    rows = [
        (
            f"`{clean_up.rule.table}`", clean_up.too_old,
            clean_up.fate(planned=planned), f"{clean_up.staying:,}", ", ".join(f"`{name}`" for name in clean_up.sets),
        )
        for clean_up in clean_ups
    ]  # fmt: skip
    heads = ["rule", "too old", "would be deleted" if planned else "deleted", "stay", "archived in"]
    columns = 4 if planned else 5
    table = (
        markdown.table(heads[:columns], [row[:columns] for row in rows], (3,)) if rows else "The context has no rules (`clean_up`)."
    )
    title = "To carry it out" if planned else "To restore rows"
    parts = [
        markdown.headline(verdict),
        f"{table}\n",
        markdown.section(
            "What failed", [f"{clean_up.rule.table}: {clean_up.problem}" for clean_up in clean_ups if clean_up.problem]
        ),
        markdown.section("Old rows that stay, and why", [reason for clean_up in clean_ups for reason in clean_up.reasons]),
        markdown.section("Not known", [doubt for clean_up in clean_ups for doubt in clean_up.doubts]),
        markdown.section("Worth knowing", [note for clean_up in clean_ups for note in clean_up.notes]),
        f"## {title}\n\n```sh\n{NEWLINE.join(commands)}\n```\n" if commands else "",
    ]
    return "\n".join(part for part in parts if part)


def clean_up_rows(clean_ups: Iterable[CleanUp]) -> list[dict[str, object]]:
    """Return one row per rule, for the table artifact."""
    return [
        {
            "rule": clean_up.rule.table,
            "older than": clean_up.rule.keep,
            "before": clean_up.cutoff,
            "rows": clean_up.rows_by_relation,
            "stay": clean_up.staying,
            "reasons": "; ".join(clean_up.reasons),
            "not known": "; ".join(clean_up.doubts),
            "sets": ", ".join(clean_up.sets),
            "problem": clean_up.problem,
        }
        for clean_up in clean_ups
    ]


def counted(deleted: Mapping[str, Sequence[Key]]) -> int:
    """Return the number of deleted rows."""
    return sum(map(len, deleted.values()))
