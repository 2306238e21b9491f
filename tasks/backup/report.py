"""The report of a backup."""

from datetime import datetime

from prefect import get_run_logger

from tasks.core.backup.report import ACCEPT, Rehearsal, backup_report, backup_verdict, relation_rows
from tasks.core.errors import OperationError
from tasks.core.sets.manifest import Manifest
from tasks.run.artifacts import publish
from tasks.run.run import step
from tasks.run.site import Site
from tasks.sets.manifest import name_of
from tasks.sets.upload import missing_class


@step
def publish_backup(
    site: Site,
    manifest: Manifest,
    started: datetime,
    local_copy: str | None = None,
    rehearsal: Rehearsal | None = None,
) -> str:
    """Publish the report and table of a backup, its local copy and its drill; return the verdict.

    Raises:
        OperationError: the set is stored, but lost many rows, or conflicts with another history.
    """
    lacking = missing_class(site.store, site.context.storage_classes, manifest.kind)
    manifest = manifest.model_copy(update={"warnings": [*manifest.warnings, *lacking]})
    context, seconds = site.context, (manifest.finished - started).total_seconds()
    path = site.store.path(name_of(manifest).folder)
    verdict = backup_verdict(manifest, seconds, context.zone)
    text = backup_report(
        manifest, path, seconds, context.zone, off_host=site.store.off_host, local_copy=local_copy, rehearsal=rehearsal
    )
    publish(f"{context.name}-backup", verdict, text, relation_rows(manifest.relations))
    for warning in manifest.warnings:
        get_run_logger().warning("%s", warning)
    if manifest.losses:
        raise OperationError(f"{verdict}; {ACCEPT}")
    if manifest.aside:
        raise OperationError(verdict)
    return verdict
