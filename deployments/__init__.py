"""What is set up around the flows: contexts, roles, the example database, local stack."""
