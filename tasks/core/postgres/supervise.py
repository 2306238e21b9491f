"""Run a program that must not outlive its caller.

Usage: python supervise.py SIGNAL USER PROGRAM [ARGUMENT ...], in a session of its own. The caller
holds the other end of its stdin: when that closes, for whatever reason (even SIGKILL), the program
gets SIGNAL, and half a minute later the whole process group is killed. USER is empty or the account
to use.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

GRACE_SECONDS = 30


def _stop_when_abandoned(program: subprocess.Popen[bytes], stop: signal.Signals, abandoned: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    abandoned.set()
    program.send_signal(stop)
    with suppress(subprocess.TimeoutExpired):
        program.wait(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Run the program to its end and return its exit code."""
    stop, user, *argv = arguments
    groups: list[str] | None = [] if user else None
    program = subprocess.Popen(argv, stdin=subprocess.DEVNULL, user=user or None, extra_groups=groups)  # noqa: S603
    abandoned = threading.Event()
    threading.Thread(target=_stop_when_abandoned, args=(program, signal.Signals[stop], abandoned), daemon=True).start()
    code = program.wait()
    if abandoned.is_set():
        # Nothing else is left to end the program's children.
        os.killpg(0, signal.SIGKILL)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
