"""Restoring sets, and dump files of older scripts, into a new or an empty database."""
