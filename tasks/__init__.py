"""One package a noun; each task is one effect that deserves a line in the UI."""
