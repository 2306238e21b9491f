"""Rows of a relation: streamed, digested, packed and unpacked, whole or by changed blocks."""
