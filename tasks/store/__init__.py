"""The store: one small interface over S3 and over a folder."""
