"""Old rows that go: what a removal did, what became of each rule, and how that is told."""

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
    """Return before which time rows are too old, as their clock column spells it: a midnight of the context's zone.

    `kind` is the type of the column; `timestamps` is the zone that timestamps without time zone mean.
    """
    midnight = start_of_day(before(instant, rule.keep, zone), zone)
    return spell_end(midnight, kind, timestamps if kind == "timestamp without time zone" else zone)


def groups(tables: Iterable[int], references: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return tables such that each comes before those that it refers to; those that refer to each other are in one group."""
    reach = {one: {one} for one in tables}
    pairs = [pair for pair in references if pair[0] in reach and pair[1] in reach]
    for _ in reach:
        for child, parent in pairs:
            for one in reach:
                if child in reach[one]:
                    reach[one] |= reach[parent]
    # Whoever reaches more refers, in the end, to those that reach less.
    ordered = sorted(reach, key=lambda one: (-len(reach[one]), one))
    found = list[list[int]]()
    for one in ordered:
        if not any(one in group for group in found):
            found.append([other for other in ordered if other in reach[one] and one in reach[other]])
    return found


@dataclass
class Removed:
    """What a removal did: rows that went, by relation and with their keys; and rows of the rule's table that stay, by reason.

    `unsure` are those of a plan that were refused while rows were still there that would go first. `last` is clock and key of the
    last row that was looked at, `found` is how many; `may_go` if rows stay only because of rows of the rule's own tables, which may
    be gone the next time.
    """

    found: int = 0
    gone: dict[str, list[Key]] = field(default_factory=dict)
    stays: dict[str, list[Key]] = field(default_factory=dict)
    unsure: dict[str, list[Key]] = field(default_factory=dict)
    last: Sequence[str] | None = None
    may_go: bool = False

    def add(self, other: "Removed") -> None:
        """Take what another removal of the same rule did to this one."""
        self.found += other.found
        self.last = other.last or self.last
        self.may_go |= other.may_go
        for mine, others in ((self.gone, other.gone), (self.stays, other.stays), (self.unsure, other.unsure)):
            for name, keys in others.items():
                mine.setdefault(name, []).extend(keys)


@dataclass
class CleanUp:
    """One rule, and what is to become, or became, of its old rows; `untried` are those that a plan could not look at."""

    rule: CleanUpRule
    cutoff: str = ""
    rows: Counter[str] = field(default_factory=Counter)
    stays: dict[str, list[Key]] = field(default_factory=dict)
    unsure: dict[str, list[Key]] = field(default_factory=dict)
    sets: list[str] = field(default_factory=list)
    untried: int = 0
    problem: str = ""
    notes: list[str] = field(default_factory=list)

    def took(self, removed: Removed) -> None:
        """Count what a removal did."""
        self.rows.update({name: len(keys) for name, keys in removed.gone.items()})
        for mine, others in ((self.stays, removed.stays), (self.unsure, removed.unsure)):
            for reason, keys in others.items():
                mine.setdefault(reason, []).extend(keys)

    def look_again(self) -> None:
        """Forget which rows stayed: they are looked at once more."""
        self.stays, self.unsure = {}, {}

    @property
    def too_old(self) -> str:
        """Which rows are too old."""
        return f"{self.rule.clock.said} before {self.cutoff.removesuffix(MIDNIGHT)}" if self.cutoff else self.rule.keep

    @property
    def not_known(self) -> int:
        """How many old rows of the rule's table may go, and may stay, as far as a plan could find out."""
        return self.untried + sum(len(keys) for keys in self.unsure.values())

    def fate(self, *, planned: bool) -> str:
        """Return what went, by relation; in a plan also of how many rows that is not known: if the rule failed, of any."""
        unknown = "not known" if self.problem else f"{self.not_known:,} not known" if self.not_known else ""
        return ", ".join(part for part in (self.said_rows, unknown if planned else "") if part) or "none"

    @property
    def said_rows(self) -> str:
        """The rows that went, by relation."""
        return ", ".join(f"{count:,} of {name}" for name, count in self.rows.items() if count)

    @property
    def staying(self) -> int:
        """How many old rows of the rule's table stay."""
        return sum(len(keys) for keys in self.stays.values())

    @property
    def counted_reasons(self) -> list[str]:
        """Why rows stay, with how many."""
        return _counted(self.rule.table, self.stays)

    @property
    def reasons(self) -> list[str]:
        """The same with the first of their keys: for reports, never for a log, a state or an error."""
        return _with_keys(self.rule.table, self.stays)

    @property
    def counted_doubts(self) -> list[str]:
        """Why it is not known of rows whether they go, with how many."""
        return [*_counted(self.rule.table, self.unsure), *self._locked]

    @property
    def doubts(self) -> list[str]:
        """The same with the first of their keys, for reports."""
        return [*_with_keys(self.rule.table, self.unsure), *self._locked]

    @property
    def _locked(self) -> list[str]:
        said = f"{self.untried:,} rows of {self.rule.table}: others work on them; plan again when they are done"
        return [said] if self.untried else []


def _counted(table: str, rows: Mapping[str, Sequence[Key]]) -> list[str]:
    return [f"{len(keys):,} rows of {table}: {reason}" for reason, keys in rows.items()]


def _with_keys(table: str, rows: Mapping[str, Sequence[Key]]) -> list[str]:
    return [
        f"{reason} ({'; '.join(', '.join(key) for key in keys[:SHOWN])}{' …' if len(keys) > SHOWN else ''})"
        for reason, keys in zip(_counted(table, rows), rows.values(), strict=True)
    ]


def verdict(found: Sequence[CleanUp], *, planned: bool) -> str:
    """Return in one line what would be done, or was."""
    rows = sum((one.rows for one in found), Counter[str]())
    said = [", ".join(f"{count:,} rows of {name}" for name, count in rows.items())] if rows else ["no row"]
    said[0] += " would be archived and deleted" if planned else " archived and deleted"
    if staying := sum(one.staying for one in found):
        said.append(f"{staying:,} old rows stay")
    if unknown := sum(one.not_known for one in found):
        said.append(f"{unknown:,} old rows may go: not known")
    problems = [f"{one.rule.table}: {one.problem}" for one in found if one.problem]
    if problems:
        return f"FAIL: {'; '.join([*problems, *said])}"
    return f"{'PLANNED, nothing touched' if planned else 'CLEANED UP'}: {'; '.join(said)}"


def clean_up_report(said: str, found: Sequence[CleanUp], commands: Sequence[str], *, planned: bool) -> str:
    """Return the report of a plan, or of what was done."""
    rows = [
        (
            f"`{one.rule.table}`", one.too_old,
            one.fate(planned=planned), f"{one.staying:,}", ", ".join(f"`{name}`" for name in one.sets),
        )
        for one in found
    ]  # fmt: skip
    heads = ["rule", "too old", "would go" if planned else "deleted", "stay", "archived in"]
    shown = 4 if planned else 5
    table = markdown.table(heads[:shown], [row[:shown] for row in rows], (3,)) if rows else "The context has no rules (`clean_up`)."
    title = "To do it" if planned else "To bring rows back"
    parts = [
        markdown.headline(said), f"{table}\n",
        markdown.section("What failed", [f"{one.rule.table}: {one.problem}" for one in found if one.problem]),
        markdown.section("Old rows that stay, and why", [reason for one in found for reason in one.reasons]),
        markdown.section("Not known", [doubt for one in found for doubt in one.doubts]),
        markdown.section("Worth knowing", [note for one in found for note in one.notes]),
        f"## {title}\n\n```sh\n{NEWLINE.join(commands)}\n```\n" if commands else "",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def clean_up_rows(found: Iterable[CleanUp]) -> list[dict[str, object]]:
    """Return one row a rule, for the table artifact."""
    return [
        {
            "rule": one.rule.table, "older than": one.rule.keep, "before": one.cutoff, "rows": one.said_rows, "stay": one.staying,
            "reasons": "; ".join(one.reasons), "not known": "; ".join(one.doubts), "sets": ", ".join(one.sets),
            "problem": one.problem,
        }
        for one in found
    ]  # fmt: skip


def counted(gone: Mapping[str, Sequence[Key]]) -> int:
    """Return how many rows went."""
    return sum(map(len, gone.values()))
