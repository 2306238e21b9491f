"""Backup sets in the store: written, listed, chosen, staged, verified, signed, thawed, pruned."""
