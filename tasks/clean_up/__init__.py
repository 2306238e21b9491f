"""Rows past retention: found, archived, and deleted."""
