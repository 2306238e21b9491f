"""Reports of restores into a live database: plans, results, tables restored side by side."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from tasks.core.checks.definition import Severity
from tasks.core.in_place.objects import How, ObjectChange
from tasks.core.in_place.plan import Change, Merged, MergePlan, collision_counts
from tasks.core.report.markdown import duration, headline, local_time, section, several, size, table

RESTORED, RESTORED_BUT, ROWS_SKIPPED = "RESTORED", "RESTORED, BUT OBJECTS DIFFER", "RESTORED, BUT ROWS WERE SKIPPED"
OBJECT = "object"
NOTHING = {False: "nothing differs", True: "no row differs, nothing is missing"}
SHOWN = 3


def plan_verdict(plan: MergePlan) -> str:
    """Return the plan's verdict in one line."""
    inserts, updates, deletes = plan.rows
    touched = sum(bool(change.rows) for change in plan.changes)
    what = (
        f"{inserts:,} rows to insert, {updates:,} to update, {deletes:,} to delete in {touched} "
        f"relations{_done(plan.done, 'to create', 'to change back', 'to drop')}: {plan.aim}"
    )
    if plan.refusals:
        return f"REFUSED, nothing touched: {'; '.join(plan.refusals[:5])}"
    nothing = "nothing to do" if plan.left or plan.skipped else NOTHING[bool(plan.not_compared)]
    left = f"; {objects_left(plan.left)} and would be left unchanged" if plan.left else ""
    left += f"; skipped: {', '.join(collision_counts(plan.skipped))}" if plan.skipped else ""
    left += f"{_neighbours_in_short(plan)}{_not_in_set(plan)}{_lasting(plan)}"
    return f"PLANNED, nothing touched: {nothing if plan.is_empty else what}{left}{plan.caution}"


def _not_in_set(plan: MergePlan) -> str:
    return f"; {plan.not_in_set}" if plan.not_in_set else ""


def _lasting(plan: MergePlan) -> str:
    return f"; an undo would not revert {len(plan.not_undone):,} of its changes, see the report" if plan.not_undone else ""


def _done(done: Sequence[ObjectChange], made: str, altered: str, dropped: str) -> str:
    new, gone = (sum(change.remedy.how is how for change in done) for how in (How.CREATE, How.DROP))
    counts = (new, made), (gone, dropped), (len(done) - new - gone, altered)
    return "".join(f", {several(count, OBJECT)} {word}" for count, word in counts if count)


def objects_left(left: Sequence[ObjectChange]) -> str:
    """Return how many objects differ from the set, with the first few names, errors first."""
    ordered = sorted(left, key=lambda change: change.severity is not Severity.ERROR)
    grave = sum(change.severity is Severity.ERROR for change in left)
    names = "; ".join(change.what.partition(" was [")[0] for change in ordered[:SHOWN])
    more = f"; and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
    return f"{several(len(left), OBJECT)} ({grave} of them errors: {names}{more}) differ"


def unchanged_verdict(plan: MergePlan) -> str:
    """Return the verdict of a restore that had nothing to do, in one line."""
    skipped = [f"skipped: {', '.join(collision_counts(plan.skipped))}"] if plan.skipped else []
    left = [f"{objects_left(plan.left)} and were left unchanged"] if plan.left else []
    nothing = f"{NOTHING[bool(plan.not_compared)]}, nothing was touched"
    outcome = f"nothing was touched; {', '.join([*skipped, *left])}" if skipped or left else nothing
    word = ROWS_SKIPPED if skipped else RESTORED_BUT if left else RESTORED
    return f"{word}: {outcome}: {plan.aim}{plan.caution}"


def unchanged_report(plan: MergePlan) -> str:
    """Return the markdown report of a restore that had nothing to do."""
    skipped = section("Still to do: rows that were skipped", [collision.line for collision in plan.skipped])
    return "\n".join(part for part in (headline(unchanged_verdict(plan)), skipped, _left(plan.left)) if part)


def _seen(plan: MergePlan) -> str:
    return section("Empty tables of other contexts, not restored", plan.seen)


def _neighbours_in_short(plan: MergePlan) -> str:
    if not plan.seen:
        return ""
    names = ", ".join(neighbour.partition(", which")[0] for neighbour in plan.seen[:SHOWN])
    more = f" and {len(plan.seen) - SHOWN} more" if len(plan.seen) > SHOWN else ""
    return f"; not restored: {names}{more} of other contexts, which refer to restored rows, may have lost their rows"


def _left(left: Sequence[ObjectChange]) -> str:
    ordered = sorted(left, key=lambda change: change.severity is not Severity.ERROR)
    return section("Still to do: objects that differ from the set", [change.line for change in ordered])


def plan_report(plan: MergePlan, zone: tzinfo, command: str = "") -> str:
    """Return the plan as markdown; `command` carries it out, if no approval is requested."""
    facts = [
        ("set", f"`{plan.backup}`"), ("state of", local_time(plan.state_of, zone)), ("database", f"`{plan.database}`"),
        ("comparing took", duration(plan.comparing_seconds)),
        ("writers of the context would wait about", duration(plan.waiting_seconds)),
        ("disk space for staging on the server", f"{size(plan.staged_bytes)}; written rows need "
                                                 "more, in tables and WAL; SQL "
         "cannot tell how much is free"),
    ]  # fmt: skip
    parts = [
        headline(plan_verdict(plan)), section("Why it is refused", plan.refusals), table(["what", "value"], facts) + "\n",
        _changes(plan.changes), section("Objects to create or change back", [change.line for change in plan.done]),
        section("What an undo would not revert", plan.not_undone),
        section("Triggers to enable or disable", plan.triggers),
        section("Objects that differ and are left as they are", [change.line for change in plan.left]),
        section("Live rows that have unique values of rows to restore", [collision.line for collision in plan.collisions]),
        section("Rows that would be skipped", [collision.line for collision in plan.skipped]),
        section("Definitions that only the set has", plan.taken_from_set),
        section("Worth knowing", plan.notes),
        section("Foreign keys of other contexts", [effect.line for effect in plan.effects]),
        section("Objects that are not in the set", plan.chores),
        _seen(plan), section("Who holds locks now", plan.holders), section("Sets passed over", plan.passed_over),
        "" if plan.refusals or plan.is_empty or not command else "## To carry it "
                                                                 f"out\n\n```\n{command}\n```\n",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _changes(changes: Sequence[Change]) -> str:
    """Return the relations that change as a table; all of them are in the table artifact."""
    changing = [change for change in changes if change.rows]
    same = f"{len(changes) - len(changing)} of {len(changes)} relations already equal the set.\n"
    rows = [
        (
            change.relation,
            f"{change.insert:,}",
            f"{change.update:,}",
            f"{change.delete:,}",
            f"{change.live_rows:,}",
            f"{change.set_rows:,}",
            change.why,
        )
        for change in changing
    ]
    titles = ["relation", "insert", "update", "delete", "live", "set", "why"][
        : None if any(change.why for change in changing) else -1
    ]
    shown = table(titles, [row[: len(titles)] for row in rows], range(1, 6)) + "\n\n" if rows else ""
    return f"## Rows\n\n{shown}{same}"


def change_rows(changes: Iterable[Change]) -> list[dict[str, object]]:
    """Return one row per relation, for the table artifact."""
    return [
        {
            "relation": change.relation, "live": change.live_rows, "in the set": change.set_rows, "insert": change.insert,
            "update": change.update, "delete": change.delete, "unchanged since the set": change.unchanged,
        }
        for change in changes
    ]  # fmt: skip


def merged_verdict(plan: MergePlan, merged: Merged) -> str:
    """Return the result's verdict in one line."""
    created = _done(merged.created, "created", "changed back", "dropped")
    left = f", {objects_left(merged.left)} and were left" if merged.left else ""
    rows = plan.about or f'the rows of database "{plan.database}" are those of {plan.backup}'
    skipped = f", skipped: {', '.join(collision_counts(merged.skipped))}" if merged.skipped else ""
    word = ROWS_SKIPPED if merged.skipped else RESTORED_BUT if merged.left else RESTORED
    return (
        f"{word}: {rows}: {merged.inserted:,} inserted, {merged.updated:,} updated, "
        f"{merged.deleted:,} deleted{skipped}{created}{left}; writers waited "
        f"{duration(merged.locked_seconds)}{_neighbours_in_short(plan)}{_not_in_set(plan)}{plan.caution}"
    )


def merged_report(plan: MergePlan, merged: Merged) -> str:
    """Return the report of a merge as markdown."""
    phases = [(name, duration(seconds)) for name, seconds in merged.phases.items()]
    parts = [
        headline(merged_verdict(plan, merged)),
        f"## To undo it\n\n```\n{merged.undo}\n```\n",
        "It restores the written tables, or the listed rows, to their state before: rows inserted "
        "since are deleted. "
        "Without its last line it only makes a plan.\n",
        section("What the undo does not revert", plan.not_undone),
        _changes(merged.changes),
        section("Created or changed back", [change.line for change in merged.created]),
        section("Repaired by checks", merged.repaired),
        section("Triggers switched", plan.triggers),
        section("Foreign keys of other contexts", [effect.line for effect in plan.effects]),
        _seen(plan),
        section("Sets passed over", plan.passed_over),
        "## Phases\n\n" + table(["phase", "time"], phases, (1,)) + "\n",
        section("Still to do: rows that were skipped", [collision.line for collision in merged.skipped]),
        _left(merged.left),
        section("Still to do: objects not in the set that may have gone with a table", plan.chores),
        section("Still to do", merged.notes, "" if merged.left or merged.skipped or plan.chores else "Nothing.\n"),
    ]
    return "\n".join(part for part in parts if part)


@dataclass(frozen=True)
class Beside:
    """A table that was restored under a new name beside the live one."""

    name: str
    table: str
    backup: str
    state_of: datetime
    database: str
    rows: int
    all_rows: int
    seconds: float
    key: Sequence[str] = ()
    notes: Sequence[str] = ()
    aside: str = ""


def beside_verdict(beside: Beside) -> str:
    """Return the verdict in one line."""
    part = "" if beside.rows == beside.all_rows else f" of {beside.all_rows:,}"
    return (
        f"RESTORED: {beside.rows:,}{part} rows of {beside.table} as of {beside.backup} are in "
        f"{beside.name} of database "
        f'"{beside.database}"; nothing else was touched'
    ) + (f"; {beside.backup} is SET ASIDE: {beside.aside}" if beside.aside else "")


def beside_report(beside: Beside, zone: tzinfo, passed_over: Sequence[str]) -> str:
    """Return the report of a restore beside the live table as Markdown, with the next steps."""
    facts = [
        ("set", f"`{beside.backup}`"), ("state of", local_time(beside.state_of, zone)), ("table", f"`{beside.name}`"),
        ("rows", f"{beside.rows:,} of {beside.all_rows:,}, read back and compared"), ("took", duration(beside.seconds)),
    ]  # fmt: skip
    gone = " AND ".join(f"l.{name} = r.{name}" for name in beside.key)
    look = f"SELECT r.* FROM {beside.name} r WHERE NOT EXISTS (SELECT FROM {beside.table} l WHERE {gone});\n"  # noqa: S608
    parts = [
        headline(beside_verdict(beside)),
        table(["what", "value"], facts) + "\n",
        f"## What to do with it\n\n```sql\n{look if beside.key else ''}DROP TABLE {beside.name};\n```\n",
        section("Worth knowing", beside.notes),
        section("Sets passed over", passed_over),
    ]
    return "\n".join(part for part in parts if part)
