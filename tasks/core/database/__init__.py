"""A database's objects: which are the context's, and whether two databases have the same."""
