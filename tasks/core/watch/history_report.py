"""The report of some days of backups: one line that says it all, then what to look at, then the evidence."""

from collections.abc import Sequence
from datetime import datetime
from statistics import median

from tasks.core.report.charts import Points, over_time
from tasks.core.report.markdown import age, clock, duration, headline, local_time, promises, section, several, size, table
from tasks.core.restore.report import past_drills
from tasks.core.sets.facts import SetFacts
from tasks.core.sets.name import RULES, Kind
from tasks.core.watch.anomalies import Anomaly
from tasks.core.watch.history import Day, Overview

CHANGES_SHOWN, LOOKS_SHOWN = 40, 5
HOUR, MEGABYTE = 3600, 1_000_000


def overview_verdict(seen: Overview, found: Sequence[Anomaly]) -> str:
    """Return the one line that says how the backups are."""
    if not seen.sets:
        legacy = f" ({several(seen.legacy, 'legacy file')} there)" if seen.legacy else ""
        return f'EMPTY: no backup set of context "{seen.context}" in {seen.url}{legacy}; make one: `daily_backup`'
    others = sum(not RULES[one.kind].may_be_latest for one in seen.taken)
    taken = [
        several(seen.count(Kind.FULL), "full"), several(seen.count(Kind.DIFFERENTIAL), "differential"),
        *([several(others, "other set")] if others else []), size(sum(one.bytes for one in seen.taken)),
    ]  # fmt: skip
    look = several(len(found), "thing") if found else "nothing"
    return f"{several(seen.days, 'day')}: {', '.join(taken)}; {_recovery_point(seen)}; {_drilled(seen)}; {look} to look at"


def _recovery_point(seen: Overview) -> str:
    if not seen.can_be_restored:
        return "RPO MISSED, nothing can be restored"
    if not (worst := seen.worst) or not (since := seen.told_since):
        return "RPO not known yet"
    missed = f"MISSED {several(len(seen.missed), 'time')}" if seen.missed else "kept"
    told = f" since {since.astimezone(seen.zone):%Y-%m-%d}" if (since - seen.since).days else ""
    return f"RPO {missed}{told}, worst gap {clock(worst.age.total_seconds())}"


def _drilled(seen: Overview) -> str:
    passed = sum(one.passed for one in seen.drills)
    failed = len(seen.drills) - passed
    if not seen.drills:
        return "no drill"
    return ", ".join([f"{several(passed, 'drill')} passed"] * bool(passed) + [f"{several(failed, 'drill')} FAILED"] * bool(failed))


def overview_report(seen: Overview, said: str, found: Sequence[Anomaly]) -> str:
    """Return the report, of which `said` is the verdict, as markdown."""
    if not seen.sets:
        return headline(said)
    period = (
        f"From {local_time(seen.since, seen.zone)} to {local_time(seen.instant, seen.zone)}, context {seen.context}, {seen.url}\n"
    )
    parts = [
        headline(said), period, section("What to look at", (one.line for one in found), "Nothing.\n"), _objectives(seen),
        _points_over_time(seen), _sets(seen), past_drills("Drills", seen.drills, seen.objectives.rto, seen.zone), _looks(seen),
        _checks(seen), _days(seen),
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _objectives(seen: Overview) -> str:
    rpo, rto = (clock(one.total_seconds()) for one in (seen.objectives.rpo, seen.objectives.rto))
    times = [one.rto_seconds for one in seen.drills if one.proven]
    points = [one.rpo_seconds for one in seen.drills if one.rpo_seconds is not None]
    worst = seen.worst
    rows = [
        ("most that would have been lost (RPO)", rpo, clock(worst.age.total_seconds()) if worst else "-",
         f"at {local_time(worst.until, seen.zone)}" if worst else ""),
        ("age of the newest state now", rpo, clock(seen.gaps[-1].age.total_seconds()) if seen.gaps else "-", ""),
        ("longest recovery of a drill (RTO)", rto, clock(max(times)) if times else "-", several(len(times), "proven drill")),
        ("oldest state in a drill (RPO)", rpo, clock(max(points)) if points else "-", several(len(points), "drill")),
    ]  # fmt: skip
    told = promises(seen.objectives.told)
    shown = table(["what", "promised", "reached", ""], rows, right=(1, 2))
    return "\n".join(["## Objectives\n", f"{shown}\n", *([told] if told else [])])


def _points_over_time(seen: Overview) -> str:
    since = seen.told_since
    if since is None:
        return ""
    shown = [(max(gap.stored, since), gap) for gap in seen.gaps]
    points = [
        (instant.astimezone(seen.zone), (instant - gap.taken).total_seconds() / HOUR)
        for begun, gap in shown
        for instant in (begun, gap.until)
    ]
    limit = seen.objectives.rpo.total_seconds() / HOUR
    picture = over_time("age of the newest restorable state against the limit", {"age": points}, "hours", limit)
    told = "\n\n" + _why_since(seen, since) if since > seen.since else ""
    return f"## Recovery point\n\nHow old the newest restorable state was that was stored by then.{told}\n\n{picture}\n"


def _why_since(seen: Overview, since: datetime) -> str:
    why = "expired before that are not recorded" if since == seen.states_since else "there was no state before"
    sets = "sets that " if since == seen.states_since else ""
    return f"Told since {local_time(since, seen.zone)}: {sets}{why}."


def _sets(seen: Overview) -> str:
    rows = [_kind_row(kind, [one for one in seen.taken if one.kind is kind], seen.listed) for kind in Kind]
    heads = ["kind", "taken", "stored", "median", "longest run", "in the store now", "of size"]
    shown = {"fulls": Kind.FULL, "differentials": Kind.DIFFERENTIAL}
    series = {name: _sizes(seen, [one for one in seen.taken if one.kind is kind]) for name, kind in shown.items()}
    others = [one for one in seen.taken if one.kind not in shown.values()]
    drawn = {name: points for name, points in (series | {"others": _sizes(seen, others)}).items() if points}
    picture = over_time("stored size of each set", drawn, "MB") + "\n\n" if drawn else ""
    counted = table(heads, [row for row in rows if row], right=range(1, 7))
    return f"## Sets\n\n{picture}{counted}\n\n{_growth(seen)}"


def _sizes(seen: Overview, sets: Sequence[SetFacts]) -> Points:
    return [(one.instant.astimezone(seen.zone), one.bytes / MEGABYTE) for one in sets if one.instant]


def _kind_row(kind: Kind, taken: Sequence[SetFacts], listed: Sequence[SetFacts]) -> tuple[object, ...] | None:
    there = [one.bytes for one in listed if one.kind is kind]
    if not taken and not there:
        return None
    sizes, took = [one.bytes for one in taken], [one.took.total_seconds() for one in taken if one.took]
    return (
        kind, len(taken), size(sum(sizes)), size(round(median(sizes))) if sizes else "-", duration(max(took)) if took else "-",
        len(there), size(sum(there)),
    )  # fmt: skip


def _growth(seen: Overview) -> str:
    fulls = [one for one in seen.whole(Kind.FULL) if seen.is_recent(one)]
    if len(fulls) < 2 or not fulls[0].bytes:
        return ""
    first, last = fulls[0], fulls[-1]
    grown = 100 * (last.bytes / first.bytes - 1)
    return f"A full was {size(first.bytes)} (`{first.id}`) and is {size(last.bytes)} (`{last.id}`): {grown:+.1f} %.\n"


def _looks(seen: Overview) -> str:
    latest = [(f"`{one.id}`", one.state, local_time(at, seen.zone), _ago(seen, at)) for at, one in seen.looked_at[:LOOKS_SHOWN]]
    never = len(seen.listed) - len(seen.looked_at)
    drilled = seen.drill_records[:1]
    last = [f"the last drill was {_ago(seen, one.instant)}, of `{one.set or 'no set'}`: {one.verdict}" for one in drilled]
    said = [
        f"decoded or drilled: {len(seen.looked_at)} of {several(len(seen.listed), 'set')} in the store, {never} never",
        *last,
    ]
    shown = table(["set", "state", "last looked at", ""], latest) + "\n" if latest else ""
    return section("Decoded and drilled", said) + ("\n" + shown if shown else "")


def _ago(seen: Overview, instant: datetime) -> str:
    return f"{age((seen.instant - instant).total_seconds())} ago"


def _checks(seen: Overview) -> str:
    if not seen.checks:
        return section("Integrity checks", [], "None of these days is recorded.\n")
    last, changed = seen.checks[0], seen.changed_checks
    said = [f"{several(len(seen.checks), 'run')}, the last at {local_time(last.instant, seen.zone)}: {last.verdict}"]
    if not changed:
        return section("Integrity checks", [*said, "no check came out otherwise than the time before"])
    rows = [(local_time(one.instant, seen.zone), one.check, one.said) for one in changed[:CHANGES_SHOWN]]
    more = f"\n… and {len(changed) - CHANGES_SHOWN} changes before.\n" if len(changed) > CHANGES_SHOWN else ""
    return section("Integrity checks", said) + "\n" + table(["when", "check that changed", "how"], rows) + "\n" + more


def _days(seen: Overview) -> str:
    heads = ["day", "fulls", "differentials", "others", "stored", "most that would have been lost", "at", ""]
    return "## Each day\n\n" + table(heads, [_day_row(seen, day) for day in seen.by_day], right=(1, 2, 3, 4, 5)) + "\n"


def _day_row(seen: Overview, day: Day) -> tuple[object, ...]:
    kinds = [one.kind for one in day.sets]
    fulls, differentials = kinds.count(Kind.FULL), kinds.count(Kind.DIFFERENTIAL)
    counts = f"{day.start:%Y-%m-%d}", fulls, differentials, len(kinds) - fulls - differentials, size(day.bytes)
    if day.worst is None:
        return *counts, "-", "", ""
    until = day.worst.until.astimezone(seen.zone)
    at = f"{until:%H:%M}" if until.date() == day.start.date() else "24:00"
    kept = "kept" if day.worst.age <= seen.objectives.rpo else "**MISSED**"
    return *counts, clock(day.worst.age.total_seconds()), at, kept


def set_rows(seen: Overview) -> list[dict[str, object]]:
    """Return one row a set of these days, newest first, as plain values."""
    return [
        {
            "id": one.id, "verdict": one.verdict, "state of": local_time(one.instant, seen.zone) if one.instant else "-",
            "stored bytes": one.bytes, "seconds": round(one.took.total_seconds(), 1) if one.took else None, "kind": str(one.kind),
            "last looked at": f"{one.state} {local_time(one.verified, seen.zone)}" if one.verified else "never", "note": one.note,
        }
        for one in seen.taken
    ]  # fmt: skip
