"""Make a recovery kit: a folder with all that a recovery needs when only the store is left.

It contains no password.

python -m deployments.kit FOLDER [--context bc-004]

Reads the context's folder and the environment as `deployments.register` does; needs the store, but
neither the database nor a Prefect server. Keep the folder separately, for example on a USB stick in
a safe. Run again with the same folder, it replaces the files. The kit's date is in the store
(`<context>/kit.json`), and the report of each drill shows how old the kit is.
"""

import hashlib
import io
import os
import shlex
import sys
import tarfile
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from urllib.parse import urlsplit, urlunsplit

from deployments.deployed import PROJECT
from deployments.exposure import database_parameters
from deployments.register import read_context
from tasks.backup.schema import project_version
from tasks.core.errors import BadInput, DamagedSet, OperationError
from tasks.core.run.clock import now
from tasks.core.sets.kit import KIT_FILE, Kit, parse_kit, render_kit
from tasks.core.sets.manifest import RESTORE_SCRIPT, Manifest
from tasks.core.sets.name import RULES, Kind, SetName
from tasks.run.site import environment_store
from tasks.sets.choose import newest_manifest
from tasks.sets.kit import keep_kit
from tasks.sets.manifest import name_of
from tasks.store.address import StoreAddress

# The server's address, without secrets: https://www.postgresql.org/docs/current/libpq-envars.html
DATABASE_VARIABLES = {
    "host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "dbname": "PGDATABASE", "user": "PGUSER", "sslmode": "PGSSLMODE",
}  # fmt: skip
STORE_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
VERIFY_KEY = "BACKUP_VERIFY_KEY"
VERIFY_KEY_FILE = "verify-key"
# The packages and documents of this project, without other files in its folder.
FOLDERS = ("flows", "tasks", "blocks", "deployments", "docs")
FILES = ("pyproject.toml", "prefect.yaml", "README.md")
SUFFIXES = frozenset({".py", ".sql", ".yaml", ".txt", ".md"})
READMES = {"README.md": "kit.md", "README.ja.md": "kit.ja.md"}
COPIES = {
    "constraints.txt": "deployments/constraints.txt", "runbook.md": "docs/runbook.md", "runbook.ja.md": "docs/runbook.ja.md",
}  # fmt: skip


class Text(Template):
    """A text of a kit with placeholders @{name}: $ is used by the shell."""

    delimiter = "@"


def main() -> None:
    """Make the kit that the command line names."""
    parser = ArgumentParser(description="Make a recovery kit, which contains no password.", allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new or empty folder, or the folder of an earlier kit")
    parser.add_argument("--context", default="bc-004")
    arguments = parser.parse_args()
    try:
        kit, mark = make_kit(arguments.folder.absolute(), arguments.context)
    except OperationError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except OSError as error:
        sys.exit(f"folder {arguments.folder}: {error.strerror or error}; name a folder that this account can write")
    print(f"kit of {kit.context} in {arguments.folder}, newest set {kit.set}; {mark} has its date")  # noqa: T201


def make_kit(folder: Path, context_name: str) -> tuple[Kit, str]:
    """Make a kit in a folder; return the kit, and the path of its mark in the store.

    Raises:
        BadInput: the folder has other files, the context or the store cannot be read, or the store
            has no set.
        DamagedSet: every set is damaged.
    """
    context, _ = read_context(context_name)
    address = environment_store()
    require_kit_folder(folder, context.name)
    made = now()
    manifest = newest_manifest(address, context.name, "latest", made)
    kit = Kit(context=context.name, made=made, version=project_version(), set=manifest.id)
    script = restore_script_of(address, manifest)
    addresses = "".join(export_lines({"PGDATABASE": context.database, **database_addresses(), **store_addresses(address)}))
    places = {
        "context": context.name, "title": context.title, "database": context.database, "made": f"{kit.made:%Y-%m-%d %H:%M} UTC",
        "version": kit.version, "set": kit.set, "set_folder": f"sets/{_place(name_of(manifest))}",
        "fetch": "\n".join(fetch_commands(address, manifest)),
    }  # fmt: skip
    files = {
        **{name: (PROJECT / path).read_bytes() for name, path in COPIES.items()},
        **{name: Text((PROJECT / "deployments" / path).read_text("utf-8")).substitute(places).encode()
           for name, path in READMES.items()},
        "addresses.env": addresses.encode(), RESTORE_SCRIPT: script, "project.tar.gz": packed_project(),
        **verify_key(),
    }  # fmt: skip
    write_kit(folder, files, kit)
    return kit, keep_kit(address, kit)


def require_kit_folder(folder: Path, context: str) -> None:
    """Make sure that a folder has a kit, is empty or does not exist.

    Raises:
        BadInput: the folder has other files or the kit of another context, or the project's own
            files are missing here.
    """
    if absent := [path for path in (*FILES, *COPIES.values()) if not (PROJECT / path).is_file()]:
        raise BadInput(f"{PROJECT} has no {', '.join(absent)}; make the kit from a complete folder of this project")
    mark = folder / KIT_FILE
    existing = parse_kit(mark.read_bytes()) if mark.is_file() else None
    if existing is None and folder.exists() and any(folder.iterdir()):
        raise BadInput(f"folder {folder} is not empty, and has no kit; name a new or empty folder, or that of an earlier kit")
    if existing and existing.context != context:
        raise BadInput(f"folder {folder} has the kit of {existing.context}; name another folder for the kit of {context}")


def restore_script_of(address: StoreAddress, manifest: Manifest) -> bytes:
    """Return the script that restores a set with stock tools, compared with the set's manifest.

    Raises:
        DamagedSet: the script is missing, or differs from the manifest.
    """
    key = f"{name_of(manifest).folder}/{RESTORE_SCRIPT}"
    stored = next((candidate for candidate in manifest.objects if candidate.path == RESTORE_SCRIPT), None)
    script = address.opened.read(key) if stored and address.opened.head(key) else None
    if script is None or not stored or hashlib.sha256(script).hexdigest() != stored.sha256:
        raise DamagedSet(f"{address.path(key)} is missing or differs from the manifest; take a backup: flows.backup daily_backup")
    return script


def _place(name: SetName) -> str:
    """Return the folder for a downloaded set, where a differential finds its full backup."""
    return f"{RULES[name.kind].folder}/{name.id}"


def fetch_commands(address: StoreAddress, manifest: Manifest) -> Iterator[str]:
    """Yield the commands that fetch a set, and the full that it needs, into `sets`."""
    names = [name_of(manifest)]
    if manifest.base:
        names.append(SetName(manifest.context, Kind.FULL, manifest.base))
    for name in names:
        source, target = shlex.quote(address.path(name.folder)), f"sets/{_place(name)}"
        if address.off_host:
            yield f"aws s3 cp --recursive {source} {target}"
        else:
            yield f"mkdir -p {target} && cp -R {source}/. {target}"


def database_addresses() -> dict[str, str]:
    """Return libpq's variables with the server's address, from environment and service file."""
    parameters = database_parameters()
    return {variable: parameters[key] for key, variable in DATABASE_VARIABLES.items() if key in parameters}


def store_addresses(address: StoreAddress) -> dict[str, str]:
    """Return the variables with the store's address."""
    named = {name: _without_login(os.environ[name]) for name in STORE_VARIABLES if os.environ.get(name)}
    return {"BACKUP_STORE": address.url, **named}


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def export_lines(variables: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a file for a shell."""
    yield "# Addresses of server and store, without passwords. Change addresses that have changed, and add passwords by hand.\n"
    yield from (f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    if key := os.environ.get(VERIFY_KEY):
        yield f"export {VERIFY_KEY}=" + (f'"$PWD/{VERIFY_KEY_FILE}"' if Path(key).is_file() else shlex.quote(key)) + "\n"


def verify_key() -> dict[str, bytes]:
    """Return the file with the public key of signed sets, if there is one."""
    key = os.environ.get(VERIFY_KEY)
    if not key:
        return {}
    return {VERIFY_KEY_FILE: Path(key).read_bytes() if Path(key).is_file() else f"{key}\n".encode()}


def packed_project() -> bytes:
    """Return this project as a .tar.gz, in a folder `project`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path in project_files():
            archive.add(path, f"project/{path.relative_to(PROJECT)}", filter=_anonymous)
    return packed.getvalue()


def project_files() -> Iterator[Path]:
    """Yield the files of this project that a recovery needs."""
    yield from (PROJECT / name for name in FILES)
    for folder in FOLDERS:
        yield from (path for path in sorted((PROJECT / folder).rglob("*")) if path.suffix in SUFFIXES and path.is_file())


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def write_kit(folder: Path, files: Mapping[str, bytes], kit: Kit) -> None:
    """Make the folder, 0700, and replace a kit's files one by one, the mark last.

    In a new folder the mark is also written first, so that an unfinished kit is recognised as one.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    mark = render_kit(kit)
    if not (folder / KIT_FILE).exists():
        replace_file(folder / KIT_FILE, mark)
    for name, data in files.items():
        replace_file(folder / name, data)
    if VERIFY_KEY_FILE not in files:
        (folder / VERIFY_KEY_FILE).unlink(missing_ok=True)
    replace_file(folder / KIT_FILE, mark)


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file atomically, 0600, and flush it to disk."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
