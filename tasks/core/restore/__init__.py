"""Restoring into a new or empty database: what came of it, of drills, and of their triggers."""
