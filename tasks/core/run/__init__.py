"""One run: its id, clock, private folders, phases, progress, and the limits of its parameters."""
