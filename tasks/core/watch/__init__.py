"""The backups of some days: the recovery point, the history, and what in it a person should look at."""
