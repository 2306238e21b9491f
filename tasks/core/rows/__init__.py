"""Rows of a relation: streamed, digested, compressed, unpacked, as a whole or by changed blocks."""
