"""Artifacts: what a person finds in Prefect's UI after a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.core import report
from tasks.core.context import Context
from tasks.core.errors import DamagedSet, RestoreDiffers
from tasks.core.kinds import set_folder
from tasks.core.manifest import Manifest
from tasks.recoveries import Recovery, staged_context, to_do
from tasks.sets import Listing
from tasks.sites import Site


@task(cache_policy=NO_CACHE)
def publish_backup(site: Site, manifest: Manifest, started: datetime) -> str:
    """Publish the report and the table of a backup; return its verdict."""
    context, seconds = site.context, (manifest.finished - started).total_seconds()
    path = site.store.path(set_folder(manifest.context, manifest.kind, manifest.id))
    verdict = report.backup_verdict(manifest, seconds, context.zone)
    text = report.backup_report(manifest, path, seconds, context.zone, off_host=site.store.off_host)
    _publish(f"{context.name}-backup", verdict, text, report.relation_rows(manifest.relations))
    for warning in manifest.warnings:
        get_run_logger().warning("%s", warning)
    return verdict


@task(cache_policy=NO_CACHE)
def publish_recovery(context: Context, recovery: Recovery) -> str:
    """Publish the report and the table of a recovery; return its verdict."""
    manifest, database = recovery.manifest, recovery.chosen.name
    verdict = report.recovery_verdict(manifest, database, recovery.phases.total, recovery.differences, recovery.passed_over)
    text = _recovery_text(verdict, context, recovery)
    _publish(f"{context.name}-recovery", verdict, text, report.relation_rows(manifest.relations, recovery.load_seconds))
    return verdict


def _recovery_text(verdict: str, context: Context, recovery: Recovery) -> str:
    path = recovery.store.path(recovery.staged.name.folder) if recovery.staged else "-"
    return report.recovery_report(
        recovery.manifest, verdict, path, recovery.phases.seconds, recovery.load_seconds, recovery.differences,
        recovery.passed_over, to_do(recovery) if recovery.target else [], context.zone,
    )  # fmt: skip


@task(cache_policy=NO_CACHE)
def publish_verification(context: Context, recovery: Recovery) -> str:
    """Publish what the verification of a set found; return its verdict.

    Raises:
        DamagedSet: rows or digests are not those of the manifest.
    """
    manifest = recovery.manifest
    verdict = report.verification_verdict(manifest, recovery.phases.total, recovery.differences)
    _publish(f"{context.name}-verification", verdict, _recovery_text(verdict, context, recovery), [])
    if recovery.differences:
        raise DamagedSet(f"{verdict}: {'; '.join(recovery.differences)}")
    return verdict


@contextmanager
def reported(recovery: Recovery) -> Iterator[None]:
    """Publish the report also of a recovery that differs from its backup; the run fails after that."""
    try:
        yield
    except RestoreDiffers as error:
        recovery.differences = recovery.differences or [str(error)]
        publish_recovery(staged_context(recovery), recovery)
        raise


def _publish(key: str, verdict: str, text: str, rows: list[dict[str, Any]]) -> None:
    create_markdown_artifact(key=key, markdown=text, description=verdict)
    if rows:
        create_table_artifact(key=f"{key}-relations", table=rows, description=verdict)
    get_run_logger().info("%s", verdict)


@task(cache_policy=NO_CACHE)
def publish_listing(context: str, listing: Listing, rows: list[dict[str, Any]], instant: datetime) -> None:
    """Publish the table of backup sets."""
    description = f"{len(listing.sets)} sets, {len(listing.legacy)} legacy files, {len(listing.unfinished)} unfinished"
    create_table_artifact(key=f"{context}-backups", table=rows, description=f"{description}, {instant:%Y-%m-%d %H:%M}Z")
