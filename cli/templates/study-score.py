"""Poisson deviance of the observed weeks under the mean of the simulated ones."""

import json
import math
import sys

observed = json.load(open("observed.json"))
runs = [json.load(open(path)) for path in sys.argv[1:]]
means = [(sum(weeks) + 0.5) / len(runs) for weeks in zip(*runs)]
loss = 2 * sum(m - n + (n * math.log(n / m) if n else 0) for n, m in zip(observed, means))
with open("loss.json", "w") as file:
    json.dump({"loss": loss}, file)
