"""Faults, load and measurements for the integration tests, written without any code of the product.

A proxy that breaks connections on purpose, a writer that keeps the example database busy, a watch over the memory of a
process tree, a search for left-over processes, a patient assertion, and a shim that holds a PostgreSQL program.
"""

import contextlib
import os
import random
import re
import select
import shlex
import socket
import struct
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, LiteralString, Self, TypeVar

import psycopg

T = TypeVar("T")
Direction = Literal["up", "down", "both"]
Mode = Literal["pass", "reset", "reset after", "hold", "throttle", "swallow reply", "refuse"]

POLL_SECONDS = 0.05
CHUNK = 65536
REMEMBERED_REQUEST = 16384
BOUND = re.compile(r"FROM \('([^']+)'\) TO \('([^']+)'\)")


@dataclass(frozen=True, eq=False)
class _Fault:
    mode: Mode = "pass"
    after_bytes: int = 0
    direction: Direction = "both"
    once: bool = False
    bytes_per_second: float = 0.0
    request: re.Pattern[bytes] | None = None


class _Connection:
    """One client's connection and its counterpart to the server; two threads move the bytes."""

    def __init__(self, client: socket.socket, server: socket.socket, proxy: "FaultyProxy") -> None:
        self.client, self.server, self.proxy = client, server, proxy
        self.aborted = threading.Event()
        self.lock = threading.Lock()
        self.running = 2
        self.fault: _Fault | None = None
        self.passed = 0
        self.request = b""
        self.swallowing = False
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        for direction in ("up", "down"):
            threading.Thread(target=self._pump, args=(direction,), daemon=True).start()

    def _pump(self, direction: Direction) -> None:
        source, sink = (self.client, self.server) if direction == "up" else (self.server, self.client)
        try:
            while not self.aborted.is_set():
                fault = self._current_fault()
                if fault.mode == "hold":
                    self.aborted.wait(POLL_SECONDS)
                elif select.select([source], [], [], POLL_SECONDS)[0]:
                    if self._current_fault().mode == "hold":
                        continue
                    data = source.recv(self._chunk(fault))
                    if not data:
                        self._end(direction, sink)
                        break
                    self._forward(direction, sink, data)
        except OSError:
            self.aborted.set()
        finally:
            self._done()

    def _current_fault(self) -> _Fault:
        """Return what holds now; what is counted starts again when the mode was switched."""
        with self.lock:
            if self.fault is not self.proxy.fault:
                self.fault, self.passed, self.swallowing = self.proxy.fault, 0, False
            return self.fault

    def _chunk(self, fault: _Fault) -> int:
        if fault.mode == "throttle":
            return max(1, min(CHUNK, int(fault.bytes_per_second / 20)))
        return CHUNK

    def _forward(self, direction: Direction, sink: socket.socket, data: bytes) -> None:
        fault = self._current_fault()
        if fault.mode == "throttle":
            self.aborted.wait(len(data) / fault.bytes_per_second)
        elif fault.mode == "reset after" and fault.direction in {direction, "both"}:
            room = self._room(fault, len(data))
            if room <= 0 and self.proxy.claim(fault):
                self._send(sink, data[: len(data) + room])
                self.aborted.set()
                return
        elif fault.mode == "swallow reply" and self._swallows(fault, direction, data):
            return
        self._send(sink, data)

    def _room(self, fault: _Fault, count: int) -> int:
        """Count what passes; return how many bytes more may do so, below zero how many of these are too many."""
        with self.lock:
            self.passed += count
            return max(fault.after_bytes - self.passed, -count)

    def _swallows(self, fault: _Fault, direction: Direction, data: bytes) -> bool:
        """Remember the request on its way up; say whether this is a piece of the reply that is to be dropped."""
        with self.lock:
            if direction == "up":
                self.request = (self.request + data)[:REMEMBERED_REQUEST]
                return False
            if data.startswith(b"HTTP/1.1 100"):
                # 100 Continue is no reply: without it boto3 does not send the body.
                return False
            if not self.swallowing:
                wanted = fault.request is not None and fault.request.search(self.request) is not None
                self.request = b""
                self.swallowing = wanted and self.proxy.claim(fault)
            if not self.swallowing:
                return False
        # The server may still be writing: what else it says is dropped too.
        while select.select([self.server], [], [], POLL_SECONDS)[0] and self.server.recv(CHUNK):
            pass
        self.aborted.set()
        return True

    def _send(self, sink: socket.socket, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self.aborted.is_set():
            if self.proxy.mode == "hold":
                self.aborted.wait(POLL_SECONDS)
            elif select.select([], [sink], [], POLL_SECONDS)[1]:
                rest = rest[sink.send(rest) :]

    def _end(self, direction: Direction, sink: socket.socket) -> None:
        """Pass the end of one direction on; what the server ended is ended altogether."""
        if direction == "up":
            sink.shutdown(socket.SHUT_WR)
        else:
            self.client.shutdown(socket.SHUT_RDWR)

    def _done(self) -> None:
        """Leave; the last of the two threads closes, with a reset when the connection was aborted."""
        with self.lock:
            self.running -= 1
            last = self.running == 0
        if last:
            close = _close_with_reset if self.aborted.is_set() else socket.socket.close
            close(self.client)
            close(self.server)
            self.proxy.forget(self)


class FaultyProxy:
    """A TCP proxy in front of `host`:`port` whose behaviour is switched while it runs.

    Use it as a context manager; clients connect to `proxy.host`:`proxy.port`. It starts by passing everything.
    A mode applies to open connections too. `connections` counts those accepted, `faults` those that were hurt.
    """

    def __init__(self, host: str, port: int) -> None:
        self.upstream = (host, port)
        self.host = "127.0.0.1"
        self.connections = 0
        self.faults = 0
        self.fault = _Fault()
        self._open: set[_Connection] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._listener = self._bound(0)
        self.port: int = self._listener.getsockname()[1]
        self._listener.listen(128)
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        """Spell the proxy as an HTTP endpoint."""
        return f"http://{self.host}:{self.port}"

    @property
    def mode(self) -> Mode:
        """Say what it does now; a fault that is wanted once leaves `pass` behind."""
        return self.fault.mode

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._acceptor.join()
        self._listener.close()
        self._abort_all()

    def pass_through(self) -> None:
        """Forward everything; connections that were held go on."""
        self._switch(_Fault())

    def reset(self) -> None:
        """Reset every open connection and each new one at once."""
        self._switch(_Fault("reset"))

    def reset_after(self, count: int, *, once: bool = False, direction: Direction = "both") -> None:
        """Reset a connection when `count` bytes have passed since now: each connection, or the first one only.

        `direction`: what is counted; 'up' is from the client to the server.
        """
        self._switch(_Fault("reset after", after_bytes=count, once=once, direction=direction))

    def hold(self) -> None:
        """Go silent: connections are accepted and stay open, and nothing moves."""
        self._switch(_Fault("hold"))

    def throttle(self, bytes_per_second: float) -> None:
        """Let each connection pass no more than so much in each direction."""
        self._switch(_Fault("throttle", bytes_per_second=bytes_per_second))

    def swallow_reply(self, to: bytes = b"", *, once: bool = True) -> None:
        """Forward the request, drop its reply, then close; `to` is a regular expression that the request matches."""
        self._switch(_Fault("swallow reply", once=once, request=re.compile(to, re.DOTALL)))

    def refuse(self) -> None:
        """Reset what is open and refuse new connections, as a server does that is down."""
        self._switch(_Fault("refuse"))

    def _switch(self, fault: _Fault) -> None:
        with self._lock:
            was, self.fault = self.fault, fault
            if fault.mode == "refuse" and was.mode != "refuse":
                self._listener.close()
                self._listener = self._bound_again()
            elif fault.mode != "refuse" and was.mode == "refuse":
                self._listener.listen(128)
        if fault.mode in {"reset", "refuse"}:
            self._abort_all()

    def _bound(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, port))
        listener.setblocking(False)
        return listener

    def _bound_again(self) -> socket.socket:
        """Bind without listening, which refuses and keeps the port; the acceptor may hold the old one a moment."""
        deadline = time.monotonic() + 2
        while True:
            try:
                return self._bound(self.port)
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS / 10)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                listener, mode = self._listener, self.fault.mode
            if mode == "refuse":
                time.sleep(POLL_SECONDS / 5)
                continue
            with contextlib.suppress(OSError, ValueError):
                if select.select([listener], [], [], POLL_SECONDS)[0]:
                    self._begin(listener.accept()[0])

    def _begin(self, client: socket.socket) -> None:
        self.connections += 1
        if self.fault.mode == "reset":
            self.faults += 1
            _close_with_reset(client)
            return
        try:
            server = socket.create_connection(self.upstream, timeout=10)
        except OSError:
            _close_with_reset(client)
            return
        connection = _Connection(client, server, self)
        with self._lock:
            self._open.add(connection)
            if self.fault.mode in {"reset", "refuse"}:
                # Switched while this one was being connected: nobody else will end it.
                self.faults += 1
                connection.aborted.set()
        connection.start()

    def claim(self, fault: _Fault) -> bool:
        """Let one connection have the fault; a fault that is wanted once is had by the first who asks."""
        with self._lock:
            if self.fault is not fault:
                return False
            self.faults += 1
            if fault.once:
                self.fault = _Fault()
            return True

    def forget(self, connection: _Connection) -> None:
        """Drop a connection that has ended."""
        with self._lock:
            self._open.discard(connection)

    def _abort_all(self) -> None:
        with self._lock:
            connections = list(self._open)
            self.faults += len(connections)
        for connection in connections:
            connection.aborted.set()


def _close_with_reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


Action = Callable[[psycopg.Connection, random.Random], None]


class Writer:
    """Keep the example database busy: `threads` connections, together about `rate_per_second` transactions.

    Inserts, resolves and deletes policy_violations and policy_scopes (only rows of its own are deleted), changes
    teams.purpose and toggles organization_members.status, as far as these tables exist; no statement breaks a rule
    of the schema by itself. What the server refuses, a deadlock, a lock timeout or a lost connection is counted
    in `errors` by its type, and the work goes on.
    """

    def __init__(self, connection_info: str, *, threads: int = 4, rate_per_second: float = 300.0, seed: int = 0) -> None:
        self.connection_info = connection_info
        self.pause = threads / rate_per_second
        self.errors: Counter[str] = Counter()
        self.transactions = 0
        self.slowest_seconds = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._started = self._ended = 0.0
        self._threads = [threading.Thread(target=self._run, args=(random.Random(seed + n),), daemon=True) for n in range(threads)]

    @property
    def rate(self) -> float:
        """Return the committed transactions per second since the start."""
        elapsed = (self._ended or time.monotonic()) - self._started
        return self.transactions / elapsed if elapsed > 0 else 0.0

    def __enter__(self) -> Self:
        with psycopg.connect(self.connection_info, autocommit=True) as conn:
            self._actions = _actions(conn)
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(timeout=30)
        self._ended = time.monotonic()

    def _run(self, choice: random.Random) -> None:
        while not self._stopped.is_set():
            try:
                with psycopg.connect(
                    self.connection_info, autocommit=True, connect_timeout=5, application_name="test writer"
                ) as conn:
                    conn.execute("SET lock_timeout = '5s'")
                    conn.execute("SET statement_timeout = '30s'")
                    self._work(conn, choice)
            except psycopg.Error as error:
                self._count(error)
                self._stopped.wait(POLL_SECONDS)

    def _work(self, conn: psycopg.Connection, choice: random.Random) -> None:
        due = time.monotonic()
        while not self._stopped.is_set() and not conn.broken:
            began = time.monotonic()
            try:
                with conn.transaction():
                    for action in choice.sample(self._actions, k=choice.choice((1, 1, 2))):
                        action(conn, choice)
            except psycopg.Error as error:
                self._count(error)
                if conn.broken:
                    return
            else:
                with self._lock:
                    self.transactions += 1
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
            due = max(due + self.pause, time.monotonic() - 1)
            self._stopped.wait(max(0.0, due - time.monotonic()))

    def _count(self, error: psycopg.Error) -> None:
        with self._lock:
            self.errors[type(error).__name__] += 1


def _actions(conn: psycopg.Connection) -> list[Action]:
    """Choose what can be done in this database."""
    found = {row[0] for row in conn.execute("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition")}
    actions: list[Action] = []
    teams = _ids(conn, "SELECT id FROM teams LIMIT 1000") if "teams" in found else []
    if teams:
        actions.append(_Purposes(teams))
    if teams and {"governance_rules", "policy_violations"} <= found:
        rules = _pairs(conn, "SELECT policy_id, id FROM governance_rules LIMIT 1000")
        actions += [_Violations(rules, teams, _instant(conn))] * 3 if rules else []
    if teams and {"governance_policies", "policy_scopes"} <= found:
        policies = _ids(conn, "SELECT id FROM governance_policies LIMIT 1000")
        actions += [_Scopes(policies, teams)] * 2 if policies else []
    if "organization_members" in found:
        members = _ids(conn, "SELECT id FROM organization_members WHERE status = 'active' LIMIT 2000")
        actions += [_Memberships(members)] if members else []
    if not actions:
        raise AssertionError("the writer finds none of its tables filled: create the example schema with data first")
    return actions


def _ids(conn: psycopg.Connection, query: LiteralString) -> list[uuid.UUID]:
    return [row[0] for row in conn.execute(query)]


def _pairs(conn: psycopg.Connection, query: LiteralString) -> list[tuple[uuid.UUID, uuid.UUID]]:
    return [(row[0], row[1]) for row in conn.execute(query)]


def _instant(conn: psycopg.Connection) -> datetime:
    """Return the server's now if a partition takes it, else the newest instant that is there."""
    bounds = conn.execute(
        """SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           WHERE i.inhparent = 'policy_violations'::regclass"""
    ).fetchall()
    row = conn.execute("SELECT LOCALTIMESTAMP, (SELECT max(detected_at) FROM policy_violations)").fetchone()
    if row is None:
        raise AssertionError("no answer")
    now: datetime = row[0]
    newest: datetime | None = row[1]
    ranges = [BOUND.search(bound) for (bound,) in bounds]
    if any(found and found[1] <= str(now) < found[2] for found in ranges):
        return now
    if newest is None:
        raise AssertionError("policy_violations has no partition for now and no row: nowhere to insert")
    return newest


class _Purposes:
    """Change what a team is for."""

    def __init__(self, teams: list[uuid.UUID]) -> None:
        self.teams = teams

    def __call__(self, conn: psycopg.Connection, choice: random.Random) -> None:
        purpose = f"目的 {choice.randrange(10**9)}"
        conn.execute("UPDATE teams SET purpose = %s WHERE id = %s", (purpose, choice.choice(self.teams)))


class _Violations:
    """Insert a violation, resolve one or delete one of those that were inserted here."""

    def __init__(self, rules: list[tuple[uuid.UUID, uuid.UUID]], teams: list[uuid.UUID], instant: datetime) -> None:
        self.rules, self.teams, self.instant = rules, teams, instant
        self.active: deque[uuid.UUID] = deque()
        self.resolved: deque[uuid.UUID] = deque()

    def __call__(self, conn: psycopg.Connection, choice: random.Random) -> None:
        what = choice.random()
        if what < 0.5:
            self._insert(conn, choice)
        elif what < 0.8:
            self._resolve(conn)
        else:
            self._delete(conn)

    def _insert(self, conn: psycopg.Connection, choice: random.Random) -> None:
        policy, rule = choice.choice(self.rules)
        key = uuid.UUID(int=choice.getrandbits(128), version=4)
        conn.execute(
            """INSERT INTO policy_violations
                   (id, policy_id, rule_id, target_type, target_id, severity, error_message, context, status,
                    detected_at)
               VALUES (%s, %s, %s, 'team', %s, 'warning', '配分率が上限を超えています', %s::jsonb, 'active', %s)""",
            (key, policy, rule, choice.choice(self.teams), f'{{"氏名": "試験 {key.hex[:6]}"}}', self.instant),
        )
        self.active.append(key)

    def _resolve(self, conn: psycopg.Connection) -> None:
        if key := _taken(self.active):
            conn.execute(
                """UPDATE policy_violations
                   SET status = 'resolved', resolved_at = detected_at + interval '1 hour', resolution = '対応済み'
                   WHERE id = %s AND detected_at = %s AND status = 'active'""",
                (key, self.instant),
            )
            self.resolved.append(key)

    def _delete(self, conn: psycopg.Connection) -> None:
        if key := _taken(self.resolved) or _taken(self.active):
            conn.execute("DELETE FROM policy_violations WHERE id = %s AND detected_at = %s", (key, self.instant))


class _Scopes:
    """Insert a scope, or delete one of those that were inserted here."""

    def __init__(self, policies: list[uuid.UUID], teams: list[uuid.UUID]) -> None:
        self.policies, self.teams = policies, teams
        self.inserted: deque[uuid.UUID] = deque()

    def __call__(self, conn: psycopg.Connection, choice: random.Random) -> None:
        if choice.random() < 0.5 and (key := _taken(self.inserted)):
            conn.execute("DELETE FROM policy_scopes WHERE id = %s", (key,))
            return
        inserted = conn.execute(
            """INSERT INTO policy_scopes (policy_id, target_type, target_id, status) VALUES (%s, 'team', %s, 'active')
               ON CONFLICT DO NOTHING RETURNING id""",
            (choice.choice(self.policies), choice.choice(self.teams)),
        ).fetchone()
        if inserted:
            self.inserted.append(inserted[0])


class _Memberships:
    """Toggle a member between active and inactive."""

    def __init__(self, members: list[uuid.UUID]) -> None:
        self.members = members

    def __call__(self, conn: psycopg.Connection, choice: random.Random) -> None:
        conn.execute(
            """UPDATE organization_members
               SET status = CASE status WHEN 'active' THEN 'inactive' ELSE 'active' END,
                   left_at = CASE status WHEN 'active' THEN LOCALTIMESTAMP END
               WHERE id = %s""",
            (choice.choice(self.members),),
        )


def _taken(keys: deque[uuid.UUID]) -> uuid.UUID | None:
    try:
        return keys.popleft()
    except IndexError:
        return None


class MemoryWatch:
    """Sample the memory of a process and of all its descendants every 50 ms; `peak_bytes` is the largest sum.

    PSS counts shared pages once; where the kernel does not let us read it, RSS. A descendant whose parent has died
    stays watched once it was seen.
    """

    def __init__(self, pid: int, *, interval_seconds: float = 0.05) -> None:
        self.pid = pid
        self.interval_seconds = interval_seconds
        self.peak_bytes = 0
        self.samples = 0
        self._seen: dict[int, str] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stopped.wait(self.interval_seconds):
            self._sample()

    def _sample(self) -> None:
        parents = dict(_parents())
        self._seen = {pid: born for pid, born in self._seen.items() if parents.get(pid, (0, ""))[1] == born}
        tree = {self.pid, *self._seen} & parents.keys()
        while more := {pid for pid, (parent, _) in parents.items() if parent in tree} - tree:
            tree |= more
        self._seen |= {pid: parents[pid][1] for pid in tree}
        self.peak_bytes = max(self.peak_bytes, sum(_memory(pid) for pid in tree if not _is_its_parent(pid, parents[pid][0])))
        self.samples += 1


def _parents() -> Iterator[tuple[int, tuple[int, str]]]:
    """Read (pid, (parent, start time)) of every process."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                # The name, in brackets, may hold anything.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                yield int(folder.name), (int(fields[1]), fields[19])


def _is_its_parent(pid: int, parent: int) -> bool:
    """Say whether a process is between vfork and exec, where its memory is its parent's, to be counted once."""
    try:
        one, other = (
            ((folder / "cmdline").read_bytes(), (folder / "statm").read_text().split()[0])
            for folder in (Path("/proc") / str(pid), Path("/proc") / str(parent))
        )
    except OSError:
        return False
    return one == other


def _memory(pid: int) -> int:
    folder = Path("/proc") / str(pid)
    with contextlib.suppress(OSError):
        for line in (folder / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, IndexError):
        return int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def processes_of(session_or_marker: str) -> list[int]:
    """Find the living processes that were started with `TEST_RUN=<marker>` in their environment."""
    wanted = f"TEST_RUN={session_or_marker}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return sorted(found)


def wait_for(condition: Callable[[], T], timeout_seconds: float, what: str) -> T:
    """Poll until the condition is truthy and return what it said; else fail with the name of what was awaited."""
    deadline = time.monotonic() + timeout_seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_seconds:g} s for {what}; last seen: {found!r}")
        time.sleep(POLL_SECONDS / 2)
    return found


def shim(folder: Path, bin_dir: Path, program: str, before: str = "") -> Path:
    """Make a folder for PG_BIN in which `program` waits before it does its work; return that folder.

    The script touches `<folder>/<program>.reached`, waits for `<folder>/<program>.go`, runs `before` (a piece of
    shell, for example `exit 1`) and becomes the real program. Asked for its version it answers at once, as it does where its
    command line lacks what `<folder>/<program>.only` says.
    """
    bin_folder = folder / "bin"
    bin_folder.mkdir(parents=True)
    for real in bin_dir.iterdir():
        if real.name != program:
            (bin_folder / real.name).symlink_to(real)
    script = bin_folder / program
    script.write_text(
        SHIM.format(
            real=shlex.quote(str(bin_dir / program)),
            reached=shlex.quote(str(folder / f"{program}.reached")),
            go=shlex.quote(str(folder / f"{program}.go")),
            only=shlex.quote(str(folder / f"{program}.only")),
            before=before,
        )
    )
    script.chmod(0o755)
    return bin_folder


SHIM = """#!/bin/sh
case "${{1:-}}" in --version | -V | --help) exec {real} "$@" ;; esac
case "$*" in *"$(cat {only} 2>/dev/null)"*) ;; *) exec {real} "$@" ;; esac
: >> {reached}
while [ ! -e {go} ]; do sleep 0.05; done
{before}
exec {real} "$@"
"""
