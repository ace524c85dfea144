"""Score the replicates of one grid point against the observed outbreak, for one target.

Both targets use the continuous ranked probability score (CRPS) of the replicates as a sample from the model's
distribution: the mean distance to the observation, less half the mean distance among the replicates. It rewards a
distribution that is near the observation and as narrow as it can honestly be, has the unit of the data, and with one
replicate is the absolute error. Division by an observed size makes it a relative error, so that scores may be added.

    curve   the mean over the days, relative to the mean daily count
    peak    the mean of the errors in the height and in the day of the peak, each relative to the observed one
"""

import argparse
import csv
import json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, required=True, help="what to compare")
    parser.add_argument("--observed", required=True, help="CSV file with a column `in_bed`")
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("curves", nargs="+", help="CSV files written by simulate.py, one for each replicate")
    args = parser.parse_args()

    loss = TARGETS[args.target](read_counts(args.observed), [read_counts(path) for path in args.curves])
    with open(args.out, "w") as file:
        json.dump({"target": args.target, "loss": round(loss, 9)}, file)


def curve_loss(observed, curves):
    days = [crps(simulated, count) for simulated, count in zip(zip(*curves), observed)]
    return sum(days) / sum(observed)


def peak_loss(observed, curves):
    height = crps([max(curve) for curve in curves], max(observed)) / max(observed)
    day = crps([peak_day(curve) for curve in curves], peak_day(observed)) / peak_day(observed)
    return (height + day) / 2


TARGETS = {"curve": curve_loss, "peak": peak_loss}


def peak_day(counts):
    """Return the first day with the highest count; the first day of the record is 1."""
    return counts.index(max(counts)) + 1


def crps(sample, observation):
    """Return E|X - y| - E|X - X'| / 2 for X and X' drawn from the sample."""
    n = len(sample)
    distance = sum(abs(value - observation) for value in sample) / n
    # Over the sorted sample, the sum of all pairwise distances is a weighted sum of the values.
    spread = 2 * sum((2 * k - n + 1) * value for k, value in enumerate(sorted(sample))) / n**2
    return distance - spread / 2


def read_counts(path):
    with open(path, newline="") as file:
        return [int(row["in_bed"]) for row in csv.DictReader(file)]


if __name__ == "__main__":
    main()
