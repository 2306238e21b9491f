"""A single check of a context's file."""

from contextlib import ExitStack

from tasks.checks.integrity import Readers, one_snapshot
from tasks.core import sql
from tasks.core.checks.definition import CHECKS_FILE, Finding, parse_checks
from tasks.core.errors import BadInput
from tasks.core.postgres.connection import connect
from tasks.core.postgres.source_path import read_source_path
from tasks.database.logins import loader_or_reason
from tasks.run.run import Run
from tasks.run.site import Site


def run_check(site: Site, run: Run, name: str, timeout_seconds: float) -> Finding:
    """Run one check of the context's file, under the same conditions as `integrity_check`.

    Raises:
        BadInput: there is no such check, the file is not valid, or the database cannot be reached.
    """
    own = {check.name: check for check in parse_checks(site.files.get(CHECKS_FILE, ""), f"{run.context}/{CHECKS_FILE}")}
    if name not in own:
        raise BadInput(f'context {run.context} has no check "{name}"; its {CHECKS_FILE} has: {", ".join(own) or "none"}')
    loader, reason = loader_or_reason(site, run)
    settings = sql.session.check_settings(site.context.timestamps, timeout_seconds)
    with connect(site.server, site.database, run.title) as connection, one_snapshot(connection), ExitStack() as stack:
        path = read_source_path(connection, site.context.namespace)
        readers = Readers(site.server, site.database, run.title, settings, path, connection, loader, reason, stack)
        connection.execute(settings)
        return readers.run(own[name], path)
