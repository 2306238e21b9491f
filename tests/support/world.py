"""A small world in which a test backs up and recovers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from deployments import local
from deployments.local import LocalServer
from tests.support import PROJECT
from tests.support.example import CONTEXT, DATABASE, OUTBOUND_KEYS, TABLES, copy_template
from tests.support.oracle import State, capture


@dataclass
class World:
    """One database, one store, one empty server, and the environment that leads the flows there."""

    source: LocalServer
    target: LocalServer
    folder: Path
    api: str
    store: dict[str, str]
    database: str = DATABASE
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def store_folder(self) -> Path:
        """The store, where it is a folder."""
        return Path(self.store["BACKUP_STORE"])

    def environment(self, server: LocalServer, user: str) -> dict[str, str]:
        """Return all that a flow is given."""
        return {
            **server.environment(user), **self.store, "BACKUP_STAGING": str(self.folder / "staging"),
            "PREFECT_API_URL": self.api, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", **self.extra,
        }  # fmt: skip

    def backup(self, user: str = "backup_reader", **parameters: Any) -> str:
        """Run daily_backup in this process; return its verdict."""
        from flows.backup import daily_backup

        return self._run(daily_backup, self.environment(self.source, user), parameters)

    def differential(self, user: str = "backup_reader", **parameters: Any) -> str:
        """Run differential_backup in this process; return its verdict."""
        from flows.backup import differential_backup

        return self._run(differential_backup, self.environment(self.source, user), parameters)

    def recover(self, user: str = "backup_restorer", **parameters: Any) -> str:
        """Run disaster_recovery onto the empty server in this process; return its verdict."""
        from flows.recovery import disaster_recovery

        return self._run(disaster_recovery, self.environment(self.target, user), parameters)

    def run(self, flow: Any, user: str, server: LocalServer | None = None, **parameters: Any) -> Any:
        """Run any flow in this process."""
        return self._run(flow, self.environment(server or self.source, user), parameters)

    def _run(self, flow: Any, environment: dict[str, str], parameters: dict[str, Any]) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("PG", "AWS_", "BACKUP_"))]:
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            return flow(**parameters)

    def start(
        self, module: str, flow: str, user: str, server: LocalServer | None = None, arguments: Sequence[str] = (), **extra: str
    ) -> "subprocess.Popen[str]":  # fmt: skip
        """Start a flow in a process of its own, as an operator would by hand."""
        kept = local.bare_environment()
        environment = kept | self.environment(server or self.source, user) | extra
        return subprocess.Popen(
            [sys.executable, "-m", f"flows.{module}", flow, *arguments], cwd=PROJECT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def connect(self, server: LocalServer | None = None) -> psycopg.Connection:
        """Open an autocommit superuser session in the source's database, or in another server's."""
        return (server or self.source).connect(self.database)

    def state(self, server: LocalServer | None = None, **how: Any) -> State:
        """Return what the independent oracle sees."""
        server = server or self.source
        return capture(server.conninfo(self.database), bin_dir=server.bin, tables=TABLES, **how)

    def assert_recovered(self, before: State, server: LocalServer | None = None) -> None:
        """Assert that the recovered database equals a state captured before, but for the keys to other contexts."""
        after = self.state(server or self.target)
        assert before.differences(after, ignore_foreign_keys=OUTBOUND_KEYS, views="recomputed") == []
        assert after.outside == ()

    def set_folders(self, kind: str = "daily", context: str = CONTEXT) -> list[Path]:
        """Return the folders of all fulls, or of another kind of set, in a folder store, oldest first, finished or not."""
        return sorted(self.store_folder.glob(f"{context}/{kind}/*"))


def new_world(source: LocalServer, target: LocalServer, api: str, folder: Path) -> World:
    """Make a fresh copy of the example database, and an empty folder store."""
    (folder / "store").mkdir()
    copy_template(source)
    return World(source, target, folder, api, {"BACKUP_STORE": str(folder / "store")})


@dataclass(frozen=True)
class TwoSets:
    """A folder store with two good sets of different states, made once; tests work on copies of the folder."""

    folder: Path
    older: str
    newer: str
    before_older: State
    before_newer: State

    def copy(self, to: Path) -> Path:
        """Copy the store; return the copy."""
        return Path(shutil.copytree(self.folder, to))
