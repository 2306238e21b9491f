"""Watching the backups: the recovery point now, and the history of some days."""
