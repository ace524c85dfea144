"""Score the replicates of one trial against the observed cases, for one target. Zero is a perfect fit.

Both scores are deviances: twice the log-likelihood that is lost against a model that gives the data themselves. So they
have one scale and can be added.

    incidence_by_age         Poisson deviance of the cases in each age bin, over all years
    incidence_distribution   multinomial deviance of how the cases are spread over the months of the year; their number,
                             which the other target has, does not count here

What is expected is the mean of the replicates. Half a case is added to the sum of them, so that a bin where no replicate
has a case makes a bad score and not an infinite one.
"""

import argparse
import csv
import json
from collections import Counter
from math import log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, required=True, help="what to compare")
    parser.add_argument("--observed", default="data/incidence.csv", help="CSV file (default: data/incidence.csv)")
    parser.add_argument("--out", default="loss.json", help="JSON file to write (default: loss.json)")
    parser.add_argument("simulated", nargs="+", help="CSV files written by models/typhoid.py, one for each replicate")
    args = parser.parse_args()

    loss = TARGETS[args.target](args.observed, args.simulated)
    with open(args.out, "w") as file:
        json.dump({"loss": round(loss, 6)}, file)


def incidence_by_age(observed, simulated):
    cases = read(observed, "age")
    return sum(poisson_deviance(cases[age], mean) for age, mean in expected(cases, simulated, "age").items())


def incidence_distribution(observed, simulated):
    cases = read(observed, "month")
    means = expected(cases, simulated, "month")
    scale = sum(cases.values()) / sum(means.values())
    return sum(poisson_deviance(cases[month], mean * scale) for month, mean in means.items())


TARGETS = {"incidence_by_age": incidence_by_age, "incidence_distribution": incidence_distribution}


def poisson_deviance(count, mean):
    return 2 * (mean - count + (count * log(count / mean) if count else 0.0))


def expected(groups, simulated, column):
    """Return the mean over the replicates for each group."""
    total = Counter()
    for path in simulated:
        total.update(read(path, column))
    return {group: (total[group] + 0.5) / len(simulated) for group in groups}


def read(path, column):
    """Return the number of cases for each value of a column."""
    cases = Counter()
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            cases[row[column]] += int(row["cases"])
    return cases


if __name__ == "__main__":
    main()
