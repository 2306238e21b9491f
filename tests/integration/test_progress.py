"""Long work shows how far it is: to Prefect's UI by an artifact, to a terminal by a bar; and nobody has to wait for that."""

import contextlib
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import local
from tasks.core.errors import OperationError
from tasks.core.report.markdown import size
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.manifest_file import parse_manifest
from tasks.run import progress
from tasks.run.run import begin
from tests.support import PROJECT
from tests.support.example import CONTEXT
from tests.support.faults import FaultyProxy, wait_for
from tests.support.moments import SECONDS
from tests.support.world import World

LEAF = "policy_violations_2025"
# A thousand rows of 16 KB that compress badly: a leaf of 16 MB, which passes a throttled proxy for some seconds.
WIDEN = f"""UPDATE {LEAF} AS v SET context = jsonb_build_object('blob',
                (SELECT string_agg(md5(n::text || v.id), '') FROM generate_series(1, 500) AS n))"""
END_WORKERS = f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE query LIKE 'COPY%{LEAF}%' AND application_name LIKE 'bc-004 %'"""
BYTES_PER_SECOND = 8_000_000
BAR, ESCAPE = "dumping and storing", re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
HIDDEN_CURSOR = "\x1b[?25l"
EAGER = """import runpy
from tasks.run import progress
progress.FIRST_SECONDS = 0.0
runpy.run_module("flows.backup", run_name="__main__", alter_sys=True)"""


@dataclass
class Watch:
    """What the artifacts of progress said while the block ran: by artifact, in the order in which they were made.

    `seen` is called with each share that is seen.
    """

    world: World
    seen: Callable[[float], None] = lambda _: None
    shown: dict[str, list[tuple[float, str]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self._before = {one["id"] for one in self._artifacts()}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _artifacts(self) -> list[dict[str, Any]]:
        asked = {"artifacts": {"key": {"any_": [f"{CONTEXT}-progress"]}}, "sort": "CREATED_DESC"}
        found: list[dict[str, Any]] = (
            httpx.post(f"{self.world.api}/artifacts/filter", json=asked, timeout=30).raise_for_status().json()
        )
        return found[::-1]

    def _look(self) -> None:
        for one in self._artifacts():
            said = (one["data"], one["description"])
            assert one["flow_run_id"], "it would not be found on the page of its run"
            if one["id"] not in self._before and said not in self.shown[one["id"]][-1:]:
                self.shown[one["id"]].append(said)
                self.seen(one["data"])

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self._look()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def of(self, phase: str) -> list[tuple[float, str]]:
        """Return what was said of one phase."""
        (found,) = (said for said in self.shown.values() if f", {phase}" in said[0][1])
        return found


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tell at once and often; afterwards nobody is left who tells."""
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.05)
    yield
    assert [one.name for one in threading.enumerate() if one.name.startswith("progress of")] == []


@pytest.fixture
def way(world: World) -> Iterator[FaultyProxy]:
    """The slow way to the source."""
    with FaultyProxy("127.0.0.1", world.source.port) as proxy:
        proxy.throttle(BYTES_PER_SECOND)
        yield proxy


@pytest.fixture
def large(world: World, way: FaultyProxy) -> World:
    """A world with one large leaf, whose servers are reached slowly."""
    with world.connect() as connection:
        connection.execute(WIDEN)
    world.extra = {"PGPORT": str(way.port)}
    return world


def newest(world: World) -> Manifest:
    folder = world.set_folders()[-1]
    return parse_manifest((folder / "manifest.json").read_bytes(), str(folder))


def assert_rises(said: list[tuple[float, str]], steps: int) -> None:
    """Assert that the shares never fall, that so many lie on the way, and that the last one is the whole."""
    shares = [share for share, _ in said]
    assert shares == sorted(shares)
    assert len({share for share in shares if 0 < share < 100}) >= steps, said
    assert said[-1][0] == 100
    assert ": done: " in said[-1][1]
    assert all(": done: " not in text for share, text in said if share < 100)


@pytest.mark.long
def test_a_backup_and_a_recovery_show_how_far_they_are(large: World, eager: None) -> None:
    world = large
    with Watch(world) as watch:
        world.backup()
    manifest = newest(world)
    whole = size(sum(manifest.plain_bytes.values()))
    said = watch.of(BAR)
    assert_rises(said, 4)
    assert said[-1][1].startswith(f"daily_backup, {BAR}: done: {whole}, ")
    assert any(re.search(r" MB of about .* MB, .*%, .*/s, expected end 20.* JST$", text) for _, text in said), said
    # What a set was is what the next one is expected to be.
    with Watch(world) as watch:
        world.backup()
    assert all(f" of about {whole}, " in text for share, text in watch.of(BAR) if share < 100)
    with FaultyProxy("127.0.0.1", world.target.port) as proxy, Watch(world) as watch:
        proxy.throttle(BYTES_PER_SECOND)
        world.extra = {"PGPORT": str(proxy.port)}
        world.recover()
    for phase, moved, steps in (("loading", whole, 4), ("comparing", whole, 4), ("downloading", size(manifest.bytes), 0)):
        assert_rises(watch.of(phase), steps)
        assert f": done: {moved}, " in watch.of(phase)[-1][1]
    unmeasured = watch.of("making indexes and keys")
    assert [share for share, _ in unmeasured] == [0] * (len(unmeasured) - 1) + [100]
    assert "the remaining time cannot be estimated" in unmeasured[0][1]


@pytest.mark.long
def test_a_run_that_fails_stays_where_it_stopped(large: World, way: FaultyProxy, eager: None) -> None:
    # So slowly that it is seen on its way where everything takes long.
    way.throttle(BYTES_PER_SECOND / 4)

    def end_the_session(share: float) -> None:
        if share > 5:
            with large.connect() as connection:
                connection.execute(END_WORKERS)

    with Watch(large, end_the_session) as watch, pytest.raises(OperationError, match=LEAF):
        large.backup()
    share, text = watch.of(BAR)[-1]
    assert 5 < share < 100
    assert re.search(rf"{BAR}: stopped at .*MB of .*MB after .* s: ServerUnavailable: reading public.{LEAF}", text)


def test_short_work_leaves_no_artifact(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST_SECONDS", SECONDS)
    with Watch(world) as watch:
        world.backup()
    assert watch.shown == {}


@flow
def long_work(patient: Callable[[], object]) -> None:
    """Move half, wait, and move the rest."""
    with begin("long_work", CONTEXT) as run, progress.of(run, "work", {"all": 100}, UTC) as items:
        items["all"].at(50)
        patient()


@pytest.mark.parametrize("fault", ["reset", "hold"])
def test_work_goes_on_when_prefect_is_dead_or_silent(
    prefect_api: str, eager: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 1.0)
    address = urlsplit(prefect_api)
    assert address.hostname and address.port
    with FaultyProxy(address.hostname, address.port) as proxy, caplog.at_level(logging.WARNING):
        getattr(proxy, fault)()
        moments = list[float]()

        def until_it_was_tried_again() -> None:
            wait_for(lambda: proxy.connections > 3, SECONDS, "more tries")
            moments.append(time.monotonic())

        @flow
        def led_astray() -> None:
            with temporary_settings({PREFECT_API_URL: f"{proxy.url}/api"}):
                long_work.fn(until_it_was_tried_again)
            moments.append(time.monotonic())

        led_astray()
    # Less than a request to a server that is silent may take.
    assert moments[1] - moments[0] < 30
    assert caplog.text.count("progress cannot be shown in Prefect's UI") == 1
    wait_for(lambda: not [one for one in threading.enumerate() if one.name.startswith("progress of")], SECONDS, "its thread")


def start(world: World, error: int) -> "subprocess.Popen[str]":
    """Start a backup that tells at once, in a process of its own, whose stderr is the descriptor."""
    kept = local.bare_environment()
    return subprocess.Popen(
        [sys.executable, "-c", EAGER, "daily_backup"], cwd=PROJECT, text=True, stderr=error,
        stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        env=kept | world.environment(world.source, "backup_reader") | {"COLUMNS": "160", "TERM": "xterm-256color"},
    )  # fmt: skip


@pytest.mark.long
def test_a_terminal_shows_a_bar_between_whole_log_lines(large: World) -> None:
    ours, theirs = pty.openpty()
    process = start(large, theirs)
    os.close(theirs)
    seen = b""
    # A terminal whose last process has ended gives an error instead of an end.
    with contextlib.suppress(OSError):
        while data := os.read(ours, 1 << 16):
            seen += data
    os.close(ours)
    text = ESCAPE.sub("", seen.decode())
    assert process.wait() == 0, text
    assert re.search(rf"━.* daily_backup, {BAR}: .* MB of about .* MB, .*%, .* MB/s, expected end ", text)
    lines = [line for line in re.split(r"[\r\n]+", text) if f"{LEAF}: 1000 rows" in line]
    assert lines and re.match(r"\d\d:\d\d:\d\d\.\d+ \| INFO ", lines[0])
    # The bar is gone, and the cursor is back.
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(HIDDEN_CURSOR.encode())


@pytest.mark.long
def test_without_a_terminal_nothing_is_printed(large: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever asks for colours in a file does not ask for bars.
    for colours, of_a_terminal in (("", "\x1b"), ("1", HIDDEN_CURSOR)):
        monkeypatch.setenv("FORCE_COLOR", colours)
        with (tmp_path / "said").open("wb") as file:
            assert start(large, file.fileno()).wait(SECONDS) == 0
        said = (tmp_path / "said").read_text()
        assert f"{LEAF}: 1000 rows" in ESCAPE.sub("", said)
        assert BAR not in said
        assert of_a_terminal not in said
