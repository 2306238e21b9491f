"""A context's database: its catalog, locks, logins, snapshot, schema, rows and views."""
