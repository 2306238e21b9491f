"""The owner of a context's sets in a store: the cluster that writes them."""

from prefect import get_run_logger

from tasks.core.errors import AlreadyExists, BadInput
from tasks.core.sets.histories import Owner, parse_owner, render_owner
from tasks.core.sets.name import OWNER_FILE
from tasks.run.retries import persistent
from tasks.sets.marks import WARM_CLASS
from tasks.store.address import StoreAddress


@persistent
def require_owner(address: StoreAddress, context: str, system_identifier: str) -> None:
    """Make sure that this cluster is the owner of this context's sets.

    The first cluster that writes sets becomes the owner.

    Raises:
        BadInput: another cluster writes them.
    """
    store, key = address.opened, f"{context}/{OWNER_FILE}"
    if store.head(key) is None:
        try:
            store.create(key, render_owner(Owner(system_identifier=system_identifier)), WARM_CLASS, {})
        except AlreadyExists:
            get_run_logger().info("%s was written by another run at the same time", key)
    owner = parse_owner(store.read(key), address.path(key)).system_identifier
    if owner != system_identifier:
        raise BadInput(
            f"{address.path(key)}: sets of {context} are written by the cluster with system "
            f"identifier {owner}, this one is {system_identifier}; after a disaster recovery take "
            "the store over: python -m deployments.register --adopt"
        )


@persistent
def require_store(address: StoreAddress, context: str) -> None:
    """Make sure that the store is available before anything else is done."""
    # A listing, because HEAD gives the same answer for a missing bucket as for a missing object.
    list(address.opened.list(f"{context}/{OWNER_FILE}"))
