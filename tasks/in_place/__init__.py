"""Restoring into a live database: plan, approval, and the restore itself in one transaction."""
