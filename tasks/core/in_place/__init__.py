"""Restoring into a live database: what is asked for, what would be done, and what was."""
