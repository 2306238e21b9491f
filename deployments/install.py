"""Installs the project into the running environment, by uv: pip's packages in a tenth of the time.

uv does not read pip's settings, so it gets those that say where packages come from. If it is
unavailable or fails, pip installs. Needs only Python and pip: python deployments/install.py
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

CONSTRAINTS = Path(__file__).with_name("constraints.txt")
WHAT = ["--constraint", str(CONSTRAINTS), "--editable", ".[local,dev]"]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
SERVERS_AND_TOOLS = ["deployments.demo", "deployments.up", "prefect.cli", "prefect.server.api.server", "moto.server", "pytest"]
# pip's names (https://pip.pypa.io/en/stable/topics/configuration/), and uv's
# (https://docs.astral.sh/uv/reference/environment/).
SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS", "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST", "no-index": "UV_NO_INDEX",
}  # fmt: skip


def settings_for_uv(listed: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return pip's settings, from `pip config list`, as variables for uv, unless set already.

    Settings of pip's environment (PIP_INDEX_URL) come last in the list, and override those of its
    files.
    """
    settings = dict[str, str]()
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        _, _, key = name.partition(".")
        if variable := SETTINGS.get(key):
            settings[variable] = " ".join(shlex.split(value)).replace("\n", " ")
    if "UV_INDEX" in settings:
        # As pip does: the best version of all indexes, not of the first that has the package.
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return {name: value for name, value in settings.items() if name not in environment}


def install_by_uv() -> bool:
    """Install with uv; return False if that fails, with the reason on stderr."""
    (pin,) = [line for line in CONSTRAINTS.read_text("utf-8").splitlines() if line.startswith("uv==")]
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    environment = {**os.environ, **settings_for_uv(listed, os.environ)}
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, *WHAT]
    try:
        subprocess.run([*PIP, "install", "--quiet", pin], check=True)  # noqa: S603
        subprocess.run(uv, env=environment, check=True)  # noqa: S603
    except subprocess.CalledProcessError as error:
        print(f"uv failed (exit code {error.returncode}): installing with pip, which takes some minutes", file=sys.stderr)  # noqa: T201
        return False
    return True


def compile_used() -> None:
    """Compile what flows, servers and tests import: uv does not, nor can accounts that only read.

    Otherwise each process compiles it again, which doubles its start time. Most of the 14,000 files
    are never imported, and not compiled.
    """
    used = [f"flows.{path.stem}" for path in sorted(Path("flows").glob("*.py"))] + SERVERS_AND_TOOLS
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", f"import {', '.join(used)}"], env=environment, check=False)  # noqa: S603


def main() -> None:
    """Install, by uv or by pip."""
    began = time.monotonic()
    print(f"Installing some 180 packages, about 800 MB, into {sys.prefix} …", flush=True)  # noqa: T201
    if not install_by_uv():
        subprocess.run([*PIP, "install", "--quiet", *WHAT], check=True)  # noqa: S603
    compile_used()
    print(f"Installed in {time.monotonic() - began:.0f} s")  # noqa: T201


if __name__ == "__main__":
    main()
