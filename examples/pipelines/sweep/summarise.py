"""Summarise the replicates of one scenario: a band of prevalence over time, and the attack rate, for each beta.

`--points` is a JSON list of axis objects that runs parallel to the series files: the n-th object says at which point of
the sweep the n-th file was simulated. File names carry no meaning here.
"""

import argparse
import csv
import json
from collections import defaultdict

BAND = (0.1, 0.9)  # the quantiles that bound the band


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", required=True, help="JSON list of axis objects, one for each series")
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("series", nargs="+", help="CSV files with one row for each day")
    args = parser.parse_args()

    points = json.loads(args.points)
    if len(points) != len(args.series):
        parser.error(f"{len(points)} points for {len(args.series)} series")

    replicates = defaultdict(list)
    for point, path in zip(points, args.series):
        replicates[float(point["beta"])].append(read_series(path))
    summary = {
        "scenario": points[0]["scenario"],
        "curves": [{"beta": beta, **summarise(replicates[beta])} for beta in sorted(replicates)],
    }
    with open(args.out, "w") as file:
        json.dump(summary, file, indent=1)


def read_series(path):
    """Return (people infectious each day, people ever infected), both as shares of the population."""
    with open(path, newline="") as file:
        rows = [{name: int(value) for name, value in row.items()} for row in csv.DictReader(file)]
    people = rows[0]["susceptible"] + rows[0]["infectious"] + rows[0]["removed"]
    infectious = [row["infectious"] / people for row in rows]
    return infectious, sum(row["new_infections"] for row in rows) / people


def summarise(replicates):
    """Reduce replicates to medians and bands."""
    infectious, attack_rates = zip(*replicates)
    by_day = [sorted(values) for values in zip(*infectious)]
    return {
        "replicates": len(replicates),
        "infectious": {name: [rounded(day, q) for day in by_day] for name, q in quantiles()},
        "attack_rate": {name: rounded(sorted(attack_rates), q) for name, q in quantiles()},
    }


def quantiles():
    return [("low", BAND[0]), ("median", 0.5), ("high", BAND[1])]


def rounded(ordered, q):
    """Return the q-quantile of sorted values, linear between neighbours, to six digits."""
    position = q * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return round(ordered[below] + (ordered[above] - ordered[below]) * (position - below), 6)


if __name__ == "__main__":
    main()
