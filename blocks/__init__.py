"""Prefect blocks: the things that flows are pointed at."""
