"""Measurements, each against the ways that it replaces, in one run."""
