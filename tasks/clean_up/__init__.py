"""Clean-up of rows past retention: find them, archive them, delete them."""
