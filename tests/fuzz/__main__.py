"""`make fuzz`: `python -m fuzz --minutes 5 --seed 7`, or one case alone: `python -m fuzz --seed 7 --case 123`."""

from __future__ import annotations

import argparse
import random
import sys

from fuzz.campaign import run_many, run_one


def main() -> int:
    """Run what the command line asks for; 1 where something was found."""
    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--case", type=int)
    parser.add_argument("--first", type=int, default=0, help="the first case's number")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 30) if asked.seed is None else asked.seed
    sys.stdout.write(f"SEED={seed}\n")
    if asked.case is not None:
        return int(run_one(seed, asked.case) > 0)
    return int(run_many(seed, asked.first, asked.minutes, asked.processes) > 0)


if __name__ == "__main__":
    sys.exit(main())
