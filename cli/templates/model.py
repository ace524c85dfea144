"""A stochastic logistic growth model; writes a line for each of 50 steps."""
import argparse
import random

parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float, required=True)
parser.add_argument("--capacity", type=float, required=True)
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--out", required=True)
args = parser.parse_args()

rng = random.Random(args.seed)
size = 2.0
with open(args.out, "w") as out:
    print("step,size", file=out)
    for step in range(51):
        print(f"{step},{size:.6g}", file=out)
        growth = args.rate * size * (1 - size / args.capacity)
        size = max(0.0, size + growth + rng.gauss(0.0, 0.05) * size)
