"""What several test modules use. Fixtures are in the conftests."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
