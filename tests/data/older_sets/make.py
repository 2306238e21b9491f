"""Makes one set of each kind with the code of some commit, and writes down what the independent oracle saw.

Run in a worktree of that commit, with its own .venv; README.md has the commands. Leaves COMMIT.tar.xz beside this script, with

store/              the store, a folder
states.json         what the oracle saw when the sets were taken, by name; the store that the signature is for; the server's major
users.sql           the table of another context that keys refer to
backup-verify.pem   the public key of the one set that is signed
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from deployments import local
from deployments.example import create_example
from deployments.local import LocalServer
from deployments.sign import PUBLIC_FILE, make_keys
from flows.backup import daily_backup, differential_backup, list_backups, long_term_backup
from flows.partitions import archive_partitions
from flows.restore import full_restore
from flows.retention import clean_up_old_data

MAJOR = 16
DATABASE = "consulting_tool"
TABLES = [
    "organizations", "organization_units", "organization_hierarchies", "organization_members", "teams", "team_members",
    "team_leaders", "governance_policies", "governance_rules", "policy_scopes", "policy_violations",
]  # fmt: skip
# A signature holds for the store at this address.
STORE = Path(tempfile.gettempdir()) / "older-sets" / "store"
A_TEAM = "(SELECT min(id::text)::uuid FROM teams)"
# The oldest year is due, and nothing holds it; of old rows two teams go, with what hangs on them, and nothing by another rule.
RECENT = "2026-01-01"
BEFORE = (
    "UPDATE policy_violations SET status = 'resolved', resolved_at = detected_at "
    "WHERE status = 'active' AND detected_at < '2023-01-01'",
    "ALTER TABLE team_leaders DISABLE TRIGGER USER", "ALTER TABLE team_members DISABLE TRIGGER USER",
    f"UPDATE team_leaders SET removed_at = '{RECENT}' WHERE removed_at IS NOT NULL",
    f"UPDATE team_members SET left_at = '{RECENT}' WHERE left_at IS NOT NULL",
    "ALTER TABLE team_leaders ENABLE TRIGGER USER", "ALTER TABLE team_members ENABLE TRIGGER USER",
    f"UPDATE organization_members SET left_at = '{RECENT}' WHERE left_at IS NOT NULL",
    f"UPDATE teams SET deleted_at = '{RECENT}' WHERE deleted_at IS NOT NULL",
    "UPDATE teams SET deleted_at = '2022-01-01' "
    "WHERE id IN (SELECT id FROM teams WHERE deleted_at IS NOT NULL ORDER BY id LIMIT 2)",
)  # fmt: skip
# What the differential has: changed, deleted and new rows, in some blocks of a partition and in small tables.
CHANGES = (
    f"UPDATE teams SET purpose = E'tab\\t, newline\\n, backslash \\\\, \\\\N, 組織' WHERE id = {A_TEAM}",
    "DELETE FROM policy_violations_2025 WHERE ctid IN ('(1,1)', '(1,2)')",
    "DELETE FROM policy_scopes WHERE ctid = '(0,1)'",
    "INSERT INTO policy_violations SELECT (jsonb_populate_record(v, "
    '\'{"id": "00000000-0000-4000-8000-000000000001", "error_message": ""}\')).* FROM policy_violations_2025 v LIMIT 1',
)
# What is undone by a restore in place, and is in its safety set.
DAMAGE = (
    "DELETE FROM policy_violations_2026 WHERE ctid < '(1,1)'",
    "UPDATE teams SET purpose = 'wrong'",
    "INSERT INTO governance_policies SELECT (jsonb_populate_record(p, "
    '\'{"id": "00000000-0000-4000-8000-000000000002", "name": "again"}\')).* FROM governance_policies p LIMIT 1',
)


@dataclass
class Maker:
    """A server with the example database, an empty store, and the states that were seen."""

    server: LocalServer
    staging: Path
    states: dict[str, Any] = field(default_factory=dict)

    def note(self, name: str) -> None:
        """Remember what the oracle sees now."""
        found = oracle().capture(self.server.conninfo(DATABASE), bin_dir=self.server.bin, tables=TABLES)
        self.states[name] = asdict(found)

    def execute(self, *statements: str) -> None:
        """Run statements as superuser."""
        with self.server.connect(DATABASE) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def run(self, flow: Any, user: str = "backup_reader", settings: dict[str, str] | None = None, **parameters: Any) -> Any:
        """Run a flow in this process; return its verdict."""
        environment = {
            **self.server.environment(user), "BACKUP_STORE": str(STORE), "BACKUP_STAGING": str(self.staging), **(settings or {})
        }  # fmt: skip
        for name in [name for name in os.environ if name.startswith(("PG", "AWS_", "BACKUP_"))]:
            del os.environ[name]
        os.environ.update(environment)
        verdict = flow(**parameters)
        print(flow.name, verdict if isinstance(verdict, str) else "")
        return verdict

    def change(self, flow: Any, **parameters: Any) -> Any:
        """Run a flow that changes the live database."""
        return self.run(flow, "backup_restorer", dry_run=False, confirm_database=DATABASE, **parameters)


def oracle() -> ModuleType:
    """Return the oracle that lies beside this script, whatever commit runs it."""
    name = "the_oracle"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "support" / "oracle.py")
        assert spec and spec.loader
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@contextmanager
def maker() -> Iterator[Maker]:
    """Start PostgreSQL and Prefect, and make the example database with few rows."""
    with (
        tempfile.TemporaryDirectory() as staging, local.postgres(local.wheel_bin(MAJOR)) as server, local.prefect_server() as api,
        temporary_settings({PREFECT_API_URL: api, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):  # fmt: skip
        server.run_script(Path("deployments/roles.sql"))
        server.allow_backup_logins()
        server.create_database(DATABASE, "consulting_owner")
        create_example(server.conninfo(DATABASE), scale=0.02, violations_per_year=80, years=(2022, 2025, 2026, 2027))
        yield Maker(server, Path(staging))


def make_sets(made: Maker, keys: Path) -> None:
    """Take one set of each kind; the order makes each state one that a restore of today can be compared with."""
    made.execute(*BEFORE)
    made.note("full")
    private, public = make_keys(keys)
    made.run(daily_backup, settings={"BACKUP_SIGNING_KEY": str(private), "BACKUP_VERIFY_KEY": str(public)}, label="signed")
    made.run(daily_backup, label="full")
    make_legacy_file(made.server)
    made.execute(*CHANGES)
    made.note("before the archive")
    made.change(archive_partitions)
    made.note("before the clean-up")
    made.run(long_term_backup)
    made.change(clean_up_old_data)
    made.note("differential")
    made.run(differential_backup)
    made.execute(*DAMAGE)
    made.note("safety")
    made.change(full_restore, in_place=True)


def make_legacy_file(server: LocalServer) -> None:
    """Make the file that the old daily script made: named tables of one schema, and nothing that they need."""
    file = STORE / "bc-004" / "daily" / "bc-004_full_20251103_020000.dump"
    tables = [word for name in TABLES for word in ("-t", name)]
    argv = [server.bin / "pg_dump", "-Fc", "--schema=public", *tables, "-f", file, server.conninfo(DATABASE)]
    subprocess.run(argv, check=True)


def dump_users(server: LocalServer) -> bytes:
    """Return the other context's table as a script for psql."""
    argv = [server.bin / "pg_dump", "--table=public.users", server.conninfo(DATABASE)]
    return subprocess.run(argv, check=True, capture_output=True).stdout


def main() -> None:
    """Make the sets, and pack them."""
    commit = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    STORE.mkdir(parents=True)
    with maker() as made, tempfile.TemporaryDirectory() as keys:
        make_sets(made, Path(keys) / "keys")
        made.run(list_backups)
        facts = {"states": made.states, "signed_for": str(STORE), "server_major": MAJOR}
        (STORE.parent / "states.json").write_text(json.dumps(facts, ensure_ascii=False, sort_keys=True), "utf-8")
        (STORE.parent / "users.sql").write_bytes(dump_users(made.server))
        shutil.copy(Path(keys) / "keys" / PUBLIC_FILE, STORE.parent)
    with tarfile.open(Path(__file__).with_name(f"{commit}.tar.xz"), "w:xz", preset=9) as packed:
        for path in sorted(STORE.parent.rglob("*")):
            packed.add(path, path.relative_to(STORE.parent), recursive=False, filter=anonymous)
    shutil.rmtree(STORE.parent)


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out whose file it was."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
