"""Backup sets: their names, manifests, marks, signatures, order, history and retention."""
