"""Long-term sets: the tables of one job, taken once a period, and then given their cold class."""

from datetime import datetime

from tasks.core.errors import BadInput
from tasks.core.run.clock import CLOCK_TOLERANCE, now
from tasks.core.sets.manifest import Manifest, Scope
from tasks.core.sets.name import Kind, is_cold, sort_of
from tasks.run.site import Site
from tasks.sets.listing import list_sets
from tasks.sets.upload import cool


def long_term_site(site: Site, job: str) -> Site:
    """Return the site of the tables of a long-term job.

    Raises:
        BadInput: the context has no such job.
    """
    known = site.context.long_term
    if job not in known:
        raise BadInput(f'context {site.context.name} has no long-term job "{job}"; it has: {", ".join(known) or "none"}')
    return site.narrowed(Scope(schema=site.context.namespace, tables=known[job].tables))


def long_term_since(site: Site, job: str, since: datetime) -> Manifest | None:
    """Return the newest set of a long-term job that was taken since an instant, not in the future, and looks whole."""
    latest = now() + CLOCK_TOLERANCE
    listed = (one.manifest for one in list_sets(site.store, site.context.name).sets if one.manifest and not one.damage)
    return next((one for one in listed if sort_of(one.id) == job and since <= one.snapshot.instant <= latest), None)


def cool_long_term(site: Site, job: str) -> None:
    """Give every set of a long-term job its class: the newest, and any whose run died before it did; cold ones stay as they are."""
    wanted = site.context.storage_classes.of(Kind.LONG_TERM)
    for one in list_sets(site.store, site.context.name).sets:
        is_done = one.storage_class == wanted or is_cold(one.storage_class)
        if one.manifest and sort_of(one.name.id) == job and not one.damage and not is_done:
            cool(site.store, one.name, one.manifest, wanted)
