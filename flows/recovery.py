"""Disaster recovery from the store alone onto an empty server, and the drill that rehearses it.

Needs the store (BACKUP_STORE and the usual AWS variables, or blocks) and the address of a server
(PGHOST … or a connector block); no context folder, no other blocks, no Prefect server. Leaves the
database under its old name, compared row by row.
By hand: python -m flows.recovery disaster_recovery --context bc-004, or recovery_drill
"""

from typing import Literal

from flows.command_line import run_from_command_line
from flows.restore import restore_and_compare
from tasks.core.postgres.connection import Server
from tasks.core.restore.report import Purpose
from tasks.core.sets.owners import owners
from tasks.database import logins
from tasks.database.locks import context_lock
from tasks.restore import checks, triggers
from tasks.restore.foreign_keys import complete_keys, set_with_keys
from tasks.restore.new_database import Recovery
from tasks.restore.report import publish_keys, publish_recovery, reported
from tasks.run import site
from tasks.run.run import Run, begin, operation
from tasks.sets import thaw
from tasks.sets.choose import random_recent
from tasks.store.address import StoreAddress


@operation("disaster-recovery {context}")
def disaster_recovery(
    context: str = "bc-004",
    backup: str = "latest",
    target_database: str | None = None,
    server: str | None = None,
    resume: Literal["constraints"] | None = None,
    trust_unsigned: bool = False,
) -> str:
    """Restore a lost database from the newest good backup, and prove that it equals the backup.

    The database may be missing, may lack the context's tables, or may have them empty. Foreign keys
    to tables of other contexts that are still missing are created later, by this flow with
    resume="constraints".

    Args:
        context: the bounded context to recover.
        backup: `latest`; a timestamp such as `2025-11-03 14:00`, for the newest state up to then;
            the id of a set; or the s3:// or folder path of a set.
        target_database: the name of the database to restore; by default the lost database's name.
        server: name of the connector block of the server to restore to; by default the context's
            own, or libpq's environment (PGHOST, PGPORT, PGUSER, …).
        resume: `constraints` restores nothing, but creates the missing foreign keys.
        trust_unsigned: accept sets without a signature although BACKUP_VERIFY_KEY is set. A wrong
            signature is never accepted.
    """
    with begin("disaster_recovery", context) as run:
        store = site.find_store(context, trust_unsigned=trust_unsigned)
        if resume == "constraints":
            return complete_constraints(run, store, site.find_server(server, context), backup, target_database)
        recovery = Recovery(store, run.started, newest=backup == "latest")
        return restore_and_compare(recovery, run, site.find_server(server, context), backup, target_database)


def complete_constraints(run: Run, store: StoreAddress, server: Server, backup: str, target_database: str | None) -> str:
    """Create the foreign keys that a recovery left out; report others with the violating rows."""
    manifest = set_with_keys(store, run, backup)
    with context_lock(server, run.context, run.title, exclusive=True) as lock:
        loader = logins.find_loader(server, run, owners(manifest), is_live=True)
        outcomes = complete_keys(loader, run, lock, manifest, target_database or manifest.database.name)
    return publish_keys(run, outcomes)


@operation("recovery-drill {context}")
def recovery_drill(context: str = "bc-004", backup: str = "latest", keep: bool = False, trust_unsigned: bool = False) -> str:
    """Rehearse a disaster recovery into a scratch database.

    Compare and check it, and measure the recovery time and data loss.

    Args:
        context: the bounded context.
        backup: `latest`; `random`, for a set of the last 30 days; a timestamp such as `2025-11-03
            14:00`, for the newest state up to then; the id of a set; or the s3:// or folder path of
            a set.
        keep: keep the scratch database for inspection; otherwise it is always dropped.
        trust_unsigned: accept sets without a signature although BACKUP_VERIFY_KEY is set. A wrong
            signature is never accepted.
    """
    with begin("recovery_drill", context) as run:
        store = site.find_store(context, trust_unsigned=trust_unsigned)
        drill = Recovery(store, run.started, Purpose.DRILL, newest=backup == "latest")
        server = site.find_drill_server(context)
        site.describe(server, drill.store)
        with reported(drill, run):
            chosen = random_recent(drill.store, context, run.started) if backup == "random" else backup
            drill.begin_at(thaw.thaw_in_time(store, run, chosen))
            with drill.rehearse(server, run, chosen, keep=keep) as (staged, target):
                drill.checked = checks.check_integrity(staged, target, drill.filled.keys, run, drill.phases)
                drill.exercises = triggers.try_triggers(staged, target, run, drill.phases)
        return publish_recovery(drill, run)


if __name__ == "__main__":
    run_from_command_line(disaster_recovery, recovery_drill)
