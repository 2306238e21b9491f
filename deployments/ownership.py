"""The owner of a context's sets: owner.json compared with what this cluster would write there."""

import os

from tasks.core.context import Context
from tasks.core.errors import BadInput
from tasks.core.postgres.connection import Server, connect
from tasks.core.sets.histories import Owner, adoption, parse_owner, render_owner
from tasks.core.sets.name import OWNER_FILE
from tasks.database.snapshot import position
from tasks.sets.listing import list_sets
from tasks.sets.marks import WARM_CLASS
from tasks.store.address import StoreAddress, open_store


def claim_store(context: Context, store: StoreAddress, *, adopt: bool) -> str:
    """Write owner.json, or compare it: only one cluster may write a context's sets.

    Raises:
        BadInput: owner.json names another cluster, and `adopt` is false.
    """
    opened, key = open_store(store), f"{context.name}/{OWNER_FILE}"
    expected, current = owners(context, store, adopt=adopt)
    if current is None:
        opened.create(key, expected, WARM_CLASS, {})
    elif current != expected and not adopt:
        raise BadInput(
            f"{other_owner(context, store, expected, current)}; if this cluster takes over, for "
            "example after a disaster recovery, run again with --adopt"
        )
    elif current != expected:
        opened.replace(key, expected, WARM_CLASS)
    owner = parse_owner(expected, key)
    return f"{store.path(key)} names cluster {owner.system_identifier}{_decided(owner, current)}"


def _decided(owner: Owner, current: bytes | None) -> str:
    """Return what an adoption decided about sets, if two servers had written them."""
    if current is None or not owner.adopted or render_owner(owner) == current:
        return ""
    decision = owner.adopted[-1]
    counting = f"only those of the server started {decision.started} count" if decision.started else "none of them counts"
    numbers = f"of the sets numbered {decision.since} to {decision.number}, {counting}"
    return f"; {numbers}; now take a full backup: python -m flows.backup daily_backup"


def owners(context: Context, store: StoreAddress, *, adopt: bool = False) -> tuple[bytes, bytes | None]:
    """Return owner.json as this cluster would write it, and as it is in the store.

    An adoption also decides which server's sets count, where two servers wrote.
    """
    opened, key = open_store(store), f"{context.name}/{OWNER_FILE}"
    current = opened.read(key) if opened.head(key) else None
    database = os.environ.get("PGDATABASE") or context.database
    with connect(Server(), database, "register") as connection:
        snapshot = position(connection)[0]
    try:
        decided = parse_owner(current, key).adopted if current else []
    except BadInput:
        # It is written again.
        decided = []
    if adopt and (decision := adoption(list_sets(store, context.name).manifests, decided, snapshot)):
        decided = [*decided, decision]
    return render_owner(Owner(system_identifier=snapshot.system_identifier, adopted=decided)), current


def other_owner(context: Context, store: StoreAddress, expected: bytes, current: bytes | None) -> str:
    """Return the note that owner.json is missing, or names another cluster."""
    path = store.path(f"{context.name}/{OWNER_FILE}")
    return (
        f"{path} names another cluster ({_one_line(current)}), this one is {_one_line(expected)}"
        if current
        else f"{path} is missing"
    )


def _one_line(text: bytes) -> str:
    return " ".join(text.decode().split())
