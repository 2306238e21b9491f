"""A database's objects: which belong to the context, and whether two databases have the same."""
