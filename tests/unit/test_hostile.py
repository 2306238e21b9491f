"""What a store says is taken as what it must be, or refused with its field named; nothing of it grows beyond bounds."""

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.backup.differential import parse_block_rows
from tasks.core.backup.restore_script import restore_script
from tasks.core.calendar import before
from tasks.core.checks.definition import parse_checks
from tasks.core.context import parse_context
from tasks.core.database.objects import InventoryItem
from tasks.core.errors import BadInput, DamagedSet
from tasks.core.postgres.programs import Program, unsafe_programs
from tasks.core.report.markdown import local_time
from tasks.core.restore.drill import DrillRecord
from tasks.core.rows.file_blocks import MOST_COUNTS, parse_lines
from tasks.core.rows.sources import RowSource, digest_sources
from tasks.core.rows.unpacking import blocks_of
from tasks.core.sets.manifest import Manifest, Relation
from tasks.core.sets.manifest_file import parse_manifest, render_manifest
from tasks.core.sets.marks import CleanedMark, DamagedMark, ThawMark
from tasks.core.sets.name import Kind
from tasks.core.sets.order import newest_first
from tasks.core.spelling import PRIMARY_KEY, TYPE, foreign_key_of, is_qualified
from tasks.core.values import parse_or_none
from tests.support import samples
from tests.support.hostile import HOSTILE, Place, at, leaves, replaced
from tests.support.manifests import canonical

CONTEXT = Path(__file__).parents[2] / "deployments" / "contexts" / "bc-004" / "context.yaml"
FULL = samples.manifest(
    base=None, label="a label", keep_until=samples.INSTANT, losses=["public.teams: 1 of 2 rows"],
    restore_script=samples.stored("restore.sh"),
    block_rows=samples.stored("block-rows.json.zst"), inbound_keys=[samples.KEY],
    inventory=[
        *samples.manifest().inventory,
        {"kind": "constraint", "name": "k", "parent": "public.teams", "columns": "",
         "state": f"{samples.KEY.definition} | comment x"},
        {"kind": "sequence", "name": "public.s", "parent": "public.teams.id", "columns": "", "state": "owner o"},
        {"kind": "function", "name": "public.f(integer,text)", "parent": "", "columns": "", "state": "owner o"},
    ],
)  # fmt: skip
DIFFERENTIAL = samples.manifest(
    kind=Kind.DIFFERENTIAL, id="bc-004_differential_20251103_060000_aaaa", run="aaaa", base=FULL.id,
    relations=[
        samples.relation(types=["uuid", "text"], inherited={"rows": 2, "left_out": samples.stored("data/teams.left-out.zst")}),
    ],
)  # fmt: skip
ARCHIVE = samples.manifest(
    kind=Kind.ARCHIVE, id="bc-004_archive_20251103_060000_aaaa", run="aaaa",
    only={"schema": "public", "tables": ["t"], "partitions": ["public.t_2022"]},
)  # fmt: skip
BODIES = [json.loads(render_manifest(one))["manifest"] for one in (FULL, DIFFERENTIAL, ARCHIVE)]
CASES = [(body, place) for body in BODIES for place in leaves(body)]


def signed(body: Any) -> bytes:
    return canonical({"manifest": body, "sha256": hashlib.sha256(canonical(body)).hexdigest()})


def field_of(place: Place) -> str:
    return next(str(key) for key in reversed(place) if isinstance(key, str))


def use(manifest: Manifest) -> None:
    """Do what a listing and a report do with a manifest."""
    newest_first([manifest, FULL], lambda one: one.snapshot, lambda one: one.number)
    for instant in (manifest.snapshot.instant, manifest.finished, *([manifest.keep_until] if manifest.keep_until else [])):
        local_time(instant, manifest.zone)
        before(instant, "30 days", manifest.zone)
    assert (manifest.rows, manifest.bytes, manifest.cleaned_table) is not None
    assert "\0" not in restore_script(manifest, [("ENCODING", manifest.database.encoding)], "s, public")


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(CASES), st.sampled_from(HOSTILE))
def test_a_hostile_value_is_refused_by_its_field_or_is_harmless(case: tuple[dict[str, Any], Place], value: Any) -> None:
    body, place = case
    try:
        data = signed(replaced(body, place, value))
    except (ValueError, UnicodeEncodeError):
        return
    try:
        manifest = parse_manifest(data, "s3://b/set")
    except DamagedSet as error:
        said = str(error)
        assert said.startswith("s3://b/set: ") and "\n" not in said
        # Which field, or which of the few that have to fit together.
        assert field_of(place) in said or "the whole: " in said or "the manifest has version" in said or "cannot be read" in said, (
            said
        )
        assert len(said) < 1500
        return
    use(manifest)


@pytest.mark.parametrize("body", [[], None, "x", 1, {}, {"version": 1}])
def test_what_is_no_manifest_with_the_right_checksum(body: Any) -> None:
    with pytest.raises(DamagedSet, match=r"^s3://b/set: "):
        parse_manifest(signed(body), "s3://b/set")


def test_old_and_odd_names_are_read() -> None:
    odd = ["テーブル", 'a "quoted" one', "with.dots", "with spaces and | bars", "UPPER", "line\nbreak", "$dollar", "x" * 63]
    quoted = ['"' + name.replace('"', '""') + '"' for name in odd]
    manifest = samples.manifest(
        relations=[
            samples.relation(parts=[samples.stored(f"data/{number}.copy.zst")]).model_copy(update={"name": name, "columns": odd})
            for number, name in enumerate(odd)
        ],
        inventory=[
            {"kind": "table", "name": f"public.{name}", "parent": f"public.{quoted[0]},{quoted[1]}", "columns": "", "state": ""}
            for name in quoted
        ] + [
            {"kind": "constraint", "name": "k | comment", "parent": f"public.{name}", "columns": "", "state":
             f"FOREIGN KEY ({name}, b) REFERENCES public.{name}({name}, c) MATCH FULL ON UPDATE CASCADE "
             f"ON DELETE SET NULL ({name}) "
             "DEFERRABLE INITIALLY DEFERRED | NOT VALID | comment x"} for name in quoted
        ],
    )  # fmt: skip
    assert parse_manifest(render_manifest(manifest), "w") == manifest
    older = json.loads(render_manifest(manifest))["manifest"]
    for place in list(leaves(older)):
        if place[-1] in ("plain_bytes", "types") and isinstance(at(older, place[:-1]), dict) and "path" in at(older, place[:-1]):
            del at(older, place[:-1])[place[-1]]
    assert parse_manifest(signed(older), "w") == manifest


@pytest.mark.parametrize(
    ("state", "definition"),
    [
        ("FOREIGN KEY (a) REFERENCES b(c)", "FOREIGN KEY (a) REFERENCES b(c)"),
        ("FOREIGN KEY (id, PERIOD at) REFERENCES s.t(id, PERIOD at) NOT ENFORCED",
         "FOREIGN KEY (id, PERIOD at) REFERENCES s.t(id, PERIOD at) NOT ENFORCED"),
        ('FOREIGN KEY ("a | b") REFERENCES t("x""y") ON DELETE RESTRICT NOT VALID | NOT VALID | comment y',
         'FOREIGN KEY ("a | b") REFERENCES t("x""y") ON DELETE RESTRICT NOT VALID'),
        ("CHECK ((a > 0))", None),
    ],
)  # fmt: skip
def test_a_foreign_key_is_read_to_its_end(state: str, definition: str | None) -> None:
    assert foreign_key_of(state) == definition


@pytest.mark.parametrize(
    "state",
    ["FOREIGN KEY (a) REFERENCES b(c), DROP COLUMN d", "FOREIGN KEY (a) REFERENCES b(c); SELECT 1",
     "FOREIGN KEY (a) REFERENCES b(c) --", "FOREIGN KEY (f(a)) REFERENCES b(c)", 'FOREIGN KEY ("a) REFERENCES b(c)',
     "FOREIGN KEY", "FOREIGN KEY (a) REFERENCES b.c.d(e)"],
)  # fmt: skip
def test_what_is_more_than_a_foreign_key(state: str) -> None:
    with pytest.raises(ValueError, match="not a foreign key as PostgreSQL spells it"):
        foreign_key_of(state)


def test_names_and_types() -> None:
    for name in ("public.t", "t", '"A b"."c""d"', "public.表"):
        assert is_qualified(name)
    for name in ("a.b.c", "a;b", '"a', "a b", "", "a.", "t; DROP TABLE t", "a--"):
        assert not is_qualified(name)
    for kind in (
        "integer",
        "numeric(5,-2)",
        "timestamp(3) without time zone[]",
        '"char"',
        'public."Odd ""x"""',
        "interval day to second(3)",
    ):
        assert TYPE.fullmatch(kind)
    for kind in ("int)", "int; x", "int, y int", "int DEFAULT (f())", "int'"):
        assert not TYPE.fullmatch(kind)


# --- bounds ----------------------------------------------------------------------------------------------------------------


def test_no_more_is_unpacked_than_there_may_be(tmp_path: Path) -> None:
    packed, text = tmp_path / "x.zst", b"a row\n" * 1000
    packed.write_bytes(zstandard.compress(text))
    assert b"".join(blocks_of(packed, len(text))) == text
    with pytest.raises(zstandard.ZstdError, match="more than the 5,999 bytes that the manifest states"):
        list(blocks_of(packed, len(text) - 1))
    other = tmp_path / "y.zst"
    other.write_bytes(zstandard.compress(text))
    assert digest_sources([RowSource([packed, other], 2 * len(text))]).rows == 2000
    with pytest.raises(zstandard.ZstdError):
        digest_sources([RowSource([packed, other], 2 * len(text) - 1)])
    with pytest.raises(zstandard.ZstdError):
        list(RowSource([packed, other], 2 * len(text) - 1, [(0, 1)]).blocks())


def test_an_older_text_may_be_so_much_longer() -> None:
    assert samples.stored("a", 10).most_plain_bytes == 10_000 + (64 << 20)
    assert samples.stored("a", 10).model_copy(update={"plain_bytes": 3}).most_plain_bytes == 3


@pytest.mark.parametrize(
    "text",
    [
        b"1 " + b"9" * 5000,
        b"1 99999999999999999999999999999999999999999",
        b"1 101",
        b"0 1",
        b"1 2 3",
        b"2 1",
        b"1 1\n1 1",
        b"x y",
        b"1",
    ],
)
def test_runs_of_lines_stay_within_what_there_is(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        list(parse_lines(text, 100))


@pytest.mark.parametrize(
    "counted",
    [{"shift": 33, "rows": []}, {"shift": -1, "rows": []}, {"shift": 0, "rows": [0] * (MOST_COUNTS + 1)},
     {"shift": 0, "rows": [-1]},
     {"shift": 0, "rows": [10**30]}, {"shift": 0, "rows": "x"}, {"shift": 10**30, "rows": [1]}, {"shift": 0}, [], None],
)  # fmt: skip
def test_rows_by_block_that_cannot_be(counted: Any) -> None:
    with pytest.raises(DamagedSet, match=r"^x cannot be read"):
        parse_block_rows(json.dumps({"public.t": counted}).encode(), "x")


@pytest.mark.parametrize("data", [b"[" * 100_000, b"null", b"\xff", b"[]", b'{"a": ' + b"[" * 50_000])
def test_rows_by_block_that_are_none(data: bytes) -> None:
    with pytest.raises(DamagedSet):
        parse_block_rows(data, "x")


BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}\n" for n in range(1, 12)
)  # fmt: skip
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))


@pytest.mark.parametrize(
    "text",
    [BOMB, MERGES, "a: &a [*a]", "[" * 500, "rto: " + "9" * 6000,
     CONTEXT.read_text("utf-8").replace("policy_violations_{year}", "x{year:999999999}"),
     CONTEXT.read_text("utf-8").replace("policy_violations_{year}", "x{year.__class__}{year}"),
     CONTEXT.read_text("utf-8").replace("rto: 4 hours", f"rto: {'9' * 400} hours"),
     CONTEXT.read_text("utf-8").replace("keep: 3 years", f"keep: {'9' * 400} years"),
     CONTEXT.read_text("utf-8").replace("time_zone: Asia/Tokyo", "time_zone: Asia"),
     CONTEXT.read_text("utf-8").replace("time_zone: Asia/Tokyo", "time_zone: ../../etc/passwd")],
    ids=["nested", "merged", "round", "deep", "digits", "width", "attribute", "hours", "years", "folder", "path"],
)  # fmt: skip
def test_a_context_file_that_would_be_far_more_than_it_is(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(BadInput):
        parse_context(text, "x")
    assert time.monotonic() - started < 60


def test_files_that_would_take_for_ever() -> None:
    started = time.monotonic()
    for text in ("-- check: a" + " " * 200_000 + "x", "-- check: a\n-- severity: error\nSELECT 1" + ";" * 100_000 + "x",
                 "-- check: a\n-- severity: error\n-- " + " x" * 100_000 + "\nSELECT 1", "-- check:" + "\t" * 200_000):  # fmt: skip
        try:
            parse_checks(text, "x")
        except BadInput as error:
            assert str(error)
    assert PRIMARY_KEY.match("PRIMARY KEY (" + "a" * 5000) is None
    assert foreign_key_of("CHECK " + "a" * 5000) is None
    with pytest.raises(ValueError, match="not a foreign key"):
        foreign_key_of("FOREIGN KEY (" + '"a""' * 5000)
    assert time.monotonic() - started < 60


MARKS = [
    b"[" * 100_000, b"", b"null", b"[]", b"\xff\xfe", b'{"deleted": {"a": -1}}', b'{"deleted": {"a": 1e999}}', b'{"deleted": []}',
    b'{"found": 1}', b'{"found": "' + b"x" * 20_000 + b'"}',
    b'{"asked": "2025-01-01T00:00:00", "tier": "Bulk", "flow_run": ""}',
    b'{"asked": "9999-12-31T23:59:59Z", "tier": "Bulk", "flow_run": ""}',
    b'{"asked": "2025-01-01T00:00:00Z", "tier": "../x", "flow_run": ""}',
]  # fmt: skip


@pytest.mark.parametrize("data", MARKS)
@pytest.mark.parametrize("kind", [CleanedMark, DamagedMark, ThawMark])
def test_a_mark_that_cannot_be_says_nothing(kind: Any, data: bytes) -> None:
    assert parse_or_none(kind, data) is None


def test_marks_as_they_are_written() -> None:
    cleaned = parse_or_none(CleanedMark, b'{"instant": "2025-11-02 17:00:00+00:00", "run": "3f9c", "deleted": {"public.t": 3}}')
    assert cleaned and cleaned.deleted == {"public.t": 3}
    damaged = parse_or_none(DamagedMark, b'{"instant": "2025-11-02 17:00:00+00:00", "found": "data/x: 3 bytes"}')
    assert damaged and damaged.problem == "data/x: 3 bytes"
    thaw = parse_or_none(ThawMark, b'{"asked": "2025-11-02T17:00:00+00:00", "tier": "Bulk", "flow_run": ""}')
    assert thaw and thaw.tier == "Bulk"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "-1", "1e300"])
def test_a_record_with_a_number_that_cannot_be_is_passed_over(number: str) -> None:
    kept = {
        "instant": "2025-11-02T17:00:00Z", "run": "3f9c", "set": None, "verdict": "x", "passed": True, "proven": True,
        "rto_limit_seconds": 1, "rpo_seconds": None, "rpo_limit_seconds": 1, "database_bytes": 1, "rows": 1, "phases": {},
    }  # fmt: skip
    assert parse_or_none(DrillRecord, json.dumps({**kept, "rto_seconds": 1}).encode())
    assert parse_or_none(DrillRecord, json.dumps({**kept, "rto_seconds": 0})[:-2].encode() + number.encode() + b"}") is None
    assert parse_or_none(DrillRecord, json.dumps({**kept, "rto_seconds": 1, "instant": "0001-01-01T00:00:00Z"}).encode()) is None


# --- programs, and the script in a set ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "is_safe"),
    [("17.5", False), ("17.6", True), ("16.9", False), ("16.10", True), ("15.13", False), ("15.14", True), ("14.18", False),
     ("14.19", True), ("13.22", True), ("13.21", False), ("12.30", False), ("18.0", True), ("18beta1", True), ("19.1", True),
     ("17beta1", False)],
)  # fmt: skip
def test_programs_that_a_dump_could_command(version: str, is_safe: bool) -> None:
    program = Program(Path("/bin/pg_restore"), int(version[:2]), version)
    found = unsafe_programs([program])
    assert bool(found) is not is_safe
    if found:
        assert "/bin/pg_restore" in found[0] and version in found[0] and "CVE-2025-8714" in found[0] and "install " in found[0]


STUB = """#!/bin/bash
cat > /dev/null
[ "${0##*/}" = psql ] && for word; do
    case "$word" in
    --username=*) login=${word#--username=} ;;
    "--command=SELECT session_user") echo "$login" ;;
    --command=*) echo "COPY 3" ;;
    esac
done
[ "${0##*/}" = pg_restore ] && echo "SELECT 1;"
exit 0
"""


@pytest.mark.parametrize(
    "name",
    ["$(touch pwned)", "`touch pwned`", "x; touch pwned;", "x\ntouch pwned\n#", "' ; touch pwned ; '", '" ; touch pwned ; "',
     "\\! touch pwned", ":'x' \\gexec", "--help", "x\n\\! touch pwned\n"],
)  # fmt: skip
def test_no_name_breaks_out_of_the_script(name: str, tmp_path: Path) -> None:
    role = samples.OWNER.model_copy(update={"name": name})
    quoted = '"' + name.replace('"', '""') + '"'
    names = {"namespace": name, "name": name, "columns": [name], "parent": f"{name}.{name}"}
    relation = samples.relation(parts=[samples.stored("data/x.copy.zst")], plain_bytes=0).model_copy(update=names)
    divided = InventoryItem(
        kind="partitioned table", name=f"{quoted}.{quoted}", parent="", columns="", state=f"owner {name} | key HASH (k)"
    )
    key = samples.KEY.model_copy(update={"table": '"' + name.replace('"', '""') + '"'})
    database = samples.manifest().database.model_copy(update={"owner": name, "settings": [f"a.b={name}"], "collate": name})
    manifest = samples.manifest(relations=[relation]).model_copy(
        update={
            "roles": [role], "database": database, "outbound_keys": [key], "inventory": [divided],
            "views": [one.model_copy(update={"namespace": name, "name": name}) for one in samples.manifest().views],
            "sequences": [one.model_copy(update={"namespace": name, "name": name}) for one in samples.manifest().sequences],
        }
    )  # fmt: skip
    options = [("ENCODING", "UTF8"), ("LC_COLLATE", name)]
    (tmp_path / "restore.sh").write_text(restore_script(manifest, options, name))
    (tmp_path / "schema.list").write_text(f"215; 1259 16385 TABLE public {name} owner\n")
    (tmp_path / "bin").mkdir()
    for program in ("psql", "createdb", "pg_restore", "zstd"):
        (tmp_path / "bin" / program).write_text(STUB)
        (tmp_path / "bin" / program).chmod(0o755)
    ran = subprocess.run(
        ["bash", "restore.sh", "new"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert not list(tmp_path.rglob("pwned"))
    assert "restored; left to do:" in ran.stdout, ran.stderr


def test_a_relation_has_a_type_a_column() -> None:
    with pytest.raises(ValueError, match="2 columns and 1 types"):
        Relation(**samples.relation().model_dump() | {"types": ["uuid"]})
