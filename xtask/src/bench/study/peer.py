"""The study of `cargo xtask bench study` by Optuna, with joblib's or Dask's processes as its slots.

`peer.py ENGINE TRIALS SLOTS PROGRAM SCALE`, in a folder of its own. Simulations are shared by the targets, all scores of a trial
are submitted at once, and as many trials as there are slots are in flight: what a careful user would write.
"""
import json
import os
import subprocess
import sys
import warnings

import optuna

REPLICATES = range(5)
TARGETS = ["age", "distribution"]
warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def simulate(program, params, replicate, scale, folder):
    path = os.path.join(folder, f"{replicate}.json")
    subprocess.run([program, "bench-node", "simulate", json.dumps(params), str(replicate), scale, path], check=True)
    return path


def score(program, target, paths, folder):
    folder = os.path.join(folder, target)
    os.makedirs(folder)
    subprocess.run([program, "bench-node", "score", target, *paths], cwd=folder, check=True)
    with open(os.path.join(folder, "loss.json")) as file:
        return json.load(file)["loss"]


class Joblib:
    """One pool of joblib's processes for all threads."""

    def __init__(self, slots):
        from joblib.externals.loky import get_reusable_executor

        self.pool = get_reusable_executor(max_workers=slots, timeout=60)

    def all(self, function, calls):
        return [it.result() for it in [self.pool.submit(function, *call) for call in calls]]

    def close(self):
        self.pool.shutdown(wait=True)


class Dask:
    """A local cluster: a process for each slot."""

    def __init__(self, slots):
        import dask
        from dask.distributed import Client, LocalCluster

        dask.config.set({"distributed.logging.distributed": "error"})
        self.cluster = LocalCluster(n_workers=slots, threads_per_worker=1, processes=True, dashboard_address=None)
        self.client = Client(self.cluster)

    def all(self, function, calls):
        return self.client.gather([self.client.submit(function, *call, pure=False) for call in calls])

    def close(self):
        self.client.close()
        self.cluster.close()


def main():
    engine, trials, slots, program, scale = sys.argv[1:]
    pool = {"joblib": Joblib, "dask": Dask}[engine](int(slots))

    def objective(trial):
        params = {
            "a": trial.suggest_float("a", 0, 1),
            "b": trial.suggest_float("b", 0.01, 1, log=True),
            "c": trial.suggest_float("c", -1, 1),
            "d": trial.suggest_int("d", 0, 20),
            "e": trial.suggest_categorical("e", [0, 1]),
        }
        folder = os.path.abspath(str(trial.number))
        os.makedirs(folder)
        paths = pool.all(simulate, [(program, params, it, scale, folder) for it in REPLICATES])
        return sum(pool.all(score, [(program, it, paths, folder) for it in TARGETS]))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=7))
    study.optimize(objective, n_trials=int(trials), n_jobs=int(slots))
    pool.close()
    done = sum(it.value is not None for it in study.trials)
    if done != int(trials):
        sys.exit(f"{done} of {trials} trials have a value")


if __name__ == "__main__":
    main()
