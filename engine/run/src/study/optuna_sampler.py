"""Drives an Optuna sampler for dagrun: one JSON object a line in, one a line out.

dagrun keeps the record of the study; Optuna only proposes. A finished trial is told with its values, so that any sampler of
Optuna, with any storage, sees what it would see in its own loop. `docs/reference/samplers.md` describes the lines.
"""
import inspect
import json
import signal
import sys
import warnings

try:
    import optuna
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.trial import TrialState
except ImportError as error:
    sys.exit(f"optuna cannot be imported ({error}); install it into this Python: {sys.executable} -m pip install optuna")

# What a person does at the terminal is for the run: it ends this process by closing its input.
signal.signal(signal.SIGINT, signal.SIG_IGN)
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore")

# From Optuna 5 on a trial has constraints of its own; before that the sampler asked a function for them.
OWN_CONSTRAINTS = hasattr(optuna.trial.Trial, "set_constraint")


def say(**line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def one_line(error):
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}"


def distribution(parameter):
    kind, arguments = parameter["kind"], parameter["arguments"]
    if kind == "choice":
        # Lists and maps are no categories of Optuna's storages: the position is the category.
        return CategoricalDistribution(list(range(len(arguments))))
    if kind in ("int", "log_int"):
        return IntDistribution(arguments[0], arguments[1], log=kind == "log_int")
    if kind == "steps":
        low, high, step = arguments
        if all(isinstance(it, int) for it in arguments):
            return IntDistribution(low, high, step=step)
        return FloatDistribution(low, high, step=step)
    if kind in ("uniform", "log_uniform"):
        return FloatDistribution(arguments[0], arguments[1], log=kind == "log_uniform")
    sys.exit(f"the sampler optuna has no `{kind}` parameters; use uniform, log_uniform, int, log_int, choice or steps")


def position(parameter, value):
    # To Python 1, 1.0 and true are equal; as text they differ.
    texts = [json.dumps(it, sort_keys=True) for it in parameter["arguments"]]
    return texts.index(json.dumps(value, sort_keys=True))


class Driver:
    def __init__(self, hello):
        options = hello.get("options", {})
        self.space = hello["space"]
        self.distributions = {p["name"]: distribution(p) for p in self.space}
        self.seed = options.get("seed", 0)
        self.name = options.get("sampler", "TPESampler")
        self.make = getattr(optuna.samplers, self.name, None)
        if not inspect.isclass(self.make) or not issubclass(self.make, optuna.samplers.BaseSampler):
            names = [n for n in optuna.samplers.__all__ if n.endswith("Sampler") and n != "BaseSampler"]
            sys.exit(f"optuna.samplers has no `{self.name}`; it has {', '.join(names)}")
        self.arguments = dict(options.get("options", {}))
        if hello.get("constraints") and not OWN_CONSTRAINTS and self.takes("constraints_func"):
            self.arguments["constraints_func"] = lambda trial: [trial.user_attrs.get("violation", 0.0)]
        storage = options.get("storage")
        self.study = optuna.create_study(
            study_name=hello.get("name") if storage else None,
            storage=storage,
            sampler=self.sampler(self.seed),
            directions=[o["direction"] for o in hello["objectives"]],
            load_if_exists=bool(storage),
        )
        # Samplers that come to an end say so by this, which otherwise works in Optuna's own loop alone.
        self.ended = False
        self.study.stop = self.end
        self.begun = False
        # Optuna's numbers of the trials that wait for their end.
        self.waiting = {}
        # A storage keeps its trials over restarts: what it has is not told again.
        self.known = {}
        for trial in self.study.get_trials(deepcopy=False):
            number = trial.user_attrs.get("dagrun_trial")
            if number is not None:
                self.known[number] = trial

    def takes(self, argument):
        return argument in inspect.signature(self.make.__init__).parameters

    def sampler(self, seed):
        arguments = dict(self.arguments)
        if self.takes("seed"):
            arguments.setdefault("seed", seed)
        return self.make(**arguments)

    def end(self):
        self.ended = True

    def encoded(self, params):
        out = {}
        for parameter in self.space:
            name = parameter["name"]
            if name in params:
                value = params[name]
                out[name] = position(parameter, value) if parameter["kind"] == "choice" else value
        return out

    def ask(self, number):
        if self.ended:
            return say(trial=number, end=True)
        if not self.begun and number > 1 and self.name != "QMCSampler":
            # Begun anew in the middle of a study: the draws of its beginning would come again.
            self.study.sampler = self.sampler(self.seed + number - 1)
        self.begun = True
        trial = self.study.ask(self.distributions)
        trial.set_user_attr("dagrun_trial", number)
        self.waiting[number] = trial
        params = dict(trial.params)
        for parameter in self.space:
            if parameter["kind"] == "choice":
                name = parameter["name"]
                params[name] = parameter["arguments"][params[name]]
        say(trial=number, params=params)

    def kept(self, number, params):
        """The trial of a storage, if it is this one and not one of a former study of the same name."""
        trial = self.known.get(number)
        if trial is not None and all(trial.params.get(k) == v for k, v in self.encoded(params).items()):
            return trial
        return None

    def add(self, number, params, state, values=None, violation=None):
        encoded = self.encoded(params)
        attributes, system = {"dagrun_trial": number}, {}
        if violation is not None:
            attributes["violation"] = violation
            system["constraints"] = [violation]
        self.study.add_trial(
            optuna.trial.create_trial(
                state=state,
                params=encoded,
                distributions={name: self.distributions[name] for name in encoded},
                values=values,
                user_attrs=attributes,
                system_attrs=system,
            )
        )

    def pending(self, number, params):
        # One that a storage has is under way there already.
        if self.kept(number, params) is None:
            self.add(number, params, TrialState.RUNNING)
            self.waiting[number] = self.resumed(len(self.study.get_trials(deepcopy=False)) - 1)

    def resumed(self, number):
        trial = self.study.get_trials(deepcopy=False)[number]
        return optuna.trial.Trial(self.study, trial._trial_id)

    def tell(self, line):
        number = line["trial"]
        values, violation = line.get("values"), line.get("violation")
        trial = self.waiting.pop(number, None)
        if trial is None:
            kept = self.kept(number, line["params"])
            if kept is not None and kept.state.is_finished():
                return
            if kept is not None:
                trial = self.resumed(kept.number)
        if trial is None:
            state = TrialState.FAIL if values is None else TrialState.COMPLETE
            self.add(number, line["params"], state, values, violation)
        elif values is None:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            if violation is not None:
                trial.set_user_attr("violation", violation)
                if OWN_CONSTRAINTS:
                    trial.set_constraint("violation", violation)
            self.study.tell(trial, values)


def main():
    driver, broken = None, None
    for text in sys.stdin:
        line = json.loads(text)
        try:
            if "hello" in line:
                driver = Driver(line["hello"])
            elif "tell" in line:
                driver.tell(line["tell"])
            elif "pending" in line:
                driver.pending(line["pending"]["trial"], line["pending"]["params"])
            elif "ask" in line:
                number = line["ask"]["trial"]
                if broken:
                    say(trial=number, error=broken)
                else:
                    driver.ask(number)
        except Exception as error:  # what Optuna raises is for the person who chose the sampler
            if driver is None:
                sys.exit(f"optuna: {one_line(error)}")
            broken = broken or one_line(error)
            if "ask" in line:
                say(trial=line["ask"]["trial"], error=broken)


main()
