"""The backups of the last days: the recovery point, the history, and what needs attention in it."""
