"""Verifying stored sets without restoring: every byte is downloaded, every row decoded, counted."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import zstandard
from prefect import get_run_logger

from tasks.core.errors import ColdObject, DamagedSet
from tasks.core.rows.sources import digest_sources
from tasks.core.run.clock import now
from tasks.core.run.phases import Phases
from tasks.core.run.progress import Item, Moved
from tasks.core.sets.manifest import Manifest, Relation
from tasks.run import progress
from tasks.run.run import Run, step
from tasks.sets import stage
from tasks.sets.large_objects import decode_large_objects
from tasks.sets.marks import mark_if_possible, remember_damage
from tasks.sets.report import publish_verification
from tasks.sets.stage import StagedSet
from tasks.store.address import StoreAddress


def verify_set(store: StoreAddress, run: Run, backup: str) -> str:
    """Verify the named set or the newest one, and record that it is good; return the verdict.

    Raises:
        DamagedSet: the set differs from its manifest, or newer sets were passed over.
    """
    return decode_set(store, run, backup).verdict


@dataclass(frozen=True)
class Decoded:
    """A verified set: the verdict, and the manifest with which every row was compared.

    `unmarked` is the reason if the result could not be recorded.
    """

    verdict: str
    manifest: Manifest
    unmarked: str


def decode_set(store: StoreAddress, run: Run, backup: str) -> Decoded:
    """Verify a set as verify_set does; return the result instead of the verdict alone.

    Raises:
        DamagedSet: as for verify_set.
    """
    phases = Phases()
    with phases.phase("download and verification"):
        staged = stage.stage_newest_good(store, run, backup)
    name, manifest = staged.set.name, staged.set.manifest
    try:
        with (
            phases.phase("decoding"),
            progress.of(run, f"decoding {manifest.id}", manifest.plain_bytes, manifest.zone) as items,
        ):
            differences = decode(staged.set, items)
        if differences:
            remember_damage(store, name, "; ".join(differences))
        unmarked = "" if differences else mark_if_possible(store, name, "decoded", {"instant": now(), "run": run.id})
        verdict = publish_verification(store, run, staged, phases, differences, unmarked)
    finally:
        shutil.rmtree(run.folder / manifest.id)
    staged.require_newest()
    return Decoded(verdict, manifest, unmarked)


def verify_share(store: StoreAddress, run: Run, backups: Iterable[str], count: int) -> str:
    """Verify sets one after the other until `count` were good; return the verdict.

    Damaged sets do not count, because they come first each time, and the others would never be
    verified.

    Raises:
        DamagedSet: some sets differ from their manifests; each is named.
    """
    verified, unmarked, cold, damaged = 0, list[str](), list[str](), list[str]()
    for backup in backups:
        if verified + len(cold) == count:
            break
        try:
            decoded = decode_set(store, run, backup)
        except ColdObject as error:
            # The listing compared the sizes of its objects; more than that needs a thaw.
            cold.append(str(error))
            get_run_logger().info("only sizes were checked, as the objects are in cold storage: %s", error)
        except DamagedSet as error:
            damaged.append(str(error))
            get_run_logger().error("%s", error)
        else:
            verified += 1
            unmarked += [decoded.unmarked] if decoded.unmarked else []
    summary = f"{verified} sets decoded" + (f", {len(cold)} cold ones: sizes checked only" if cold else "")
    if unmarked:
        summary += f", but {len(unmarked)} could not be marked as verified, so that the next run verifies them again"
    if damaged:
        raise DamagedSet(f"FAIL: {summary}, {len(damaged)} damaged: {'; '.join(damaged)}")
    return f"PASS: {summary}"


@step
def decode(staged: StagedSet, items: Mapping[str, Item]) -> list[str]:
    """Recompute rows and digests of a staged set; return how they differ from the manifest."""
    relations = staged.manifest.relations
    rows = [problem for relation in relations for problem in _decoded(staged, relation, items[relation.qualified].at)]
    return [*rows, *decode_large_objects(staged)]


def _decoded(staged: StagedSet, relation: Relation, moved: Moved) -> list[str]:
    try:
        digest = digest_sources(staged.sources(relation), moved)
    except zstandard.ZstdError as error:
        return [f"{relation.qualified}: its parts cannot be decompressed ({error})"]
    if (digest.rows, digest.hex) == (relation.rows, relation.digest):
        return []
    return [
        f"{relation.qualified}: {digest.rows} rows with digest {digest.hex} are stored, the "
        f"manifest says {relation.rows} with {relation.digest}"
    ]
