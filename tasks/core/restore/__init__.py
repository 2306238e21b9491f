"""Restoring into a new or empty database: results, drills, and tests of triggers."""
