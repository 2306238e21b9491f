"""Whatever schema is drawn comes back as it was: from a full, from a full and a differential, and into the living."""

import re

import pytest
from hypothesis import event, given
from psycopg import sql

from flows.restore import full_restore
from tasks.core.errors import BadInput, OperationError
from tests.support.drawn_schemas import (
    CONTEXT,
    DATABASE,
    DRAWN,
    DRAWN_FOR_15,
    ROLE,
    Drawn,
    TwoServers,
    made,
    repeatedly,
    thoroughly,
)
from tests.support.random_schemas import Changes, Schema, Version, changes, ident
from tests.support.random_surroundings import schemas

pytestmark = pytest.mark.long
# Into tables that have rules nothing is restored: they would write other rows than are meant.
WITHOUT_RULES = schemas(ident(ROLE), Version(), with_rules=False)

# Why a restore into live tables refuses, and which statement of the schema is the reason.
REFUSED = {
    " violates ": r"NOT VALID\Z",
    "row-level security is forced on": r"FORCE ROW LEVEL SECURITY\Z",
    " is published: ": r"\ACREATE PUBLICATION",
    ", which the restore needs; run: GRANT": r"\AREVOKE ",
}

# Why writes fail in what was recovered, and what the set says that it does not have then.
WANTING = {
    r"function (public\.)?pg_freespace\(integer\) does not exist": "extension pg_freespacemap",
    r'relation "beside\.log" does not exist': "table beside.log",
}


def assert_told(drawn: Drawn, verdict: str) -> None:
    """Assert that a verdict tells what is not in the set."""
    count = len(drawn.named())
    event(f"not in the set: {count}")
    assert (f"{count} object" in verdict and "not in the set" in verdict) if count else "not in the set" not in verdict, verdict


def recovered(drawn: Drawn) -> str:
    """Recover the newest set; return the verdict, which is of writes that fail only for want of what it names."""
    try:
        verdict = str(drawn.world.recover(context=CONTEXT))
    except OperationError as failure:
        verdict = str(failure)
        failures = verdict.partition("; RTO ")[0]
        assert failures.startswith("RECOVERED, WRITES FAIL: "), verdict
        explained = [name for why, name in WANTING.items() for _ in re.finditer(rf": {why} \(42\w{{3}}\)(?=; |\Z)", failures)]
        assert len(explained) == len(re.findall(r" \(\w{5}\)(?=; |\Z)", failures)) > 0, verdict
        assert {*explained} <= drawn.named(), verdict
        return verdict
    assert verdict.startswith("PASS")
    return verdict


def comes_back(servers: TwoServers, schema: Schema) -> None:
    with made(servers, schema) as drawn:
        before = drawn.state(servers.source)
        stored = drawn.world.backup(context=CONTEXT)
        assert stored.startswith("STORED")
        assert_told(drawn, stored)
        assert_told(drawn, recovered(drawn))
        drawn.complete()
        before.assert_equal(drawn.state(servers.target))


def comes_back_changed(servers: TwoServers, schema: Schema, done: Changes) -> None:
    with made(servers, schema) as drawn:
        drawn.world.backup(context=CONTEXT)
        drawn.change(done)
        # What a view shows that reads a stale one, the oracle cannot compute.
        drawn.refresh()
        before = drawn.state(servers.source)
        said = drawn.world.differential(context=CONTEXT, accept_losses=True)
        event(f"differential: {'differential' in said}")
        assert_told(drawn, recovered(drawn))
        drawn.complete()
        before.assert_equal(drawn.state(servers.target))


def is_restored_in_place(servers: TwoServers, schema: Schema, done: Changes) -> None:
    with made(servers, schema) as drawn:
        with servers.source.connect() as connection:
            connection.execute(sql.SQL("GRANT TEMPORARY ON DATABASE {} TO backup_restorer").format(sql.Identifier(DATABASE)))
        before = drawn.state(servers.source)
        drawn.world.backup(context=CONTEXT)
        manifest = drawn.manifest()
        drawn.change(done)
        damaged = drawn.state(servers.source)
        try:
            said = drawn.world.run(
                full_restore, "backup_restorer", context=CONTEXT, in_place=True, dry_run=False, confirm_database=DATABASE
            )  # fmt: skip
        except (BadInput, OperationError) as refusal:
            event("in place: refused")
            # Rows that violate what was never validated cannot be written again, and what policies hide cannot be compared.
            around = [statement for piece in schema.around for statement in (*piece.owner, *piece.last)]
            made_by = [*schema.finish(), *(statement for table in schema.tables for statement in table.statements), *around]
            reasons = [statement for reason, statement in REFUSED.items() if reason in str(refusal)]
            assert reasons, refusal
            assert any(re.search(reason, statement) for statement in made_by for reason in reasons), refusal
            damaged.assert_equal(drawn.state(servers.source), views="stored")
        else:
            event(f"in place: {said.split(':')[0]}")
            if "not in the set" in said:
                drawn.make_what_went(manifest)
            before.assert_equal(drawn.state(servers.source))


@thoroughly
@given(schema=DRAWN)
def test_schemas_come_back(two_servers: TwoServers, schema: Schema) -> None:
    comes_back(two_servers, schema)


@pytest.mark.parametrize("two_servers", [15], indirect=True)
@repeatedly
@given(schema=DRAWN_FOR_15)
def test_schemas_of_an_older_version_come_back(two_servers: TwoServers, schema: Schema) -> None:
    comes_back(two_servers, schema)


@repeatedly
@given(schema=DRAWN, done=changes())
def test_a_differential_of_a_schema_comes_back(two_servers: TwoServers, schema: Schema, done: Changes) -> None:
    comes_back_changed(two_servers, schema, done)


@repeatedly
@given(schema=WITHOUT_RULES, done=changes(dropping=True))
def test_a_schema_is_restored_in_place(two_servers: TwoServers, schema: Schema, done: Changes) -> None:
    is_restored_in_place(two_servers, schema, done)
