"""Integrity checks: how they are defined, what they found, and what is kept of that."""
