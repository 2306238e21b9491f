"""A set whose list does not restore all that its manifest names: none is published, and one that is in the store is named."""

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from psycopg import sql

from flows.checks import integrity_check
from flows.watch import verify_backups, watch_recovery_point
from tasks.core.backup.restore_script import describe_file
from tasks.core.errors import DamagedSet, OperationError
from tasks.core.postgres.archive_toc import parse_list
from tasks.core.sets.completeness import unlisted_objects
from tasks.core.sets.manifest import Manifest
from tasks.core.sets.manifest_file import MANIFEST_FILE, parse_manifest, render_manifest
from tasks.run import site
from tests.support import PROJECT
from tests.support.contexts import write_context
from tests.support.drawn_schemas import CONTEXT as DRAWN_CONTEXT
from tests.support.drawn_schemas import DRAWN, TwoServers, made, repeatedly
from tests.support.example import copy_template
from tests.support.faults import shim
from tests.support.hostile_names import Hostile
from tests.support.random_schemas import Schema
from tests.support.servers import drop_databases
from tests.support.world import TwoSets, World

ELSEWHERE = "elsewhere"
ODD = "odd_lists"
# Of these each entry is of an object that a manifest names.
KINDS = [
    "TABLE ATTACH", "INDEX ATTACH", "TABLE", "VIEW", "MATERIALIZED VIEW", "SEQUENCE", "INDEX", "CONSTRAINT", "FK CONSTRAINT",
    "TRIGGER", "RULE", "POLICY", "STATISTICS", "FUNCTION", "PROCEDURE", "AGGREGATE", "TYPE", "DOMAIN", "EXTENSION",
]  # fmt: skip
OTHER_KINDS = re.compile("SEQUENCE OWNED BY |SEQUENCE SET |TABLE DATA ")


def lead_elsewhere(world: World, argument: str) -> None:
    """Give pg_dump another argument, its last."""
    folder = world.folder / "programs"
    world.extra["PG_BIN"] = str(shim(folder, world.source.bin, "pg_dump", before=f'set -- "$@" {shlex.quote(argument)}'))
    (folder / "pg_dump.go").touch()


def assert_nothing_is_published(world: World, said: str) -> None:
    for backup in (world.backup, world.differential):
        with pytest.raises(OperationError, match=said):
            backup()
    assert list(world.store_folder.rglob(MANIFEST_FILE)) == []


@pytest.mark.long
def test_a_dump_of_another_database_is_not_published(world: World) -> None:
    lead_elsewhere(world, f"--dbname={world.source.conninfo('postgres')}")
    assert_nothing_is_published(
        world, r'pg_dump dumped database "postgres" .* instead of database "consulting_tool" .*PGSERVICE.* run again'
    )


@pytest.mark.long
def test_a_dump_of_a_copy_is_not_published_though_it_has_the_same_objects(world: World) -> None:
    copy_template(world.source, ELSEWHERE)
    lead_elsewhere(world, f"--dbname={world.source.conninfo(ELSEWHERE)}")
    assert_nothing_is_published(world, 'pg_dump dumped database "elsewhere" .* instead of database "consulting_tool" ')


def test_a_dump_that_lacks_tables_is_not_published(world: World) -> None:
    lead_elsewhere(world, "--exclude-table=*.policy_violations*")
    assert_nothing_is_published(
        world,
        r"is not published, .*: its schema.list does not restore table public.policy_violations.*, and \d+ more; .* run again",
    )


# --- sets that are in the store ----------------------------------------------------------------------------------------


def read_set(folder: Path) -> tuple[Manifest, str]:
    manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes(), str(folder))
    return manifest, (folder / manifest.schema_list.path).read_text("utf-8")


def write_list(folder: Path, listing: str) -> None:
    """Replace a set's list as if the set had been published with it."""
    manifest, _ = read_set(folder)
    path = manifest.schema_list.path
    (folder / path).write_text(listing, "utf-8")
    changed = manifest.model_copy(update={"schema_list": describe_file(path, folder / path)})
    (folder / MANIFEST_FILE).write_bytes(render_manifest(changed))
    (folder / "damaged.json").unlink(missing_ok=True)


def without_line(listing: str, words: str) -> str:
    """Return a list without its one entry of these words."""
    lines = listing.splitlines(keepends=True)
    kept = [line for line in lines if f" {words} " not in line]
    assert len(kept) == len(lines) - 1, words
    return "".join(kept)


LOSSES = {
    "TABLE public teams": "table public.teams",
    "INDEX public organizations_name_idx": "index public.organizations_name_idx of public.organizations",
    "CONSTRAINT public teams teams_pkey": "constraint teams_pkey of public.teams",
    "FK CONSTRAINT public teams teams_organization_fkey": "constraint teams_organization_fkey of public.teams",
    "TRIGGER public teams teams_updated": "trigger teams_updated of public.teams",
    "FUNCTION public set_updated_at()": "function public.set_updated_at()",
    "MATERIALIZED VIEW public mv_team_statistics": "materialized view public.mv_team_statistics",
}


def says_so(world: World, said: str) -> None:
    """Assert that everything that looks at the newest set names what its list lacks."""
    for flow, parameters in (
        (verify_backups, {}), (watch_recovery_point, {"refresh": False}), (integrity_check, {}),
    ):  # fmt: skip
        with pytest.raises(OperationError, match=said):
            world.run(flow, "backup_reader", **parameters)
        for mark in world.store_folder.rglob("damaged.json"):
            mark.unlink()
    with pytest.raises(DamagedSet, match=said):
        world.recover()


@pytest.mark.long
def test_a_list_that_lacks_an_object_is_named_by_all_who_look(world: World) -> None:
    world.backup()
    (folder,) = world.set_folders()
    whole = read_set(folder)[1]
    for words, name in LOSSES.items():
        write_list(folder, without_line(whole, words))
        says_so(world, f"schema.list does not restore {re.escape(name)}")
    write_list(folder, "")
    says_so(world, r"schema.list does not restore table public\.\w+, .* and \d+ more")
    write_list(folder, whole)
    assert world.run(verify_backups, "backup_reader").startswith("PASS")
    assert world.run(watch_recovery_point, "backup_reader", refresh=False).startswith("PASS")
    assert world.run(integrity_check, "backup_reader").startswith("PASS")
    drop_databases(world.source)
    assert world.recover().startswith("PASS")


@pytest.mark.long
def test_the_newest_set_that_is_whole_is_recovered(world: World, two_sets: TwoSets) -> None:
    world.store = {"BACKUP_STORE": str(two_sets.copy(world.folder / "copy"))}
    _, newer = world.set_folders()
    write_list(newer, without_line(read_set(newer)[1], "TRIGGER public teams teams_updated"))
    assert "1 newer or equally new sets are damaged" in world.run(watch_recovery_point, "backup_reader", refresh=False)
    said = world.recover()
    assert said.startswith("PASS")
    assert two_sets.older in said
    found = json.loads((newer / "damaged.json").read_text())["found"]
    assert found == "schema.list does not restore trigger teams_updated of public.teams"


# --- no false alarm, and no gap ----------------------------------------------------------------------------------------


def assert_every_entry_counts(folder: Path, spared: Iterable[str] = ()) -> None:
    """Assert that a set is whole, and is not without any one of the entries that its list has."""
    manifest, listing = read_set(folder)
    assert unlisted_objects(manifest, listing) == []
    # Made with their tables, but where rows may violate them; a view's rule is an entry of its own where views need each other.
    unproven = [f" {i.name} " for i in manifest.inventory if i.kind == "constraint" and i.state.startswith("NOT NULL")]
    spared, missed = [*spared, *unproven, " _RETURN "], list[str]()
    for entry in parse_list(listing):
        counts = entry.rest.startswith(tuple(f"{kind} " for kind in KINDS)) and not OTHER_KINDS.match(entry.rest)
        if counts and not unlisted_objects(manifest, listing.replace(f"{entry.line}\n", "")):
            missed.append(entry.rest)
    assert [one for one in missed if not any(words in one for words in spared)] == []


def test_the_example(world: World) -> None:
    world.backup()
    assert_every_entry_counts(world.set_folders()[0])


@pytest.mark.long
def test_whatever_postgresql_allows(hostile: Hostile) -> None:
    hostile.world.backup(context="bc-900")
    (folder,) = hostile.world.store_folder.glob("bc-900/daily/*")
    assert_every_entry_counts(folder)


@repeatedly
@given(schema=DRAWN)
@pytest.mark.long
def test_random_schemas(two_servers: TwoServers, schema: Schema) -> None:
    with made(two_servers, schema) as drawn:
        drawn.world.backup(context=DRAWN_CONTEXT)
        (folder,) = drawn.world.store_folder.glob(f"{DRAWN_CONTEXT}/daily/*")
        assert_every_entry_counts(folder)


# The server of 18 alone has these.
NEW_IN_18 = """
    SET ROLE consulting_owner;
    ALTER TABLE app.plain ADD CONSTRAINT not_enforced FOREIGN KEY (number) REFERENCES app.plain (code) NOT ENFORCED;
    ALTER TABLE app.plain ADD CONSTRAINT not_checked CHECK (number > 7) NOT ENFORCED;
    ALTER TABLE app.plain ADD CONSTRAINT not_null NOT NULL number NOT VALID;
    CREATE TABLE app.temporal (id int4range, at daterange, PRIMARY KEY (id, at WITHOUT OVERLAPS));
    CREATE TABLE app.period (id int4range, at daterange, FOREIGN KEY (id, PERIOD at) REFERENCES app.temporal (id, PERIOD at));
"""


@pytest.mark.long
@pytest.mark.every_variant
@pytest.mark.parametrize("any_version", [15, 16, 18], indirect=True)
def test_every_kind_of_entry(any_version: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world, server = any_version, any_version.source
    world.database = ODD
    server.create_database(ODD, "consulting_owner")
    server.run_script(PROJECT / "tests" / "support" / "odd_lists.sql", ODD)
    try:
        with server.connect(ODD) as connection:
            connection.execute("ALTER ROLE backup_reader BYPASSRLS")
            if connection.info.server_version >= 180000:
                connection.execute(NEW_IN_18)
            rows = connection.execute(
                """SELECT c.relname, c.relkind FROM pg_class c WHERE c.relnamespace = 'app'::regnamespace
                   AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relname <> 'neighbour' ORDER BY 1"""
            ).fetchall()
        tables, views = ([name for name, kind in rows if kind in kinds] for kinds in ("rp", "vm"))
        monkeypatch.setattr(site, "CONTEXTS", world.folder / "contexts")
        write_context(site.CONTEXTS, name="bc-903", database=ODD, schema="app", tables=tables, views=views)
        assert world.backup(context="bc-903").startswith("STORED")
        (folder,) = world.store_folder.glob("bc-903/daily/*")
        assert_every_entry_counts(folder, ["TRIGGER app divided_rest each row"])
        assert read_set(folder)[0].left_out != []
    finally:
        drop_databases(server)
        with server.connect() as connection:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier("a b")))
            connection.execute("ALTER ROLE backup_reader NOBYPASSRLS")
