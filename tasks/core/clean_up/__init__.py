"""Rows past retention: the outcome of a clean-up, and its report."""
