"""One run: its id, clock, private folders, phases and progress, and the limits of its parameters."""
