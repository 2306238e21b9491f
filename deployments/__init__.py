"""Setting up what the flows need: contexts, roles, registration.

The example database and local servers are here too.
"""
