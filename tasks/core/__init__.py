"""Plain Python without Prefect, S3 or blocks: whatever can be decided or done without them."""
