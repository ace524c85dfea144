"""Measure how far the mean of simulated epidemics is from the observed one.

Each epidemic is first moved in time, by quarters of a day, to where it fits best: the days that a first case takes to become
an outbreak are chance, and the record does not tell them. Without this the mean of epidemics that start at different times is
flatter than any of them, and the rates come out too high. The deviation is the sum of squared differences of square roots of counts, over the days:
a square root makes the noise of small and large counts alike.
"""

import argparse
import csv
import json
from math import sqrt

from score import read_counts

STEPS_A_DAY = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observed", required=True, help="CSV file with a column `in_bed`")
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("curves", nargs="+", help="CSV files written by outbreaks.py")
    args = parser.parse_args()

    observed = read_counts(args.observed)
    epidemics = [align(epidemic, observed) for epidemic in read_epidemics(args.curves)]
    mean = [sum(counts) / len(counts) for counts in zip(*epidemics)]
    with open(args.out, "w") as file:
        json.dump({"deviation": round(deviation(mean, observed), 6)}, file)


def align(epidemic, observed):
    """Return the daily counts of the part of the epidemic that is nearest to the observed days."""
    span = (len(observed) - 1) * STEPS_A_DAY + 1
    parts = (epidemic[start:start + span:STEPS_A_DAY] for start in range(len(epidemic) - span + 1))
    return min(parts, key=lambda part: deviation(part, observed))


def deviation(counts, observed):
    return sum((sqrt(count) - sqrt(seen)) ** 2 for count, seen in zip(counts, observed))


def read_epidemics(paths):
    epidemics = []
    for path in paths:
        with open(path, newline="") as file:
            epidemics += [[int(count) for count in row] for row in csv.reader(file)]
    return epidemics


if __name__ == "__main__":
    main()
