"""Comparing row counts, digests and objects of a restored database with its set."""

from collections.abc import Sequence

from tasks.core.database.comparison import compare_inventories
from tasks.core.errors import BadInput, RestoreDiffers
from tasks.core.postgres.connection import Server, connect
from tasks.core.postgres.source_path import read_source_path
from tasks.core.rows.digest import RowDigest
from tasks.core.rows.job import StreamJob
from tasks.core.run.phases import Phases
from tasks.core.sets.hash_partitions import unlike
from tasks.core.sets.left_out import without_absent
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.shared_schema import comparable
from tasks.database import catalog
from tasks.database.rows import read_back, reading_job, split
from tasks.database.spelling import spelled_here
from tasks.restore.database import unforced
from tasks.restore.fill import Filled
from tasks.restore.foreign_keys import KeyOutcome, exclude_unmade_keys
from tasks.restore.target import Target
from tasks.run import progress
from tasks.run.run import Run, step
from tasks.run.spread import spread
from tasks.sets.column_order import comparable_manifest
from tasks.sets.stage import StagedSet, staged_context


def compare_with_manifest(staged: StagedSet, target: Target, filled: Filled, run: Run, phases: Phases) -> None:
    """Compare row counts, digests and objects of the new database with the manifest.

    Raises:
        RestoreDiffers: the database differs from the manifest; each difference is named.
    """
    manifest, differing = staged.manifest, [*filled.not_made]
    with phases.phase("comparison"):
        with unforced(run, target):
            ordered = comparable_manifest(staged)
            differing += unlike(ordered, _read_back(ordered, target, run))
        differing += compare_objects(target.loader, target, run, staged, filled.keys)
    if differing:
        raise RestoreDiffers(
            f'database "{target.name}" restored from {manifest.id} differs from the backup: '
            f"{'; '.join(differing[:10])}"
            + (
                ""
                if target.working_name == target.name
                else f'; the restored database is kept as "{target.working_name}" for inspection'
            ),
            differing,
        )


def _read_back(manifest: Manifest, target: Target, run: Run) -> dict[str, RowDigest]:
    """Return count and digest of every relation, read in parallel, the largest first; of large ones several parts."""
    relations = sorted(manifest.relations, key=lambda relation: relation.plain_bytes, reverse=True)
    digests, reads = {relation.qualified: RowDigest() for relation in relations}, list[tuple[str, StreamJob, int]]()
    for relation in relations:
        job = reading_job(target.working_name, run, relation, manifest.database.encoding)
        jobs = split(target.loader, job, relation.plain_bytes)
        reads += [(relation.qualified, part, relation.plain_bytes // len(jobs)) for part in jobs]
    expected = {f"{name}, {job.title}": float(size) for name, job, size in reads}
    with progress.of(run, "comparing", expected, manifest.zone) as items:
        calls = [(target.loader, run, job, size, item.at) for (_, job, size), item in zip(reads, items.values(), strict=True)]
        for (name, _, _), digest in zip(reads, spread(run, read_back, calls, [size for _, _, size in reads]), strict=True):
            digests[name].include(digest)
    return digests


@step
def compare_objects(server: Server, target: Target, run: Run, staged: StagedSet, keys: Sequence[KeyOutcome]) -> list[str]:
    """Return how the restored objects differ from the manifest's inventory."""
    manifest = staged.manifest
    context = staged_context(staged)
    same_major = manifest.versions.server_major == target.server_major
    try:
        with connect(server, target.working_name, run.title) as connection:
            members = catalog.read_members(connection, context)
            there = without_absent(catalog.read_inventory(connection, members, manifest.inventory), manifest.left_out)
            restored = comparable(manifest, there)
            expected = comparable(manifest, exclude_unmade_keys(without_absent(manifest.inventory, manifest.left_out), keys))
            if same_major:
                path = read_source_path(connection, context.namespace, manifest.database)
                expected = spelled_here(connection, expected, restored, path)
    except BadInput as error:
        return [str(error)]
    return compare_inventories(expected, restored, same_major=same_major)
