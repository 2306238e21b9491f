"""Refreshing materialized views.

Needs the database (a role that acts as the owner of the views).
By hand: python -m flows.views refresh_views --context bc-004
"""

from flows.command_line import run_from_command_line
from tasks.core.run.limits import Seconds
from tasks.database import logins
from tasks.database import views as database_views
from tasks.database.locks import context_lock
from tasks.database.views import Limits, chosen_views, publish_refreshed
from tasks.run.run import begin, operation
from tasks.run.site import find_site


@operation("refresh-views {context}")
def refresh_views(
    context: str = "bc-004",
    views: list[str] | None = None,
    statement_timeout_seconds: Seconds = 1800,
    lock_timeout_seconds: Seconds = 30,
) -> str:
    """Refresh materialized views in order of their dependencies, and report how stale they were.

    A populated view with a unique index is refreshed concurrently. If one view fails, the others
    are still refreshed.

    Args:
        context: the bounded context.
        views: the materialized views to refresh; by default all of the context.
        statement_timeout_seconds: the time limit for refreshing one view.
        lock_timeout_seconds: how long to wait for the lock on one view.
    """
    with begin("refresh_views", context) as run:
        site = logins.with_loader(find_site(context), run)
        chosen = chosen_views(site.context, views)
        allowed = Limits(statement_timeout_seconds, lock_timeout_seconds)
        with context_lock(site.server, context, run.title):
            refreshed = database_views.refresh_views(site, run, chosen, allowed)
        return publish_refreshed(site.context, refreshed)


if __name__ == "__main__":
    run_from_command_line(refresh_views)
