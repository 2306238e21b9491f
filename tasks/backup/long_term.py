"""Long-term sets: the tables of one job, backed up once a period, then moved to cold storage."""

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
    """Return a job's newest undamaged set since an instant, ignoring those of the future."""
    latest = now() + CLOCK_TOLERANCE
    listing = list_sets(site.store, site.context.name)
    manifests = (listed.manifest for listed in listing.sets if listed.manifest and not listed.damage)
    of_job = (manifest for manifest in manifests if sort_of(manifest.id) == job)
    return next((manifest for manifest in of_job if since <= manifest.snapshot.instant <= latest), None)


def cool_long_term(site: Site, job: str) -> None:
    """Move the job's sets to their storage class, also those that interrupted runs left."""
    wanted = site.context.storage_classes.of(Kind.LONG_TERM)
    for listed in list_sets(site.store, site.context.name).sets:
        is_done = listed.storage_class == wanted or is_cold(listed.storage_class)
        if listed.manifest and sort_of(listed.name.id) == job and not listed.damage and not is_done:
            cool(site.store, listed.name, listed.manifest, wanted)
