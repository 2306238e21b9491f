"""Integrity checks of a database, and their report."""
