"""Rows of a relation: how they are streamed, digested, compressed and decompressed, as a whole or by changed blocks."""
