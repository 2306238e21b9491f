"""Partitions by time: their bounds, those to create, and the archiving of old ones."""
