"""The tasks, one package per noun.

Each task is one effect, and has a line of its own in Prefect's UI.
"""
