"""Create the example database where libpq's environment variables (PGHOST, PGDATABASE, ...) point.

python -m deployments.example --scale 1 --violations-per-year 500000 --years 2021-2026
"""

from __future__ import annotations

import argparse
import logging

from deployments.example import YEARS, create_example


def parse_years(text: str) -> tuple[int, ...]:
    """Read "2021-2026" or "2024" as the years from the first to the last."""
    first, _, last = text.partition("-")
    return tuple(range(int(first), int(last or first) + 1))


def main() -> None:
    """Read the command line and create the example database."""
    parser = argparse.ArgumentParser(prog="python -m deployments.example", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the small tables, 1 as in production")
    parser.add_argument("--violations-per-year", type=int, default=10_000)
    parser.add_argument("--years", type=parse_years, default=YEARS, help="for example 2021-2027")
    parser.add_argument("--seed", type=int, default=4)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    create_example("", **vars(arguments))


if __name__ == "__main__":
    main()
