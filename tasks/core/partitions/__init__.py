"""Partitions by time: what their bounds say, and what becomes of old ones."""
