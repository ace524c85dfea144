"""Compute how likely the observed outbreak is under the mean of simulated epidemics.

Each epidemic is first moved in time, by quarters of a day, to where it fits best: the days that a first case takes to become
an outbreak are chance, and the record does not tell them. Without this the mean of epidemics that start at different times is
flatter than any of them, and the rates that make up for it are too high.

The counts are taken as negative binomial around the mean. Its dispersion is unknown and of no interest, so it is the one that
fits best. What is written is the negative logarithm of the likelihood, `nll`; low is good.
"""

import argparse
import csv
import json
from math import lgamma, log, sqrt

from score import read_counts

STEPS_A_DAY = 4
LEAST = 0.1  # boys in bed that are expected at least, so that a zero is not impossible
DISPERSIONS = [2 * 1.25**k for k in range(26)]  # from 2 to 529: from far wider than Poisson to nearly Poisson


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observed", required=True, help="CSV file with a column `in_bed`")
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("curves", nargs="+", help="CSV files written by outbreaks.py")
    args = parser.parse_args()

    observed = read_counts(args.observed)
    epidemics = [align(epidemic, observed) for epidemic in read_epidemics(args.curves)]
    mean = [max(sum(counts) / len(counts), LEAST) for counts in zip(*epidemics)]
    nll = min(-log_likelihood(observed, mean, dispersion) for dispersion in DISPERSIONS)
    with open(args.out, "w") as file:
        json.dump({"nll": round(nll, 6)}, file)


def align(epidemic, observed):
    """Return the daily counts of the part of the epidemic that is nearest to the observed days."""
    span = (len(observed) - 1) * STEPS_A_DAY + 1
    parts = (epidemic[start:start + span:STEPS_A_DAY] for start in range(len(epidemic) - span + 1))
    # The square root makes the noise of small and large counts alike.
    return min(parts, key=lambda part: sum((sqrt(count) - sqrt(seen)) ** 2 for count, seen in zip(part, observed)))


def log_likelihood(observed, mean, dispersion):
    """Return the logarithm of the negative binomial probability; the variance is mean + mean² / dispersion."""
    k = dispersion
    return sum(
        lgamma(x + k) - lgamma(k) - lgamma(x + 1) + k * log(k / (k + mu)) + x * log(mu / (k + mu))
        for x, mu in zip(observed, mean)
    )


def read_epidemics(paths):
    epidemics = []
    for path in paths:
        with open(path, newline="") as file:
            epidemics += [[int(count) for count in row] for row in csv.reader(file)]
    return epidemics


if __name__ == "__main__":
    main()
