"""Add the losses of every grid point over the targets, and rank the points, the best first.

`--points` and `--losses` are JSON lists that run parallel: the n-th loss belongs to the n-th point.
"""

import argparse
import csv
import json
from collections import defaultdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", required=True, help="JSON list of objects with transmission, recovery and target")
    parser.add_argument("--losses", required=True, help="JSON list of numbers")
    parser.add_argument("--table", required=True, help="CSV file to write: all points")
    parser.add_argument("--best", required=True, help="JSON file to write: the parameters of the best point")
    args = parser.parse_args()

    rows = rank(json.loads(args.points), json.loads(args.losses))
    with open(args.table, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    best = rows[0]
    print(f"best: transmission {best['transmission']}, recovery {best['recovery']}, R0 {best['r0']}, loss {best['total']}")
    with open(args.best, "w") as file:
        json.dump({"transmission": best["transmission"], "recovery": best["recovery"]}, file)


def rank(points, losses):
    """Return a row for each grid point, sorted by total loss, then by parameters so that a tie has one winner."""
    by_point = defaultdict(dict)
    for point, loss in zip(points, losses):
        by_point[point["transmission"], point["recovery"]][point["target"]] = loss
    rows = [
        {
            "transmission": transmission,
            "recovery": recovery,
            "r0": round(transmission / recovery, 3),
            **targets,
            "total": round(sum(targets.values()), 9),
        }
        for (transmission, recovery), targets in by_point.items()
    ]
    return sorted(rows, key=lambda row: (row["total"], row["transmission"], row["recovery"]))


if __name__ == "__main__":
    main()
