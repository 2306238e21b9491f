"""Sets that earlier commits made, as tests/data/older_sets has them."""

import json
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.local import LocalServer
from tests.support import PROJECT
from tests.support.example import CONTEXT, DATABASE
from tests.support.oracle import Rows, SequenceValue, State, View

GENERATIONS = sorted((PROJECT / "tests" / "data" / "older_sets").glob("*.tar.xz"))


@dataclass(frozen=True)
class Generation:
    """One set of each kind, and the states that the oracle saw when they were made."""

    folder: Path
    states: Mapping[str, State]
    signed_for: str
    server_major: int

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def legacy_file(self) -> Path:
        """The file of the old scripts."""
        (found,) = self.store.glob(f"{CONTEXT}/daily/*.dump")
        return found

    def ids(self, kind: str) -> list[str]:
        """Return the sets below a folder of the store, the oldest first."""
        found = (self.store / CONTEXT / kind).rglob("manifest.json")
        return sorted((path.parent.name for path in found), key=lambda one: one[-20:])

    @property
    def full(self) -> str:
        """The full that is not signed, on which the differential stands."""
        return self.ids("daily")[1]

    def the(self, kind: str) -> str:
        """Return the one set of a kind of which there is one."""
        (found,) = self.ids(kind)
        return found

    def give_users(self, server: LocalServer) -> None:
        """Make a database with the table of another context that keys of ours refer to, and nothing else."""
        server.create_database(DATABASE, "consulting_owner")
        psql = [server.bin / "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={server.conninfo(DATABASE)}"]
        subprocess.run([*psql, f"--file={self.folder / 'users.sql'}"], check=True, capture_output=True)


def unpack(packed: Path, folder: Path) -> Generation:
    """Unpack what a commit made."""
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    facts = json.loads((folder / "states.json").read_text("utf-8"))
    states = {name: _state(said) for name, said in facts["states"].items()}
    return Generation(folder, states, facts["signed_for"], facts["server_major"])


def _state(said: dict[str, Any]) -> State:
    rows = {name: Rows(**one) for name, one in said.pop("rows").items()}
    views = {name: View(**{side: one and Rows(**one) for side, one in both.items()}) for name, both in said.pop("views").items()}
    sequences = {name: SequenceValue(**one) for name, one in said.pop("sequences").items()}
    names = {name: tuple(said.pop(name)) for name in ("missing", "outside")}
    return State(rows=rows, views=views, sequences=sequences, **names, **said)
