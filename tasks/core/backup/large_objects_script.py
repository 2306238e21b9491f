"""The part of `restore.sh` for large objects: the index lists them, COPY text has their pages."""

import shlex
from collections.abc import Iterator

from tasks.core.sets.manifest import Manifest
from tasks.core.sets.name import RULES

# Each line of the index is one value: no JSON has these two characters.
READ_INDEX = """CREATE TEMP TABLE large_object (one jsonb);
COPY pg_temp.large_object FROM STDIN (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02');"""
CREATE = """SELECT format('SET ROLE %I', one->>'owner'), format('SELECT lo_create(%s)', one->>'oid') FROM pg_temp.large_object
    ORDER BY one->>'owner' \\gexec"""
# Last, because an owner may have no right to write.
GRANT = """SELECT format('SET ROLE %I', one->>'owner'),
       CASE WHEN one->>'comment' IS NOT NULL THEN format('COMMENT ON LARGE OBJECT %s IS %L', one->>'oid', one->>'comment') END,
       CASE WHEN one->'grants' <> 'null' THEN format('REVOKE ALL ON LARGE OBJECT %s FROM %I', one->>'oid', one->>'owner') END
    FROM pg_temp.large_object \\gexec
RESET ROLE;
SELECT format('SET ROLE %I', one->>'owner'),
       format('GRANT %s ON LARGE OBJECT %s TO %s%s', given->>'privilege', one->>'oid',
              coalesce(quote_ident(given->>'role'), 'PUBLIC'),
              CASE WHEN (given->>'grantable')::boolean AND given->>'role' <> one->>'owner' THEN ' WITH GRANT OPTION' END)
    FROM pg_temp.large_object,
         jsonb_array_elements(CASE WHEN one->'grants' <> 'null' THEN one->'grants' ELSE '[]' END) AS given \\gexec"""
FUNCTIONS = """\
with_index() {{ {{ echo "$READ_INDEX"; rows {index} | most {index_bytes}; printf '%s\\n' '\\.' "$1"; }} | run "$NEW"; }}
# Those whose pages lie in the base, and those whose pages do not.
INHERITED=$(mktemp)
rows {index} | most {index_bytes} | sed -n 's/^{{"oid": \\([0-9]*\\), .*"inherited": true}}$/\\1/p' > "$INHERITED"
pages_of() {{
    awk -F '\\t' -v list="$INHERITED" -v "$1" 'BEGIN {{ while ((getline one < list) > 0) known[one] }} ($1 in known) == inherited'
}}
put() {{
    awk -F '\\t' '
        !/^[0-9]+\\t[0-9]+\\t\\\\\\\\x[0-9a-f]*$/ {{ print "no page of a large object" > "/dev/stderr"; exit 1 }}
        $3 == "\\\\\\\\x" {{ print "SELECT lo_truncate64(lo_open(" $1 ", 131072), " $2 ");"; next }}
        {{ print "SELECT lo_put(" $1 ", " $2 ", \\047" substr($3, 2) "\\047);" }}' |
        psql "${{INTO[@]}}" --single-transaction --file=-
}}
there() {{
    psql --no-psqlrc --set=ON_ERROR_STOP=1 --dbname="$NEW" --command="COPY (SELECT loid, pageno::bigint *
        (current_setting('block_size')::bigint / 4), data FROM pg_largeobject ORDER BY loid, pageno) TO STDOUT"
}}
same() {{ cmp - "$1" || {{ echo "large objects are not those of the set" >&2; exit 1; }}; }}"""


def large_object_commands(manifest: Manifest, base: Manifest | None) -> Iterator[str]:
    """Yield the commands that create and compare the large objects of a set, if it has any."""
    if manifest.large_object_index is None:
        return
    index = manifest.large_object_index
    for name, statements in (("READ_INDEX", READ_INDEX), ("CREATE", CREATE), ("GRANT", GRANT)):
        yield f"{name}={shlex.quote(statements)}"
    yield FUNCTIONS.format(index=shlex.quote(index.path), index_bytes=index.most_plain_bytes)
    yield 'with_index "$CREATE"'
    streams = list[tuple[int, str]]()
    if base and base.large_object_pages and manifest.large_objects and manifest.large_objects.inherited:
        pages = base.large_object_pages
        path = shlex.quote(f"../../{RULES[base.kind].folder}/{base.id}/{pages.path}")
        streams.append((1, f"rows {path} | most {pages.most_plain_bytes} | pages_of inherited=1"))
    if own := manifest.large_object_pages:
        streams.append((0, f"rows {shlex.quote(own.path)} | most {own.most_plain_bytes}"))
    for _, stream in streams:
        yield f"{stream} | put"
    for inherited, stream in streams:
        yield f"there | pages_of inherited={inherited} | same <({stream})"
    yield 'with_index "$GRANT"'
    yield 'rm "$INHERITED"'
