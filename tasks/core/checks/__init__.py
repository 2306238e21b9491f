"""Integrity checks: their definitions, findings and stored records."""
