"""Facts about stored files, and how to use them with nothing but PostgreSQL's own programs."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tasks.core.manifest import ForeignKey, Relation, StoredObject


def describe_file(path: str, file: Path) -> StoredObject:
    """Return path, size and SHA-256 of a file that is to be stored."""
    with file.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256")
    return StoredObject(path=path, bytes=file.stat().st_size, sha256=digest.hexdigest())


def restore_by_hand(relations: Iterable[Relation], outbound: Iterable[ForeignKey]) -> list[str]:
    """Return the commands that restore a set in its downloaded folder with zstd, pg_restore and psql alone."""
    return [
        "zstd -d schema.dump.zst",
        "createdb --template=template0 NEW",
        "pg_restore --dbname=NEW --section=pre-data --use-list=schema.list schema.dump",
        *(_load_command(relation) for relation in relations),
        "pg_restore --dbname=NEW --section=post-data --use-list=schema.list schema.dump",
        *(
            f"-- when {key.references} is back: ALTER TABLE {key.table} ADD CONSTRAINT {key.name} {key.definition};"
            for key in outbound
        ),
    ]


def _load_command(relation: Relation) -> str:
    columns = ", ".join(f'\\"{column}\\"' for column in relation.columns)
    table = f'\\"{relation.namespace}\\".\\"{relation.name}\\"'
    files = " ".join(f"'{part.path}'" for part in relation.parts)
    return f'zstd -dc {files} | psql --dbname=NEW --command="COPY {table} ({columns}) FROM STDIN"'
