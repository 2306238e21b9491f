"""Restoring into a live database: the request, the plan, the result."""
