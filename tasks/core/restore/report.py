"""The report of a recovery or a drill; after a failure it has what was done until then.

It is one long module because its facts, verdict and sections are read together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum

from tasks.core.backup.report import relation_table
from tasks.core.checks.definition import Finding, Verdict, summary
from tasks.core.checks.report import finding_line
from tasks.core.context_keys import Contact
from tasks.core.report.charts import against_limit, bars
from tasks.core.report.markdown import clock, duration, headline, local_time, promises, section, several, size, table
from tasks.core.restore.drill import DrillRecord, carries_to_bytes, recovery_point_age
from tasks.core.restore.trigger_result import Exercise, Outcome
from tasks.core.sets.left_out import in_short
from tasks.core.sets.manifest import Manifest

# How many failing writes a verdict lists.
SHOWN = 3


class Purpose(StrEnum):
    """The purpose of a restore; only a drill fails if an objective is missed."""

    RECOVERY = "recovery"
    COPY = "copy"
    DRILL = "drill"


@dataclass(frozen=True)
class RecoveryFacts:
    """The facts of a restore, in seconds; no set if it failed before one was chosen."""

    purpose: Purpose
    started: datetime
    path: str
    phases: Mapping[str, float]
    manifest: Manifest | None = None
    database: str | None = None
    failure: str | None = None
    differences: Sequence[str] = ()
    passed_over: Sequence[str] = ()
    removed: Sequence[str] = ()
    to_do: Sequence[str] = ()
    load_seconds: Mapping[str, float] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    exercises: Sequence[Exercise] = ()
    records: Sequence[DrillRecord] = ()
    contacts: Sequence[Contact] = ()
    database_bytes: int | None = None
    rto: timedelta = timedelta(hours=4)
    rpo: timedelta = timedelta(hours=4)
    groups: Sequence[tuple[Sequence[str], float, float]] = ()
    zone: tzinfo = UTC
    newest: bool = True
    off_host: bool = True
    proven: bool = False
    aside: str = ""
    schema_was_there: bool = False
    kit: str = ""

    @property
    def rto_seconds(self) -> float:
        """Seconds from the start of the run to the end of its last phase."""
        return sum(self.phases.values())

    @property
    def rpo_seconds(self) -> float | None:
        """Seconds of data loss for a disaster at the start; None for a set chosen by name."""
        if self.manifest is None or not self.newest:
            return None
        return recovery_point_age(self.manifest.snapshot.instant, self.started).total_seconds()

    @property
    def missed(self) -> list[str]:
        """The recovery objectives that were missed."""
        rpo = self.rpo_seconds
        # To the second, as both are shown.
        late = round(self.rto_seconds) > self.rto.total_seconds()
        lost = rpo is not None and round(rpo) > self.rpo.total_seconds()
        return [name for name, is_missed in (("RTO", late), ("RPO", lost)) if is_missed and self.purpose is not Purpose.COPY]

    @property
    def broken_writes(self) -> list[Exercise]:
        """Writes that fail in the restored database, because triggers or defaults fail."""
        return [exercise for exercise in self.exercises if exercise.outcome is Outcome.FAILED]

    @property
    def untried_writes(self) -> list[Exercise]:
        """Writes that could not be tried."""
        return [exercise for exercise in self.exercises if exercise.outcome is Outcome.NOT_TRIED]

    @property
    def broken_rules(self) -> list[Finding]:
        """Checks of severity error that found violations."""
        return [finding for finding in self.findings if finding.fails and finding.verdict is Verdict.FAILED]

    @property
    def unrun(self) -> list[Finding]:
        """Checks of severity error that could not be run."""
        return [finding for finding in self.findings if finding.fails and finding.verdict is Verdict.BROKEN]

    @property
    def problems(self) -> list[str]:
        """The reasons why the restore failed; empty if it succeeded."""
        if self.failure:
            return [self.failure]
        if self.differences:
            return [f"{len(self.differences)} differences from the backup: {'; '.join(self.differences[:3])}"]
        reasons = list[str]()
        if self.broken_writes:
            words = (
                "writes fail because of triggers" if all(exercise.triggers for exercise in self.broken_writes) else "writes fail"
            )
            reasons.append(f"{len(self.broken_writes)} {words}")
        if self.purpose is Purpose.DRILL:
            reasons += [f"{name} missed" for name in self.missed]
            reasons += [f"{len(self.passed_over)} newer sets passed over"] if self.passed_over else []
            reasons += ["the set is SUSPECT"] if self.manifest and self.manifest.losses else []
            reasons += [f"{len(self.unrun)} checks could not be run"] if self.unrun else []
        return reasons


def recovery_verdict(facts: RecoveryFacts) -> str:
    """Return the verdict in one line: whether the database is restored, how fast, and how fresh."""
    is_back = facts.proven and facts.purpose is not Purpose.DRILL and not facts.failure and not facts.differences
    if is_back and facts.broken_writes:
        parts = [*_briefly(facts.broken_writes), _reached(facts)]
        word = "RECOVERED, WRITES FAIL"
    else:
        parts = [", ".join(filter(None, (*facts.problems, _reached(facts))))]
        word = "FAIL" if facts.problems else "PASS"
    if facts.manifest and facts.proven:
        drill = facts.purpose is Purpose.DRILL
        parts.append(f"set {facts.manifest.id}" if drill else f'database "{facts.database}" from {facts.manifest.id}')
        parts += [short] if (short := in_short(facts.manifest)) else []
    if facts.passed_over and facts.purpose is not Purpose.DRILL:
        parts.append(f"{len(facts.passed_over)} sets passed over")
    if facts.aside:
        parts.append(f"the set is SET ASIDE: {facts.aside}")
    if facts.missed and facts.purpose is Purpose.RECOVERY:
        parts.append(f"{' and '.join(facts.missed)} missed")
    if facts.purpose is not Purpose.DRILL:
        parts += ["the set is SUSPECT"] if facts.manifest and facts.manifest.losses else []
        parts += [f"{len(facts.unrun)} checks could not be run"] if facts.unrun else []
    if facts.untried_writes:
        parts.append(f"{len(facts.untried_writes)} writes could not be tried")
    if facts.broken_rules:
        parts.append(f"{_whose(facts)} ({len(facts.broken_rules)} checks)")
    return f"{word}: {'; '.join(parts)}"


def _briefly(broken: Iterable[Exercise]) -> list[str]:
    """Return the first few distinct errors of failing writes, each with its table."""
    lines = list(dict.fromkeys(f"{exercise.table}: {exercise.note}" for exercise in broken))
    return [*lines[:SHOWN], *([f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])]


def _whose(facts: RecoveryFacts) -> str:
    """Return what failed checks mean: if the backup is equal, the source violated them too."""
    return "integrity checks failed" if facts.schema_was_there else "the source was already inconsistent"


def _reached(facts: RecoveryFacts) -> str:
    if facts.purpose is Purpose.COPY:
        reached = f"restored in {clock(facts.rto_seconds)}"
    else:
        reached = f"RTO {clock(facts.rto_seconds)} of {clock(facts.rto.total_seconds())}"
        if facts.rpo_seconds is not None:
            reached += f", RPO {clock(facts.rpo_seconds)} of {clock(facts.rpo.total_seconds())}"
    if not facts.proven or facts.manifest is None:
        return "" if facts.problems else reached
    large = facts.manifest.large_objects
    objects = f" and {several(large.objects, 'large object')}" if large and large.objects else ""
    return f"{reached}, {len(facts.manifest.relations)} relations{objects} identical"


def recovery_report(facts: RecoveryFacts, verdict: str) -> str:
    """Return the report as Markdown: failures and what is still to do first, then the evidence."""
    parts = [
        headline(verdict),
        "" if facts.off_host else "**Not off-host:** the store is a folder; if this machine is lost, so are the backups.\n",
        section("What failed", [facts.failure] if facts.failure else []),
        section("Differences from the backup", facts.differences),
        section("Writes that fail", [exercise.line for exercise in facts.broken_writes]),
        section("Writes that could not be tried", [exercise.line for exercise in facts.untried_writes]),
        section("Newer sets that were passed over", facts.passed_over),
        section("The named set is set aside", [facts.aside] if facts.aside else []),
        section("Suspect: rows were missing when this set was taken", facts.manifest.losses if facts.manifest else []),
        section("Checks that could not be run", map(finding_line, facts.unrun)),
        section(f"{_whose(facts).capitalize()} (rows are those of the backup)", map(finding_line, facts.broken_rules)),
        section("Still to do", facts.to_do, "Nothing.\n"),
        section("Recovery kit", [facts.kit] if facts.kit else []),
        _objectives(facts),
        _phases(facts),
        _checks(facts),
        _triggers(facts),
        _relations(facts),
        past_drills("The last drills", facts.records, facts.rto, facts.zone),
        section("Databases that earlier runs left, and that were dropped", facts.removed),
        section("Warnings of the backup", facts.manifest.warnings if facts.manifest else []),
        section("Contacts", [f"{contact.role}: {contact.reach}" for contact in facts.contacts]),
    ]
    return "\n".join(part for part in parts if part)


def _objectives(facts: RecoveryFacts) -> str:
    rows = [
        (
            "recovery time (RTO)",
            clock(facts.rto_seconds),
            clock(facts.rto.total_seconds()),
            "from the start of the run to the end of its last phase",
        )
    ]
    if facts.rpo_seconds is not None:
        rows.append(
            (
                "recovery point (RPO)",
                clock(facts.rpo_seconds),
                clock(facts.rpo.total_seconds()),
                "age of the state at the start of the run",
            )
        )
    lines = [
        table(["objective", "reached", "limit", "measured"], rows, right=(1, 2)),
        "",
        *([promises(facts.groups)] if facts.groups else []),
    ]
    if facts.manifest:
        manifest = facts.manifest
        known = [
            ("set", f"`{manifest.id}`"), ("path", f"`{facts.path}`"),
            ("state of", local_time(manifest.snapshot.instant, facts.zone)),
            ("source", f"PostgreSQL {manifest.versions.server}, database {manifest.database.name}"),
        ]  # fmt: skip
        lines += [table(["what", "value"], known), ""]
    return "## Objectives\n\n" + "\n".join([*lines, _carries(facts)])


def _carries(facts: RecoveryFacts) -> str:
    """Return an estimate of the database size up to which the RTO would be kept."""
    limit = carries_to_bytes(record_of(facts, "", "")) if facts.purpose is not Purpose.COPY else None
    if not limit or not facts.database_bytes:
        return ""
    return (
        f"The restored database takes {size(facts.database_bytes)}. If the time grew in "
        "proportion, the RTO would be missed at "
        f"about **{size(limit)}**, {limit / facts.database_bytes:,.0f} times as much. This is "
        "extrapolated from this run alone, "
        "not measured: indexes take slightly more than in proportion, and a slower network or disk "
        "adds to it.\n"
    )


def _phases(facts: RecoveryFacts) -> str:
    timed = [*((name, duration(seconds)) for name, seconds in facts.phases.items()), ("**total**", duration(facts.rto_seconds))]
    picture = bars("seconds of each phase", facts.phases) if facts.phases else ""
    return f"## Phases\n\n{picture}\n\n" + table(["phase", "time"], timed, right=(1,)) + "\n"


def _checks(facts: RecoveryFacts) -> str:
    if not facts.findings:
        return ""
    others = [finding_line(finding) for finding in facts.findings if finding.is_remarkable and not finding.fails]
    return f"## Integrity checks: {summary(facts.findings)}\n\n" + "".join(f"- {line}\n" for line in others)


def _triggers(facts: RecoveryFacts) -> str:
    if not facts.exercises:
        return ""
    rows = [
        (exercise.table, exercise.event, ", ".join(exercise.triggers), exercise.outcome, exercise.note)
        for exercise in facts.exercises
    ]
    back = f"Sequence values used for this are {'skipped' if facts.schema_was_there else 'reset'}."
    outcomes = table(["table", "event", "triggers", "outcome", "note"], rows)
    return f"## Test writes, with their triggers, rolled back\n\n{outcomes}\n\n{back}\n"


def _relations(facts: RecoveryFacts) -> str:
    if facts.manifest is None:
        return ""
    title = (
        "each compared by row count and digest, and identical"
        if facts.proven
        else "the figures are those of the backup; equality was NOT proven"
    )
    return f"## Relations, {title}\n\n" + relation_table(facts.manifest, facts.load_seconds) + "\n"


def past_drills(title: str, newest_first: Sequence[DrillRecord], rto: timedelta, zone: tzinfo) -> str:
    """Return the section of past drills: a chart of the proven ones, and a table."""
    if not newest_first:
        return ""
    points = [
        (record.instant.astimezone(zone), record.rto_seconds, record.passed) for record in reversed(newest_first) if record.proven
    ]
    picture = against_limit("recovery time of the last drills against the limit", points, rto.total_seconds()) if points else ""
    rows = [
        (
            local_time(record.instant, zone), clock(record.rto_seconds) if record.proven else "-",
            "-" if record.rpo_seconds is None else clock(record.rpo_seconds),
            size(record.database_bytes) if record.database_bytes else "-",
            record.verdict.partition(":")[0],
        )
        for record in newest_first
    ]  # fmt: skip
    return f"## {title}\n\n{picture}\n\n" + table(["when", "RTO", "RPO", "database", "verdict"], rows, right=(1, 2, 3)) + "\n"


def record_of(facts: RecoveryFacts, run: str, verdict: str) -> DrillRecord:
    """Return the record of a drill."""
    return DrillRecord(
        instant=facts.started, run=run, set=facts.manifest.id if facts.manifest else None, verdict=verdict,
        passed=not facts.problems, proven=facts.proven, rto_seconds=facts.rto_seconds, rto_limit_seconds=facts.rto.total_seconds(),
        rpo_seconds=facts.rpo_seconds, rpo_limit_seconds=facts.rpo.total_seconds(), database_bytes=facts.database_bytes,
        rows=facts.manifest.rows if facts.manifest else None, phases=dict(facts.phases),
        number=facts.manifest.number if facts.manifest else None,
        schema_fingerprint=facts.manifest.schema_fingerprint if facts.manifest else None,
    )  # fmt: skip
