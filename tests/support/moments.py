"""A flow in a process of its own, held at a step that the test chooses, and what is left of it afterwards.

Every way between the flow and its surroundings has a gate: pg_dump and pg_restore are shims that wait, the database and the
store are reached through proxies that can be slowed down and held.
"""

import contextlib
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import psycopg

from deployments import local
from deployments.local import LocalServer
from tasks.database.locks import SPACE
from tests.support import PROJECT
from tests.support.example import TABLES
from tests.support.faults import FaultyProxy, processes_of, shim, wait_for
from tests.support.world import World

# Well above what the product reads without a process of its own, and slow to pass a throttled proxy.
BIG_ROW = """UPDATE policy_violations SET context = jsonb_build_object('blob',
                 (SELECT string_agg(md5(n::text), '') FROM generate_series(1, %s) AS n))
             WHERE id = (SELECT id FROM policy_violations ORDER BY detected_at LIMIT 1)"""
SECONDS = 90


@dataclass
class Started:
    """A flow that was started; its output goes to a file."""

    process: subprocess.Popen[bytes]
    marker: str
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self, seconds: float = SECONDS) -> int:
        """Wait for its end; a hang is a failure that shows what it said."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the flow hangs; it said:\n{self.said[-3000:]}") from None

    def child(self, word: str) -> int | None:
        """Find the living program of the flow with that word on its command line, not its supervisor."""
        for pid in processes_of(self.marker):
            with contextlib.suppress(OSError):
                argv = (Path("/proc") / str(pid) / "cmdline").read_bytes().decode(errors="replace")
                if word in argv and "supervise.py" not in argv:
                    return pid
        return None

    def wait_until_gone(self, seconds: float = 45) -> None:
        """Wait until no process is left that descends from the flow."""
        wait_for(lambda: not processes_of(self.marker), seconds, f"the end of {processes_of(self.marker)}")


@dataclass
class Gates:
    """The ways of one world's flows, each open until the test says otherwise."""

    world: World
    folder: Path
    source: FaultyProxy
    target: FaultyProxy
    store: FaultyProxy
    started: list[Started] = field(default_factory=list)
    backup: str = "daily_backup"

    @property
    def flow(self) -> Started:
        """The flow that was started last."""
        return self.started[-1]

    def open(self, *programs: str) -> None:
        """Let programs go on, and those of their name that come later."""
        for program in programs:
            (self.folder / program / f"{program}.go").touch()

    def close(self, program: str, only: str = "") -> None:
        """Hold the next program of that name, or the next with such an argument."""
        (self.folder / program / f"{program}.only").write_text(only, encoding="utf-8")
        for left in (f"{program}.reached", f"{program}.go"):
            (self.folder / program / left).unlink(missing_ok=True)

    def open_all(self) -> None:
        """Let everything go on."""
        self.open("pg_dump", "pg_restore", "after_dump")
        for proxy in (self.source, self.target, self.store):
            proxy.pass_through()

    def reached(self, program: str) -> bool:
        return (self.folder / program / f"{program}.reached").exists()

    def wait_for(self, program: str) -> None:
        """Wait until the flow is held at a program."""
        wait_for(lambda: self.reached(program) or self.flow.ended, SECONDS, program)
        assert not self.flow.ended, self.flow.said[-3000:]

    def start(self, module: str, flow: str, **extra: str) -> Started:
        """Start a flow whose every way leads through the gates."""
        world, backup = self.world, module == "backup"
        server, proxy = (world.source, self.source) if backup else (world.target, self.target)
        marker = f"{self.folder.parent.name}-{len(self.started)}"
        ways = {"PGPORT": str(proxy.port), "PG_BIN": str(self.folder / "after_dump" / "bin"), "TEST_RUN": marker}
        if "AWS_ENDPOINT_URL" in world.store:
            ways["AWS_ENDPOINT_URL"] = self.store.url
        kept = local.bare_environment()
        environment = world.environment(server, "backup_reader" if backup else "backup_restorer") | ways | extra
        output = self.folder / f"{marker}.log"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", f"flows.{module}", flow], cwd=PROJECT, env=kept | environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.started.append(Started(process, marker, output))
        return self.flow

    def backend(self, condition: str, server: LocalServer | None = None) -> int | None:
        """Return the pid of a session of ours for which a condition on pg_stat_activity holds."""
        with (server or self.world.source).connect() as connection:
            found = connection.execute(
                f"""SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'bc-004 %' AND ({condition})
                    ORDER BY query_start DESC LIMIT 1"""
            ).fetchone()
        return found[0] if found else None


@contextmanager
def gates(world: World) -> Iterator[Gates]:
    """Build the gates of a world; at the end whatever was started is ended."""
    folder = world.folder / "gates"
    # Runs the real pg_dump first, then waits: between the dump and the snapshot.
    after = folder / "after_dump"
    bin_folder = shim(folder / "pg_dump", world.source.bin, "pg_dump")
    bin_folder = shim(folder / "pg_restore", bin_folder, "pg_restore")
    bin_folder = shim(after, bin_folder, "pg_dump", before=AFTER.format(real=bin_folder / "pg_dump", folder=after))
    (after / "pg_dump.go").touch()
    endpoint = urlsplit(world.store.get("AWS_ENDPOINT_URL", "http://127.0.0.1:1"))
    with ExitStack() as stack:
        ports = world.source.port, world.target.port, endpoint.port or 1
        source, target, store = (stack.enter_context(FaultyProxy("127.0.0.1", port)) for port in ports)
        built = Gates(world, folder, source, target, store)
        built.open_all()
        try:
            yield built
        finally:
            built.open_all()
            for one in built.started:
                for pid in {one.process.pid, *processes_of(one.marker)}:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                one.process.wait()


AFTER = """{real} "$@" || exit $?
: >> {folder}/after_dump.reached
while [ ! -e {folder}/after_dump.go ]; do sleep 0.05; done
exit 0
"""


def make_big_row(world: World, megabytes: int = 12) -> None:
    """Give one violation a value so large that its leaf is read by a process of its own."""
    with world.connect() as connection:
        connection.execute(BIG_ROW, (megabytes << 15,))


def hold_at_lock(gates: Gates, *, last: bool = False) -> psycopg.Connection:
    """Let a backup wait for its first lock, or its last; the session that holds it is returned.

    The context's advisory lock keeps the backup waiting between its checks, which look at every table, and the snapshot.
    """
    key = SPACE, zlib.crc32(b"bc-004") & 0x7FFFFFFF
    with gates.world.source.connect() as guard:
        guard.execute("SELECT pg_advisory_lock(%s, %s)", key)
        gates.start("backup", gates.backup)
        wait_for(lambda: gates.backend("query LIKE '%pg_try_advisory_lock_shared%'"), SECONDS, "the end of the checks")
        holder = gates.world.connect()
        holder.execute("BEGIN")
        first = holder.execute(EDGE + ("DESC" if last else "") + " LIMIT 1", (TABLES,)).fetchone()
        assert first
        holder.execute(f"LOCK TABLE ONLY {first[0]} IN ACCESS EXCLUSIVE MODE")
    wait_for(lambda: gates.backend("wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'"), SECONDS, "a waiting coordinator")
    return holder


# The relations of the context in the order in which they are locked.
EDGE = """WITH RECURSIVE member (oid) AS (
            SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'public' AND c.relname = ANY (%s)
            UNION SELECT i.inhrelid FROM pg_inherits i JOIN member m ON m.oid = i.inhparent)
          SELECT oid::regclass::text AS name FROM member ORDER BY member.oid """


def stored_keys(world: World) -> list[str]:
    """Return the keys of a world's S3 store."""
    bucket, _, prefix = world.store["BACKUP_STORE"].removeprefix("s3://").partition("/")
    client = boto3.client(
        "s3", endpoint_url=world.store["AWS_ENDPOINT_URL"], aws_access_key_id="local", aws_secret_access_key="local",
        region_name="ap-northeast-1",
    )  # fmt: skip
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return [one["Key"] for page in pages for one in page.get("Contents", [])]


def listed_sets(world: World) -> list[str]:
    """Return the folders of the sets that are committed."""
    return [key.removesuffix("/manifest.json") for key in stored_keys(world) if key.endswith("/manifest.json")]


def staged(world: World) -> list[Path]:
    """Return everything that lies in the staging folder."""
    return sorted((world.folder / "staging").rglob("*"))
