"""Facts about stored files, and how to use them with nothing but PostgreSQL's own programs."""

import hashlib
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from psycopg.sql import SQL, Literal

from tasks.core import sql
from tasks.core.kinds import RULES
from tasks.core.manifest import Manifest, Relation, StoredObject
from tasks.core.owners import owners


def describe_file(path: str, file: Path) -> StoredObject:
    """Return path, size and SHA-256 of a file that is to be stored."""
    with file.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256")
    return StoredObject(path=path, bytes=file.stat().st_size, sha256=digest.hexdigest())


SCRIPT_HEAD = """\
#!/usr/bin/env bash
# Restores backup set {id} into a new database with nothing but zstd, createdb, pg_restore and psql
# of PostgreSQL {major} or newer: bash restore.sh NEW
# Run as a superuser of a server of PostgreSQL {server} or newer, which PGHOST, PGPORT, PGUSER … name. What the set has of its
# owners' code (checks, triggers, views, …) runs in sessions of a login that is made for this and dropped at the end: it is a
# member of the owners and nothing else.
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
STRICT=(--no-psqlrc --quiet --set=ON_ERROR_STOP=1)
LOADER=
run() {{ psql "${{STRICT[@]}}" --output=/dev/null --dbname="$1" --file=-; }}
ask() {{ psql "${{STRICT[@]}}" --no-align --tuples-only --set=loader="$LOADER" --dbname="$1" --file=-; }}
as_loader() {{ if [ "$LOADER" ]; then PGPASSWORD=$SECRET psql --username="$LOADER" "$@"; else psql "$@"; fi; }}
# A newer pg_restore says what servers before 17 do not know.
script() {{ pg_restore --section="$1" --use-list="$2" --file=- schema.dump | grep -v '^SET transaction_timeout'; }}
section() {{ script "$1" "$2" | as_loader "${{STRICT[@]}}" --output=/dev/null --dbname="$NEW" --file=- "${{@:3}}"; }}
# Schemas and extensions are made by who runs this: they take rights that owners do not need, and have no code of theirs.
FRAME='^[0-9]+; [0-9]+ [0-9]+ (SCHEMA|EXTENSION|COMMENT - SCHEMA|COMMENT - EXTENSION|ACL - SCHEMA) '
random() {{ od -An -N"$1" -tx1 /dev/urandom | tr -d ' \\n'; }}
make_loader() {{
    above=$(ask postgres <<< "$1")
    if [ "$above" ]; then
        [ "${{BACKUP_LOAD_AS_SUPERUSER-}}" ] && {{ echo "code of $above runs with your rights" >&2; return; }}
        echo "objects belong to $above, a superuser: their code could do anything to the server while they are loaded;" \\
            "where whoever may change them is trusted like a superuser, say so: BACKUP_LOAD_AS_SUPERUSER=yes" >&2
        exit 1
    fi
    LOADER=backup_loader_by_hand_$(random 4) SECRET=$(random 18)
    trap drop_loader EXIT
    run postgres <<< "SET log_statement = none; SET log_min_duration_statement = -1; SET log_min_error_statement = panic;
        CREATE ROLE $LOADER LOGIN PASSWORD '$SECRET'"
    ask postgres <<< "$2" | run postgres
    [ "$(as_loader "${{STRICT[@]}}" -At --dbname=postgres --command='SELECT session_user')" = "$LOADER" ] || {{
        echo "login $LOADER, made for this restore, is not let in: allow it in pg_hba.conf (scram-sha-256), and name PGHOST" >&2
        exit 1
    }}
    echo "code of the owners runs as login $LOADER, which is dropped at the end"
}}
drop_loader() {{
    psql "${{STRICT[@]}}" --dbname="$NEW" --command="REASSIGN OWNED BY $LOADER TO CURRENT_USER" 2>/dev/null || true
    psql "${{STRICT[@]}}" --dbname=postgres --command="DROP ROLE $LOADER" || echo "login $LOADER stays: DROP ROLE $LOADER" >&2
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
    said=$(as_loader --no-psqlrc --set=ON_ERROR_STOP=1 --dbname="$NEW" --command="$command")
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
        f"make_loader {_word(_superusers(manifest))} {_word(_memberships(manifest))}",
        f'createdb --template=template0 --owner={_word(manifest.database.owner)} {options} "$NEW"',
        f"rows schema.dump.zst | most {manifest.schema_archive.most_plain_bytes} > schema.dump",
        'script pre-data <(grep -E "$FRAME" schema.list) | run "$NEW"',
        f'LENT=$(ask "$NEW" <<< {_word(_lacking_create(manifest, "GRANT CREATE ON SCHEMA %I TO %I;"))})',
        f'TAKEN=$(ask "$NEW" <<< {_word(_lacking_create(manifest, "REVOKE CREATE ON SCHEMA %I FROM %I;"))})',
        'run "$NEW" <<< "$LENT"',
        'section pre-data <(grep -Ev "$FRAME" schema.list) --single-transaction',
        *(_load_command(relation, manifest.database.encoding, base) for relation in manifest.relations),
        "section post-data schema.list",
        f'as_loader "${{STRICT[@]}}" --output=/dev/null --dbname="$NEW" <<< {_word(_last_statements(manifest))}',
        'run "$NEW" <<< "$TAKEN"',
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


def _superusers(manifest: Manifest) -> str:
    return SQL("SELECT string_agg(rolname, ', ') FROM pg_roles WHERE rolsuper AND rolname = ANY ({})").format(
        Literal(sorted(owners(manifest)))
    ).as_string()  # fmt: skip


def _memberships(manifest: Manifest) -> str:
    """Return what writes the statements that make the login, which psql knows as `loader`, a member of the owners."""
    return (
        SQL(
            "SELECT format('GRANT %I TO %I%s;', rolname, :'loader', CASE WHEN current_setting('server_version_num')::int >= 160000 "
            "THEN ' WITH INHERIT TRUE, SET TRUE' END) FROM pg_roles WHERE rolname = ANY ({})"
        )
        .format(Literal(sorted(owners(manifest))))
        .as_string()
    )


def _lacking_create(manifest: Manifest, statement: str) -> str:
    """Return what writes a statement for each schema in which an owner may not create, as it has to for the restore."""
    schemas = sorted({relation.namespace for relation in manifest.relations})
    return (
        SQL(
            "SELECT format({}, n.nspname, r.rolname) FROM pg_namespace n CROSS JOIN pg_roles r WHERE n.nspname = ANY ({}) "
            "AND r.rolname = ANY ({}) AND NOT has_schema_privilege(r.oid, n.oid, 'CREATE')"
        )
        .format(Literal(statement), Literal(schemas), Literal(sorted(owners(manifest))))
        .as_string()
    )


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
    return "".join([*sequences, "SET client_min_messages = error;\nANALYZE;\n", *views])


def _left_to_do(manifest: Manifest) -> str:
    return "\n".join(["restored; left to do:", *_chores(manifest), "compare rows and digests with manifest.json"])


def _chores(manifest: Manifest) -> Iterator[str]:
    for key in manifest.outbound_keys:
        yield f"when {key.references} is back: {sql.add_key(key.table, key.name, key.definition).as_string()};"
    for setting in manifest.database.settings:
        yield f"ALTER DATABASE … SET {setting}"
    if manifest.database.grants:
        yield "grants on the database: see manifest.json"
