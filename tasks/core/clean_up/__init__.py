"""Rows past retention: what a clean-up did, and how that is told."""
