"""Simulate ten epidemics that took off, and write how many boys are in bed every quarter of a day.

The model is that of simulate.py, but it begins with a single boy, and an epidemic that dies out is drawn again: the school
had an outbreak. When the first boy fell ill nobody knows, so likelihood.py looks for the delay that fits best.
"""

import argparse
import csv
import random

from simulate import simulate

EPIDEMICS, STEPS_A_DAY, DAYS = 10, 4, 21
TOOK_OFF, TRIES = 50, 40  # boys in bed at once; draws before a small epidemic is accepted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transmission", type=float, required=True, help="infections a day by one boy among susceptibles")
    parser.add_argument("--recovery", type=float, required=True, help="recoveries a day; 1 / recovery is the mean stay in bed")
    parser.add_argument("--seed", type=int, required=True, help="seed of the random numbers")
    parser.add_argument("--boys", type=int, default=763, help="boys at the school (default: 763)")
    parser.add_argument("--out", required=True, help="CSV file to write: a row for each epidemic, a column for each quarter of a day")
    args = parser.parse_args()

    rows = []
    for epidemic in range(EPIDEMICS):
        for attempt in range(TRIES):
            # A seed for every draw: how often one epidemic was drawn does not change the numbers of the next.
            rng = random.Random(f"{args.seed}/{epidemic}/{attempt}")
            counts = simulate(args.transmission / STEPS_A_DAY, args.recovery / STEPS_A_DAY, args.boys, 1, DAYS * STEPS_A_DAY, rng)
            if max(counts) >= TOOK_OFF:
                break
        rows.append(counts)
    with open(args.out, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
