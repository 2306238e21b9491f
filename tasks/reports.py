"""Artifacts: what a person finds in Prefect's UI after a run."""

from datetime import datetime
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from tasks.core import report
from tasks.core.errors import OperationError
from tasks.core.manifest import Manifest
from tasks.runs import step
from tasks.sets import Listing, name_of
from tasks.sites import Site


@step
def publish_backup(site: Site, manifest: Manifest, started: datetime, local_copy: str | None = None) -> str:
    """Publish the report and the table of a backup, with what became of its local copy; return its verdict.

    Raises:
        OperationError: the set is stored, but suspect: too many rows are gone; or it found that sets are of another history.
    """
    context, seconds = site.context, (manifest.finished - started).total_seconds()
    path = site.store.path(name_of(manifest).folder)
    verdict = report.backup_verdict(manifest, seconds, context.zone)
    text = report.backup_report(manifest, path, seconds, context.zone, off_host=site.store.off_host, local_copy=local_copy)
    publish(f"{context.name}-backup", verdict, text, report.relation_rows(manifest.relations))
    for warning in manifest.warnings:
        get_run_logger().warning("%s", warning)
    if manifest.losses:
        raise OperationError(f"{verdict}; {report.ACCEPT}")
    if manifest.aside:
        raise OperationError(verdict)
    return verdict


def publish(key: str, verdict: str, text: str, rows: list[dict[str, Any]], of: str = "relations") -> None:
    """Publish a report, and the table that belongs to it, under their keys; the verdict is what is seen first."""
    create_markdown_artifact(key=key, markdown=text, description=verdict)
    if rows:
        create_table_artifact(key=f"{key}-{of}", table=rows, description=verdict)
    get_run_logger().info("%s", verdict)


@step
def publish_listing(context: str, listing: Listing, rows: list[dict[str, Any]], instant: datetime) -> None:
    """Publish the table of backup sets."""
    description = f"{len(listing.sets)} sets, {len(listing.legacy)} legacy files, {len(listing.unfinished)} unfinished"
    create_table_artifact(key=f"{context}-backups", table=rows, description=f"{description}, {instant:%Y-%m-%d %H:%M}Z")
