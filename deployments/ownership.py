"""Which cluster writes a context's sets: owner.json of its store, as it is and as this cluster would write it."""

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
    """Write owner.json, or compare it: one cluster writes a context's sets.

    Raises:
        BadInput: it names another cluster, and adopt is false.
    """
    opened, key = open_store(store), f"{context.name}/{OWNER_FILE}"
    wanted, found = owners(context, store, adopt=adopt)
    if found is None:
        opened.create(key, wanted, WARM_CLASS, {})
    elif found != wanted and not adopt:
        raise BadInput(
            f"{other_owner(context, store, wanted, found)}; "
            "if this cluster takes over, for example after a disaster recovery, run again with --adopt"
        )
    elif found != wanted:
        opened.replace(key, wanted, WARM_CLASS)
    owner = parse_owner(wanted, key)
    return f"{store.path(key)} names cluster {owner.system_identifier}{_decided(owner, found)}"


def _decided(owner: Owner, found: bytes | None) -> str:
    """Say what an adoption decided just now, where two servers had written."""
    if found is None or not owner.adopted or render_owner(owner) == found:
        return ""
    one = owner.adopted[-1]
    counting = f"those of the server started {one.started} count again, no others" if one.started else "none of them counts"
    return f"; of the sets numbered {one.since} to {one.number} {counting}; now take a full: python -m flows.backup daily_backup"


def owners(context: Context, store: StoreAddress, *, adopt: bool = False) -> tuple[bytes, bytes | None]:
    """Return owner.json as this cluster would write it, and as it is in the store.

    An adoption decides as well whose sets count, where two servers wrote.
    """
    opened, key = open_store(store), f"{context.name}/{OWNER_FILE}"
    found = opened.read(key) if opened.head(key) else None
    database = os.environ.get("PGDATABASE") or context.database
    with connect(Server(), database, "register") as connection:
        here = position(connection)[0]
    try:
        decided = parse_owner(found, key).adopted if found else []
    except BadInput:
        # It is written anew.
        decided = []
    if adopt and (decision := adoption(list_sets(store, context.name).manifests, decided, here)):
        decided = [*decided, decision]
    return render_owner(Owner(system_identifier=here.system_identifier, adopted=decided)), found


def other_owner(context: Context, store: StoreAddress, wanted: bytes, found: bytes | None) -> str:
    """Say that the store belongs to nobody, or to another cluster."""
    path = store.path(f"{context.name}/{OWNER_FILE}")
    return f"{path} names another cluster ({_one_line(found)}), this one is {_one_line(wanted)}" if found else f"{path} is missing"


def _one_line(text: bytes) -> str:
    return " ".join(text.decode().split())
