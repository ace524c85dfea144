"""Other engines for `cargo xtask bench cluster`: `peer.py ENGINE PART ARGUMENT...`, in a folder of its own.

Starts the engine with two workers of one slot each, measures one thing from submission to the last result, and prints it as JSON. Each is
used as its documentation says for many short programs.
"""
import atexit
import json
import os
import subprocess
import sys
import time


def program(*words):
    subprocess.run(words, check=True)


def cpu_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def told(**figures):
    print(json.dumps(figures), flush=True)


class Dask:
    """A scheduler and workers, each a process, as its command line starts them."""

    def __init__(self, workers=2, slots=1):
        from distributed import Client

        command = [os.path.join(os.path.dirname(sys.executable), "dask")]
        with open("dask.log", "w") as log:
            file = os.path.abspath(f"scheduler{time.monotonic_ns()}.json")
            options = ["--scheduler-file", file, "--no-dashboard"]
            scheduler = command + ["scheduler", "--host", "127.0.0.1", "--port", "0"] + options
            self.scheduler = subprocess.Popen(scheduler, stdout=log, stderr=log)
            while not os.path.exists(file) or os.path.getsize(file) == 0:
                time.sleep(0.05)
            worker = command + ["worker", "--nthreads", str(slots), "--no-nanny"] + options
            self.workers = [subprocess.Popen(worker, stdout=log, stderr=log) for _ in range(workers)]
        # Whatever goes wrong from here, nothing is left running.
        atexit.register(self.end)
        self.client = Client(scheduler_file=file)
        self.client.wait_for_workers(workers)

    def close(self):
        self.client.close()
        self.end()

    def end(self):
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()


def dask_nodes(nodes):
    cluster = Dask()
    cluster.client.gather(cluster.client.map(program, ["true"] * 2, ["a", "b"], pure=False))
    before, began = cpu_of(cluster.scheduler.pid), time.monotonic()
    numbers = [str(i) for i in range(int(nodes))]
    cluster.client.gather(cluster.client.map(program, ["true"] * len(numbers), numbers, pure=False))
    told(wall=time.monotonic() - began, coordinator_cpu=cpu_of(cluster.scheduler.pid) - before)
    cluster.close()


def hyperqueue_nodes(nodes, hq=None):
    if hq:
        cluster = Hq(hq)
        cluster.start()
        cluster.submit(20, "--wait", "true")
        before, began = cpu_of(cluster.server.pid), time.monotonic()
        cluster.submit(nodes, "--wait", "true")
        told(wall=time.monotonic() - began, coordinator_cpu=cpu_of(cluster.server.pid) - before)
        return cluster.kill()
    from hyperqueue import Job, LocalCluster
    from hyperqueue.cluster import WorkerConfig

    with LocalCluster() as cluster:
        for _ in range(2):
            cluster.start_worker(WorkerConfig(cores=1))
        client = cluster.client()
        began = time.monotonic()
        job = Job()
        for i in range(int(nodes)):
            job.program(["true", str(i)])
        client.wait_for_jobs([client.submit(job)])
        told(wall=time.monotonic() - began)


def ray_nodes(nodes):
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    task = ray.remote(num_cpus=1)(program)
    ray.get([task.remote("true", str(i)) for i in range(20)])
    began = time.monotonic()
    ray.get([task.remote("true", str(i)) for i in range(int(nodes))])
    told(wall=time.monotonic() - began)
    ray.shutdown()


def stamps(file):
    """Seconds and processes of nodes that began, as they wrote them down."""
    try:
        with open(file) as lines:
            return [(float(at), int(pid)) for at, pid in (line.split() for line in lines if line.endswith("\n"))]
    except FileNotFoundError:
        return []


def until(condition):
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > 600:
            sys.exit("waited in vain")
        time.sleep(0.002)


def parents(pid):
    while pid > 1:
        yield pid
        with open(f"/proc/{pid}/stat") as file:
            pid = int(file.read().rsplit(")", 1)[1].split()[1])


def dask_lost(node, rounds):
    seconds = []
    for number in range(int(rounds)):
        cluster, file = Dask(slots=2), os.path.abspath(f"stamps{number}")
        future = cluster.client.submit(program, node, "bench-node", "stamp", file, "600", pure=False)
        until(lambda: stamps(file))
        process = stamps(file)[0][1]
        worker = next(it for it in cluster.workers if it.pid in parents(process))
        killed = time.monotonic()
        worker.kill()
        until(lambda: len(stamps(file)) > 1)
        seconds.append(stamps(file)[1][0] - killed)
        for _, pid in stamps(file):
            os.kill(pid, 9)
        cluster.close()
        del future
    told(seconds=seconds)


def after(seconds, *needed):
    program("sleep", seconds)


def grain(trials, rounds, lengths, run):
    """Wall seconds of trials of 10 simulations and 2 scores, by length of the nodes and round."""
    walls = []
    for length in lengths.split(","):
        seconds = str(float(length) / 1000)
        walls.append([run(int(trials), seconds) for _ in range(int(rounds))])
    told(walls=walls)


def dask_grain(trials, rounds, lengths):
    cluster = Dask()

    def run(trials, seconds):
        began, scores = time.monotonic(), []
        for _ in range(trials):
            simulations = cluster.client.map(after, [seconds] * 10, pure=False)
            scores += [cluster.client.submit(after, seconds, *simulations, pure=False) for _ in range(2)]
        cluster.client.gather(scores)
        return time.monotonic() - began

    run(2, "0.001")
    grain(trials, rounds, lengths, run)
    cluster.close()


def hyperqueue_grain(trials, rounds, lengths, hq=None):
    if hq:
        return grain_by_file(trials, rounds, lengths, Hq(hq))
    from hyperqueue import Job, LocalCluster
    from hyperqueue.cluster import WorkerConfig

    with LocalCluster() as cluster:
        for _ in range(2):
            cluster.start_worker(WorkerConfig(cores=1))
        client = cluster.client()

        def run(trials, seconds):
            began, job = time.monotonic(), Job()
            for _ in range(trials):
                simulations = [job.program(["sleep", seconds]) for _ in range(10)]
                for _ in range(2):
                    job.program(["sleep", seconds], deps=simulations)
            client.wait_for_jobs([client.submit(job)])
            return time.monotonic() - began

        grain(trials, rounds, lengths, run)


def ray_grain(trials, rounds, lengths):
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
    task = ray.remote(num_cpus=1)(after)

    def run(trials, seconds):
        began, scores = time.monotonic(), []
        for _ in range(trials):
            simulations = [task.remote(seconds) for _ in range(10)]
            scores += [task.remote(seconds, *simulations) for _ in range(2)]
        ray.get(scores)
        return time.monotonic() - began

    run(2, "0.001")
    grain(trials, rounds, lengths, run)
    ray.shutdown()


def grain_by_file(trials, rounds, lengths, cluster):
    cluster.start()

    def run(trials, seconds):
        with open("job.toml", "w") as file:
            for first in range(1, trials * 12, 12):
                simulations = list(range(first, first + 10))
                for task in range(first, first + 12):
                    needed = simulations if task not in simulations else []
                    file.write(f'[[task]]\nid = {task}\ncommand = ["sleep", "{seconds}"]\ndeps = {needed}\n'
                               'stdout = "none"\nstderr = "none"\n')
        began = time.monotonic()
        cluster.call("job", "submit-file", "job.toml")
        cluster.call("job", "wait", "last")
        return time.monotonic() - began

    grain(trials, rounds, lengths, run)
    cluster.kill()


def loopback():
    with open("/sys/class/net/lo/statistics/rx_bytes") as file:
        return int(file.read())


def simulate(seconds, size):
    time.sleep(seconds)
    return os.urandom(size)


def score(outputs):
    return len(outputs)


def dask_moves(trials, in_flight, size):
    """5 workers of 4 slots; as many trials in flight as told, each submitted at once."""
    from distributed import as_completed

    cluster = Dask(workers=5, slots=4)
    before, left, done = loopback(), iter(range(int(trials))), as_completed()

    def submit(trial):
        # As long as the table of the benches has them.
        seconds = [71.1 * (1 + 4 * ((trial * 5 + it * 7 + 3) % 16) / 15) / 400 for it in range(10)]
        simulations = cluster.client.map(simulate, seconds, [int(size)] * 10, pure=False)
        scores = [cluster.client.submit(score, simulations, pure=False) for _ in range(2)]
        done.add(cluster.client.submit(sum, scores, pure=False))

    for trial, _ in zip(left, range(int(in_flight))):
        submit(trial)
    for _ in done:
        trial = next(left, None)
        if trial is not None:
            submit(trial)
    told(bytes=loopback() - before)
    cluster.close()


class Hq:
    """HyperQueue's own program with a journal; workers end with their server."""

    def __init__(self, hq):
        self.command = [hq, "--server-dir", os.path.abspath("server")]
        self.log = open("hq.log", "w")

    def popen(self, *words):
        return subprocess.Popen([*self.command, *words], stdout=self.log, stderr=self.log)

    def answers(self):
        return subprocess.run([*self.command, "server", "info"], stdout=self.log, stderr=self.log).returncode == 0

    def start(self):
        self.server = self.popen("server", "start", "--journal", os.path.abspath("journal"))
        until(self.answers)
        self.workers = [self.popen("worker", "start", "--cpus", "1") for _ in range(2)]

    def submit(self, count, *words):
        self.call("submit", "--array", f"1-{count}", "--stdout", "none", "--stderr", "none", *words)

    def call(self, *words):
        subprocess.run([*self.command, *words], stdout=self.log, stderr=self.log, check=True)

    def kill(self):
        for process in [self.server, *self.workers]:
            process.kill()
            process.wait()


def hyperqueue_restart(node, nodes, rounds, left, length, run, hq):
    hq, file, seconds = Hq(hq), os.path.abspath("stamps"), []
    hq.start()
    hq.submit(nodes, "true")
    hq.call("job", "wait", "all")
    hq.submit(left, node, "bench-node", "stamp", file, length)
    until(lambda: len(stamps(file)) > int(run))
    for _ in range(int(rounds)):
        before = len(stamps(file))
        until(lambda: len(stamps(file)) > before + 10)
        hq.kill()
        until(lambda: time.monotonic() - stamps(file)[-1][0] > 0.5)
        before, began = len(stamps(file)), time.monotonic()
        hq.start()
        until(lambda: len(stamps(file)) > before)
        seconds.append(stamps(file)[before][0] - began)
    hq.kill()
    told(seconds=seconds)


if __name__ == "__main__":
    engine, part, *arguments = sys.argv[1:]
    name = {"distributed": "dask"}.get(engine, engine)
    globals()[f"{name}_{part}"](*arguments)
