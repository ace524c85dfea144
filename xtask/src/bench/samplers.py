"""Runs samplers of Optuna on functions with known optima: the other side of `engine/study/examples/samplers.rs`.

`samplers.py FUNCTION SAMPLER TRIALS SEEDS` prints a line for each seed: the best value minus the optimum, and the CPU seconds of
the study.
"""
import math
import sys
import time
import warnings

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def cube(dims, low, high):
    return {f"x{at}": FloatDistribution(low, high) for at in range(dims)}


def rosenbrock(x):
    return sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in zip(x, x[1:]))


def ackley(x):
    squares = sum(it * it for it in x) / len(x)
    waves = sum(math.cos(2 * math.pi * it) for it in x) / len(x)
    return 20 + math.e - 20 * math.exp(-0.2 * math.sqrt(squares)) - math.exp(waves)


def rastrigin(x):
    return 10 * len(x) + sum(it * it - 10 * math.cos(2 * math.pi * it) for it in x)


def branin(x):
    inner = x[1] - 5.1 / (4 * math.pi**2) * x[0] ** 2 + 5 / math.pi * x[0] - 6
    return inner**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x[0]) + 10


A = [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
P = [
    [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
    [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
    [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
    [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
]


def hartmann(x):
    def peak(weight, a, p):
        return weight * math.exp(-sum(a * (x - p) ** 2 for x, a, p in zip(x, a, p)))

    return -sum(peak(*it) for it in zip([1, 1.2, 3, 3.2], A, P))


def mixed(x):
    return (
        (x[0] - 1) ** 2
        + (math.log10(x[1]) + 3) ** 2
        + ((x[2] - 7) / 3) ** 2
        + (math.log10(x[3]) - 1.5) ** 2
        - (math.log10(32) - 1.5) ** 2
        + [3, 0, 1, 2][x[4]]
    )


MIXED = {
    "x0": FloatDistribution(-5, 5),
    "x1": FloatDistribution(1e-5, 1, log=True),
    "x2": IntDistribution(0, 20),
    "x3": IntDistribution(1, 1000, log=True),
    "x4": CategoricalDistribution([0, 1, 2, 3]),
}
FUNCTIONS = {
    "sphere5": (cube(5, -5, 5), 0, lambda x: sum(it * it for it in x)),
    "rosenbrock5": (cube(5, -2, 2), 0, rosenbrock),
    "ackley5": (cube(5, -32.768, 32.768), 0, ackley),
    "rastrigin5": (cube(5, -5.12, 5.12), 0, rastrigin),
    "branin": ({"x0": FloatDistribution(-5, 10), "x1": FloatDistribution(0, 15)}, 0.397887357729738, branin),
    "hartmann6": (cube(6, 0, 1), -3.322368011391339, hartmann),
    "mixed": (MIXED, 0, mixed),
}
SAMPLERS = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed),
    "sobol": lambda seed: optuna.samplers.QMCSampler(seed=seed, scramble=True),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}

function, sampler, trials, seeds = sys.argv[1:]
space, optimum, value = FUNCTIONS[function]
for seed in range(int(seeds)):
    began = time.process_time()
    study = optuna.create_study(sampler=SAMPLERS[sampler](seed))
    best = math.inf
    for _ in range(int(trials)):
        trial = study.ask(space)
        found = value([trial.params[name] for name in space])
        best = min(best, found)
        study.tell(trial, found)
    print(best - optimum, time.process_time() - began, flush=True)
