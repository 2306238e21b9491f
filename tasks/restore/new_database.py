"""Restoring a set into a new database: filled from the verified set, compared, and then renamed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from tasks.core.errors import OperationError, RestoreDiffers
from tasks.core.postgres.connection import Server
from tasks.core.restore.report import Purpose
from tasks.core.restore.trigger_result import Exercise
from tasks.core.run.phases import Phases
from tasks.core.sets.manifest import Manifest
from tasks.database.locks import ContextLock, context_lock
from tasks.restore.checks import Checked
from tasks.restore.compare import compare_with_manifest
from tasks.restore.database import create_database, drop_database, keep_database, sweep_unfinished
from tasks.restore.fill import Filled, fill_database
from tasks.restore.roles import drop_roles
from tasks.restore.target import Target, choose_target, require_what_the_archive_needs
from tasks.run.run import Run
from tasks.sets.stage import Staged, StagedSet, stage_newest_good
from tasks.store.address import StoreAddress


@dataclass
class Recovery:
    """A restore of a whole set, with its results so far.

    The report uses these results, also after a failure. Each step's result is stored here by the
    caller; steps do not change this object.
    """

    store: StoreAddress
    started: datetime
    purpose: Purpose = Purpose.RECOVERY
    newest: bool = True
    phases: Phases = field(default_factory=Phases)
    removed: Sequence[str] = ()
    staged: Staged | None = None
    target: Target | None = None
    filled: Filled = field(default_factory=Filled)
    proven: bool = False
    checked: Checked = field(default_factory=Checked)
    exercises: Sequence[Exercise] = ()

    def begin_at(self, asked: datetime | None) -> None:
        """Count the recovery time from the thaw's request, which an earlier run may have made."""
        if asked:
            with self.phases.phase("thaw"):
                earlier = max((self.started - asked).total_seconds(), 0.0)
            self.phases.seconds["thaw"] += earlier
            self.started = min(self.started, asked)

    @contextmanager
    def rehearse(self, server: Server, run: Run, backup: str, *, keep: bool = False) -> Iterator[tuple[StagedSet, Target]]:
        """For the block, or to `keep`, restore a set into a scratch database and compare it."""
        with context_lock(server, f"drill of {run.context}", run.title, exclusive=True) as lock:
            self.removed = sweep_unfinished(lock, run.context, scratch=True)
            self.staged, self.target = stage(self, server, run, backup, None)
            staged, target = self.staged.set, self.target
            with scratch_database(self, staged.manifest, target, server, run, lock, keep=keep):
                self.filled = fill_database(staged, target, server, run, self.phases)
                compare_with_manifest(staged, target, self.filled, run, self.phases)
                self.proven = True
                yield staged, target


def stage(recovery: Recovery, server: Server, run: Run, backup: str, target_database: str | None) -> tuple[Staged, Target]:
    """Choose a set and a database for it, download and verify the set; the server is untouched."""
    fitting = dict[str, Target]()

    def check(manifest: Manifest) -> None:
        fitting[manifest.id] = choose_target(recovery.purpose, server, run, manifest, target_database)

    with recovery.phases.phase("download and verification"):
        staged = stage_newest_good(recovery.store, run, backup, check)
    target = fitting[staged.set.manifest.id]
    require_what_the_archive_needs(staged.set, target, run)
    return staged, target


@contextmanager
def unfinished_database(
    recovery: Recovery, manifest: Manifest, target: Target, server: Server, run: Run, lock: ContextLock
) -> Iterator[None]:
    """Create the database under its working name.

    If the block fails, drop the database; but keep it if it differs from the backup, or is proven
    equal to it. If the context's lock was lost, the run that holds it now drops the database, which
    is marked as unfinished.
    """
    try:
        create_database(server, run, manifest, target)
        yield
    except RestoreDiffers:
        keep_database(server, run, lock, manifest, target, "found different from it; drop this database after use")
        raise
    except BaseException as error:
        run.running.stop(final=False)
        # If another run dropped the database, that ended this run's sessions: report the lost lock
        # instead.
        lock.require_held(f'database "{target.working_name}" was finished')
        if not recovery.proven:
            drop_database(server, run, lock, target)
            raise
        keep_database(server, run, lock, manifest, target, "found equal to it, but not yet renamed")
        raise OperationError(
            f'database "{target.working_name}" is complete and equal to {manifest.id}, but could '
            f"not be finished: {error}; "
            f'end the sessions in it and run: ALTER DATABASE "{target.working_name}" RENAME TO '
            f'"{target.name}"'
        ) from error


@contextmanager
def scratch_database(
    recovery: Recovery, manifest: Manifest, target: Target, server: Server, run: Run, lock: ContextLock, *, keep: bool = False
) -> Iterator[None]:
    """Create a drill's database for the block, and drop it at the end unless `keep`."""
    try:
        create_database(server, run, manifest, target)
        yield
    finally:
        run.running.stop(final=False)
        if keep:
            result = "equal to it" if recovery.proven else "different from it, or not compared"
            keep_database(server, run, lock, manifest, target, f"found {result} in a drill; drop this database after use")
        else:
            drop_database(server, run, lock, target)
            drop_roles(server, run, target)
