"""The mean and spread of the final size at each point of the sweep."""
import argparse
import collections
import csv
import json
import statistics

parser = argparse.ArgumentParser()
parser.add_argument("--out", required=True)
parser.add_argument("--points", type=json.loads, required=True)
parser.add_argument("series", nargs="+")
args = parser.parse_args()

final = collections.defaultdict(list)
for point, path in zip(args.points, args.series, strict=True):
    with open(path) as file:
        *_, last = csv.DictReader(file)
    final[point["rate"], point["capacity"]].append(float(last["size"]))

with open(args.out, "w") as out:
    print("rate,capacity,replicates,mean,sd", file=out)
    for (rate, capacity), sizes in final.items():
        sd = statistics.stdev(sizes) if len(sizes) > 1 else 0.0
        print(f"{rate},{capacity},{len(sizes)},{statistics.mean(sizes):.4g},{sd:.3g}", file=out)
