"""The script that restores a set with PostgreSQL's own programs, without this project."""

import hashlib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from psycopg.sql import SQL, Literal

from tasks.core import sql
from tasks.core.backup.large_objects_script import large_object_commands
from tasks.core.postgres.connection import session_option
from tasks.core.sets.hash_partitions import families
from tasks.core.sets.manifest import Manifest, Relation, StoredObject
from tasks.core.sets.name import RULES
from tasks.core.sets.owners import owners
from tasks.core.sets.shared_schema import own_grants, schemas_with_objects


def describe_file(path: str, file: Path) -> StoredObject:
    """Return path, size and SHA-256 of a file to store."""
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
-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 \
-c timezone=UTC -c datestyle=ISO,YMD -c intervalstyle=postgres -c bytea_output=hex -c lc_monetary=C"
STRICT=(--no-psqlrc --quiet --set=ON_ERROR_STOP=1)
LOADER=
run() {{ psql "${{STRICT[@]}}" --output=/dev/null --dbname="$1" --file=-; }}
ask() {{ psql "${{STRICT[@]}}" --no-align --tuples-only --set=loader="$LOADER" --dbname="$1" --file=-; }}
as_loader() {{ if [ "$LOADER" ]; then PGPASSWORD=$SECRET psql --username="$LOADER" "$@"; else psql "$@"; fi; }}
# A newer pg_restore says what servers before 17 do not know.
script() {{ pg_restore ${{1:+--section="$1"}} --use-list="$2" --file=- schema.dump | grep -v '^SET transaction_timeout'; }}
# What the source's code calls by bare names is found where it was found there. Rows are loaded under that path; of the schema only
# those entries are made under it that cannot be made with nothing on the path.
THERE={there}
under() {{ PGOPTIONS="$PGOPTIONS $THERE" as_loader "$@"; }}
INTO=("${{STRICT[@]}}" --output=/dev/null --dbname="$NEW")
NOTHING="SELECT pg_catalog.set_config('search_path', '', false);"
section() {{
    script "$1" "$2" | as_loader "${{INTO[@]}}" --single-transaction --file=- && return
    echo "$1 was refused as a whole; entry by entry:"
    while IFS= read -r entry; do
        if ! said=$(script "" <(echo "$entry") | as_loader "${{INTO[@]}}" --set=VERBOSITY=verbose -1 --file=- 2>&1); then
            # No such table, function or operator, type.
            [[ $said =~ ERROR:[[:space:]]+(42P01|42883|42704): ]] || {{ echo "$entry: $said" >&2; exit 1; }}
            script "" <(echo "$entry") | NOTHING="$NOTHING" awk '$0 == ENVIRON["NOTHING"] && !found++ {{ next }} 1' |
                under "${{INTO[@]}}" --single-transaction --file=- || {{ echo "$entry: not made" >&2; exit 1; }}
        fi
    done < <(pg_restore --list --section="$1" --use-list="$2" schema.dump | grep '^[0-9]')
}}
# Schemas and extensions are made by who runs this: they take rights that owners do not need, and have no code of theirs.
FRAME='^[0-9]+; [0-9]+ [0-9]+ (SCHEMA|EXTENSION|COMMENT - SCHEMA|COMMENT - EXTENSION|ACL - SCHEMA) '
# Grants may be others' than an object's owner's (SET SESSION AUTHORIZATION), which takes a superuser; they run no code.
ACL='^[0-9]+; [0-9]+ [0-9]+ (DEFAULT )?ACL '
random() {{ od -An -N"$1" -tx1 /dev/urandom | tr -d ' \\n'; }}
make_loader() {{
    above=$(ask postgres <<< "$1")
    if [ "$above" ]; then
        [ "${{BACKUP_LOAD_AS_SUPERUSER-}}" ] && {{ echo "$above: code of owners runs with your rights" >&2; return; }}
        echo "$above: code of owners could do anything to the server while that is loaded;" \\
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
    said=$(under --no-psqlrc --set=ON_ERROR_STOP=1 --dbname="$NEW" --command="$command")
    [ "$said" = "COPY $rows" ] || {{ echo "$command: $said, not $rows rows" >&2; exit 1; }}
}}
"""


SPLIT_LISTS = (
    'grep -Ev "$FRAME" schema.list > all.list || [ $? = 1 ]',
    'grep -Ev "$ACL" all.list > objects.list || [ $? = 1 ]',
    'grep -E "$ACL" all.list > grants.list || [ $? = 1 ]',
)


def restore_script(
    manifest: Manifest,
    database_options: Iterable[tuple[str, str]],
    path: str,
    base: Manifest | None = None,
) -> str:
    """Return the script that restores a set from its downloaded folder with stock tools alone.

    `path` is the search_path that the source's code expects. A differential looks for its base
    where the store has it: in the folder `daily` beside its own folder.
    """
    options = " ".join(_word(f"--{key.lower().replace('_', '-')}={value}") for key, value in database_options)
    versions = manifest.versions
    return "\n".join([
        SCRIPT_HEAD.format(
            id=manifest.id, major=versions.pg_dump_major, server=versions.server_major,
            there=_word(session_option("search_path", path)),
        ),
        f"run postgres <<< {_word(_missing_roles(manifest))}",
        f"make_loader {_word(_superusers(manifest))} {_word(_memberships(manifest))}",
        f'createdb --template=template0 --owner={_word(manifest.database.owner)} {options} "$NEW"',
        f"rows schema.dump.zst | most {manifest.schema_archive.most_plain_bytes} > schema.dump",
        'script "" <(grep -E "$FRAME" schema.list) | run "$NEW"',
        'LENT=$(ask "$NEW" <<< '
        f'{_word(_lacking_create(manifest, "GRANT CREATE ON SCHEMA %I TO %I;"))})',
        'TAKEN=$(ask "$NEW" <<< '
        f'{_word(_lacking_create(manifest, "REVOKE CREATE ON SCHEMA %I FROM %I;"))})',
        'run "$NEW" <<< "$LENT"',
        *SPLIT_LISTS,
        "section pre-data objects.list",
        *_load_commands(manifest, base),
        *large_object_commands(manifest, base),
        # A key is proven by a query, from which policies would keep rows that they keep even from
        # the owner.
        f'FORCED=$(ask "$NEW" <<< {_word(FORCED_TABLES)})',
        'as_loader "${INTO[@]}" <<< "${FORCED// FORCE / NO FORCE }"',
        "section post-data objects.list",
        'script "" grants.list | run "$NEW"',
        'as_loader "${INTO[@]}" <<< "$FORCED"',
        f'as_loader "${{INTO[@]}}" <<< {_word(_set_sequences(manifest))}',
        'under "${INTO[@]}" --command="SET client_min_messages = error" --command=ANALYZE || echo '
        '"ANALYZE is left to do" >&2',
        f'under "${{INTO[@]}}" <<< {_word(_refresh_views(manifest))}',
        'run "$NEW" <<< "$TAKEN"',
        f'run "$NEW" <<< {_word(_own_grants(manifest))}',
        f"echo {_word(_left_to_do(manifest))}",
        "",
    ])  # fmt: skip


def _word(text: str) -> str:
    return shlex.quote(text)


FORCED_TABLES = (
    "SELECT format('ALTER TABLE %s FORCE ROW LEVEL SECURITY;', oid::regclass) FROM pg_class WHERE relforcerowsecurity ORDER BY 1"
)


def _missing_roles(manifest: Manifest) -> str:
    names = sorted({manifest.database.owner, *(role.name for role in manifest.roles)})
    statement = SQL(
        "SELECT format('CREATE ROLE %I NOLOGIN', name) FROM unnest(ARRAY[{}]) AS name "
        "WHERE name NOT IN (SELECT rolname FROM pg_roles) \\gexec"
    )
    return statement.format(SQL(", ").join(map(Literal, names))).as_string()


def _superusers(manifest: Manifest) -> str:
    """Return the query for why a superuser has to load the set; it returns "" if none has to."""
    made = f"only a superuser can make {', '.join(manifest.only_superusers)}" if manifest.only_superusers else None
    statement = SQL(
        "SELECT concat_ws('; ', 'objects belong to ' || string_agg(rolname, ', ') || ', a "
        "superuser', {}) FROM pg_roles WHERE rolsuper AND rolname = ANY ({})"
    )
    return statement.format(Literal(made), Literal(sorted(owners(manifest)))).as_string()


def _memberships(manifest: Manifest) -> str:
    """Return the query for GRANTs of the owners to the login in psql variable `loader`."""
    return (
        SQL(
            "SELECT format('GRANT %I TO %I%s;', rolname, :'loader', CASE WHEN "
            "current_setting('server_version_num')::int >= 160000 THEN ' WITH INHERIT TRUE, SET "
            "TRUE' END) FROM pg_roles WHERE rolname = ANY ({})"
        )
        .format(Literal(sorted(owners(manifest))))
        .as_string()
    )


def _lacking_create(manifest: Manifest, statement: str) -> str:
    """Return the query for a statement per schema in which an owner lacks CREATE."""
    schemas = schemas_with_objects(manifest)
    return (
        SQL(
            "SELECT format({}, n.nspname, r.rolname) FROM pg_namespace n CROSS JOIN pg_roles r "
            "WHERE n.nspname = ANY ({}) AND r.rolname = ANY ({}) AND NOT "
            "has_schema_privilege(r.oid, n.oid, 'CREATE')"
        )
        .format(Literal(statement), Literal(schemas), Literal(sorted(owners(manifest))))
        .as_string()
    )


def _own_grants(manifest: Manifest) -> str:
    """Return the grants that owners had on schema `public` if it is another role's."""
    statements = (
        sql.databases.grant_on_schema(grant.schema, grant.role, grant.privilege, grantable=grant.grantable)
        for grant in own_grants(manifest)
    )
    return "".join(f"{statement.as_string()};\n" for statement in statements)


def _load_commands(manifest: Manifest, base: Manifest | None) -> Iterator[str]:
    """Yield the commands that load rows; those of hash partitions, if need be, by their parent."""
    divided, encoding = families(manifest), manifest.database.encoding
    folder = f"../../{RULES[base.kind].folder}/{base.id}" if base else ""
    of_base = {
        relation.qualified: [f"{folder}/{part.path}" for part in relation.parts] for relation in (base.relations if base else ())
    }
    known = {leaf.qualified for family in divided for leaf in family.relations}
    for relation in manifest.relations:
        if relation.qualified not in known:
            yield _load_command(relation, encoding, of_base)
    for family in divided:
        emptied = ";\n".join(sql.rows.empty_relation(leaf.namespace, leaf.name).as_string() for leaf in family.relations)
        yield " && ".join(_load_command(leaf, encoding, of_base) for leaf in family.relations) + " || {"
        yield f"    echo {_word('loading it again through ' + family.qualified)}"
        yield f'    as_loader "${{INTO[@]}}" --single-transaction <<< {_word(emptied)}'
        yield from (f"    {_load_command(leaf, encoding, of_base, family.table)}" for leaf in family.relations)
        yield "}"


def _load_command(
    relation: Relation,
    encoding: str,
    of_base: Mapping[str, Sequence[str]],
    into: tuple[str, str] | None = None,
) -> str:
    """Return the command that loads a relation; `of_base` has the paths of the base's parts."""
    place = into or (relation.namespace, relation.name)
    command = sql.rows.copy_rows_in(*place, relation.columns, encoding, freeze=False).as_string()
    rows = [f"rows {' '.join(_word(part.path) for part in relation.parts)}"] if relation.parts else []
    if of_base and (inherited := relation.inherited):
        but = f" | but {_word(inherited.left_out.path)}" if inherited.left_out else ""
        rows.insert(0, f"rows {' '.join(map(_word, of_base[relation.qualified]))}{but}")
    return f"{{ {'; '.join(rows)}; }} | most {relation.plain_bytes} | load {relation.rows} {_word(command)}"


def _set_sequences(manifest: Manifest) -> str:
    statement = SQL("SELECT setval(format('%I.%I', {}, {})::regclass, {}, {});\n")
    return "".join(
        statement.format(*map(Literal, (sequence.namespace, sequence.name, sequence.last_value, sequence.is_called))).as_string()
        for sequence in manifest.sequences
    )


def _refresh_views(manifest: Manifest) -> str:
    return "".join(
        f"{sql.views.refresh_view(view.namespace, view.name).as_string()};\n"
        for view in manifest.views
        if view.materialized and view.populated
    )


def _left_to_do(manifest: Manifest) -> str:
    return "\n".join(["restored; left to do:", *_chores(manifest), "compare rows and digests with manifest.json"])


def _chores(manifest: Manifest) -> Iterator[str]:
    for key in manifest.outbound_keys:
        yield f"when {key.references} is back: {sql.foreign_keys.add_key(key.table, key.name, key.definition).as_string()};"
    for item in manifest.by_hand:
        yield f"{item.name}, which is not in the set ({item.why}):\n{item.statements}"
    for setting in manifest.database.settings:
        yield f"ALTER DATABASE … SET {setting}"
    if manifest.database.grants:
        yield "grants on the database: see manifest.json"
