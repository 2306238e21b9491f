"""Facts about stored files, and how to use them with nothing but PostgreSQL's own programs."""

import hashlib
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from psycopg.sql import SQL, Literal

from tasks.core import sql
from tasks.core.kinds import RULES
from tasks.core.manifest import Manifest, Relation, StoredObject


def describe_file(path: str, file: Path) -> StoredObject:
    """Return path, size and SHA-256 of a file that is to be stored."""
    with file.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256")
    return StoredObject(path=path, bytes=file.stat().st_size, sha256=digest.hexdigest())


SCRIPT_HEAD = """\
#!/usr/bin/env bash
# Restores backup set {id} into a new database with nothing but zstd, createdb, pg_restore and psql
# of PostgreSQL {major} or newer: bash restore.sh NEW
# Run as a superuser of a server of PostgreSQL {server} or newer, which PGHOST, PGPORT, PGUSER … name.
set -euo pipefail
cd "$(dirname "$0")"
NEW=${{1:?name the database to make}}
[ -z "${{PGSERVICE:-}}" ] || {{
    echo "PGSERVICE is set, and what its file says beats what is needed here; unset it, and set PGHOST, PGPORT, PGUSER" >&2
    exit 1
}}
unset PGDATABASE
export PGCLIENTENCODING=UTF8
# No schema of others stands on the path, no role is taken, no limit holds, whatever the login has as its defaults.
export PGOPTIONS="-c search_path=pg_catalog,pg_temp -c jit=off -c role=none -c default_transaction_read_only=off \
-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
-c timezone=UTC -c datestyle=ISO,YMD -c intervalstyle=postgres -c bytea_output=hex -c lc_monetary=C"
run() {{ psql --no-psqlrc --quiet --output=/dev/null --set=ON_ERROR_STOP=1 --dbname="$1" --file=-; }}
# A newer pg_restore says what servers before 17 do not know.
section() {{
    pg_restore --section="$1" --use-list=schema.list --file=- schema.dump | grep -v '^SET transaction_timeout' |
        psql --no-psqlrc --quiet --output=/dev/null --set=ON_ERROR_STOP=1 --dbname="$NEW" --file=- "${{@:2}}"
}}
rows() {{ zstd --decompress --stdout -- "$@"; }}
# Leaves out the lines whose first and last numbers a file of runs names.
but() {{
    LC_ALL=C awk -v runs=<(rows "$1") '
        function next_run() {{ if ((getline run < runs) > 0) {{ split(run, ends, " ") }} else {{ ends[1] = ends[2] = 0 }} }}
        BEGIN {{ next_run() }}
        {{ while (ends[2] && NR > ends[2]) next_run(); if (!ends[1] || NR < ends[1]) print }}'
}}
# No more bytes than the set has: what is packed may stand for any number.
most() {{ head -c "$1"; }}
load() {{
    rows=$1 command=$2
    said=$(psql --no-psqlrc --set=ON_ERROR_STOP=1 --dbname="$NEW" --command="$command")
    [ "$said" = "COPY $rows" ] || {{ echo "$command: $said, not $rows rows" >&2; exit 1; }}
}}
"""


def restore_script(manifest: Manifest, database_options: Iterable[tuple[str, str]], base: Manifest | None = None) -> str:
    """Return the shell script that restores a set in its downloaded folder with stock tools alone.

    A differential looks for its base where it is in the store: in the folder `daily` beside its own folder's.
    """
    options = " ".join(_word(f"--{key.lower().replace('_', '-')}={value}") for key, value in database_options)
    versions = manifest.versions
    return "\n".join([
        SCRIPT_HEAD.format(id=manifest.id, major=versions.pg_dump_major, server=versions.server_major),
        f"run postgres <<< {_word(_missing_roles(manifest))}",
        f'createdb --template=template0 --owner={_word(manifest.database.owner)} {options} "$NEW"',
        f"rows schema.dump.zst | most {manifest.schema_archive.most_plain_bytes} > schema.dump",
        "section pre-data --single-transaction",
        *(_load_command(relation, manifest.database.encoding, base) for relation in manifest.relations),
        "section post-data",
        f'run "$NEW" <<< {_word(_last_statements(manifest))}',
        f"echo {_word(_left_to_do(manifest))}",
        "",
    ])  # fmt: skip


def _word(text: str) -> str:
    return shlex.quote(text)


def _missing_roles(manifest: Manifest) -> str:
    names = sorted({manifest.database.owner, *(role.name for role in manifest.roles)})
    statement = SQL(
        "SELECT format('CREATE ROLE %I NOLOGIN', name) FROM unnest(ARRAY[{}]) AS name "
        "WHERE name NOT IN (SELECT rolname FROM pg_roles) \\gexec"
    )
    return statement.format(SQL(", ").join(map(Literal, names))).as_string()


def _load_command(relation: Relation, encoding: str, base: Manifest | None) -> str:
    command = sql.copy_rows_in(relation.namespace, relation.name, relation.columns, encoding, freeze=False).as_string()
    rows = [f"rows {' '.join(_word(part.path) for part in relation.parts)}"] if relation.parts else []
    if base and (inherited := relation.inherited):
        folder = f"../../{RULES[base.kind].folder}/{base.id}"
        parts = next(one.parts for one in base.relations if one.qualified == relation.qualified)
        but = f" | but {_word(inherited.left_out.path)}" if inherited.left_out else ""
        rows.insert(0, f"rows {' '.join(_word(f'{folder}/{part.path}') for part in parts)}{but}")
    return f"{{ {'; '.join(rows)}; }} | most {relation.plain_bytes} | load {relation.rows} {_word(command)}"


def _last_statements(manifest: Manifest) -> str:
    set_sequence = SQL("SELECT setval(format('%I.%I', {}, {})::regclass, {}, {});\n")
    sequences = [
        set_sequence.format(*map(Literal, (one.namespace, one.name, one.last_value, one.is_called))).as_string()
        for one in manifest.sequences
    ]
    views = [
        f"{sql.refresh_view(view.namespace, view.name).as_string()};\n"
        for view in manifest.views
        if view.materialized and view.populated
    ]
    return "".join([*sequences, "ANALYZE;\n", *views])


def _left_to_do(manifest: Manifest) -> str:
    return "\n".join(["restored; left to do:", *_chores(manifest), "compare rows and digests with manifest.json"])


def _chores(manifest: Manifest) -> Iterator[str]:
    for key in manifest.outbound_keys:
        yield f"when {key.references} is back: {sql.add_key(key.table, key.name, key.definition).as_string()};"
    for setting in manifest.database.settings:
        yield f"ALTER DATABASE … SET {setting}"
    if manifest.database.grants:
        yield "grants on the database: see manifest.json"
