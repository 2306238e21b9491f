"""`make up`: everything on one machine comes up, does its first work, stops at Ctrl-C, and goes on the next time."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deployments import local
from tasks.core.postgres.programs import kill
from tests.support import PROJECT
from tests.support.faults import wait_for

pytestmark = pytest.mark.long

START_SECONDS = 600
READY = re.compile(r"Prefect's UI: (\S+)")
COMPLETED = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}


@contextmanager
def up(folder: Path, log: Path) -> Iterator[str]:
    """Run it until it says where its UI is, then until the block ends, which presses Ctrl-C; give the address of the UI."""
    words = ["--folder", str(folder), "--port", str(local.free_port()), "--violations-per-year", "500"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.up", *words], cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        said = wait_for(lambda: READY.search(log.read_text()) or process.poll() is not None, START_SECONDS, "the UI")
        assert isinstance(said, re.Match), log.read_text()
        yield said[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        kill(process)


def ids(url: str) -> set[str]:
    """Return the runs that have completed."""
    return {one["id"] for one in httpx.post(f"{url}/api/flow_runs/filter", json=COMPLETED).raise_for_status().json()}


def at_work(folder: Path) -> list[str]:
    """Return what processes are at work in a folder."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [words for words in found if str(folder) in words]


def test_it_comes_up_stops_and_goes_on(folder: Path) -> None:
    folder.chmod(0o711)
    state = folder / "state"
    with up(state, folder / "first.log") as url:
        done = ids(url)
        assert len(done) >= 4
        keys = httpx.post(f"{url}/api/artifacts/latest/filter", json={}).raise_for_status().json()
        assert {"bc-004-backup", "bc-004-drill", "bc-004-integrity", "bc-004-report"} <= {one["key"] for one in keys}
        assert httpx.get(url, follow_redirects=True).is_success
        again = subprocess.run(
            [sys.executable, "-m", "deployments.up", "--folder", str(state)],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert again.returncode == 1 and "`make up` is running already" in again.stderr
    assert at_work(folder) == []
    assert "everything is stopped" in (folder / "first.log").read_text()
    with up(state, folder / "second.log") as url:
        assert ids(url) >= done
        assert "deployment run daily-backup" not in (folder / "second.log").read_text()
    assert at_work(folder) == []
    assert list((state / "store").glob("bc-004/daily/*/manifest.json"))
