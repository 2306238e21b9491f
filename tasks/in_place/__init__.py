"""Restoring into a live database: planned, approved, and done in one transaction."""
