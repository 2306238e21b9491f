"""Plain Python without Prefect, S3 or blocks: everything that can be decided or done without them."""
