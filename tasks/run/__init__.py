"""One run of a flow: where it works, its folder and programs, its progress, its artifacts, and who approves it."""
