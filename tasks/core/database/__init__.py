"""A database's objects: which of them belong to the context, and how two databases differ."""
