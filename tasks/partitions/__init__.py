"""Partitions of live tables: created, archived and attached again."""
