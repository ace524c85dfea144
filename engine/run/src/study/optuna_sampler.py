"""Drives an Optuna sampler for dagrun: one JSON object a line in, one a line out.

dagrun keeps the record of the study; Optuna only proposes. A finished trial is told with its values, so that any sampler of
Optuna, with any storage, sees what it would see in its own loop.
"""
import json
import sys

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

optuna.logging.set_verbosity(optuna.logging.WARNING)


def say(**line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def distribution(parameter):
    kind, arguments = parameter["kind"], parameter["arguments"]
    if kind == "choice":
        # Lists and maps are no categories of Optuna's storages: the position is the category.
        return CategoricalDistribution(list(range(len(arguments))))
    if kind in ("int", "log_int"):
        return IntDistribution(arguments[0], arguments[1], log=kind == "log_int")
    if kind == "steps":
        return FloatDistribution(arguments[0], arguments[1], step=arguments[2])
    if kind in ("uniform", "log_uniform"):
        return FloatDistribution(arguments[0], arguments[1], log=kind == "log_uniform")
    sys.exit(f"the sampler optuna has no `{kind}` parameters; use uniform, log_uniform, int, log_int, choice or steps")


class Driver:
    def __init__(self, hello):
        options = hello.get("options", {})
        self.space = hello["space"]
        self.distributions = {p["name"]: distribution(p) for p in self.space}
        self.conditional = any(p.get("conditional") for p in self.space)
        name = options.get("sampler", "TPESampler")
        make = getattr(optuna.samplers, name, None)
        if make is None:
            sys.exit(f"optuna.samplers has no `{name}`")
        arguments = dict(options.get("options", {}))
        if "seed" in options or name not in ("GridSampler",):
            arguments.setdefault("seed", options.get("seed", 0))
        if name == "GridSampler" and "search_space" not in arguments:
            sys.exit("GridSampler needs `options: {search_space: {...}}`; dagrun's own `grid` needs nothing")
        if hello.get("constraints") and "constraints_func" not in arguments:
            arguments["constraints_func"] = lambda trial: [trial.user_attrs.get("violation", 0.0)]
        try:
            sampler = make(**arguments)
        except TypeError:
            arguments.pop("constraints_func", None)
            sampler = make(**arguments)
        storage = options.get("storage")
        self.study = optuna.create_study(
            study_name=hello.get("name") if storage else None,
            storage=storage,
            sampler=sampler,
            directions=[o["direction"] for o in hello["objectives"]],
            load_if_exists=bool(storage),
        )
        self.asked = {}
        # A storage keeps its trials over restarts: what it has is not told again.
        self.known = {t.user_attrs.get("dagrun_trial"): t for t in self.study.get_trials(deepcopy=False)}

    def encoded(self, params):
        out = {}
        for parameter in self.space:
            name = parameter["name"]
            if name in params:
                value = params[name]
                out[name] = parameter["arguments"].index(value) if parameter["kind"] == "choice" else value
        return out

    def ask(self, number):
        trial = self.study.ask(self.distributions)
        trial.set_user_attr("dagrun_trial", number)
        self.asked[number] = trial
        params = dict(trial.params)
        for parameter in self.space:
            if parameter["kind"] == "choice":
                name = parameter["name"]
                params[name] = parameter["arguments"][params[name]]
        say(trial=number, params=params)

    def add(self, number, params, state, values=None, violation=None):
        encoded = self.encoded(params)
        attributes = {"dagrun_trial": number}
        if violation is not None:
            attributes["violation"] = violation
        self.study.add_trial(
            optuna.trial.create_trial(
                state=state,
                params=encoded,
                distributions={name: self.distributions[name] for name in encoded},
                values=values,
                user_attrs=attributes,
            )
        )

    def tell(self, line):
        number = line["trial"]
        values, violation = line.get("values"), line.get("violation")
        trial = self.asked.pop(number, None)
        if trial is None:
            known = self.known.get(number)
            if known is not None and known.state.is_finished():
                return
            state = TrialState.FAIL if values is None else TrialState.COMPLETE
            self.add(number, line["params"], state, values, violation)
            return
        if violation is not None:
            trial.set_user_attr("violation", violation)
        if values is None:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, values)


def main():
    driver = None
    for text in sys.stdin:
        line = json.loads(text)
        if "hello" in line:
            driver = Driver(line["hello"])
        elif "tell" in line:
            driver.tell(line["tell"])
        elif "pending" in line:
            pending = line["pending"]
            if pending["trial"] not in driver.known:
                driver.add(pending["trial"], pending["params"], TrialState.RUNNING)
        elif "ask" in line:
            number = line["ask"]["trial"]
            try:
                driver.ask(number)
            except Exception as error:  # what Optuna raises is for the person who chose the sampler
                say(trial=number, error=f"{type(error).__name__}: {error}")


main()
