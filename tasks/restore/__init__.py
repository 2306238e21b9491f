"""Restoring sets, and dumps of older scripts, into a new or an empty database."""
