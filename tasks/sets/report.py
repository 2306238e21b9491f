"""Reports of verifications and prunings."""

from collections.abc import Sequence
from typing import Any

from prefect import get_run_logger

from tasks.core.context import Context
from tasks.core.errors import DamagedSet
from tasks.core.report import markdown
from tasks.core.restore.report import Purpose, RecoveryFacts, recovery_report
from tasks.core.run.phases import Phases
from tasks.core.sets.report import verification_verdict
from tasks.run.artifacts import publish
from tasks.run.run import Run, step
from tasks.sets.stage import Staged, staged_context
from tasks.sets.survey import Pruning
from tasks.store.address import StoreAddress


@step
def publish_pruning(context: Context, key: str, pruning: Pruning, *, dry_run: bool) -> str:
    """Publish the plan or the outcome of pruning; return the verdict."""
    prefix = "would be " if dry_run else ""
    lines = [
        *(f"{'would expire' if dry_run else 'expired'}: {entry.name.id}" for entry in pruning.expiring),
        *(f"{prefix}deleted, expired for a day or longer: {name.id}" for name in pruning.to_delete),
        *(f"{prefix}marked for deletion a day later, because it was never finished: {name.id}" for name in pruning.to_mark),
        *(f"{prefix}deleted, because it was never finished: {name.id}" for name in pruning.to_sweep),
        *(f"{prefix}aborted, an upload of {upload.begun:%Y-%m-%d}: {upload.key}" for upload in pruning.to_abort),
    ]
    deleted = f"{len(pruning.to_delete)} expired and {len(pruning.to_sweep)} unfinished ones are deleted"
    counts = f"{len(pruning.expiring)} sets expire, {deleted}, {len(pruning.decisions)} examined"
    verdict = f"{'PLANNED, nothing touched' if dry_run else 'PRUNED'}: {counts}"
    verdict = f"SUSPENDED: {pruning.suspended}" if pruning.suspended else verdict
    rows: list[dict[str, Any]] = [
        {"id": decision.set.id, "decision": "expires" if decision.expires else "stays", "why": decision.why}
        for decision in pruning.decisions
    ]
    text = "\n".join([
        markdown.headline(verdict), markdown.section("Done" if not dry_run else "To do", lines, "Nothing.\n"),
        markdown.section("Left alone", pruning.left_alone),
        markdown.table(["set", "decision", "why"], [(f"`{row['id']}`", row["decision"], row["why"]) for row in rows]),
    ])  # fmt: skip
    publish(f"{context.name}-{key}", verdict, text, rows, of="sets")
    for note in pruning.left_alone:
        get_run_logger().warning("left alone: %s", note)
    return verdict


def facts_of_set(store: StoreAddress, staged: Staged) -> dict[str, Any]:
    """Return the facts of a set for a report, with those of the context as it was then."""
    context = staged_context(staged.set)
    return {
        "manifest": staged.set.manifest, "contacts": context.contacts, "zone": context.zone,
        "rto": context.objectives.rto, "rpo": context.objectives.rpo, "groups": context.objectives.group_promises,
        "path": store.path(staged.set.name.folder), "passed_over": staged.passed_over, "aside": staged.aside,
    }  # fmt: skip


@step
def publish_verification(
    store: StoreAddress, run: Run, staged: Staged, phases: Phases, differences: Sequence[str], unmarked: str = ""
) -> str:
    """Publish the result of verifying a set, and why it could not be recorded, if so.

    Return the verdict.

    Raises:
        DamagedSet: rows or digests differ from the manifest.
    """
    facts = RecoveryFacts(
        Purpose.COPY, run.started, phases=phases.seconds, differences=differences, newest=False, off_host=store.off_host,
        to_do=[unmarked] if unmarked else [], **facts_of_set(store, staged),
    )  # fmt: skip
    verdict = verification_verdict(staged.set.manifest, phases.total, differences) + (", not marked" if unmarked else "")
    publish(f"{run.context}-verification", verdict, recovery_report(facts, verdict), [])
    if unmarked:
        get_run_logger().warning("%s", unmarked)
    if differences:
        raise DamagedSet(f"{verdict}: {'; '.join(differences)}")
    return verdict
