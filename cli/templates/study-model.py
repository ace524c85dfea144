"""One stochastic SIR epidemic among 1,000 people; writes the new infections of each week."""

import json
import math
import random
import sys

trial, seed, out = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = random.Random(seed)
susceptible, infectious, weeks = 990, 10, []
for week in range(12):
    new = 0
    for day in range(7):
        p_infection = 1 - math.exp(-trial["beta"] * infectious / 1000)
        p_recovery = 1 - math.exp(-1 / trial["days"])
        infected = sum(rng.random() < p_infection for _ in range(susceptible))
        infectious += infected - sum(rng.random() < p_recovery for _ in range(infectious))
        susceptible -= infected
        new += infected
    weeks.append(new)
with open(out, "w") as file:
    json.dump(weeks, file)
