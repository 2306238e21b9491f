"""A database with a context of its own, an empty server and a store, and flows that run there in a process of their own."""

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.main_job import Measured, measure, run_seconds
from deployments import local
from deployments.demo import DATABASE, make_logins, make_source
from deployments.local import LocalServer
from tests.support.contexts import write_context

CONTEXT = "bc-measured"
FLOW = "import sys, json; from importlib import import_module; from pathlib import Path; from tasks.run import site; " \
    "site.CONTEXTS = Path(sys.argv[1]); getattr(import_module(sys.argv[2]), sys.argv[3])(**json.loads(sys.argv[4]))"  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Two servers, a folder, and what leads flows there."""

    source: LocalServer
    target: LocalServer
    folder: Path
    api: str

    def run(self, module: str, flow: str, server: LocalServer, user: str, **parameters: object) -> Measured:
        """Run a flow in a process of its own; return the seconds of its run alone, and its peak memory."""
        ours = {
            "BACKUP_STORE": str(self.folder / "store"), "BACKUP_STAGING": str(self.folder / "staging"), "PREFECT_API_URL": self.api
        }  # fmt: skip
        arguments = json.dumps({"context": CONTEXT} | parameters)
        argv = [sys.executable, "-c", FLOW, str(self.folder / "contexts"), module, flow, arguments]
        peak = measure(flow, argv, server.environment(user) | ours).peak_bytes
        return Measured(flow, run_seconds(self.api, flow.replace("_", "-")).seconds, peak)


@contextmanager
def place(statements: Iterable[str], settings: Mapping[str, str], **context: object) -> Iterator[Place]:
    """Make a database by statements, an empty server, and a store."""
    with (
        tempfile.TemporaryDirectory(prefix="backup-benchmark-") as name,
        local.postgres(**settings) as source,
        local.postgres(**settings) as target,
        local.prefect_server() as api,
    ):
        folder = Path(name)
        (folder / "store").mkdir()
        make_logins(target)
        make_source(source, 1000)
        with source.connect(DATABASE) as connection:
            for statement in statements:
                connection.execute(statement.encode())
        write_context(folder / "contexts", name=CONTEXT, database=DATABASE, **context)
        yield Place(source, target, folder, api)
