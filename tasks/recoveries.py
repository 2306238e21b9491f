"""Restoring a set into a new database: staged and verified first, filled, compared, and only then given its name."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import get_run_logger

from tasks import catalogue, progress
from tasks.checks import key_check_name, run_checks
from tasks.core import sql
from tasks.core.checks import CHECKS_FILE, Check, Finding, Severity, Verdict, judge, parse_checks
from tasks.core.compare import compare_inventories
from tasks.core.context import CONTEXT_FILE, Context, parse_context
from tasks.core.drills import DrillRecord
from tasks.core.errors import BadInput, ColdObject, DamagedSet, OperationError, RestoreDiffers
from tasks.core.exercise import Exercise
from tasks.core.kinds import RULES, Kind, SetName
from tasks.core.manifest import ForeignKey, Manifest, StoredObject
from tasks.core.phases import Phases
from tasks.core.programs import Program, find_program
from tasks.core.recovery_report import Purpose, RecoveryFacts
from tasks.core.servers import Server, connect
from tasks.databases import (
    Target,
    allow_owners,
    check_target,
    create_database,
    drop_database,
    drop_roles,
    finish_database,
    keep_database,
    take_back_rights,
    unforced,
)
from tasks.keys import KeyOutcome, try_keys, without
from tasks.locks import ContextLock
from tasks.runs import Run, jobs, require_space, spread, step
from tasks.schema import restore_section, split_listing
from tasks.set_texts import unfit_checks
from tasks.sets import (
    StagedSet,
    candidates,
    fetch,
    fetch_manifest,
    hold,
    inherited_parts,
    read_base,
    require_list,
    unpack,
    why_aside,
)
from tasks.store import StoreAddress
from tasks.tables import compare_table, load_table
from tasks.triggers import exercise_triggers
from tasks.views import refresh_view

# More than any file of a context has.
MOST_CONTEXT_BYTES = 4 << 20


@dataclass
class Recovery:
    """What a restore did, found and left to do; it grows as the restore goes on."""

    store: StoreAddress
    started: datetime
    purpose: Purpose = Purpose.RECOVERY
    newest: bool = True
    phases: Phases = field(default_factory=Phases)
    staged: StagedSet | None = None
    target: Target | None = None
    passed_over: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    load_seconds: dict[str, float] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    exercises: list[Exercise] = field(default_factory=list)
    keys: list[KeyOutcome] = field(default_factory=list)
    database_bytes: int | None = None
    proven: bool = False
    # Whether the set was named; then why it is neither `latest` nor a base, if it is not.
    named: bool = False
    aside: str = ""

    def require_newest(self) -> None:
        """Refuse to be content with a set that newer, damaged ones had to be passed over for.

        Raises:
            DamagedSet: there are such; each is named.
        """
        if self.passed_over:
            raise DamagedSet(f"{self.manifest.id} is good, but sets were passed over: {'; '.join(self.passed_over)}")

    @property
    def chosen(self) -> Target:
        """The target that was found fit for the set."""
        if self.target is None:
            raise OperationError("no target was chosen")
        return self.target

    @property
    def manifest(self) -> Manifest:
        """The manifest of the set that was chosen."""
        return self.staged_set.manifest

    @property
    def staged_set(self) -> StagedSet:
        """The set that was chosen, downloaded and verified."""
        if self.staged is None:
            raise OperationError("no backup set was chosen")
        return self.staged


def stage_newest_good(recovery: Recovery, run: Run, backup: str, check: Callable[[Manifest], None] | None = None) -> StagedSet:
    """Download and verify the named set, or else the newest whole one that fits; what `check` refuses is not downloaded.

    Raises:
        DamagedSet: the named set is damaged, or every set is.
        BadInput, UnsafeTarget: there is no such set, or the target cannot take it; nothing was touched.
    """
    for one in candidates(recovery.store, run.context, backup):
        try:
            if one.damage:
                raise DamagedSet(one.damage)
            if one.aside:
                raise DamagedSet(f"{one.name.id} is set aside: {one.aside}")
            manifest = fetch_manifest(recovery.store, one.name)
            if check:
                check(manifest)
            staged = _stage(recovery.store, run, one.name, manifest)
        except (DamagedSet, ColdObject) as error:
            if one.named:
                raise
            recovery.passed_over.append(str(error))
            get_run_logger().warning("passed over: %s", error)
        else:
            recovery.staged, recovery.named = staged, one.named
            return staged
    raise DamagedSet(
        f'no backup set of context "{run.context}" in {recovery.store.url} can be restored now: {"; ".join(recovery.passed_over)}'
    )


def stage_copy(store: StoreAddress, run: Run, backup: str) -> Recovery:
    """Have the named set here, or the newest good one, for what is no recovery of a whole database."""
    recovery = Recovery(store, run.started, Purpose.COPY, newest=False)
    stage_newest_good(recovery, run, backup)
    find_aside(recovery)
    return recovery


def stage(recovery: Recovery, server: Server, run: Run, backup: str, target_database: str | None) -> StagedSet:
    """Choose set and target such that one fits the other, and have the set here, verified; nothing else is touched."""
    with recovery.phases.phase("download and verification"):
        staged = stage_newest_good(recovery, run, backup, choose_target(recovery, server, run, target_database))
        find_aside(recovery)
        return staged


def find_aside(recovery: Recovery) -> None:
    """Find out whether a set that was named is set aside: it can be restored, but nobody may take it for the newest."""
    if recovery.named and recovery.manifest.number is not None and RULES[recovery.manifest.kind].may_be_latest:
        recovery.aside = why_aside(recovery.store, recovery.staged_set.name) or ""


def _stage(address: StoreAddress, run: Run, name: SetName, manifest: Manifest) -> StagedSet:
    """Download a set, and of the full that it is a differential against the rows that it inherits."""
    base_name, needed = None, list[StoredObject]()
    # Before hours are spent on what nobody could restore.
    require_list(address, name, manifest)
    if base := read_base(address, manifest):
        base_name = SetName(name.context, Kind.FULL, base.id)
        needed = inherited_parts(manifest, base)
    require_space(run, manifest.bytes + sum(stored.bytes for stored in needed))
    folder = run.folder / manifest.id
    folder.mkdir(mode=0o700, exist_ok=True)
    wanted = [(name, stored, folder / stored.path.replace("/", "-")) for stored in manifest.objects]
    wanted += [(base_name, stored, folder / f"base-{stored.path.replace('/', '-')}") for stored in needed if base_name]
    sizes = {str(file): stored.bytes for _, stored, file in wanted}
    try:
        with (
            hold(address, run, filter(None, (name, base_name))),
            progress.of(run, f"downloading {manifest.id}", sizes, manifest.zone) as items,
        ):
            calls = [(address, *one, items[str(one[-1])].at) for one in wanted]
            paths = spread(run, fetch, calls, sizes.values())
    except BaseException:
        shutil.rmtree(folder)
        raise
    own = len(manifest.objects)
    files = {stored.path: path for stored, path in zip(manifest.objects, paths[:own], strict=True)}
    return StagedSet(name, manifest, files, base, {stored.path: path for stored, path in zip(needed, paths[own:], strict=True)})


def choose_target(recovery: Recovery, server: Server, run: Run, name: str | None) -> Callable[[Manifest], None]:
    """Return the check that finds out whether a set can be restored to a server, and remembers the target."""

    def check(manifest: Manifest) -> None:
        if manifest.only and recovery.purpose is Purpose.RECOVERY:
            raise BadInput(
                f"{manifest.id} has only a part of the context ({', '.join(manifest.only.tables)}): it is no recovery; have it "
                "beside with full_restore and a target_database"
            )
        recovery.target = check_target(
            server, run, manifest, name,
            scratch=recovery.purpose is Purpose.DRILL, may_exist=recovery.purpose is Purpose.RECOVERY,
        )  # fmt: skip
        find_pg_restore(manifest, recovery.target.server_major)

    return check


def find_pg_restore(manifest: Manifest, server_major: int) -> Program:
    """Return a pg_restore that reads the archive and knows the server.

    Raises:
        BadInput: none is installed.
    """
    return find_program("pg_restore", max(manifest.versions.pg_dump_major, server_major))


@contextmanager
def unfinished_database(recovery: Recovery, server: Server, run: Run, lock: ContextLock) -> Iterator[None]:
    """Make the database under its working name; drop it if the block fails, keep it if it differs or was already proven.

    Whoever has the lock by then, if it was lost, drops it: it bears the mark of what is unfinished.
    """
    manifest, target = recovery.manifest, recovery.chosen
    try:
        create_database(server, run, manifest, target)
        yield
    except RestoreDiffers:
        keep_database(server, run, lock, manifest, target, "found different from it; drop it when it was looked at")
        raise
    except BaseException as error:
        run.running.stop(final=False)
        # Who dropped it meanwhile ended the sessions in it, so that is what the error is about.
        lock.require_held(f'database "{target.working_name}" was done')
        if not recovery.proven:
            drop_database(server, run, lock, target)
            raise
        keep_database(server, run, lock, manifest, target, "found equal to it, but not yet renamed")
        raise OperationError(
            f'database "{target.working_name}" is complete and equal to {manifest.id}, but could not be finished: {error}; '
            f'end the sessions in it and run: ALTER DATABASE "{target.working_name}" RENAME TO "{target.name}"'
        ) from error


@contextmanager
def scratch_database(recovery: Recovery, server: Server, run: Run, lock: ContextLock, *, keep: bool) -> Iterator[None]:
    """Make a drill's database; drop it in every outcome, unless it is to be kept for a look."""
    manifest, target = recovery.manifest, recovery.chosen
    try:
        create_database(server, run, manifest, target)
        yield
    finally:
        run.running.stop(final=False)
        if keep:
            found = "equal to it" if recovery.proven else "different from it, or not compared"
            keep_database(server, run, lock, manifest, target, f"found {found} in a drill; drop it when it was looked at")
        else:
            drop_database(server, run, lock, target)
            drop_roles(server, run, target)


def fill_database(recovery: Recovery, server: Server, run: Run) -> None:
    """Schema before the data, data, sequences, schema after the data, statistics, views.

    What is the source's is made and filled in sessions of the loading login; `server` makes schemas and extensions.
    """
    staged, target, manifest = recovery.staged_set, recovery.chosen, recovery.manifest
    phases, pg_restore, loader = recovery.phases, find_pg_restore(manifest, target.server_major), target.loader
    archive, listing = unpack(staged, manifest.schema_archive), staged.files[manifest.schema_list.path]
    with phases.phase("schema before data"):
        frame, objects = split_listing(run, listing)
        restore_section(server, target, run, pg_restore, "pre-data", archive, frame, 1)
        allow_owners(server, run, manifest, target)
        restore_section(loader, target, run, pg_restore, "pre-data", archive, objects, 1)
    with phases.phase("data"):
        recovery.load_seconds = load_tables(loader, run, staged, target)
        set_sequences(loader, target.working_name, run, manifest)
    with phases.phase("indexes, keys, triggers"), progress.of(run, "making indexes and keys", {}, manifest.zone):
        complaints = restore_section(loader, target, run, pg_restore, "post-data", archive, listing, jobs())
        if complaints:
            recovery.keys = try_keys(loader, run, manifest, target.working_name)
        recovery.differences += but_for_broken_keys(complaints, recovery.keys)
        take_back_rights(server, run, manifest, target)
    with phases.phase("statistics and views"):
        analyze(loader, target.working_name, run)
        for view in manifest.views:
            if view.materialized and view.populated:
                found = refresh_view(loader, target.working_name, run, view)
                recovery.differences += [f"view {found.view} cannot be computed: {found.problem}"] if found.problem else []


def but_for_broken_keys(complaints: Iterable[str], outcomes: Iterable[KeyOutcome]) -> list[str]:
    """Return the complaints that are not about keys which rows violate, whatever language the server speaks.

    Rows are compared with the backup: what they violate here, they violated in the source.
    """
    broken = [f'"{sql.unquoted(one.key.name)}"' for one in outcomes if one.orphans]
    return [complaint for complaint in complaints if not any(name in complaint for name in broken)]


def load_tables(server: Server, run: Run, staged: StagedSet, target: Target) -> dict[str, float]:
    """Load every relation, the largest first, several at a time; return seconds by relation."""
    manifest = staged.manifest
    relations = sorted(manifest.relations, key=lambda one: one.plain_bytes, reverse=True)
    encoding, place = manifest.database.encoding, target.working_name
    sizes = [relation.plain_bytes for relation in relations]
    with progress.of(run, "loading", manifest.plain_bytes, manifest.zone) as items:
        calls = [(server, place, run.title, one, staged.sources(one), encoding, items[one.qualified].at) for one in relations]
        return dict(zip((one.qualified for one in relations), spread(run, load_table, calls, sizes), strict=True))


@step
def set_sequences(server: Server, database: str, run: Run, manifest: Manifest) -> None:
    """Set every sequence to the position that the manifest has, at or above every stored row."""
    with connect(server, database, run.title) as connection:
        for one in manifest.sequences:
            place = {"schema": one.namespace, "name": one.name, "value": one.last_value, "called": one.is_called}
            connection.execute(sql.SET_SEQUENCE, place)


@step
def analyze(server: Server, database: str, run: Run) -> None:
    """Gather planner statistics of the whole new database."""
    with connect(server, database, run.title) as connection:
        connection.execute(sql.ANALYZE)


def compare_with_manifest(recovery: Recovery, run: Run) -> None:
    """Compare rows, digests and objects of the new database with the manifest.

    Raises:
        RestoreDiffers: they are not the same; each difference is named.
    """
    manifest, target = recovery.manifest, recovery.chosen
    with recovery.phases.phase("comparison"):
        relations = sorted(manifest.relations, key=lambda one: one.plain_bytes, reverse=True)
        place, encoding = target.working_name, manifest.database.encoding
        with unforced(run, target), progress.of(run, "comparing", manifest.plain_bytes, manifest.zone) as items:
            calls = [(target.loader, place, run, relation, encoding, items[relation.qualified].at) for relation in relations]
            for found in spread(run, compare_table, calls, (relation.plain_bytes for relation in relations)):
                recovery.differences += found
        recovery.differences += compare_objects(target.loader, target, run, recovery)
    if recovery.differences:
        raise RestoreDiffers(
            f'database "{target.name}" restored from {manifest.id} differs from the backup: '
            f"{'; '.join(recovery.differences[:10])}"
            + ("" if recovery.purpose is Purpose.DRILL else f'; it is kept as "{target.working_name}" for inspection')
        )
    recovery.proven = True


@step
def compare_objects(server: Server, target: Target, run: Run, recovery: Recovery) -> list[str]:
    """Return how the restored objects differ from the manifest's inventory."""
    manifest = recovery.manifest
    context = staged_context(recovery)
    try:
        with connect(server, target.working_name, run.title) as connection:
            restored = catalogue.read_inventory(connection, catalogue.read_members(connection, context))
    except BadInput as error:
        return [str(error)]
    same_major = manifest.versions.server_major == target.server_major
    return compare_inventories(without(manifest.inventory, recovery.keys), restored, same_major=same_major)


def check_integrity(recovery: Recovery, run: Run, timeout_seconds: float = 600) -> None:
    """Run the checks that the set carries: what offends now offended in the source, because both were found equal."""
    target, manifest = recovery.chosen, recovery.manifest
    if manifest.only:
        # The checks are about the whole context.
        recovery.findings += [*_broken_keys(recovery.keys), *_keys_not_here(manifest, set(), recovery.keys)]
        return
    with recovery.phases.phase("integrity checks"):
        try:
            files = {path.removeprefix("context/"): _text_of(recovery, path) for path, _ in staged_context_files(recovery)}
            context = staged_context(recovery)
            own = parse_checks(files.get(CHECKS_FILE, ""), f"{manifest.id}/context/{CHECKS_FILE}")
            unfit = unfit_checks(target.loader, target.name, run, context, own)
            found = run_checks(
                target.loader,
                target.name,
                run,
                context,
                files,
                timeout_seconds,
                manifest.snapshot.instant,
                target.loader,
                unfit=unfit,
            )
            recovery.database_bytes = database_bytes(target.loader, target.name, run)
        except OperationError as error:
            # The database is there and equal to its backup, whatever can be said of it.
            found = [Finding(CHECKS_FILE, Severity.ERROR, Verdict.BROKEN, note=str(error))]
    recovery.findings += [
        *found,
        *_broken_keys(recovery.keys),
        *_keys_not_here(manifest, {finding.check for finding in found}, recovery.keys),
    ]


def _broken_keys(outcomes: Iterable[KeyOutcome]) -> Iterator[Finding]:
    """Yield what the checks cannot see: keys that are not there, because rows violate them."""
    for one in outcomes:
        if one.orphans:
            check = Check(_name_of(one.key), Severity.ERROR, "", "Rows refer to nothing, so the key could not be made.")
            yield judge(check, one.orphans, one.sample)


def _name_of(key: ForeignKey) -> str:
    return key_check_name(sql.unquoted(key.table.rpartition(".")[2]), sql.unquoted(key.name))


def _keys_not_here(manifest: Manifest, checked: set[str], outcomes: Sequence[KeyOutcome]) -> Iterator[Finding]:
    """Yield the keys to other contexts that the restored database does not have, because their tables are not in the set."""
    for key in manifest.outbound_keys:
        name = _name_of(key)
        if name not in checked and not any(one.orphans and one.key == key for one in outcomes):
            yield Finding(name, Severity.ERROR, Verdict.NOT_RUN, note=f"{key.references} of another context is not in the set")


def database_bytes(server: Server, database: str, run: Run) -> int:
    """Return the size of a database on disk."""
    with connect(server, database, run.title) as connection:
        return int(connection.execute(sql.DATABASE_BYTES).fetchall()[0][0])


def try_triggers(recovery: Recovery, run: Run) -> None:
    """Let every trigger fire in a drill's database, rolled back."""
    with recovery.phases.phase("triggers"):
        recovery.exercises = exercise_triggers(recovery.chosen.loader, recovery.chosen.working_name, run, staged_context(recovery))


def staged_context_files(recovery: Recovery) -> list[tuple[str, Path]]:
    """Return path in the set and staged file of the context folder's files."""
    return [(stored.path, recovery.staged_set.files[stored.path]) for stored in recovery.manifest.context_files]


def staged_context(recovery: Recovery) -> Context:
    """Return the context as it was when the set was taken."""
    path, only = f"context/{CONTEXT_FILE}", recovery.manifest.only
    try:
        context = parse_context(_text_of(recovery, path), f"{recovery.manifest.id}/{path}")
    except BadInput as error:
        raise DamagedSet(f"{error}; restore another set") from error
    return context.narrowed(only) if only else context


def _text_of(recovery: Recovery, path: str) -> str:
    """Return a file of the context folder as the set has it.

    Raises:
        DamagedSet: it is not in the set, or is no text that such a file can be.
    """
    where, file = f"{recovery.manifest.id}/{path}", recovery.staged_set.files.get(path)
    if file is None:
        raise DamagedSet(f"{where} is not in the set; restore another set")
    if file.stat().st_size > MOST_CONTEXT_BYTES:
        raise DamagedSet(f"{where} has more than {MOST_CONTEXT_BYTES:,} bytes; restore another set")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedSet(f"{where} is no text in UTF-8; restore another set") from error


def facts_of(recovery: Recovery, failure: str | None = None, records: Sequence[DrillRecord] = ()) -> RecoveryFacts:
    """Return all that a report tells."""
    chosen = recovery.staged
    known: dict[str, Any] = {}
    if chosen:
        context = staged_context(recovery)
        known = {
            "manifest": chosen.manifest, "contacts": context.contacts, "rto": context.objectives.rto, "rpo": context.objectives.rpo,
            "zone": context.zone, "path": recovery.store.path(chosen.name.folder),
            "database": recovery.chosen.name if recovery.target else None, "to_do": to_do(recovery) if recovery.target else [],
        }  # fmt: skip
    return RecoveryFacts(
        **{"path": recovery.store.url, **known}, purpose=recovery.purpose, started=recovery.started, phases=recovery.phases.seconds,
        failure=failure, differences=recovery.differences, passed_over=recovery.passed_over, removed=recovery.removed,
        load_seconds=recovery.load_seconds, findings=recovery.findings, exercises=recovery.exercises, records=records,
        database_bytes=recovery.database_bytes, newest=recovery.newest, off_host=recovery.store.off_host, proven=recovery.proven,
        aside=recovery.aside, schema_was_there=recovery.target is not None and recovery.target.exists,
    )  # fmt: skip


def to_do(recovery: Recovery) -> list[str]:
    """Return what a human still has to do after a restore."""
    made = {outcome.key: outcome for outcome in recovery.keys}
    unmade = [key for key in recovery.manifest.outbound_keys if key not in made] + [
        one.key for one in recovery.keys if not one.made
    ]
    keys = [
        f"foreign key {key.name} of {key.table}" + (f" to {key.references} (another context)" if key.references else "")
        + (f": {made[key].with_rows}" if key in made else "")
        + "; when its rows are right, run this recovery again with `resume=constraints`, or "
        f"`{sql.add_key(key.table, key.name, key.definition).as_string()};`"
        for key in unmade
    ]  # fmt: skip
    inbound = [
        f"foreign key {key.name} of {key.table} refers to {key.references}: it comes back with its own context"
        for key in recovery.manifest.inbound_keys
    ]
    return [*(recovery.target.to_do if recovery.target else []), *keys, *inbound]


def finish(recovery: Recovery, server: Server, run: Run, lock: ContextLock) -> None:
    """Give the database its final name and settings: from here on it is there."""
    with recovery.phases.phase("finishing"):
        finish_database(server, run, lock, recovery.manifest, recovery.chosen)
