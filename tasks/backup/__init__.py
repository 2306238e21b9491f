"""Taking backup sets."""
