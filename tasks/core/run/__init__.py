"""One run: its id and clock, its private folders, its phases and progress, and the limits of its parameters."""
