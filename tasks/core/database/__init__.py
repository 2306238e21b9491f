"""A database's objects: which of them belong to the context, and whether they are the same in two databases."""
