"""Partitions of live tables: made, archived and brought back."""
