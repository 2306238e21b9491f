"""Texts stored as objects of a set."""

import zstandard

from tasks.core.backup.restore_script import describe_file
from tasks.core.sets.manifest import StoredObject
from tasks.core.sets.name import SetName
from tasks.run.run import Run, staging
from tasks.run.site import Site
from tasks.sets.upload import upload


def store_text(site: Site, run: Run, name: SetName, path: str, data: bytes) -> StoredObject:
    """Store a text as an object of a set."""
    file = run.folder / path.replace("/", "-")
    file.unlink(missing_ok=True)
    with staging(file):
        file.touch(mode=0o600)
        file.write_bytes(data)
    return upload(site.store, run, name, describe_file(path, file), file, "STANDARD")


def store_packed(site: Site, run: Run, name: SetName, path: str, text: bytes) -> StoredObject:
    """Store a text compressed; the manifest has its plain size, as a limit when it is unpacked."""
    return store_text(site, run, name, path, zstandard.compress(text)).model_copy(update={"plain_bytes": len(text)})
