"""Running the integrity checks of a set in the database that was restored from it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tasks.checks.integrity import key_check_name, run_checks
from tasks.core import sql
from tasks.core.checks.definition import CHECKS_FILE, Check, Finding, Severity, Verdict, judge, parse_checks
from tasks.core.database.objects import ForeignKey
from tasks.core.errors import OperationError
from tasks.core.postgres.connection import Server, connect
from tasks.core.run.phases import Phases
from tasks.core.sets.manifest import Manifest
from tasks.restore.foreign_keys import KeyOutcome
from tasks.restore.target import Target
from tasks.run.run import Run
from tasks.sets.stage import StagedSet, context_text, staged_context
from tasks.sets.texts import unfit_checks

# The time limit of one check.
TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Checked:
    """The findings of a set's checks in the restored database, and the database's size on disk."""

    findings: Sequence[Finding] = ()
    database_bytes: int | None = None


def check_integrity(staged: StagedSet, target: Target, keys: Sequence[KeyOutcome], run: Run, phases: Phases) -> Checked:
    """Run the set's checks: the database equals its source, so the source would fail them too."""
    manifest, size = staged.manifest, None
    if manifest.only:
        # Checks read the whole context, of which this set has only a part.
        return Checked([*_broken_keys(keys), *_keys_not_here(manifest, set(), keys)])
    with phases.phase("integrity checks"):
        try:
            files = {file.path.removeprefix("context/"): context_text(staged, file.path) for file in manifest.context_files}
            context = staged_context(staged)
            own = parse_checks(files.get(CHECKS_FILE, ""), f"{manifest.id}/context/{CHECKS_FILE}")
            unfit = unfit_checks(target.loader, target.name, run, context, own)
            findings = run_checks(
                target.loader, target.name, run, context, files, TIMEOUT_SECONDS, manifest.snapshot.instant, target.loader,
                unfit=unfit,
            )  # fmt: skip
            size = database_bytes(target.loader, target.name, run)
        except OperationError as error:
            # The database is restored and equal to its backup even if checks fail.
            findings = [Finding(CHECKS_FILE, Severity.ERROR, Verdict.BROKEN, note=str(error))]
    not_here = _keys_not_here(manifest, {finding.check for finding in findings}, keys)
    return Checked([*findings, *_broken_keys(keys), *not_here], size)


def _broken_keys(outcomes: Iterable[KeyOutcome]) -> Iterator[Finding]:
    """Yield findings for keys that could not be created, because rows violate them."""
    for outcome in outcomes:
        if outcome.orphans:
            check = Check(_name_of(outcome.key), Severity.ERROR, "", "Rows refer to missing rows, so the key could not be created.")
            yield judge(check, outcome.orphans, outcome.sample)


def _name_of(key: ForeignKey) -> str:
    return key_check_name(sql.names.unquoted(key.table.rpartition(".")[2]), sql.names.unquoted(key.name))


def _keys_not_here(manifest: Manifest, checked: set[str], outcomes: Sequence[KeyOutcome]) -> Iterator[Finding]:
    """Yield a finding for each foreign key to another context, whose tables are not in the set."""
    for key in manifest.outbound_keys:
        name = _name_of(key)
        if name not in checked and not any(outcome.orphans and outcome.key == key for outcome in outcomes):
            yield Finding(name, Severity.ERROR, Verdict.NOT_RUN, note=f"{key.references} of another context is not in the set")


def database_bytes(server: Server, database: str, run: Run) -> int:
    """Return the size of a database on disk."""
    with connect(server, database, run.title) as connection:
        return int(connection.execute(sql.databases.DATABASE_BYTES).fetchall()[0][0])
